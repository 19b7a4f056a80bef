//! A world in which nothing goes wrong by itself: for what is to happen at one moment and not at another.

use model::command::Operation;
use model::id::{ClusterId, NodeName, VmName};
use model::node::FenceDevice;
use model::settings::Settings;
use model::vm::{Presence, VmPolicy, VmState};
use uuid::Uuid;

use super::World;
use super::acts::Acts;
use super::control::{Plane, Replica};
use super::host::{SimFence, SimWatchdog};
use super::invariant;
use super::operators::spec;
use super::sweep::seed_log;
use super::theme::Theme;
use super::trace::Trace;
use super::world::{Event, Options, Pace};

/// A quiet world's equipment.
#[derive(Debug, Clone)]
pub struct Quiet {
    /// Decides what is left to chance: how long messages and calls take.
    pub seed: u64,
    /// Hosts, named node1 and so on.
    pub hosts: usize,
    /// Hosts with a fence device, by number.
    pub fenced: Vec<usize>,
    /// Hosts with a watchdog, by number.
    pub watched: Vec<usize>,
    /// How its VM is treated.
    pub policy: VmPolicy,
    /// Hosts have a lock manager.
    pub locked: bool,
    /// Whether its trace is kept.
    pub traced: bool,
}

impl Quiet {
    /// Three hosts with all that a host can have.
    pub fn complete(seed: u64) -> Self {
        Self {
            seed,
            hosts: 3,
            fenced: vec![0, 1, 2],
            watched: vec![0, 1, 2],
            policy: VmPolicy::default(),
            locked: false,
            traced: false,
        }
    }
}

/// How long a suspended copy is kept there, in milliseconds.
pub const HOLD_MS: u64 = 20_000;
/// All has to be well for so long, as in the sweep.
const WELL_MS: u64 = 3_000;
/// The watchdogs' time-out.
const WATCHDOG_MS: u64 = 2_000;

/// The VM of a quiet world.
pub fn vm() -> VmName {
    spec(0, VmPolicy::default()).name
}

/// Its UUID.
pub fn uuid() -> Uuid {
    spec(0, VmPolicy::default()).uuid
}

/// A node's name.
pub fn node(number: usize) -> NodeName {
    NodeName::new(format!("node{}", number + 1)).unwrap_or_else(|error| panic!("{error}"))
}

impl World {
    /// A cluster that has just been set up, with its one VM running on the first host.
    pub fn quiet(quiet: &Quiet) -> Self {
        let mut world = Self::quiet_hosts(quiet);
        world.submit(Operation::AddVm(Box::new(spec(0, quiet.policy.clone()))));
        world.run_for(500);
        world.submit(Operation::Enable { vm: vm(), on: Some(node(0)) });
        world.run_while(20_000, |world| !world.runs_on(0));
        world.run_for(500);
        world
    }

    /// The same without a VM.
    pub fn quiet_hosts(quiet: &Quiet) -> Self {
        let options = Options {
            seed: quiet.seed,
            hosts: quiet.hosts,
            replicas: 3,
            vms: 1,
            trouble_ms: 0,
            calm_ms: 0,
            theme: Theme::Everything,
            acts: Acts::Few,
        };
        let trace = if quiet.traced { Trace::verbose() } else { Trace::default() };
        let mut world = Self::new(options, invariant::all(), trace);
        world.pace = Pace {
            start: (50, 100),
            copy: (600, 700),
            fence: (50, 100),
            call: (1, 5),
            boot: (500, 1_000),
        };
        // Nobody has to be lucky to be given the next session at once.
        world.calm = true;
        for number in 0..quiet.hosts {
            let host = world.add_host(node(number).as_str(), 1_024, 4);
            let timeout_ms = WATCHDOG_MS;
            let host = &mut world.hosts[host];
            host.watchdog =
                quiet.watched.contains(&number).then_some(SimWatchdog { timeout_ms, fed: None });
            host.locked = quiet.locked;
            host.fence = quiet.fenced.contains(&number).then(SimFence::default);
        }
        world.replicas.extend((0..3).map(|_| Replica::new(0, None)));
        let traced = vec![Default::default(); quiet.hosts];
        world.planes.push(Plane::new((0..3).collect(), traced));
        let settings = Settings { isolation_hold_ms: HOLD_MS, ..Settings::default() };
        let cluster = ClusterId(Uuid::from_u128(0xC1));
        seed_log(&mut world, Operation::Initialise { cluster, settings });
        for replica in 0..3 {
            world.start_replica(replica);
        }
        world.after(1, Event::Elect(0));
        for host in 0..quiet.hosts {
            world.power_on(host);
        }
        let all = quiet.hosts;
        world.run_while(20_000, |world| world.online() < all);
        for number in &quiet.fenced {
            let device = FenceDevice {
                agent: "fence_sim".into(),
                options: Default::default(),
                timeout_ms: 5_000,
                level: 0,
            };
            world.submit(Operation::SetFenceDevices { node: node(*number), devices: vec![device] });
        }
        // What a new ledger has to wait for is over by then.
        world.run_for(6_000);
        world
    }

    /// So many milliseconds pass.
    pub fn run_for(&mut self, milliseconds: u64) {
        self.run_until(self.now + milliseconds);
    }

    /// Event by event, as long as something holds; `false` when that took longer than it may, in milliseconds, or the law
    /// was broken.
    pub fn run_while(&mut self, most_ms: u64, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most_ms;
        while holds(self) {
            if self.now >= end || self.step().is_none() {
                return false;
            }
        }
        true
    }

    /// Until all has been well for a while; what is not when that takes longer than so many milliseconds.
    pub fn run_until_well(&mut self, most_ms: u64) -> Result<(), String> {
        let (end, mut well_since) = (self.now + most_ms, None);
        while self.now < end {
            self.run_for(200);
            if let Some(violation) = &self.violation {
                return Err(format!("{}: {}", violation.invariant, violation.what));
            }
            match invariant::converged(self) {
                Some(_) => well_since = None,
                None if self.now - *well_since.get_or_insert(self.now) >= WELL_MS => return Ok(()),
                None => {}
            }
        }
        Err(invariant::converged(self).unwrap_or_else(|| "it never stays well".into()))
    }

    /// Whether the VM is started and runs on that host.
    pub fn runs_on(&self, host: usize) -> bool {
        self.copies(uuid()) == [(host, Presence::Running)]
            && self.truth().vms.get(&vm()).is_some_and(|it| {
                it.state == VmState::Started && it.order.is_none() && it.owner == self.id_of(host)
            })
    }

    /// A host's node id, if the control plane knows it.
    pub fn id_of(&self, host: usize) -> Option<model::id::NodeId> {
        let truth = self.truth();
        truth.node_named(&node(host)).map(|node| node.id)
    }

    /// A host is cut from all replicas, or connected to them again; hosts still reach each other.
    pub fn cut_from_replicas(&mut self, host: usize, cut: bool) {
        use super::network::Place;
        for replica in 0..self.replicas.len() {
            self.network.cut(Place::Host(host), Place::Replica(replica), cut);
            self.network.cut(Place::Replica(replica), Place::Host(host), cut);
        }
    }
}
