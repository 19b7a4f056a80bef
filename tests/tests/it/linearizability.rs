//! Three real replicas in trouble, seen by clients that read VMs and write them with compare-and-set.
//!
//! `BERTH_LINEARIZABILITY_SECONDS` makes it longer, `BERTH_LINEARIZABILITY_SEED` makes the same trouble again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use tests::cluster::{Cluster, Fencing, PATIENCE};
use tests::lab::{Options, enter_test};
use tests::linearizability::agent::{Agent, World};
use tests::linearizability::events;
use tests::linearizability::operator::{Count, Replicas, read_stale};
use tests::linearizability::register::Operation;
use tests::linearizability::trouble::{self, Trouble};
use tests::linearizability::workload::{Client, Subject, Watched, Written};
use tokio::runtime::Runtime;

const REPLICAS: usize = 3;
const CLIENTS: usize = 6;
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// One history: long enough for some elections, short enough that the replicas keep all events of it.
const ROUND: Duration = Duration::from_secs(20);

struct Stage {
    cluster: Cluster,
    runtime: Runtime,
    replicas: Replicas,
    subjects: Vec<Arc<Subject>>,
    world: Arc<World>,
    values: Arc<AtomicU64>,
}

impl Stage {
    /// Three replicas, as many nodes with stand-ins of agents, and VMs of both kinds.
    fn set(steady: usize, live: usize) -> Result<Self> {
        let options = Options { hosts: 0, replicas: REPLICAS };
        let cluster = Cluster::start(&options, Fencing::Agent)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let endpoints: Vec<_> =
            (1..=REPLICAS).map(|number| cluster.replica_endpoint(number)).collect();
        let subjects: Vec<_> = (1..=steady)
            .map(Subject::steady)
            .chain((1..=live).map(Subject::live))
            .map(Arc::new)
            .collect();
        let world = Arc::new(World::default());
        let replicas = {
            let _inside = runtime.enter();
            Replicas::new(&endpoints)?
        };
        if live > 0 {
            for node in NODES {
                let (node, replicas, world) = (node.into(), replicas.clone(), world.clone());
                runtime.spawn(Agent { node, replicas, world }.run());
            }
            cluster.wait("the nodes to be online", |status| {
                status["nodes"].as_array().is_some_and(|nodes| nodes.len() == NODES.len())
            })?;
        }
        runtime.block_on(async {
            for subject in &subjects {
                subject.add(&replicas).await?;
                subject.settled(&replicas, PATIENCE).await?;
            }
            anyhow::Ok(())
        })?;
        let values = Arc::new(AtomicU64::new(2));
        Ok(Self { cluster, runtime, replicas, subjects, world, values })
    }

    fn watched(&self) -> Result<Arc<Vec<Watched>>> {
        let begun = Instant::now();
        self.runtime.block_on(async {
            let mut watched = Vec::new();
            for subject in &self.subjects {
                let subject = subject.clone();
                watched.push(Watched::begin(subject, &self.replicas, PATIENCE, begun).await?);
            }
            Ok(Arc::new(watched))
        })
    }

    /// One history in trouble; returns what was done and what befell the replicas.
    fn round(&mut self, number: usize, lasts: Duration, random: &mut Rng) -> Result<Tale> {
        let watched = self.watched()?;
        let before = self.revision()?;
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|client| {
                let client = Client {
                    name: format!("r{number}c{client}"),
                    random: random.fork(),
                    replicas: self.replicas.clone(),
                    watched: watched.clone(),
                    nodes: NODES.map(Into::into).to_vec(),
                    values: self.values.clone(),
                };
                self.runtime.spawn(client.run(done.clone()))
            })
            .collect();
        let troubles = trouble::make(&mut self.cluster, random, Instant::now() + lasts);
        done.store(true, Ordering::SeqCst);
        let mut written = Vec::new();
        for client in clients {
            written.extend(self.runtime.block_on(client).context("a client panicked")??);
        }
        let tale = Tale { troubles: troubles?, counts: Count::default(), written: written.len() };
        self.judge(&watched, &written, before)?;
        let counts = watched.iter().map(|watched| watched.history.count());
        Ok(Tale { counts: counts.fold(Count::default(), sum), ..tale })
    }

    fn revision(&self) -> Result<u64> {
        self.cluster.status()?["revision"].as_u64().context("a status without a revision")
    }

    /// With all trouble over: the histories, the events of all replicas, and that everything goes on.
    fn judge(&self, watched: &[Watched], written: &[Written], before: u64) -> Result<()> {
        self.runtime.block_on(async {
            for watched in watched {
                watched.subject.settled(&self.replicas, PATIENCE).await?;
                for replica in 0..self.replicas.count() {
                    watched.look(&self.replicas, replica).await?;
                }
            }
            anyhow::Ok(())
        })?;
        for watched in watched {
            let last = watched.history.operations().pop().context("an empty history")?;
            ensure!(matches!(last.operation, Operation::Read(_)), "the last read was not answered");
            watched.check()?;
        }
        let last = self.revision()?;
        self.runtime.block_on(async {
            let mut first = None;
            for replica in 0..self.replicas.count() {
                events::caught_up(&self.replicas, replica, last, PATIENCE).await?;
                let of_this = events::of(&self.replicas, replica, before, last).await?;
                let first = first.get_or_insert_with(|| of_this.clone());
                events::same(first, &of_this)
                    .with_context(|| format!("replica {} tells another story", replica + 1))?;
            }
            events::agree(written, &first.unwrap_or_default())
        })?;
        let twice = self.world.twice();
        ensure!(twice.is_empty(), "VMs ran in two places: {twice:?}");
        Ok(())
    }
}

