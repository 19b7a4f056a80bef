//! RGManager's attributes of `<vm>` (reference section 1.1), and guests that end by themselves, on real hosts.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::{Cluster, Fencing, find};
use tests::lab::guest::{Act, Guest};
use tests::lab::{Options, enter_test, run};

fn add(cluster: &Cluster, guest: &Guest, flags: &[&str]) -> Result<()> {
    let xml = guest.write_xml()?.display().to_string();
    cluster.ctl(&[&["vm", "add", &xml], flags].concat()).map(drop)
}

/// Waits until the status shows the VM so.
fn wait(
    cluster: &Cluster,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let status = cluster
        .wait(&format!("{name}: {what}"), |status| find(status, name).is_some_and(&wanted))?;
    find(&status, name).cloned().context("the VM is gone")
}

fn boots(guest: &Guest) -> Result<u32> {
    Ok(guest.count()?.context("it has not counted yet")?.boots)
}

// ---- guests that end by themselves -----------------------------------------------------------------------------------

#[test]
fn guests_that_end_by_themselves_are_told_apart_and_each_end_has_its_policy() -> Result<()> {
    if !enter_test(
        "vm_attributes::guests_that_end_by_themselves_are_told_apart_and_each_end_has_its_policy",
    )? {
        return Ok(());
    }
    // Before the hosts boot, so that they see it too.
    let small = SmallDisk::mount()?;
    let cluster = Cluster::start(&Options { hosts: 1, replicas: 1 }, Fencing::Agent)?;
    each_end_has_its_policy(&cluster)?;
    a_guest_that_libvirt_keeps_after_its_end_is_no_health(&cluster)?;
    a_guest_paused_by_a_full_storage_is_an_alarm_until_it_runs_on(&cluster, &small)?;
    Ok(())
}

fn each_end_has_its_policy(cluster: &Cluster) -> Result<()> {
    let mut guest = Guest::make(&cluster.lab.directory().join("shared"), "g", false)?;
    guest.devices = "<panic model='isa'/><watchdog model='ib700' action='poweroff'/>".into();
    let flags = [
        "--on-guest-shutdown=stop",
        "--on-guest-panic=disable",
        "--on-watchdog=recover",
        "--on-destroy=disable",
    ];
    add(cluster, &guest, &flags)?;
    let up = || -> Result<i32> {
        cluster.ctl(&["enable", "g"])?;
        cluster.wait_counting(&guest)?;
        cluster.qemu(1, &guest)
    };
    let last = |kind: &str| -> Result<String> {
        cluster.told("g", kind)?.pop().with_context(|| format!("no event {kind}"))
    };

    let process = up()?;
    // A reboot is none of these: it is noted, and the same QEMU runs on.
    let before = boots(&guest)?;
    guest.does(Act::Reboot)?;
    let rebooted = || boots(&guest).is_ok_and(|boots| boots > before);
    cluster.wait("the guest to boot again", |_| rebooted())?;
    cluster.wait_counting(&guest)?;
    ensure!(last("vm-rebooted")?.contains("the guest rebooted"));
    ensure!(cluster.qemu(1, &guest)? == process);
    ensure!(cluster.vm("g")?["state"] == "started" && cluster.vm("g")?["restarts"] == 0);

    guest.does(Act::PowerOff)?;
    let vm = wait(cluster, "g", "down for now", |vm| vm["state"] == "stopped")?;
    ensure!(vm["desired"] == "stopped", "{vm}");
    let told = cluster.told("g", "vm-stopped")?;
    ensure!(told.iter().any(|it| it.contains("the guest shut down")), "{told:?}");

    up()?;
    guest.does(Act::Panic)?;
    let vm = wait(cluster, "g", "down for good", |vm| vm["state"] == "disabled")?;
    ensure!(vm["desired"] == "disabled", "{vm}");
    ensure!(last("vm-disabled")?.contains("the guest panicked"), "{}", last("vm-disabled")?);
    ensure!(last("vm-guest-panicked")?.contains("node1"));

    up()?;
    guest.does(Act::LetBite)?;
    wait(cluster, "g", "restarted", |vm| vm["restarts"] == 1 && vm["state"] == "started")?;
    ensure!(last("vm-watchdog-bit")?.contains("it is powered off"));
    ensure!(last("vm-failed")?.contains("the guest's watchdog bit"), "{}", last("vm-failed")?);

    // A QEMU that is killed is no doing of its guest's: a failure, whatever the guest's own ends lead to.
    kill(Pid::from_raw(cluster.qemu(1, &guest)?), Signal::SIGKILL)?;
    wait(cluster, "g", "restarted", |vm| vm["restarts"] == 2 && vm["state"] == "started")?;
    ensure!(last("vm-failed")?.contains("its QEMU failed"), "{}", last("vm-failed")?);

    // Nor is one that somebody ends by hand, in either way.
    kill(Pid::from_raw(cluster.qemu(1, &guest)?), Signal::SIGTERM)?;
    wait(cluster, "g", "down for good", |vm| vm["state"] == "disabled")?;
    ensure!(last("vm-disabled")?.contains("ended by a signal"), "{}", last("vm-disabled")?);
    up()?;
    cluster.lab.host(1)?.virsh(&["destroy", "g"])?;
    wait(cluster, "g", "down for good", |vm| vm["state"] == "disabled")?;
    ensure!(last("vm-disabled")?.contains("was destroyed"), "{}", last("vm-disabled")?);

    // A reboot too, where its policy says so.
    cluster.ctl(&["vm", "edit", "g", "--on-guest-reboot=stop", "--stop-timeout=2s"])?;
    up()?;
    guest.does(Act::Reboot)?;
    let vm = wait(cluster, "g", "down for now", |vm| vm["state"] == "stopped")?;
    ensure!(vm["desired"] == "stopped", "{vm}");
    let told = cluster.told("g", "vm-stopped")?;
    ensure!(told.iter().any(|it| it.contains("the guest rebooted")), "{told:?}");
    Ok(())
}

