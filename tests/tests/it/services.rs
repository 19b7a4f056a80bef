//! A service on real hosts: a VM between an OCF agent and an init script.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::cluster::{Cluster, Fencing, PATIENCE};
use tests::lab::{Options, enter_test};

/// A script of the lab: a daemon in its host's process namespace, and a line for each start and stop.
fn script(directory: &Path, name: &str, down: u8) -> Result<PathBuf> {
    let log = directory.join("service.log");
    let body = format!(
        r#"#!/bin/sh
pid=/run/web-{name}.pid
alive() {{ [ -f $pid ] && kill -0 "$(cat $pid)" 2>/dev/null; }}
case "$1" in
start)
    echo "$(hostname) start {name} $OCF_RESKEY_address" >> {log}
    alive || {{ setsid sleep 1000000 </dev/null >/dev/null 2>&1 & echo $! > $pid; }} ;;
stop)
    echo "$(hostname) stop {name}" >> {log}
    [ -f /run/web-hang ] && sleep 1000000
    alive && kill "$(cat $pid)"
    rm -f $pid ;;
status|monitor)
    alive || exit {down} ;;
esac
exit 0
"#,
        log = log.display()
    );
    let path = directory.join(name);
    std::fs::write(&path, body)?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, executable)?;
    Ok(path)
}

fn log(cluster: &Cluster) -> Result<Vec<String>> {
    let path = cluster.lab.directory().join("service.log");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Ok(text.lines().map(|line| line.trim_end().to_owned()).collect())
}

fn service(cluster: &Cluster) -> Result<Value> {
    Ok(serde_json::from_str(&cluster.ctl(&["service", "show", "web", "--json"])?)?)
}

fn wait(cluster: &Cluster, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let begun = Instant::now();
    let mut last = Value::Null;
    while begun.elapsed() < PATIENCE {
        // A replica that has just been elected may not answer yet.
        if let Ok(now) = service(cluster) {
            if wanted(&now) {
                return Ok(now);
            }
            last = now;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("waited in vain for {what}: {last}")
}

/// The pid of a script's daemon on a host, in the host's own numbers.
fn daemon(cluster: &Cluster, host: usize, name: &str) -> Result<String> {
    let output = cluster.lab.host(host)?.exec(&["cat", &format!("/run/web-{name}.pid")])?;
    ensure!(output.status.success(), "{name} does not run on node{host}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_vm_and_two_scripts_start_in_order_move_with_their_node_and_fail_each_in_its_way() -> Result<()>
{
    if !enter_test(
        "services::a_vm_and_two_scripts_start_in_order_move_with_their_node_and_fail_each_in_its_way",
    )? {
        return Ok(());
    }
    let cluster = Cluster::start(&Options { hosts: 2, replicas: 3 }, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    let directory = cluster.lab.directory().to_owned();
    let (address, weblog) = (script(&directory, "address", 7)?, script(&directory, "weblog", 3)?);
    let file = directory.join("web.yaml");
    std::fs::write(
        &file,
        format!(
            "name: web
policy: {{recovery: relocate}}
members:
- {{name: address, ocf: {}, parameters: {{address: 10.0.0.80}}, stop_timeout_ms: 2000, checks: [{{interval_ms: 1000}}]}}
- vm: g
- {{name: weblog, lsb: {}, weight: non-critical, stop_timeout_ms: 2000, checks: [{{interval_ms: 1000}}]}}
",
            address.display(),
            weblog.display()
        ),
    )?;
    cluster.ctl(&["service", "add", "-f", &file.display().to_string()])?;
    ensure!(log(&cluster)?.is_empty() && cluster.where_runs(guest.uuid)?.is_empty());

    // In order.
    let said = cluster.ctl(&["enable", "service:web", "--on", "node1"])?;
    ensure!(said.contains("service:web is started on node1"), "{said}");
    cluster.wait_counting(&guest)?;
    ensure!(log(&cluster)? == ["node1 start address 10.0.0.80", "node1 start weblog"]);
    let refused = cluster.ctl_output(&["stop", "g"])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("member of service web"));
    let status = cluster.ctl(&["status"])?;
    ensure!(status.contains("weblog") && status.contains("SERVICE"), "{status}");

    // An agent that begins again takes up what runs.
    let before = daemon(&cluster, 1, "address")?;
    cluster.lab.host(1)?.restart_service("agent")?;
    std::thread::sleep(Duration::from_secs(3));
    cluster.wait("node1 to be back", |status| {
        status["nodes"].as_array().is_some_and(|all| all.iter().all(|it| it["state"] == "online"))
    })?;
    wait(&cluster, "the service to be well", |it| it["state"] == "started")?;
    ensure!(daemon(&cluster, 1, "address")? == before && log(&cluster)?.len() == 2);

    // A member that is not critical fails.
    let pid = daemon(&cluster, 1, "weblog")?;
    cluster.lab.host(1)?.exec(&["kill", "-9", &pid])?;
    let partial = wait(&cluster, "the service to be partial", |it| {
        it["partial"] == true && it["members"][2]["state"] == "stopped"
    })?;
    ensure!(partial["state"] == "started" && partial["members"][2]["off"] == true, "{partial}");
    cluster.ctl(&["convalesce", "service:web"])?;
    let well = wait(&cluster, "the service to be whole", |it| it["partial"] == false)?;
    ensure!(well["members"][2]["state"] == "started", "{well}");

    // Its node dies: all of it starts elsewhere, in order.
    let known = log(&cluster)?.len();
    cluster.lab.host(1)?.power_cut()?;
    wait(&cluster, "the service to be on node2", |it| {
        it["state"] == "started" && it["owner"] == "node2"
    })?;
    cluster.wait_counting(&guest)?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node2"]);
    let new = log(&cluster)?.split_off(known);
    ensure!(new == ["node2 start address 10.0.0.80", "node2 start weblog"], "{new:?}");

    // A stop that hangs is killed with its process group, and the service has failed where it was.
    cluster.lab.host(2)?.exec(&["touch", "/run/web-hang"])?;
    let weblog_hangs = cluster.ctl_output(&["disable", "service:web", "--timeout", "3m"])?;
    ensure!(!weblog_hangs.status.success());
    let failed = wait(&cluster, "the service to have failed", |it| it["state"] == "failed")?;
    let why = failed["failure"].as_str().context("no failure")?;
    ensure!(why.contains("process group was killed"), "{why}");
    cluster.lab.host(2)?.exec(&["rm", "/run/web-hang"])?;
    let said = cluster.ctl(&["disable", "service:web"])?;
    ensure!(said.contains("service:web is disabled"), "{said}");
    ensure!(cluster.where_runs(guest.uuid)?.is_empty());
    Ok(())
}
