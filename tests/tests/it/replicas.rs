//! Replicas that die, come back, are added and removed, under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Fencing, PATIENCE};
use tests::lab::{Options, enter_test};

use crate::way_over::old_tool;

/// Acknowledged commands while one replica is killed and comes back.
const ENOUGH: usize = 25;

fn domains(cluster: &Cluster) -> Result<Vec<String>> {
    let status = cluster.status()?;
    let all = status["failover_domains"].as_array().context("no failover domains")?;
    Ok(all.iter().filter_map(|domain| domain["name"].as_str().map(str::to_owned)).collect())
}

#[test]
fn kills_of_replicas_lose_nothing_acknowledged_and_stop_nothing() -> Result<()> {
    if !enter_test("replicas::kills_of_replicas_lose_nothing_acknowledged_and_stop_nothing")? {
        return Ok(());
    }
    let mut cluster = Cluster::start(&Options { hosts: 1, replicas: 3 }, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g"])?;
    let process = cluster.lab.host(1)?.qemus()?[&guest.uuid];
    let mut acknowledged = Vec::new();
    for victim in 1..=3 {
        // One client writes all the while; each replica is killed once, so that one of them leads at that moment.
        let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let commands: Vec<_> = (0..1000)
            .map(|number| {
                let name = format!("d{victim}-{number}");
                let command =
                    cluster.ctl_command(&["failover-domain", "set", &name, "--node", "node1"]);
                command.map(|command| (name, command))
            })
            .collect::<Result<_>>()?;
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut written = Vec::new();
                for (name, mut command) in commands {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    if command.output().is_ok_and(|output| output.status.success()) {
                        written.push(name);
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                }
                written
            });
            let killed = cluster
                .kill_replica(victim)
                .and_then(|()| cluster.status())
                .and_then(|_| cluster.start_replica(victim));
            let status = cluster.status();
            let begun = Instant::now();
            while count.load(Ordering::SeqCst) < ENOUGH && begun.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            done.store(true, Ordering::SeqCst);
            let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"));
            killed.and(status).and(written)
        })?;
        ensure!(
            written.len() >= ENOUGH,
            "too little was acknowledged while replica {victim} was killed"
        );
        acknowledged.extend(written);
    }
    // All of them at once.
    for number in 1..=3 {
        cluster.kill_replica(number)?;
    }
    for number in 1..=3 {
        cluster.start_replica(number)?;
    }
    let there = domains(&cluster)?;
    let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
    ensure!(lost.is_empty(), "acknowledged and gone: {lost:?}; there are {there:?}");
    ensure!(cluster.vm("g")?["state"] == "started" && cluster.vm("g")?["restarts"] == 0);
    ensure!(cluster.lab.host(1)?.qemus()?[&guest.uuid] == process, "the guest was not touched");
    cluster.wait("the node to be online", |status| status["nodes"][0]["state"] == "online")?;
    cluster.wait_counting(&guest)?;
    Ok(())
}

#[test]
fn replicas_are_added_replaced_and_removed_and_the_leader_hands_over() -> Result<()> {
    if !enter_test("replicas::replicas_are_added_replaced_and_removed_and_the_leader_hands_over")? {
        return Ok(());
    }
    let mut cluster = Cluster::start(&Options { hosts: 1, replicas: 3 }, Fencing::Agent)?;
    let leader = cluster.leader()?;
    let heir = if leader == 3 { 2 } else { 3 };
    cluster.ctl(&["replica", "transfer-leader", &heir.to_string()])?;
    ensure!(cluster.leader()? == heir);
    // A replica whose disk is gone is replaced by a new one under a new id, at another port of its host.
    let victim = (1..=3).find(|number| *number != heir).context("no victim")?;
    cluster.kill_replica(victim)?;
    let address = format!("{}:7490", cluster.lab.replica_address(victim));
    let data = cluster.lab.directory().join("replica4").display().to_string();
    let program = tests::lab::binary("berth-server")?.display().to_string();
    let command: Vec<String> = [
        &program,
        "--config",
        "/nonexistent",
        "--id",
        "4",
        "--listen",
        &address,
        "--data-dir",
        &data,
        "--insecure",
    ]
    .into_iter()
    .map(Into::into)
    .collect();
    let fourth = cluster.lab.replica_spawn(
        victim,
        &command,
        &cluster.lab.directory().join("replica4.log"),
    )?;
    cluster.ctl(&["replica", "replace", &victim.to_string(), &format!("4={address}")])?;
    let listed = cluster.ctl(&["replica", "list", "--json"])?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let ids: Vec<_> = listed
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|replica| replica["id"].as_u64())
        .collect();
    ensure!(ids.contains(&4) && !ids.contains(&(victim as u64)) && ids.len() == 3, "{ids:?}");
    cluster.ctl(&["failover-domain", "set", "after", "--node", "node1"])?;
    ensure!(domains(&cluster)? == ["after"]);
    fourth.kill()?;
    ensure!(domains(&cluster)? == ["after"], "two of three go on");
    Ok(())
}

#[test]
fn without_a_quorum_one_thing_and_lists_are_shown_where_stale_was_said_and_only_there() -> Result<()>
{
    let name = "replicas::without_a_quorum_one_thing_and_lists_are_shown_where_stale_was_said_and_only_there";
    if !enter_test(name)? {
        return Ok(());
    }
    let mut cluster = Cluster::start(&Options { hosts: 1, replicas: 3 }, Fencing::Agent)?;
    cluster.add_guest("g")?;
    cluster.add_guest("member")?;
    let file = cluster.lab.directory().join("web.yaml");
    std::fs::write(&file, "name: web\nmembers:\n- vm: member\n")?;
    cluster.ctl(&["service", "add", "-f", &file.display().to_string()])?;
    let last = cluster.leader()?;
    for victim in (1..=3).filter(|number| *number != last) {
        cluster.kill_replica(victim)?;
    }
    for (words, shows) in [
        (["vm", "show", "g"].as_slice(), "uuid"),
        (&["vm", "show", "g", "--xml"], "<domain"),
        (&["vm", "list"], "member"),
        (&["node", "show", "node1"], "node1"),
        (&["node", "list"], "node1"),
        (&["service", "show", "web"], "member"),
        (&["service", "list"], "web"),
    ] {
        let with = |more: &[&'static str]| [words, more].concat();
        let said = cluster.ctl(&with(&["--stale"]))?;
        ensure!(said.contains(shows), "{words:?}: {said}");
        // The XML is for a file, and nothing else is put into it.
        let remarks = said.contains("which may be old");
        ensure!(remarks != words.contains(&"--xml"), "{words:?}: {said}");
        let said = cluster.ctl(&with(&["--stale", "--json"]))?;
        if !words.contains(&"--xml") {
            serde_json::from_str::<serde_json::Value>(&said).context(said)?;
        }
        cluster.refused(&with(&["--timeout", "1s"]), 7)?;
    }
    let said = cluster.refused(&["vm", "show", "nobody", "--stale"], 4)?;
    ensure!(said.contains("nobody"), "{said}");
    // The old tools do not keep anybody waiting who looks at a cluster in trouble.
    let begun = Instant::now();
    let (code, said) = old_tool(&cluster, "clustat", &[])?;
    ensure!(code == 0 && said.contains("Member Status: Inquorate"), "{code} {said}");
    ensure!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let (code, said) = old_tool(&cluster, "clusvcadm", &["-e", "vm:g"])?;
    ensure!((code, said.as_str()) == (247, "Operation requires quorum\n"), "{code} {said}");
    Ok(())
}