/// libvirt leaves it as it was: crashed, or paused. RGManager took the one for a failed stop and the other for health.
fn a_guest_that_libvirt_keeps_after_its_end_is_no_health(cluster: &Cluster) -> Result<()> {
    let mut guest = Guest::make(&cluster.lab.directory().join("shared"), "kept", false)?;
    guest.devices = "<panic model='isa'/><watchdog model='ib700' action='pause'/>".into();
    let path = cluster.lab.directory().join("shared/kept.xml");
    let xml = guest.xml().replace("<on_crash>destroy", "<on_crash>preserve");
    std::fs::write(&path, xml)?;
    cluster.ctl(&["vm", "add", &path.display().to_string()])?;
    cluster.ctl(&["enable", "kept"])?;
    for (act, kind, why, restarts) in [
        (Act::Panic, "vm-guest-crashed", "the guest crashed", 1),
        (Act::LetBite, "vm-watchdog", "the guest's watchdog bit", 2),
    ] {
        cluster.wait_counting(&guest)?;
        guest.does(act)?;
        wait(cluster, "kept", "restarted", |vm| {
            vm["restarts"] == restarts && vm["state"] == "started"
        })?;
        let told = cluster.told("kept", kind)?;
        ensure!(told.len() == 1 && told[0].contains(why), "{act:?}: {told:?}");
        let failed = cluster.told("kept", "vm-failed")?.pop().unwrap_or_default();
        ensure!(failed.contains(why), "{act:?}: {failed}");
    }
    cluster.ctl(&["disable", "kept"]).map(drop)
}

/// A file system that is full in no time, seen by the hosts that boot after it was mounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("berth-small-").tempdir()?;
        let path = directory.path().display().to_string();
        run("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs", &path])?;
        Ok(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all that is left.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.path().join("filler"))?;
        while file.write_all(&[1; 4096]).is_ok() {}
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.path().join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["--lazy", &self.path().display().to_string()]) {
            eprintln!("a small disk stays mounted: {error:#}");
        }
    }
}

fn a_guest_paused_by_a_full_storage_is_an_alarm_until_it_runs_on(
    cluster: &Cluster,
    small: &SmallDisk,
) -> Result<()> {
    let guest = Guest::make_growing(small.path(), "full")?;
    let path = cluster.lab.directory().join("full.xml");
    // This file system knows no direct I/O.
    std::fs::write(&path, guest.xml().replace("cache='none'", "cache='writeback'"))?;
    small.fill()?;
    cluster.ctl(&["vm", "add", &path.display().to_string()])?;
    cluster.ctl(&["enable", "full", "--no-wait"])?;
    let process = {
        wait(cluster, "full", "paused by its storage", |vm| {
            vm["seen"]["node1"] == "paused by an I/O error" && vm["reason"]["code"] == "ailing"
        })?;
        cluster.qemu(1, &guest)?
    };
    let alarm = cluster.told("full", "vm-io-error")?.pop().context("no alarm")?;
    ensure!(alarm.contains("its storage failed"), "{alarm}");
    ensure!(cluster.told("full", "vm-storage-error")?.iter().any(|it| it.contains("enospc")));
    ensure!(cluster.refused(&["status", "--check"], 1)?.contains("full is started"));
    ensure!(cluster.ctl(&["explain", "full"])?.contains("paused because its storage failed"));
    ensure!(guest.count()?.is_none(), "it has not counted");

    small.free()?;
    // Rather than wait for the next attempt.
    cluster.ctl(&["convalesce", "full"])?;
    cluster.wait_counting(&guest)?;
    wait(cluster, "full", "well", |vm| vm["reason"]["code"] == "as-wanted")?;
    ensure!(cluster.qemu(1, &guest)? == process && cluster.vm("full")?["restarts"] == 0);
    ensure!(!cluster.told("full", "vm-healthy")?.is_empty());
    cluster.ctl(&["status", "--check"]).map(drop)
}

