//! Storage broken on purpose, with real processes on loopback: killed in a loop, barriers that hang or fail, files that
//! are damaged or put back. What was acknowledged is there afterwards, or the replica ends and says why.

mod trio;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use proto::channel::CLUSTER;
use proto::v1::agent_session_client::AgentSessionClient;
use proto::v1::submit_request::Operation as Asked;
use proto::v1::{self, AddVm};
use tests::lab::binary;
use tests::linearizability::agent::{Agent, World};
use tests::linearizability::operator::{Answer, Replicas, Request, submit};
use tests::linearizability::register::Outcome;
use uuid::Uuid;

use self::trio::{PATIENCE, Trio, copy, until};

const KILLS: usize = 12;

fn new_vm(name: &str) -> Request {
    let xml = format!("<domain type='qemu'><name>{name}</name><memory>16384</memory></domain>");
    let policy = Some(v1::VmPolicy {
        recovery: "restart".into(),
        migration: "live".into(),
        stop_timeout_ms: 1_000,
        ..v1::VmPolicy::default()
    });
    let asked = Asked::AddVm(AddVm { xml, policy });
    Request { id: Uuid::new_v4(), operator: "storage".into(), asked, expected: None }
}

/// Adds VMs until told to end; returns those that were acknowledged.
async fn write(replicas: Replicas, writer: usize, done: &AtomicBool) -> Result<Vec<String>> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if done.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("w{writer}n{number}");
        let answer = submit(&replicas, writer + number, 3, &new_vm(&name)).await?;
        if matches!(answer, Answer::Register(Outcome::Done { .. })) {
            acknowledged.push(name);
        }
    }
    Ok(acknowledged)
}

#[test]
fn kills_in_a_loop_under_load_lose_nothing_that_was_acknowledged() -> Result<()> {
    let mut trio = Trio::start_cluster(3)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let replicas = {
        let _inside = runtime.enter();
        Replicas::new(&trio.endpoints())?
    };
    let mut random = fastrand::Rng::with_seed(20_261_125);
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (replicas, done) = (replicas.clone(), done.clone());
            runtime.spawn(async move { write(replicas, writer, &done).await })
        })
        .collect();
    for round in 0..KILLS {
        std::thread::sleep(Duration::from_millis(random.u64(50..600)));
        // Each fourth time all of them.
        let victims: Vec<u64> =
            if round % 4 == 3 { vec![1, 2, 3] } else { vec![random.u64(1..=3)] };
        for victim in &victims {
            trio.kill(*victim)?;
        }
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        for victim in &victims {
            trio.start(*victim)?;
        }
    }
    trio.leader()?;
    done.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(runtime.block_on(writer)??);
    }
    println!("{} acknowledged over {KILLS} kills", acknowledged.len());
    ensure!(acknowledged.len() > 50, "too little was acknowledged: {}", acknowledged.len());
    let all = trio.vms(None)?;
    let lost: Vec<_> = acknowledged.iter().filter(|name| !all.contains(*name)).collect();
    ensure!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    for replica in 1..=3 {
        until("all replicas to have it", || Ok(trio.vms(Some(replica))? == all))?;
    }
    Ok(())
}

#[test]
fn nothing_is_acknowledged_before_it_is_on_stable_storage() -> Result<()> {
    let mut trio = Trio::start_cluster(3)?;
    ensure!(trio.add_vm("first", 20)?);
    let leader = trio.leader()?;
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    // An entry: with no barrier returning on two of three, it is not acknowledged, though all have written it.
    for follower in &followers {
        trio.barriers(*follower, "hold", true)?;
    }
    ensure!(!trio.add_vm("held", 4)?, "an entry was acknowledged before it was on stable storage");
    for follower in &followers {
        trio.barriers(*follower, "hold", false)?;
    }
    until("the next entry to be acknowledged", || trio.add_vm("after", 10))?;
    // A vote: nobody is elected by votes that are not on stable storage.
    let leader = trio.leader()?;
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for follower in &followers {
        trio.barriers(*follower, "hold", true)?;
    }
    trio.kill(leader)?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let output = trio.ctl_output(&["status", "--json", "--timeout", "1s"])?;
        ensure!(!output.status.success(), "a leader was elected by votes that were not synced");
    }
    for follower in &followers {
        trio.barriers(*follower, "hold", false)?;
    }
    ensure!(trio.vms(None)?.contains("after"));
    Ok(())
}

