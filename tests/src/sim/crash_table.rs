//! The crash table of migrations: each part that can die, at each phase, one at a time and in all pairs. Not by chance: the
//! migration is watched event by event, and the part dies at the first moment of the phase.
//!
//! ```text
//!  prepare ─▶ copying ─▶ handover ─▶ confirm ─▶ after          victims: source and target, each agent, host, libvirtd;
//!     ✝          ✝          ✝          ✝         ✝             the leader; the link between the hosts
//! ```
//! All of them come back by themselves, as a service manager, a power button or a mended cable brings them back. Nobody
//! does anything by hand: in the end one copy of the VM runs.

use model::command::Operation;
use model::vm::Presence;

use super::World;
use super::faults::Fault;
use super::migration::Phase;
use super::network::Place;
use super::quiet::{Quiet, node, uuid, vm};
use super::world::Event;

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Victim {
    SourceAgent,
    SourceHost,
    TargetAgent,
    TargetHost,
    Leader,
    Link,
    SourceLibvirt,
    TargetLibvirt,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SourceAgent,
        Self::SourceHost,
        Self::TargetAgent,
        Self::TargetHost,
        Self::Leader,
        Self::Link,
        Self::SourceLibvirt,
        Self::TargetLibvirt,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceAgent => "source agent",
            Self::SourceHost => "source host",
            Self::TargetAgent => "target agent",
            Self::TargetHost => "target host",
            Self::Leader => "leader",
            Self::Link => "link",
            Self::SourceLibvirt => "source libvirtd",
            Self::TargetLibvirt => "target libvirtd",
        }
    }
}

/// When it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The target is being prepared.
    Prepare,
    /// Memory is copied.
    Copying,
    /// The guest is stopped at the source and does not run at the target yet.
    Handover,
    /// It runs at the target, and the source does not know yet.
    Confirm,
    /// libvirt is done, and the control plane does not know yet.
    After,
}

impl Moment {
    /// All of them, in their order.
    pub const ALL: [Self; 5] =
        [Self::Prepare, Self::Copying, Self::Handover, Self::Confirm, Self::After];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Copying => "copying",
            Self::Handover => "handover",
            Self::Confirm => "confirm",
            Self::After => "after",
        }
    }

    /// It has come, or can come no more.
    fn is_due(self, world: &World) -> bool {
        match world.migration_phase(uuid()) {
            None => true,
            Some(phase) => {
                let at = match phase {
                    Phase::Prepare => Self::Prepare,
                    Phase::Copying => Self::Copying,
                    Phase::Handover => Self::Handover,
                    Phase::Confirm => Self::Confirm,
                };
                at >= self
            }
        }
    }
}

/// One death.
pub type Death = (Victim, Moment);

/// What a migration came to whose parts died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Where the VM runs, by host: 0 is the source, 1 the target, 2 the third.
    pub host: usize,
    /// It was started anew.
    pub started_again: bool,
    /// For how long it ran nowhere, in milliseconds.
    pub gap_ms: u64,
}

impl Ending {
    /// As a word for the table.
    pub fn as_str(&self) -> &'static str {
        match (self.started_again, self.host) {
            (false, SOURCE) => "stayed",
            (false, _) => "moved",
            (true, _) => "started anew",
        }
    }
}

const SOURCE: usize = 0;
const TARGET: usize = 1;
/// A service manager starts agents and replicas again after this: `RestartSec` of their units.
const AGENT_BACK_MS: u64 = 1_000;
const REPLICA_BACK_MS: u64 = 2_000;
const LIBVIRT_BACK_MS: u64 = 3_000;
/// Longer than a node may be silent.
const LINK_BACK_MS: u64 = 8_000;
/// Long after its death is proven and its VM runs elsewhere.
const HOST_BACK_MS: u64 = 25_000;
/// What follows when the moment of a death never comes.
const INSTEAD_MS: u64 = 300;
const MOST_MS: u64 = 180_000;
/// It is looked for gaps at least so long: all deaths have had their effect by then.
const LEAST_MS: u64 = 45_000;

/// How deaths are proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By fence devices, and by lease.
    Fence,
    /// By lease only.
    Lease,
}

/// All pairs of deaths of two victims, each at each moment.
pub fn pairs() -> Vec<[Death; 2]> {
    let mut all = Vec::new();
    for (number, one) in Victim::ALL.iter().enumerate() {
        for other in &Victim::ALL[number + 1..] {
            for first in Moment::ALL {
                for second in Moment::ALL {
                    all.push([(*one, first), (*other, second)]);
                }
            }
        }
    }
    all
}

/// Each victim at each moment.
pub fn singles() -> Vec<Death> {
    let at = |victim: Victim| Moment::ALL.map(|moment| (victim, moment));
    Victim::ALL.into_iter().flat_map(at).collect()
}

