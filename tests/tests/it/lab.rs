//! The lab itself: without it nothing else here would mean anything.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::lab::control::say;
use tests::lab::guest::Guest;
use tests::lab::{Lab, Options, enter_test};

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if holds()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("waited in vain for {what}")
}

fn counts(guest: &Guest) -> Result<()> {
    let before = guest.count()?.map_or(0, |count| count.counter);
    until("the guest to count", || {
        Ok(guest.count()?.is_some_and(|count| count.counter > before + 1))
    })
}

fn start(lab: &Lab, host: usize, guest: &Guest) -> Result<()> {
    let xml = guest.write_xml()?;
    create(lab, host, &xml)
}

fn create(lab: &Lab, host: usize, xml: &Path) -> Result<()> {
    lab.host(host)?.virsh(&["create", &xml.display().to_string()]).map(drop)
}

#[test]
fn a_guest_boots_counts_migrates_and_shuts_down() -> Result<()> {
    if !enter_test("lab::a_guest_boots_counts_migrates_and_shuts_down")? {
        return Ok(());
    }
    let lab = Lab::start(&Options { hosts: 2, replicas: 1 })?;
    let guest = Guest::make(&lab.directory().join("shared"), "g", false)?;
    start(&lab, 1, &guest)?;
    counts(&guest)?;
    let uri = lab.host(2)?.migration_uri();
    lab.host(1)?.virsh(&["migrate", "--live", "--p2p", "--unsafe", "g", &uri])?;
    counts(&guest)?;
    ensure!(lab.host(1)?.qemus()?.is_empty() && lab.host(2)?.qemus()?.contains_key(&guest.uuid));
    lab.host(2)?.virsh(&["shutdown", "g"])?;
    until("the guest to power off", || Ok(lab.host(2)?.qemus()?.is_empty()))?;
    let strangers = guest.count()?.map(|count| count.strangers);
    ensure!(strangers == Some(0), "strangers: {strangers:?}");
    Ok(())
}

#[test]
fn two_copies_of_a_guest_are_seen_on_its_disk() -> Result<()> {
    if !enter_test("lab::two_copies_of_a_guest_are_seen_on_its_disk")? {
        return Ok(());
    }
    let lab = Lab::start(&Options { hosts: 2, replicas: 1 })?;
    let guest = Guest::make(&lab.directory().join("shared"), "g", false)?;
    // QEMU's own lock on the image would keep the second copy from starting; this disk is said to be shareable.
    let xml = lab.directory().join("shareable.xml");
    std::fs::write(
        &xml,
        guest.xml().replace("<target dev='hda'", "<shareable/><target dev='hda'"),
    )?;
    create(&lab, 1, &xml)?;
    counts(&guest)?;
    create(&lab, 2, &xml)?;
    until("the second copy to be noticed", || {
        Ok(guest.count()?.is_some_and(|count| count.strangers > 0))
    })
}

#[test]
fn a_power_cut_takes_all_of_a_host_and_the_fence_agent_tells_of_it() -> Result<()> {
    if !enter_test("lab::a_power_cut_takes_all_of_a_host_and_the_fence_agent_tells_of_it")? {
        return Ok(());
    }
    let lab = Lab::start(&Options { hosts: 1, replicas: 1 })?;
    let host = lab.host(1)?;
    let guest = Guest::make(&lab.directory().join("shared"), "g", false)?;
    start(&lab, 1, &guest)?;
    counts(&guest)?;
    let qemu = host.qemus()?[&guest.uuid];
    let boot_id = |lab: &Lab| std::fs::read_to_string(lab.directory().join("node1/boot_id"));
    let first_boot = boot_id(&lab)?;
    ensure!(fence(&lab, "status")? == 0);
    ensure!(fence(&lab, "off")? == 0 && fence(&lab, "status")? == 2);
    ensure!(!Path::new(&format!("/proc/{qemu}")).exists(), "the QEMU outlived the power cut");
    ensure!(fence(&lab, "on")? == 0 && fence(&lab, "status")? == 0);
    ensure!(boot_id(&lab)? != first_boot && host.qemus()?.is_empty());
    say(&lab.control_socket(), "dark on")?;
    ensure!(fence(&lab, "off")? == 1 && host.is_on(), "a dark device does nothing and says so");
    Ok(())
}

fn fence(lab: &Lab, action: &str) -> Result<i32> {
    use std::io::Write;
    let mut child = std::process::Command::new(tests::lab::binary("fence_lab")?)
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let lines = format!("action={action}\nplug=node1\nlab={}\n", lab.control_socket().display());
    child.stdin.take().map(|mut stdin| stdin.write_all(lines.as_bytes())).transpose()?;
    Ok(child.wait()?.code().unwrap_or(-1))
}