struct Tale {
    troubles: Vec<Trouble>,
    counts: Count,
    written: usize,
}

fn sum(one: Count, other: Count) -> Count {
    Count {
        reads: one.reads + other.reads,
        done: one.done + other.done,
        superseded: one.superseded + other.superseded,
        unknown: one.unknown + other.unknown,
    }
}

fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?)),
        Err(_) => Ok(None),
    }
}

#[test]
fn replicas_in_trouble_cannot_be_told_from_one_that_does_one_thing_at_a_time() -> Result<()> {
    let name = "linearizability::replicas_in_trouble_cannot_be_told_from_one_that_does_one_thing_at_a_time";
    if !enter_test(name)? {
        return Ok(());
    }
    let seed = number("BERTH_LINEARIZABILITY_SEED")?.unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("BERTH_LINEARIZABILITY_SECONDS")?.unwrap_or(ROUND.as_secs());
    println!("BERTH_LINEARIZABILITY_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let mut stage = Stage::set(3, 3)?;
    let mut total = Count::default();
    let mut left = Duration::from_secs(seconds);
    for round in 1.. {
        let lasts = left.min(ROUND);
        let tale = stage.round(round, lasts, &mut random)?;
        let Count { reads, done, superseded, unknown } = tale.counts;
        let refused = tale.written - done - superseded - unknown;
        println!(
            "round {round}: {reads} reads, {done} writes done, {superseded} superseded, {refused} refused, \
             {unknown} unknown; {} starts of VMs so far; {} troubles: {}",
            stage.world.starts(),
            tale.troubles.len(),
            tale.troubles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
        total = sum(total, tale.counts);
        left -= lasts;
        if left.is_zero() {
            break;
        }
    }
    // Without these nothing was shown.
    ensure!(total.reads > 20 && total.done > 20 && total.superseded > 0, "too little: {total:?}");
    ensure!(stage.world.starts() > 0, "no owner ever changed");
    Ok(())
}

/// Far more than a connection's first window holds.
const WRITES: u64 = 300;

#[test]
fn a_replica_without_its_peers_is_found_to_be_stale_where_that_was_asked_for_and_else_is_silent()
-> Result<()> {
    let name = "linearizability::a_replica_without_its_peers_is_found_to_be_stale_where_that_was_asked_for_and_else_is_silent";
    if !enter_test(name)? {
        return Ok(());
    }
    let mut stage = Stage::set(1, 0)?;
    let leader = stage.cluster.leader()?;
    let isolated = (1..=REPLICAS).find(|number| *number != leader).context("no follower")?;
    let watched = stage.watched()?;
    let trouble = Trouble::Isolate(isolated);
    trouble.begin(&mut stage.cluster)?;
    let (watched, index) = (&watched[0], isolated - 1);
    let operator = "after the cut";
    // What its peers have sent already still reaches it, as much as fits into a connection's window that nobody
    // acknowledges: so it is written on until it has fallen behind.
    let found = stage.runtime.block_on(async {
        watched.overwrite(&stage.replicas, leader - 1, operator, 2).await?;
        let silent = watched.look(&stage.replicas, index).await?;
        ensure!(silent.is_none(), "it answered without its peers: {silent:?}");
        watched.check()?;
        for value in 3..WRITES {
            let called = watched.history.now();
            let seen = read_stale(&stage.replicas, index, &watched.subject.name).await?;
            let seen = seen.context("an isolated replica does not answer even stale reads")?;
            watched.history.note(called, Operation::Read(watched.subject.seen(&seen)?));
            if watched.check().is_err() {
                return Ok(true);
            }
            watched.overwrite(&stage.replicas, leader - 1, operator, value).await?;
        }
        anyhow::Ok(false)
    })?;
    ensure!(found, "a read of what was before was not found in {WRITES} writes");
    trouble.end(&mut stage.cluster)
}