/// A migration from the first host to the second, with these deaths on the way; an error says what is not well in the end,
/// or which part of the law was broken.
pub fn run(
    seed: u64,
    proof: Proof,
    deaths: &[Death],
    traced: bool,
) -> (Result<Ending, String>, World) {
    let mut quiet = Quiet { traced, ..Quiet::complete(seed) };
    if proof == Proof::Lease {
        quiet.fenced.clear();
    }
    let mut world = World::quiet(&quiet);
    for host in &mut world.hosts {
        host.boots_after_ms = Some(HOST_BACK_MS);
    }
    let ending = play(&mut world, deaths);
    (ending, world)
}

fn play(world: &mut World, deaths: &[Death]) -> Result<Ending, String> {
    if !world.runs_on(SOURCE) {
        return Err("the VM did not start".into());
    }
    let before = world.truth().vms.get(&vm()).map(|it| it.generation);
    world.submit(Operation::Migrate { vm: vm(), to: node(TARGET), mode: None });
    if !world.run_while(10_000, |world| world.migration_phase(uuid()).is_none()) {
        return Err("the migration did not begin".into());
    }
    let mut left: Vec<Death> = deaths.to_vec();
    let mut gap = Gap { began: world.now, ..Gap::default() };
    let mut nothing_since = None;
    let end = world.now + MOST_MS;
    while !left.is_empty() && world.now < end {
        let over = world.migration_phase(uuid()).is_none();
        if over && left.len() < deaths.len() {
            // The first death was the migration's end; the second comes a moment later all the same.
            let since = *nothing_since.get_or_insert(world.now);
            if world.now >= since + INSTEAD_MS {
                left.drain(..).for_each(|(victim, _)| world.kill(victim));
                break;
            }
        } else {
            let due = |death: &Death| death.1.is_due(world);
            let (dying, rest): (Vec<Death>, Vec<Death>) = left.into_iter().partition(due);
            left = rest;
            dying.into_iter().for_each(|(victim, _)| world.kill(victim));
        }
        gap.look(world);
        world.step();
        if let Some(violation) = &world.violation {
            return Err(format!("{}: {}", violation.invariant, violation.what));
        }
    }
    while world.now < end && (gap.since.is_some() || world.now < gap.began + LEAST_MS) {
        gap.look(world);
        if world.step().is_none() {
            break;
        }
    }
    world.run_until_well(MOST_MS)?;
    let copies = world.copies(uuid());
    let [(host, Presence::Running)] = copies.as_slice() else {
        return Err(format!("the VM's copies are {copies:?}"));
    };
    let record = world.truth().vms.get(&vm()).cloned();
    let Some(record) = record.filter(|it| it.owner == world.id_of(*host)) else {
        return Err("the control plane takes another for its owner".into());
    };
    // A guest that moved or stayed has been one and the same.
    let started_again = record.restart_count > 0;
    if !started_again && before > Some(record.generation) {
        return Err("its generation went back".into());
    }
    Ok(Ending { host: *host, started_again, gap_ms: gap.sum_ms })
}

#[derive(Default)]
struct Gap {
    /// When it began to be looked at.
    began: u64,
    /// How long the guest has run nowhere, but for the time since then.
    sum_ms: u64,
    since: Option<u64>,
}

impl Gap {
    fn look(&mut self, world: &World) {
        let runs = world.hosts.iter().any(|host| host.running(world.now).contains(&uuid()));
        match (runs, self.since) {
            (false, None) => self.since = Some(world.now),
            (true, Some(since)) => {
                self.sum_ms += world.now - since;
                self.since = None;
            }
            _ => {}
        }
    }
}

impl World {
    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::SourceAgent => self.kill_agent(SOURCE),
            Victim::TargetAgent => self.kill_agent(TARGET),
            Victim::SourceHost => self.power_off(SOURCE, "power"),
            Victim::TargetHost => self.power_off(TARGET, "power"),
            Victim::Leader => {
                if let Some(leader) = self.planes[0].leader {
                    self.stop_replica(leader);
                    self.after(REPLICA_BACK_MS, Event::StartReplica(leader));
                }
            }
            Victim::Link => {
                let (source, target) = (Place::Host(SOURCE), Place::Host(TARGET));
                self.network.cut(source, target, true);
                self.network.cut(target, source, true);
                self.after(LINK_BACK_MS, Event::Fault(Fault::Mend(source, target)));
            }
            Victim::SourceLibvirt => self.end_libvirt(SOURCE, false, LIBVIRT_BACK_MS),
            Victim::TargetLibvirt => self.end_libvirt(TARGET, false, LIBVIRT_BACK_MS),
        }
    }

    fn kill_agent(&mut self, host: usize) {
        if self.hosts[host].agent.is_some() {
            let incarnation = self.end_agent(host);
            self.after(AGENT_BACK_MS, Event::StartAgent(host, incarnation));
        }
    }
}
