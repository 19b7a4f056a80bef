//! What the operator sees of fencing, on real hosts that lose their power.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::{Cluster, Fencing, find_node, node_is};
use tests::lab::{Options, enter_test};

fn history(status: &Value, node: &str) -> Vec<String> {
    let attempts = find_node(status, node).and_then(|node| node["fence_history"].as_array());
    attempts.into_iter().flatten().map(ToString::to_string).collect()
}

#[test]
fn a_host_is_fenced_through_a_surviving_agent_and_switched_on_again() -> Result<()> {
    if !enter_test("fencing::a_host_is_fenced_through_a_surviving_agent_and_switched_on_again")? {
        return Ok(());
    }
    let cluster = Cluster::start(&Options { hosts: 3, replicas: 3 }, Fencing::ThroughNodes)?;
    let said = cluster.ctl(&["fence", "test", "node1"])?;
    println!("# berthctl fence test node1\n{said}");
    ensure!(said.contains("node node"), "{said}");
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    cluster.ctl(&["node", "policy", "node1", "--after-fence", "power-on/1"])?;

    cluster.lab.host(1)?.power_cut()?;
    cluster.wait("g to run elsewhere", |status| {
        status["vms"][0]["state"] == "started" && status["vms"][0]["owner"] != "node1"
    })?;
    cluster.wait_counting(&guest)?;
    let told = history(&cluster.status()?, "node1");
    ensure!(told.iter().any(|attempt| attempt.contains("asked by node")), "{told:?}");
    cluster.wait("node1 to be switched on", |status| node_is(status, "node1", "online"))?;

    // Once an hour: the second time it stays off.
    let owner = cluster.vm("g")?["owner"].as_str().context("no owner")?.to_owned();
    cluster.lab.host(1)?.power_cut()?;
    cluster.wait("node1 to be dead", |status| node_is(status, "node1", "dead"))?;
    ensure!(cluster.vm("g")?["owner"] == owner.as_str(), "what runs elsewhere is left alone");

    // A device that cannot be asked is an alarm before it is needed.
    let lab = format!("lab={}", cluster.lab.directory().join("nothing").display());
    let dark = ["--agent", "fence_lab", "--option", "plug=node2", "--option", &lab];
    cluster.ctl(&[&["node", "fence", "node2"][..], &dark].concat())?;
    let tested = cluster.ctl_output(&["fence", "test", "node2"])?;
    ensure!(!tested.status.success(), "a dark device passed its test");
    cluster.ctl(&["settings", "set", "fence_probe_ms=1000"])?;
    cluster.wait("the alarm", |status| {
        find_node(status, "node2")
            .and_then(|node| node["dark_fence"].as_array())
            .is_some_and(|dark| !dark.is_empty())
    })?;
    Ok(())
}
