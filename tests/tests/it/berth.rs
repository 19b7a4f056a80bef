//! The main job, on real hosts: operations, recovery, adoption.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::{Cluster, Fencing, find, find_node, node_is};
use tests::lab::guest::Guest;
use tests::lab::{Options, enter_test};

fn cluster(hosts: usize, fencing: Fencing) -> Result<Cluster> {
    Cluster::start(&Options { hosts, replicas: 3 }, fencing)
}

fn owner(cluster: &Cluster, vm: &str) -> Result<String> {
    cluster.vm(vm)?["owner"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("{vm} has no owner"))
}

fn events(cluster: &Cluster) -> Result<Vec<Value>> {
    let text = cluster.ctl(&["events", "--json"])?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The place of the first event of this kind about this VM or node.
fn place(events: &[Value], kind: &str, field: &str, name: &str) -> Result<usize> {
    let found = events.iter().position(|event| event["kind"] == kind && event[field] == name);
    found.with_context(|| format!("no event {kind} of {name}"))
}

#[test]
fn an_operator_runs_a_vm_through_all_that_can_be_asked_of_it() -> Result<()> {
    if !enter_test("berth::an_operator_runs_a_vm_through_all_that_can_be_asked_of_it")? {
        return Ok(());
    }
    let cluster = cluster(2, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    ensure!(
        cluster.where_runs(guest.uuid)?.is_empty() && cluster.vm("g")?["state"] == "disabled",
        "adding starts nothing"
    );

    // The same name, the same UUID, the same disk.
    let xml = guest.write_xml()?.display().to_string();
    ensure!(cluster.refused(&["vm", "add", &xml], 3)?.contains("is managed already"));
    let variant = |name: &str, change: &dyn Fn(String) -> String| -> Result<String> {
        let path = cluster.lab.directory().join(name);
        std::fs::write(&path, change(guest.xml()))?;
        Ok(path.display().to_string())
    };
    let same_uuid = variant("uuid.xml", &|xml| xml.replace("<name>g<", "<name>h<"))?;
    ensure!(cluster.refused(&["vm", "add", &same_uuid], 3)?.contains("belongs to VM g"));
    let other = "11111111-2222-4333-8444-555555555555";
    let same_disk = variant("disk.xml", &|xml| {
        xml.replace("<name>g<", "<name>h<").replace(&guest.uuid.to_string(), other)
    })?;
    ensure!(cluster.refused(&["vm", "add", &same_disk], 3)?.contains("is written by VM g"));
    let broken = variant("broken.xml", &|xml| xml.replace("</memory>", "</memry>"))?;
    ensure!(cluster.refused(&["vm", "add", &broken], 9)?.contains("line 4"));

    let said = cluster.ctl(&["enable", "g", "--on", "node2"])?;
    ensure!(said.contains("g is started on node2"), "{said}");
    cluster.wait_counting(&guest)?;
    ensure!(
        cluster.lab.host(2)?.virsh(&["dumpxml", "g"])?.contains("berth:owner"),
        "the domain bears the mark"
    );
    // Events are taken up again after any revision.
    let all = events(&cluster)?;
    let middle = all[all.len() / 2]["revision"].as_u64().context("no revision")?;
    let later = cluster.ctl(&["events", "--json", "--after", &middle.to_string()])?;
    ensure!(
        later.lines().count()
            == all.iter().filter(|event| event["revision"].as_u64() > Some(middle)).count()
    );
    ensure!(cluster.refused(&["enable", "nobody"], 4)?.contains("no VM is named nobody"));
    ensure!(
        cluster
            .refused(&["migrate", "g", "--to", "nowhere"], 4)?
            .contains("no node is named nowhere")
    );
    ensure!(cluster.refused(&["migrate", "g", "--to", "node2"], 3)?.contains("runs there already"));
    ensure!(cluster.refused(&["cancel", "g"], 3)?.contains("nothing of VM g"));

    cluster.ctl(&["migrate", "g", "--to", "node1", "--live"])?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    cluster.ctl(&["migrate", "g", "--to", "node2", "--pause"])?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node2"]);
    cluster.wait_counting(&guest)?;
    let before = cluster.lab.host(2)?.qemus()?[&guest.uuid];
    cluster.ctl(&["restart", "g"])?;
    ensure!(
        cluster.where_runs(guest.uuid)? == ["node2"],
        "{}",
        cluster.ctl(&["events", "--vm", "g"])?
    );
    ensure!(
        cluster.lab.host(2)?.qemus()?[&guest.uuid] != before && owner(&cluster, "g")? == "node2"
    );
    cluster.ctl(&["relocate", "g"])?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    cluster.ctl(&["stop", "g"])?;
    ensure!(cluster.where_runs(guest.uuid)?.is_empty() && cluster.vm("g")?["state"] == "stopped");
    cluster.ctl(&["enable", "g"])?;
    cluster.ctl(&["vm", "edit", "g", "--recovery", "relocate", "--max-restarts", "2"])?;
    ensure!(
        cluster.vm("g")?["policy"]["recovery"] == "relocate"
            && cluster.where_runs(guest.uuid)?.len() == 1
    );
    ensure!(cluster.ctl(&["explain", "g"])?.contains("it is as it should be"));
    ensure!(cluster.ctl(&["vm", "show", "g", "--xml"])?.trim() == guest.xml().trim());
    ensure!(cluster.ctl(&["node", "show", "node1"])?.contains("fence_lab"));
    cluster.ctl(&["disable", "g", "--no-wait"])?;
    cluster.wait_vm("g", "disabled", None)?;
    cluster.ctl(&["enable", "g"])?;
    cluster.ctl(&["vm", "forget", "g"])?;
    ensure!(cluster.where_runs(guest.uuid)?.len() == 1, "forgetting stops nothing");
    ensure!(guest.count()?.is_some_and(|count| count.strangers == 0));
    Ok(())
}

#[test]
fn a_vm_is_placed_by_its_failover_domain_and_explains_why_it_is_nowhere() -> Result<()> {
    if !enter_test("berth::a_vm_is_placed_by_its_failover_domain_and_explains_why_it_is_nowhere")? {
        return Ok(());
    }
    let cluster = cluster(2, Fencing::Agent)?;
    cluster.ctl(&[
        "failover-domain",
        "set",
        "d",
        "--node",
        "node2:1",
        "--node",
        "node1:2",
        "--ordered",
        "--restricted",
    ])?;
    cluster.add_guest("g")?;
    cluster.ctl(&["vm", "edit", "g", "--failover-domain", "d"])?;
    cluster.ctl(&["enable", "g"])?;
    ensure!(owner(&cluster, "g")? == "node2");
    ensure!(cluster.refused(&["failover-domain", "remove", "d"], 3)?.contains("is used by VM g"));
    // More memory than there is.
    let guest = Guest::make(&cluster.lab.directory().join("shared"), "big", false)?;
    let path = cluster.lab.directory().join("big.xml");
    std::fs::write(&path, guest.xml().replace(">16</memory>", ">900000</memory>"))?;
    cluster.ctl(&["vm", "add", &path.display().to_string()])?;
    let said = cluster.refused(&["enable", "big"], 5)?;
    ensure!(said.contains("900000 MiB are needed"), "{said}");
    ensure!(cluster.ctl(&["explain", "big"])?.contains("no node can take it"));
    cluster.ctl(&["cancel", "big"])?;
    ensure!(cluster.refused(&["status", "--check"], 1).is_err(), "all is as wanted again");
    Ok(())
}

#[test]
fn a_qemu_that_dies_comes_back_and_is_counted() -> Result<()> {
    if !enter_test("berth::a_qemu_that_dies_comes_back_and_is_counted")? {
        return Ok(());
    }
    let cluster = cluster(2, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["vm", "edit", "g", "--max-restarts", "1", "--restart-expire-time", "10m"])?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    for (restarts, node) in [(1, "node1"), (2, "node2")] {
        let place = owner(&cluster, "g")?;
        let process = cluster.lab.host_named(&place)?.qemus()?[&guest.uuid];
        kill(Pid::from_raw(process), Signal::SIGKILL)?;
        // Once in place, as its limit says, and then on another node.
        cluster.wait("the VM to be started again", |status| {
            find(status, "g")
                .is_some_and(|vm| vm["restarts"] == restarts && vm["state"] == "started")
        })?;
        ensure!(cluster.where_runs(guest.uuid)? == [node]);
    }
    cluster.wait_counting(&guest)?;
    Ok(())
}

#[test]
fn the_vms_of_a_lost_host_start_elsewhere_after_its_fence_and_not_before() -> Result<()> {
    if !enter_test("berth::the_vms_of_a_lost_host_start_elsewhere_after_its_fence_and_not_before")?
    {
        return Ok(());
    }
    let cluster = cluster(3, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    // The cable is pulled: the host lives on, and its guest counts on, until the fence cuts its power.
    cluster.lab.host(1)?.link(false)?;
    cluster.wait("the VM to run elsewhere", |status| {
        find(status, "g").is_some_and(|vm| vm["state"] == "started" && vm["owner"] != "node1")
    })?;
    ensure!(!cluster.lab.host(1)?.is_on(), "the fence has cut its power");
    cluster.wait_counting(&guest)?;
    let events = events(&cluster)?;
    let dead = place(&events, "node-dead", "node", "node1")?;
    ensure!(place(&events, "node-fencing", "node", "node1")? < dead);
    let started =
        events.iter().rposition(|event| event["kind"] == "vm-starting").context("no start")?;
    ensure!(dead < started, "the start came after the proof");
    cluster.lab.host(1)?.power_on()?;
    cluster.wait("node1 to be back", |status| node_is(status, "node1", "online"))?;
    ensure!(cluster.where_runs(guest.uuid)?.len() == 1);
    Ok(())
}

#[test]
fn without_any_proof_nothing_is_started_and_the_operator_is_told() -> Result<()> {
    if !enter_test("berth::without_any_proof_nothing_is_started_and_the_operator_is_told")? {
        return Ok(());
    }
    let cluster = cluster(2, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["node", "fence", "node1", "--clear"])?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.lab.host(1)?.link(false)?;
    cluster.wait("node1 to be lost", |status| node_is(status, "node1", "lost"))?;
    let said = cluster.ctl(&["explain", "g"])?;
    ensure!(said.contains("neither a fence device nor a watchdog"), "{said}");
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    cluster.add_guest("other")?;
    ensure!(
        cluster.refused(&["enable", "other", "--on", "node1"], 3)?.contains("the node is lost")
    );
    ensure!(cluster.refused(&["node", "remove", "node1"], 3)?.contains("it is lost"));
    // Heard again, it goes on where it was.
    cluster.lab.host(1)?.link(true)?;
    cluster.wait("node1 to be online", |status| node_is(status, "node1", "online"))?;
    cluster.wait_vm("g", "started", Some("node1"))?;
    cluster.wait_counting(&guest)?;
    Ok(())
}

#[test]
fn restarts_of_agent_and_libvirtd_touch_no_guest() -> Result<()> {
    if !enter_test("berth::restarts_of_agent_and_libvirtd_touch_no_guest")? {
        return Ok(());
    }
    let cluster = cluster(1, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g"])?;
    let host = cluster.lab.host(1)?;
    let process = host.qemus()?[&guest.uuid];
    let session = |cluster: &Cluster| {
        Ok::<_, anyhow::Error>(cluster.status()?["nodes"][0]["session"].as_u64())
    };
    let first = session(&cluster)?;
    host.with_service("agent", |agent| agent.kill())?;
    host.restart_service("agent")?;
    cluster.wait("the agent to register again", |status| {
        status["nodes"][0]["session"].as_u64() > first
    })?;
    host.kill_libvirtd()?;
    host.start_libvirtd()?;
    // The agent is connected again when it carries out an order.
    ensure!(host.qemus()?[&guest.uuid] == process, "the guest runs on");
    ensure!(cluster.vm("g")?["state"] == "started" && cluster.vm("g")?["restarts"] == 0);
    cluster.wait_counting(&guest)?;
    cluster.ctl(&["restart", "g"])?;
    ensure!(host.qemus()?[&guest.uuid] != process);
    Ok(())
}

#[test]
fn what_is_done_with_virsh_is_followed() -> Result<()> {
    if !enter_test("berth::what_is_done_with_virsh_is_followed")? {
        return Ok(());
    }
    let cluster = cluster(2, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    let uri = cluster.lab.host(2)?.migration_uri();
    cluster.lab.host(1)?.virsh(&["migrate", "--live", "--p2p", "--unsafe", "g", &uri])?;
    let begun = Instant::now();
    cluster.wait_vm("g", "started", Some("node2"))?;
    ensure!(
        begun.elapsed() < Duration::from_secs(20) && cluster.where_runs(guest.uuid)? == ["node2"]
    );
    ensure!(cluster.vm("g")?["restarts"] == 0, "it was adopted, not started");
    place(&events(&cluster)?, "vm-adopted", "vm", "g")?;
    cluster.ctl(&["disable", "g"])?;
    // Started by hand while it is disabled, and enabled then: tracked where it is.
    cluster.lab.host(1)?.virsh(&["create", &guest.write_xml()?.display().to_string()])?;
    let process = cluster.lab.host(1)?.qemus()?[&guest.uuid];
    cluster.wait("the agent to see it", |status| {
        find(status, "g").is_some_and(|vm| vm["seen"]["node1"] == "running")
    })?;
    cluster.ctl(&["enable", "g"])?;
    ensure!(
        owner(&cluster, "g")? == "node1" && cluster.lab.host(1)?.qemus()?[&guest.uuid] == process
    );
    // The same before it was even managed.
    let early = Guest::make(&cluster.lab.directory().join("shared"), "early", false)?;
    let xml = early.write_xml()?.display().to_string();
    cluster.lab.host(2)?.virsh(&["create", &xml])?;
    cluster.wait("node2 to show it", |status| {
        let unmanaged = find_node(status, "node2").and_then(|node| node["unmanaged"].as_array());
        unmanaged.is_some_and(|all| all.iter().any(|domain| domain["name"] == "early"))
    })?;
    cluster.ctl(&["vm", "add", &xml])?;
    cluster.ctl(&["enable", "early"])?;
    ensure!(owner(&cluster, "early")? == "node2" && cluster.where_runs(early.uuid)? == ["node2"]);
    Ok(())
}

#[test]
fn a_deaf_guest_is_stopped_at_once_when_that_is_asked() -> Result<()> {
    if !enter_test("berth::a_deaf_guest_is_stopped_at_once_when_that_is_asked")? {
        return Ok(());
    }
    let cluster = cluster(2, Fencing::Agent)?;
    let guest = Guest::make(&cluster.lab.directory().join("shared"), "deaf", true)?;
    cluster.ctl(&[
        "vm",
        "add",
        &guest.write_xml()?.display().to_string(),
        "--stop-timeout",
        "1h",
    ])?;
    cluster.ctl(&["enable", "deaf"])?;
    cluster.wait_counting(&guest)?;
    cluster.ctl(&["stop", "deaf", "--no-wait"])?;
    cluster.wait_vm("deaf", "stopping", None)?;
    cluster.ctl(&["stop", "deaf", "--now"])?;
    ensure!(
        cluster.where_runs(guest.uuid)?.is_empty() && cluster.vm("deaf")?["state"] == "stopped"
    );
    // And by its own time-out.
    cluster.ctl(&["vm", "edit", "deaf", "--stop-timeout", "1s"])?;
    cluster.ctl(&["enable", "deaf"])?;
    cluster.wait_counting(&guest)?;
    cluster.ctl(&["disable", "deaf"])?;
    ensure!(cluster.where_runs(guest.uuid)?.is_empty());
    Ok(())
}

#[test]
fn a_migration_is_called_off_and_the_guest_stays() -> Result<()> {
    if !enter_test("berth::a_migration_is_called_off_and_the_guest_stays")? {
        return Ok(());
    }
    let cluster = cluster(2, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    // A byte a second and more is too slow ever to arrive.
    cluster.lab.host(1)?.virsh(&["migrate-setspeed", "g", "1"])?;
    cluster.lab.host(1)?.exec(&[
        "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "2mbit", "burst", "32kb",
        "latency", "400ms",
    ])?;
    // On a machine that is busy it may arrive all the same before the cancel does: then once more.
    for attempt in 1.. {
        cluster.ctl(&["migrate", "g", "--to", "node2", "--no-wait"])?;
        cluster.wait("libvirt's own figures to come through", |status| {
            find(status, "g").is_some_and(|vm| {
                let total = vm["progress"]["total_bytes"].as_u64();
                total.is_some_and(|bytes| bytes > 0) || vm["owner"] == "node2"
            })
        })?;
        let cancelled = cluster.ctl(&["cancel", "g"]);
        cluster.wait_vm("g", "started", None)?;
        if cluster.vm("g")?["owner"] == "node1" {
            cancelled?;
            break;
        }
        ensure!(attempt < 5, "it arrives each time: {cancelled:?}");
        cluster.wait_counting(&guest)?;
        cluster.ctl(&["migrate", "g", "--to", "node1"])?;
    }
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    cluster.wait_counting(&guest)?;
    cluster.wait("only node1 to be left in its set", |status| {
        find(status, "g").is_some_and(|vm| vm["may_run"] == serde_json::json!(["node1"]))
    })?;
    Ok(())
}
