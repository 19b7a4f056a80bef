//! Many seeds, and what they found.

use std::collections::BTreeMap;

use model::command::{Command, Operation};
use model::id::{ClusterId, RequestId};
use model::node::FenceDevice;
use model::sabotage::{Rule, switch_off};
use model::settings::Settings;
use uuid::Uuid;

use super::acts::Acts;
use super::control::{Plane, Replica};
use super::faults::Fault;
use super::host::{SimFence, SimWatchdog};
use super::invariant::{self, Violation, converged};
use super::operators::{OperatorAct, spec};
use super::trace::Trace;
use super::world::{Event, Options, World};

/// What one seed came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// What was the matter.
    pub violation: Option<Violation>,
    /// Commands committed.
    pub commands: usize,
    /// Events that happened.
    pub steps: u64,
    /// Virtual milliseconds.
    pub lasted_ms: u64,
    /// How often each trouble struck.
    pub struck: BTreeMap<&'static str, u64>,
}

/// Runs one seed with one rule switched off, or with all of them on.
pub fn run(options: &Options, sabotage: Option<Rule>, trace: Trace) -> (Report, World) {
    switch_off(sabotage);
    let mut world = prepare(options, trace);
    let mut steps = 0;
    let trouble = options.trouble_ms;
    while world.now < trouble && world.step().is_some() {
        steps += 1;
    }
    if world.violation.is_none() {
        steps += calm_down(&mut world);
    }
    switch_off(None);
    let report = Report {
        seed: options.seed,
        violation: world.violation.clone(),
        commands: world.planes.iter().map(|plane| plane.log.len()).sum(),
        steps,
        lasted_ms: world.now,
        struck: world.struck.clone(),
    };
    (report, world)
}

/// How often it is looked whether all is well.
const LOOK_MS: u64 = 1_000;
/// All has to be well for so long.
const WELL_MS: u64 = 3_000;

fn calm_down(world: &mut World) -> u64 {
    world.after(0, Event::Fault(Fault::Heal));
    if world.options.acts >= Acts::Many {
        world.after(500, Event::Operate(OperatorAct::Undo));
    }
    let end = world.now + world.options.calm_ms;
    let (mut steps, mut well_since) = (0, None);
    while world.now < end {
        let next = world.now + LOOK_MS;
        while world.next_at().is_some_and(|at| at <= next) {
            if world.step().is_none() {
                return steps;
            }
            steps += 1;
        }
        world.now = next;
        if converged(world).is_some() {
            well_since = None;
            continue;
        }
        if next - *well_since.get_or_insert(next) >= WELL_MS {
            return steps;
        }
    }
    let what = converged(world).unwrap_or_else(|| "it never stays well".into());
    world.violation = Some(Violation { invariant: "convergence", at: world.now, what });
    steps
}

/// The sweep's world: a cluster of a few hosts with all that a seed decides, a moment after its beginning.
pub fn prepare(options: &Options, trace: Trace) -> World {
    let mut world = World::new(options.clone(), invariant::all(), trace);
    for number in 0..options.hosts {
        let host = world.add_host(&format!("node{}", number + 1), 1_024, 4);
        equip(&mut world, host);
    }
    let members: Vec<usize> = (0..options.replicas).collect();
    for _ in &members {
        let mut replica = Replica::new(0, None);
        let right = world.rng.i64(-4_000..=4_000);
        replica.drift_ppm = match (options.theme.worst_clocks(), world.rng.u32(0..3)) {
            // Both as quick as they may be; or one much quicker, as after a sleep or while it is slewed.
            (true, 0) => (80_000, 4_900),
            (true, _) => (4_900, 4_900),
            (false, _) => (right, right),
        };
        world.replicas.push(replica);
    }
    let traced = vec![Default::default(); options.hosts];
    world.planes.push(Plane::new(members.clone(), traced));
    let settings = Settings {
        isolation_hold_ms: world.between(options.theme.hold_ms()),
        lease_ttl_ms: world.between((3_000, 6_000)),
        ..Settings::default()
    };
    let cluster = ClusterId(Uuid::from_u128(0xC1));
    seed_log(&mut world, Operation::Initialise { cluster, settings });
    for number in members {
        world.start_replica(number);
    }
    world.after(1, Event::Elect(0));
    for host in 0..options.hosts {
        world.power_on(host);
    }
    for number in 0..options.vms {
        world.submit(Operation::AddVm(Box::new(spec(number, Default::default()))));
        let vm = spec(number, Default::default()).name;
        let enable = Operation::Enable { vm, on: None };
        world.after(
            8_000,
            Event::Operate(OperatorAct::Submit(
                Uuid::from_u128(0xE000 + number as u128),
                Box::new(enable),
                0,
            )),
        );
    }
    for number in 0..options.hosts {
        if world.hosts[number].fence.is_some() {
            let name = world.hosts[number].name.clone();
            let node = model::id::NodeName::new(name).unwrap_or_else(|error| panic!("{error}"));
            let device = FenceDevice {
                agent: "fence_sim".into(),
                options: Default::default(),
                timeout_ms: 5_000,
                level: 0,
            };
            let set = Operation::SetFenceDevices { node, devices: vec![device] };
            world.after(
                6_500,
                Event::Operate(OperatorAct::Submit(
                    Uuid::from_u128(0xF100 + number as u128),
                    Box::new(set),
                    0,
                )),
            );
        }
    }
    world.after(10_000, Event::Fault(Fault::Anything));
    world.after(11_000, Event::Operate(OperatorAct::Anything));
    if options.acts >= Acts::Many {
        world.after(12_000, Event::Operate(OperatorAct::More));
    }
    if options.acts == Acts::All {
        world.after(12_500, Event::Operate(OperatorAct::Rare));
        // What runs on without a lease may do so under a lock manager only.
        let locked = world.acts.bool();
        world.hosts.iter_mut().for_each(|host| host.locked = locked);
    }
    world
}

fn equip(world: &mut World, number: usize) {
    let theme = world.options.theme;
    let drift = match (theme.worst_clocks(), world.rng.u32(0..4)) {
        // Both as slow as they may be; or one much slower, or at a stand, as while a host sleeps.
        (true, 0) => (-80_000, -4_900),
        (true, 1) => (-4_900, -1_000_000),
        (true, _) => (-4_900, -4_900),
        (false, _) => (world.rng.i64(-4_000..=4_000), world.rng.i64(-4_000..=4_000)),
    };
    let mut chance = |(good, all): (u32, u32)| world.rng.u32(0..all) < good;
    let watched = chance(theme.watched());
    let fenced = chance(theme.fenced());
    let pausable = chance(theme.pausable());
    let timeout_ms = world.rng.u64(10..=30) * 100;
    let host = &mut world.hosts[number];
    host.drift_ppm = drift;
    host.watchdog = watched.then_some(SimWatchdog { timeout_ms, fed: None });
    host.fence = fenced.then(SimFence::default);
    host.pausable = pausable;
    host.boots_after_ms = Some(10_000);
}

/// A command of the bootstrap.
pub fn seed_log(world: &mut World, operation: Operation) {
    let request = RequestId(world.uuid());
    let at = world.wall();
    let command = Command { request, at, by: "bootstrap".into(), operation };
    let plane = &mut world.planes[0];
    plane.log.push(command.clone());
    let index = plane.log.len() as u64;
    let mut state = (*plane.state).clone();
    let applied = state.apply(index, &command);
    assert!(applied.is_ok(), "{applied:?}");
    plane.state = std::sync::Arc::new(state);
}
