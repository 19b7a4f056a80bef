//! A guest with a real guest agent: its word is waited for at a start, and its silence is a failure.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Fencing};
use tests::lab::{Options, binary, enter_test};
use uuid::Uuid;

/// How long its agent answers after it has begun, in seconds.
const LIVES: u32 = 8;

/// Where `deploy/make-agent-guest.sh` puts the guest: beside the folder of the programs.
fn folder() -> Result<PathBuf> {
    let programs = binary("berthctl")?;
    let target = programs.parent().and_then(|folder| folder.parent());
    let folder = target.context("a program without a build directory")?.join("agent-guest");
    let there = folder.join("initrd.gz").exists();
    ensure!(there, "{} is missing; run deploy/make-agent-guest.sh", folder.display());
    Ok(folder)
}

fn xml(uuid: Uuid) -> Result<String> {
    let folder = folder()?;
    let file = |name: &str| folder.join(name).display().to_string();
    Ok(format!(
        "<domain type='qemu'>
  <name>linux</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>192</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{}</kernel>
    <initrd>{}</initrd>
    <cmdline>quiet agent_lives={LIVES}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
",
        file("vmlinuz"),
        file("initrd.gz"),
    ))
}

#[test]
fn a_start_waits_for_the_guest_agent_and_one_that_falls_silent_is_recovered() -> Result<()> {
    let name =
        "guest_agent::a_start_waits_for_the_guest_agent_and_one_that_falls_silent_is_recovered";
    if !enter_test(name)? {
        return Ok(());
    }
    let cluster = Cluster::start(&Options { hosts: 1, replicas: 1 }, Fencing::Agent)?;
    let uuid = Uuid::new_v4();
    let file = cluster.lab.directory().join("linux.xml");
    std::fs::write(&file, xml(uuid)?)?;
    let file = file.display().to_string();
    let checks = ["--guest-agent", "--check-interval", "1s", "--check-timeout", "3s"];
    let words = ["vm", "add", &file, "--start-timeout", "240s", "--stop-timeout", "1s"];
    cluster.ctl(&[&words[..], &checks].concat())?;
    cluster.ctl(&["enable", "linux", "--no-wait"])?;
    let host = cluster.lab.host(1)?;
    // Its QEMU runs long before its agent does, and it is not called started for that.
    cluster.wait("its QEMU to run", |_| host.qemus().is_ok_and(|all| all.contains_key(&uuid)))?;
    ensure!(cluster.vm("linux")?["state"] == "starting", "{}", cluster.vm("linux")?);
    let first = host.qemus()?[&uuid];
    cluster.wait_vm("linux", "started", Some("node1"))?;
    ensure!(host.qemus()?[&uuid] == first, "it was started once");
    // The agent stands still: its guest is started anew, and that agent answers.
    cluster.wait("it to be started anew", |_| {
        host.qemus().is_ok_and(|all| all.get(&uuid).is_some_and(|process| *process != first))
    })?;
    let events = cluster.ctl(&["events", "--vm", "linux"])?;
    ensure!(events.contains("its guest agent does not answer"), "{events}");
    cluster.wait_vm("linux", "started", Some("node1"))?;
    ensure!(cluster.vm("linux")?["restarts"] == 1, "{}", cluster.vm("linux")?);
    Ok(())
}