#[test]
fn a_replica_whose_disk_cannot_sync_ends_and_is_not_trusted_before_a_boot() -> Result<()> {
    let mut trio = Trio::start_cluster(1)?;
    ensure!(trio.add_vm("first", 20)?);
    trio.barriers(1, "fail", true)?;
    ensure!(!trio.add_vm("second", 3)?, "what could not be synced was acknowledged");
    ensure!(!trio.ended(1)?.success());
    let said = trio.said(1)?;
    ensure!(said.contains("syncing the data in") && said.contains("boot the host"), "{said}");
    // The disk seems to work again; what the kernel shows of it may not be on it.
    trio.barriers(1, "fail", false)?;
    trio.start(1)?;
    ensure!(!trio.ended(1)?.success());
    let said = trio.said(1)?;
    ensure!(said.contains("an earlier process could not sync"), "{said}");
    // After a boot what is read is what is on the disk.
    std::fs::write(trio.data(1).join("SYNC-FAILED"), "another boot\n")?;
    trio.start(1)?;
    ensure!(trio.vms(None)?.contains("first"));
    Ok(())
}

/// What becomes of a file's bytes.
type Damage = fn(&mut Vec<u8>);

/// Each way to damage a file, by name; sled's file ends in room that nothing is written to yet.
const DAMAGES: [(&str, Damage); 3] = [
    ("cut short", |bytes| bytes.truncate(written(bytes) * 2 / 3)),
    ("a bit flipped near its end", |bytes| {
        let place = written(bytes).saturating_sub(20);
        bytes[place] ^= 4;
    }),
    ("a bit flipped in its middle", |bytes| {
        let place = written(bytes) / 2;
        bytes[place] ^= 1;
    }),
];

/// How much of a file is before its last zeros.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[test]
fn a_damaged_data_directory_is_refused_or_whole_and_comes_back_by_one_command() -> Result<()> {
    let mut trio = Trio::start_cluster(3)?;
    for number in 0..12 {
        ensure!(trio.add_vm(&format!("v{number}"), 20)?);
    }
    let all = trio.vms(None)?;
    let victim = (1..=3).rev().find(|id| trio.leader().is_ok_and(|leader| leader != *id));
    let victim = victim.context("no follower")?;
    until("the victim to have it all", || Ok(trio.vms(Some(victim))? == all))?;
    trio.kill(victim)?;
    let data = trio.data(victim);
    let mut seen = Vec::new();
    for name in ["FORMAT", "tally", "peers", "db/db", "db/conf"] {
        for (what, damage) in DAMAGES {
            let copied = trio.folder().join("copy");
            copy(&data, &copied)?;
            let path = copied.join(name);
            let mut bytes = std::fs::read(&path)?;
            if bytes.is_empty() {
                // A follower may not have heard anybody acknowledge anything.
                std::fs::remove_dir_all(&copied)?;
                continue;
            }
            damage(&mut bytes);
            std::fs::write(&path, bytes)?;
            let before = trio.said(victim)?.len();
            let mut child = trio.command(victim, &copied)?.spawn()?;
            // It ends, or it takes part and has it all: never does it serve less.
            let mut verdict = None;
            let begun = Instant::now();
            while verdict.is_none() {
                ensure!(begun.elapsed() < PATIENCE, "{name}, {what}: nothing comes of it");
                if let Some(status) = child.try_wait()? {
                    let said = trio.said(victim)?.split_off(before);
                    ensure!(!status.success(), "{name}, {what}: {said}");
                    let clear = ["replica rebuild", "install a version", "berthctl backup"];
                    let is_clear = clear.iter().any(|words| said.contains(words));
                    ensure!(is_clear, "{name}, {what}: it does not say what to do: {said}");
                    verdict = Some("refused");
                } else if trio.vms(Some(victim)).is_ok_and(|vms| vms == all) {
                    verdict = Some("whole");
                }
            }
            let _ = child.kill();
            child.wait()?;
            seen.push(format!("{name} {what}: {}", verdict.unwrap_or_default()));
            if verdict == Some("whole") {
                // The others know of its start now: the next copy is made of this one, or it would be refused as a copy.
                std::fs::remove_dir_all(&data)?;
                std::fs::rename(&copied, &data)?;
            } else {
                std::fs::remove_dir_all(&copied)?;
            }
        }
    }
    println!("{}", seen.join("\n"));
    ensure!(
        seen.iter().any(|it| it.ends_with("whole"))
            && seen.iter().any(|it| it.ends_with("refused"))
    );
    rebuild(&mut trio, victim, &all)
}