// ---- attributes ------------------------------------------------------------------------------------------------------

#[test]
fn the_attributes_of_a_vm_hold_on_real_hosts() -> Result<()> {
    if !enter_test("vm_attributes::the_attributes_of_a_vm_hold_on_real_hosts")? {
        return Ok(());
    }
    let cluster = Cluster::start(&Options { hosts: 2, replicas: 1 }, Fencing::Agent)?;
    no_kill_never_kills_and_failed_clears_itself(&cluster)?;
    memory_is_saved_at_the_stop_and_restored_on_either_host(&cluster)?;
    a_status_program_that_fails_too_often_has_the_vm_recovered(&cluster)?;
    a_domain_file_with_another_name_in_it_is_refused(&cluster)?;
    migration_traffic_goes_where_the_mapping_says(&cluster)?;
    Ok(())
}

fn no_kill_never_kills_and_failed_clears_itself(cluster: &Cluster) -> Result<()> {
    let guest = Guest::make(&cluster.lab.directory().join("shared"), "deaf", true)?;
    add(cluster, &guest, &["--no-kill", "--stop-timeout=1s"])?;
    cluster.ctl(&["enable", "deaf", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    let process = cluster.qemu(1, &guest)?;
    ensure!(cluster.refused(&["stop", "deaf", "--now"], 3)?.contains("--no-kill=false"));
    let said = cluster.refused(&["disable", "deaf"], 1)?;
    ensure!(said.contains("never destroyed (no-kill)"), "{said}");
    let vm = cluster.vm("deaf")?;
    ensure!(vm["state"] == "failed" && vm["owner"] == "node1", "where it runs is known: {vm}");
    ensure!(cluster.qemu(1, &guest)? == process, "it is not killed");
    cluster.wait_counting(&guest)?;
    // It goes in its own time: what failed is proven down, and needs no command.
    guest.does(Act::PowerOff)?;
    cluster.wait_vm("deaf", "disabled", None)?;
    ensure!(cluster.where_runs(guest.uuid)?.is_empty());
    Ok(())
}

fn memory_is_saved_at_the_stop_and_restored_on_either_host(cluster: &Cluster) -> Result<()> {
    let directory = cluster.lab.directory().join("shared/saved");
    std::fs::create_dir_all(&directory)?;
    let files = || -> Result<usize> { Ok(std::fs::read_dir(&directory)?.count()) };
    let guest = Guest::make(&cluster.lab.directory().join("shared"), "saved", false)?;
    let place = directory.display().to_string();
    add(cluster, &guest, &["--save-dir", &place, "--save-shared"])?;
    cluster.ctl(&["enable", "saved", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    let (booted, mut last) = (boots(&guest)?, "node1");
    for node in ["node1", "node2"] {
        cluster.ctl(&["stop", "saved"])?;
        ensure!(cluster.where_runs(guest.uuid)?.is_empty() && files()? == 1, "{last}");
        cluster.ctl(&["enable", "saved", "--on", node])?;
        cluster.wait_counting(&guest)?;
        ensure!(cluster.where_runs(guest.uuid)? == [node]);
        ensure!(boots(&guest)? == booted, "on {node} it went on where it was stopped");
        ensure!(files()? == 0, "nobody restores it a second time");
        last = node;
    }
    ensure!(cluster.told("saved", "vm-memory-lost")?.is_empty());
    // A restart is asked for to have it boot anew.
    cluster.ctl(&["restart", "saved"])?;
    cluster.wait_counting(&guest)?;
    ensure!(boots(&guest)? == booted + 1);
    // A file that is not there any more is no reason not to start: it boots, and that is told.
    cluster.ctl(&["stop", "saved"])?;
    std::fs::remove_dir_all(&directory)?;
    cluster.ctl(&["enable", "saved"])?;
    cluster.wait_counting(&guest)?;
    ensure!(boots(&guest)? == booted + 2);
    cluster.ctl(&["disable", "saved"]).map(drop)
}

fn a_status_program_that_fails_too_often_has_the_vm_recovered(cluster: &Cluster) -> Result<()> {
    let guest = Guest::make(&cluster.lab.directory().join("shared"), "ill", false)?;
    let sick = cluster.lab.directory().join("shared/sick");
    let line = format!(
        "[ $OCF_RESKEY_name = ill ] && [ ! -e {0} ] || {{ cat {0} >&2; exit 1; }}",
        sick.display()
    );
    let flags = ["--check-interval=1s", "--max-failures=2", "--stop-timeout=20s"];
    add(cluster, &guest, &[&["--status-program", &line], &flags[..]].concat())?;
    cluster.ctl(&["enable", "ill", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    let process = cluster.qemu(1, &guest)?;
    std::fs::write(&sick, "no answer on port 80")?;
    wait(cluster, "ill", "two failed checks that are let pass", |vm| vm["status_failures"] == 2)?;
    ensure!(cluster.qemu(1, &guest)? == process && cluster.vm("ill")?["state"] == "started");
    wait(cluster, "ill", "stopped for the third", |vm| vm["state"] != "started")?;
    std::fs::remove_file(&sick)?;
    wait(cluster, "ill", "restarted", |vm| vm["restarts"] == 1 && vm["state"] == "started")?;
    ensure!(cluster.qemu(1, &guest)? != process, "it is another QEMU on the same node");
    let failed = cluster.told("ill", "vm-failed")?.pop().context("no failure")?;
    ensure!(failed.contains("no answer on port 80"), "{failed}");
    cluster.wait_counting(&guest)?;
    a_libvirtd_that_is_down_is_no_failure_of_the_guest(cluster, &guest)?;
    // A start that the program never agrees to has failed.
    cluster.ctl(&["disable", "ill"])?;
    cluster.ctl(&["vm", "edit", "ill", "--start-timeout=1s", "--recovery=disable"])?;
    std::fs::write(&sick, "still ill")?;
    cluster.ctl(&["enable", "ill", "--no-wait"])?;
    let vm = wait(cluster, "ill", "started in vain", |vm| vm["failure"].is_string())?;
    ensure!(vm["failure"].as_str().is_some_and(|why| why.contains("still ill")), "{vm}");
    cluster.ctl(&["disable", "ill"])?;
    ensure!(cluster.where_runs(guest.uuid)?.is_empty(), "nothing is left of it");
    Ok(())
}

/// Complaint "VM status failed whenever libvirtd was down", and number 13: a migration then left it failed.
fn a_libvirtd_that_is_down_is_no_failure_of_the_guest(
    cluster: &Cluster,
    guest: &Guest,
) -> Result<()> {
    let (host, process) = (cluster.lab.host(1)?, cluster.qemu(1, guest)?);
    host.kill_libvirtd()?;
    // Several checks long.
    std::thread::sleep(Duration::from_secs(3));
    cluster.refused(&["migrate", &guest.name, "--to", "node2"], 1)?;
    let vm = cluster.vm(&guest.name)?;
    ensure!(vm["state"] == "started" && vm["owner"] == "node1" && vm["restarts"] == 1, "{vm}");
    ensure!(cluster.qemu(1, guest)? == process);
    host.start_libvirtd()?;
    cluster.wait_counting(guest)?;
    ensure!(cluster.qemu(1, guest)? == process && cluster.vm(&guest.name)?["status_failures"] == 0);
    Ok(())
}

fn a_domain_file_with_another_name_in_it_is_refused(cluster: &Cluster) -> Result<()> {
    let directory = cluster.lab.directory().join("shared/definitions");
    std::fs::create_dir_all(&directory)?;
    let guest = Guest::make(&cluster.lab.directory().join("shared"), "filed", false)?;
    let place = directory.display().to_string();
    add(cluster, &guest, &["--xml-path", &format!("/nonexistent:{place}")])?;
    let file = directory.join("filed.xml");
    let right = guest.xml().replace(">16</memory>", ">24</memory>");
    for (wrong, said) in [
        (right.replace("<name>filed<", "<name>other<"), "is the domain other, not filed"),
        (right.replace(&guest.uuid.to_string(), &uuid::Uuid::new_v4().to_string()), "has the UUID"),
    ] {
        std::fs::write(&file, wrong)?;
        cluster.ctl(&["enable", "filed", "--no-wait"])?;
        let vm = wait(cluster, "filed", "refused", |vm| vm["failure"].is_string())?;
        ensure!(vm["failure"].as_str().is_some_and(|why| why.contains(said)), "{vm}");
        cluster.ctl(&["disable", "filed"])?;
        ensure!(cluster.where_runs(guest.uuid)?.is_empty());
    }
    // What is in the file holds from the next start.
    std::fs::write(&file, right)?;
    cluster.ctl(&["enable", "filed", "--on", "node2"])?;
    cluster.wait_counting(&guest)?;
    let memory = cluster.lab.host(2)?.virsh(&["dominfo", "filed"])?;
    ensure!(memory.contains("24576 KiB"), "{memory}");
    // And by its own path.
    cluster.ctl(&["vm", "edit", "filed", "--xml-file", &file.display().to_string()])?;
    cluster.ctl(&["restart", "filed"])?;
    cluster.wait_counting(&guest)?;
    cluster.ctl(&["disable", "filed"]).map(drop)
}

/// Complaint "migration traffic on the wrong network".
fn migration_traffic_goes_where_the_mapping_says(cluster: &Cluster) -> Result<()> {
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    // A second network, and one that is not there.
    for number in [1, 2] {
        let address = format!("10.78.0.{}/24", 10 + number);
        let added =
            cluster.lab.host(number)?.exec(&["ip", "addr", "add", &address, "dev", "eth0"])?;
        ensure!(added.status.success(), "{added:?}");
    }
    let map =
        |mapping: &str| cluster.ctl(&["vm", "edit", "g", "--migration-mapping", mapping]).map(drop);
    map("node2:10.99.0.12")?;
    let said = cluster.refused(&["migrate", "g", "--to", "node2"], 1)?;
    ensure!(said.contains("10.99.0.12"), "{said}");
    cluster.wait_vm("g", "started", Some("node1"))?;
    // Slow enough to be looked at.
    map("node2:10.78.0.12:49400")?;
    cluster.lab.host(1)?.slow_migrations(800)?;
    cluster.ctl(&["migrate", "g", "--to", "node2", "--no-wait"])?;
    cluster.wait("the traffic to go to the second network", |_| {
        let sockets = cluster.lab.host(1).and_then(|host| host.exec(&["ss", "-Htn"]));
        sockets.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("10.78.0.12:49400"))
    })?;
    cluster.lab.host(1)?.free_migrations();
    cluster.wait_vm("g", "started", Some("node2"))?;
    cluster.wait_counting(&guest)?;
    // node1 is not mapped: its own address holds, and not the first pair of the mapping.
    cluster.ctl(&["migrate", "g", "--to", "node1"])?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    // Through the connection of the two libvirtds, and paused.
    cluster.ctl(&[
        "vm",
        "edit",
        "g",
        "--migration-mapping",
        "",
        "--migrate-options=--tunnelled",
    ])?;
    cluster.ctl(&["migrate", "g", "--to", "node2", "--pause"])?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node2"]);
    cluster.wait_counting(&guest)?;
    what_ssh_prints_is_no_word_on_a_migration(cluster, &guest)
}

/// Complaint "an ssh banner broke migration": what is printed beside the connection is read by nobody.
fn what_ssh_prints_is_no_word_on_a_migration(cluster: &Cluster, guest: &Guest) -> Result<()> {
    let directory = cluster.lab.directory().join("shared");
    let (program, log) = (directory.join("ssh-with-banner"), directory.join("ssh.log"));
    // It connects as ssh would, and greets as the complaint has it.
    let address = &cluster.lab.host(1)?.address;
    let body = format!(
        "#!/bin/bash\necho 'Authorized use only. All activity is logged: error, failed.' >&2\n\
         echo \"$@\" >> {}\nexec 3<>/dev/tcp/{address}/16509\n\
         cat <&3 &\ncat >&3\n",
        log.display()
    );
    std::fs::write(&program, body)?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable)?;
    let query = format!("command={}&no_verify=1&proxy=netcat", program.display());
    let mapping = format!("node1:qemu+ssh://{address}/system?{query}");
    let edit = ["vm", "edit", "g", "--migration-mapping", mapping.as_str(), "--migrate-options="];
    cluster.ctl(&edit)?;
    cluster.ctl(&["migrate", "g", "--to", "node1"])?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    ensure!(std::fs::read_to_string(log)?.contains(address), "it went through ssh");
    cluster.wait_counting(guest).map(drop)
}