/// The real directory is damaged; its replica comes back under a new id, from its peers, by one command.
fn rebuild(trio: &mut Trio, victim: u64, all: &BTreeSet<String>) -> Result<()> {
    let data = trio.data(victim);
    let database = data.join("db/db");
    let half = written(&std::fs::read(&database)?) / 2;
    std::fs::File::options().write(true).open(&database)?.set_len(half as u64)?;
    trio.start(victim)?;
    ensure!(!trio.ended(victim)?.success());
    let mut command = Command::new(binary("berthctl")?);
    command
        .args(["replica", "rebuild", &victim.to_string(), "--data-dir"])
        .arg(&data)
        .env("BERTH_SERVERS", trio.endpoints().join(","));
    let mut started = false;
    // The leader calls it unreachable when it has been silent for a while; until then it may be alive.
    until("the rebuilding to be done", || {
        let mut child = command.spawn()?;
        loop {
            // What the service manager does: it starts the server again, under the id of its configuration.
            if !started && data.join("REBUILT").exists() {
                trio.start(victim)?;
                started = true;
            }
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })?;
    let listed: serde_json::Value =
        serde_json::from_str(&trio.ctl(&["replica", "list", "--json"])?)?;
    let listed = listed.as_array().context("no list")?;
    let ids: Vec<_> = listed.iter().filter_map(|replica| replica["id"].as_u64()).collect();
    let others: Vec<u64> = (1..=3).filter(|id| *id != victim).chain([4]).collect();
    ensure!(ids == others, "{ids:?}");
    until("the new one to have it all", || Ok(trio.vms(Some(victim))? == *all))?;
    // It counts: without one of the old ones a quorum is left.
    trio.kill(others[0])?;
    ensure!(trio.add_vm("after", 20)?);
    // And it is itself after a restart, whatever id is still configured.
    trio.kill(victim)?;
    trio.start(victim)?;
    ensure!(trio.add_vm("after-its-restart", 20)?);
    Ok(())
}

#[test]
fn a_data_directory_that_was_put_back_ends_its_replica_and_the_others_go_on() -> Result<()> {
    let mut trio = Trio::start_cluster(3)?;
    ensure!(trio.add_vm("first", 20)?);
    let leader = trio.leader()?;
    let victim = (1..=3).find(|id| *id != leader).context("no follower")?;
    // Copied while it runs, as a snapshot of its disk would be, and put back though it was never started since.
    let kept = trio.folder().join("kept");
    kill(trio.pid(victim)?, Signal::SIGSTOP)?;
    copy(&trio.data(victim), &kept)?;
    kill(trio.pid(victim)?, Signal::SIGCONT)?;
    ensure!(trio.add_vm("second", 20)?);
    let all = trio.vms(None)?;
    until("the victim to have it", || Ok(trio.vms(Some(victim))? == all))?;
    trio.kill(victim)?;
    std::fs::remove_dir_all(trio.data(victim))?;
    copy(&kept, &trio.data(victim))?;
    trio.start(victim)?;
    ensure!(!trio.ended(victim)?.success());
    let said = trio.said(victim)?;
    ensure!(said.contains("has been rolled back") && said.contains("rebuild"), "{said}");
    ensure!(trio.add_vm("third", 20)?);
    Ok(())
}

#[test]
fn a_restored_control_plane_starts_nothing_twice_and_the_old_one_ends_at_the_sight_of_it()
-> Result<()> {
    let mut old = Trio::start_cluster(3)?;
    let new = Trio::listening([11, 12, 13])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let world = std::sync::Arc::new(World::default());
    let everywhere: Vec<String> = old.endpoints().into_iter().chain(new.endpoints()).collect();
    let _inside = runtime.enter();
    for node in ["n1", "n2", "n3"] {
        let (replicas, world) = (Replicas::new(&everywhere)?, world.clone());
        runtime.spawn(Agent { node: node.into(), replicas, world }.run());
    }
    let nodes = |trio: &Trio, count: usize| -> Result<bool> {
        let nodes: serde_json::Value =
            serde_json::from_str(&trio.ctl(&["node", "list", "--json"])?)?;
        let nodes = nodes.as_array().context("no nodes")?;
        Ok(nodes.iter().filter(|node| node["state"] == "online").count() == count)
    };
    until("the nodes to be online", || nodes(&old, 3))?;
    for name in ["a", "b", "c"] {
        ensure!(old.add_vm(name, 20)?);
        old.ctl(&["enable", name])?;
    }
    let file = old.folder().join("backup").display().to_string();
    old.ctl(&["backup", &file])?;
    // What the backup does not know of: one runs elsewhere now, one was stopped.
    old.ctl(&["relocate", "a"])?;
    old.ctl(&["stop", "b", "--now"])?;
    let owner = |trio: &Trio, vm: &str| -> Result<Option<String>> {
        let shown: serde_json::Value =
            serde_json::from_str(&trio.ctl(&["vm", "show", vm, "--json"])?)?;
        Ok(shown["owner"].as_str().map(Into::into))
    };
    let (place, starts) = (owner(&old, "a")?, world.starts());
    for replica in 1..=3 {
        old.kill(replica)?;
    }
    let members = new.members();
    let mut words = vec!["restore", &file];
    words.extend(members.iter().flat_map(|member| ["--replica", member.as_str()]));
    new.ctl(&words)?;
    until("the nodes to have come to it", || nodes(&new, 3))?;
    until("what runs to be known where it runs", || {
        Ok(owner(&new, "a")? == place && owner(&new, "c")?.is_some())
    })?;
    ensure!(world.starts() == starts, "something was started: {} > {starts}", world.starts());
    ensure!(world.twice().is_empty(), "{:?}", world.twice());
    let status: serde_json::Value = serde_json::from_str(&new.ctl(&["status", "--json"])?)?;
    ensure!(status["epoch"].as_u64() > Some(1), "{}", status["epoch"]);
    // The old one comes back to life while the new one is not to be reached: agents come by, and tell it.
    for replica in 11..=13 {
        kill(new.pid(replica)?, Signal::SIGSTOP)?;
    }
    for replica in 1..=3 {
        old.start(replica)?;
    }
    let mut told = 0;
    for replica in 1..=3 {
        ensure!(!old.ended(replica)?.success(), "an old replica ended as if all were well");
        told += usize::from(old.said(replica)?.contains("has taken this one's place"));
    }
    ensure!(told == 3, "{told} of the old replicas know of the restored control plane");
    for replica in 11..=13 {
        kill(new.pid(replica)?, Signal::SIGCONT)?;
    }
    until("the nodes to be back", || nodes(&new, 3))?;
    ensure!(world.twice().is_empty(), "{:?}", world.twice());
    Ok(())
}

/// A host that was of a restored cluster has met an epoch that is a date; this cluster has no successor for that. And its
/// sessions bear the numbers of others here.
#[test]
fn a_host_of_another_cluster_is_refused_and_ends_no_control_plane() -> Result<()> {
    let mut trio = Trio::start_cluster(1)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let replicas = Replicas::new(&trio.endpoints())?;
    let status: serde_json::Value = serde_json::from_str(&trio.ctl(&["status", "--json"])?)?;
    let own = status["cluster"].as_str().context("no cluster")?.to_owned();
    let registers = |cluster: &str, epoch: u64| {
        let mut request = tonic::Request::new(v1::RegisterRequest {
            request_id: Uuid::new_v4().to_string(),
            node: "n1".into(),
            hardware: Uuid::from_u128(1).to_string(),
            boot_id: "boot".into(),
            memory_mib: 1_024,
            cpus: 1,
            migration_uri: "test://n1/".into(),
            agent_version: "stand-in".into(),
            epoch,
            ..v1::RegisterRequest::default()
        });
        request.metadata_mut().insert(CLUSTER, cluster.parse()?);
        let mut client = AgentSessionClient::new(replicas.channel(0));
        Ok::<_, anyhow::Error>(runtime.block_on(client.register(request))?)
    };
    let restored = 1_700_000_000_000;
    let refused = registers(&Uuid::from_u128(7).to_string(), restored).unwrap_err();
    ensure!(refused.to_string().contains("remove `ledger`"), "{refused}");
    registers(&own, 1)?;
    trio.ctl(&["node", "show", "n1"])?;
    ensure!(registers(&own, restored).is_err(), "it is this cluster's own successor that was met");
    ensure!(!trio.ended(1)?.success(), "a replica ended as if all were well");
    Ok(())
}
