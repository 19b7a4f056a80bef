//! Drills: for a rule that chance seldom puts to the test, the story in which it matters, told on purpose.
//!
//! Each drill is clean while its rule is on, and breaks an invariant when its rule is off.

use std::collections::BTreeMap;

use fence::PowerState;
use model::command::{Operation, Registration, ServiceAsk};
use model::id::{MemberName, ServiceName, SessionId};
use model::node::{NodeState, ProofOfDeath};
use model::recovery::RestartLimit;
use model::sabotage::{Rule, switch_off};
use model::service::{
    MemberKind, MemberSpec, MemberWeight, Script, ScriptProgram, ServicePolicy, ServiceSpec,
    ServiceState, Tolerance,
};
use model::vm::{OnIsolation, VmPolicy};
use proto::v1;
use uuid::Uuid;

use super::World;
use super::acts::lawful;
use super::agent::{Reply, Request};
use super::invariant::Violation;
use super::leader::FenceStage;
use super::migration::Phase;
use super::network::Place;
use super::quiet::{Quiet, node, uuid, vm};
use super::world::Event;

/// The story of one rule.
pub struct Drill {
    /// Which rule it is about.
    pub rule: Rule,
    quiet: fn(&mut Quiet),
    story: fn(&mut World),
}

/// All of them.
pub const ALL: &[Drill] = &[
    Drill { rule: Rule::RegistrationInTurn, quiet: same, story: a_registration_comes_after_a_boot },
    Drill { rule: Rule::ProofOfOneSession, quiet: same, story: a_fence_answers_after_the_return },
    Drill { rule: Rule::FenceResolvedFirst, quiet: same, story: a_node_is_back_before_its_fence },
    Drill { rule: Rule::FenceAskedAfterwards, quiet: only_fence, story: a_device_does_not_do_it },
    Drill { rule: Rule::AwayEndsLeaseProof, quiet: only_lease, story: an_agent_is_away_for_long },
    Drill { rule: Rule::LeaseProofNeedsClock, quiet: only_lease, story: a_clock_stands_still },
    Drill { rule: Rule::LeaseProofNeedsWatchdog, quiet: nothing, story: an_agent_hangs },
    Drill { rule: Rule::DeadTargetStays, quiet: same, story: a_target_dies_while_memory_is_copied },
    Drill { rule: Rule::SameHardware, quiet: same, story: another_host_takes_the_name },
    Drill { rule: Rule::ProofVoidAlarm, quiet: same, story: a_device_lies },
    Drill { rule: Rule::ConfirmOffOfTheSilent, quiet: only_fence, story: an_operator_is_wrong },
    Drill { rule: Rule::NodeInSetStays, quiet: runs_on, story: a_node_is_removed_too_early },
    Drill { rule: Rule::NodeIdOnce, quiet: same, story: a_node_is_removed_and_comes_back },
    Drill { rule: Rule::LostStartMayCome, quiet: same, story: an_agent_dies_while_a_guest_starts },
    Drill { rule: Rule::LostResumeMayCome, quiet: only_lease, story: a_guest_is_let_run_too_late },
    Drill { rule: Rule::NewLedgerRefuses, quiet: nothing, story: a_ledger_is_lost_after_a_start },
    Drill { rule: Rule::HoldEnds, quiet: nothing, story: a_node_is_cut_off_for_long },
    Drill {
        rule: Rule::AgentTakesLargerClock,
        quiet: only_lease,
        story: one_clock_of_the_host_stands_still,
    },
    Drill {
        rule: Rule::LeaderTakesSmallerClock,
        quiet: only_lease,
        story: one_clock_of_the_leader_runs_on,
    },
    Drill { rule: Rule::LeaseFromSending, quiet: only_lease, story: answers_take_long },
    Drill {
        rule: Rule::QuorumBeforeAnswer,
        quiet: only_lease,
        story: a_leader_is_cut_off_with_a_host,
    },
    Drill { rule: Rule::NoAnswerAfterLoss, quiet: only_lease, story: a_node_is_heard_too_late },
    Drill {
        rule: Rule::SelfFenceIncoming,
        quiet: same,
        story: a_target_is_cut_off_while_it_is_built,
    },
    Drill {
        rule: Rule::WatchdogStarves,
        quiet: only_lease,
        story: a_libvirt_hangs_on_a_host_cut_off,
    },
    Drill {
        rule: Rule::OrderOfSession,
        quiet: same,
        story: orders_of_the_session_before_come_late,
    },
    Drill { rule: Rule::OrderOfEpoch, quiet: same, story: orders_of_the_epoch_before_come_late },
    Drill {
        rule: Rule::HigherEpochStops,
        quiet: same,
        story: an_old_replica_hears_of_the_restored_one,
    },
    Drill {
        rule: Rule::ReleaseIsOfItsNodes,
        quiet: five_of_which_three_have_nothing,
        story: another_node_falls_silent_after_a_release,
    },
    Drill {
        rule: Rule::BoundOutlivesLedger,
        quiet: only_lease,
        story: a_ledger_is_lost_on_a_host_cut_off,
    },
    Drill {
        rule: Rule::LeaseProvesTheBound,
        quiet: only_lease_of_two,
        story: a_script_by_hand_is_not_ordered_yet,
    },
    Drill {
        rule: Rule::OldLedgerRunsNothingOn,
        quiet: runs_on,
        story: a_ledger_from_before_an_edit_comes_back,
    },
];

/// The drill of a rule, if it has one.
pub fn of(rule: Rule) -> Option<&'static Drill> {
    ALL.iter().find(|drill| drill.rule == rule)
}

impl Drill {
    /// Plays it with one rule switched off, or with all of them on. What it breaks, if anything: also that all is not well
    /// in the end.
    pub fn play(
        &self,
        seed: u64,
        sabotage: Option<Rule>,
        traced: bool,
    ) -> (Option<Violation>, World) {
        switch_off(sabotage);
        let mut quiet = Quiet { traced, ..Quiet::complete(seed) };
        (self.quiet)(&mut quiet);
        let mut world = World::quiet(&quiet);
        if world.runs_on(0) {
            (self.story)(&mut world);
        }
        let well = world.run_until_well(MOST_MS);
        switch_off(None);
        let violation = world.violation.clone().or_else(|| {
            let (invariant, at) = ("convergence", world.now);
            well.err().map(|what| Violation { invariant, at, what })
        });
        (violation, world)
    }
}

const MOST_MS: u64 = 180_000;

fn same(_: &mut Quiet) {}

/// The first host has no watchdog.
fn only_fence(quiet: &mut Quiet) {
    quiet.watched.retain(|host| *host != 0);
}

/// The first host has no fence device.
fn only_lease(quiet: &mut Quiet) {
    quiet.fenced.retain(|host| *host != 0);
}

/// The same, and its guest is in nobody's way.
fn only_lease_of_two(quiet: &mut Quiet) {
    only_lease(quiet);
    quiet.hosts = 2;
}

fn nothing(quiet: &mut Quiet) {
    only_fence(quiet);
    only_lease(quiet);
}

/// Nothing can prove the death of the second to the fourth.
fn five_of_which_three_have_nothing(quiet: &mut Quiet) {
    (quiet.hosts, quiet.fenced, quiet.watched) = (5, vec![0, 4], vec![0, 4]);
}

/// The guest runs on without a lease, under a lock manager.
fn runs_on(quiet: &mut Quiet) {
    only_lease(quiet);
    quiet.locked = true;
    quiet.policy = VmPolicy { on_isolation: OnIsolation::Continue, ..VmPolicy::default() };
}

impl World {
    fn session_of(&self, host: usize) -> SessionId {
        let truth = self.truth();
        truth.node_named(&node(host)).map(|node| node.last_session).unwrap_or_default()
    }

    fn node_is(&self, host: usize, state: fn(&NodeState) -> bool) -> bool {
        self.truth().node_named(&node(host)).is_some_and(|node| state(&node.state))
    }

    /// A registration as a host sent it in another life of its, or as another host sends it.
    fn stray_registration(&mut self, host: usize, change: impl FnOnce(&mut Registration)) {
        let truth = self.truth();
        let Some(record) = truth.node_named(&node(host)) else { return };
        let mut registration = Registration {
            name: record.name.clone(),
            hardware: record.hardware,
            boot_id: record.boot_id.clone(),
            replaces: Some(record.last_session),
            capacity: record.capacity,
            migration_uri: record.migration_uri.clone(),
            watchdog_timeout_ms: record.watchdog_timeout_ms,
            pausable: record.pausable,
            lock_manager: None,
            agent_version: "sim".into(),
            features: Default::default(),
            inventory: Default::default(),
        };
        change(&mut registration);
        let request = Request::Register {
            request: Uuid::from_u128(0xD000 + u128::from(self.now)),
            // Whoever sent it does not hear the answer any more.
            incarnation: u64::MAX,
            registration: Box::new(registration),
            epoch: truth.epoch.0,
        };
        let replica = self.planes[0].leader.unwrap_or_default();
        self.after(0, Event::ToReplica { replica, host: Some(host), request, forwarded: true });
    }

    /// What a fence device said of a session arrives only now.
    fn late_fence(&mut self, host: usize, session: SessionId, said: PowerState) {
        let Some(node) = self.id_of(host) else { return };
        let replica = self.planes[0].leader.unwrap_or_default();
        let stage = FenceStage {
            replica,
            term: self.planes[0].term,
            node,
            session,
            host,
            done: true,
            asked: true,
            status: Some(Some(said)),
        };
        self.after(0, Event::Fence(Box::new(stage)));
    }

    /// An order that was long on its way: to take the VM over on the first host, for that session and of that epoch.
    fn late_orders(&mut self, session: u64, epoch: u64) {
        let truth = self.truth();
        let order = v1::Order {
            id: truth.revision + 1,
            session,
            generation: truth.revision + 1,
            vm: vm().to_string(),
            uuid: uuid().to_string(),
            on_isolation: v1::OnIsolation::Suspend.into(),
            kind: Some(v1::order::Kind::Adopt(v1::AdoptOrder {})),
        };
        let list = v1::OrderList {
            term: self.planes.last().map_or(0, |plane| plane.term),
            epoch,
            cluster: truth.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            orders: vec![order],
            ..v1::OrderList::default()
        };
        let incarnation = self.hosts[0].incarnation;
        let reply = Reply::Orders(Box::new(list));
        self.after(0, Event::ToAgent { host: 0, incarnation, reply });
    }

    fn restart_agent(&mut self, host: usize, after_ms: u64) {
        let incarnation = self.end_agent(host);
        self.after(after_ms, Event::StartAgent(host, incarnation));
    }
}

fn a_registration_comes_after_a_boot(world: &mut World) {
    world.hosts[0].boots_after_ms = Some(1_000);
    world.power_off(0, "power");
    world.run_for(20_000);
    world.submit(Operation::Relocate { vm: vm(), to: Some(node(0)) });
    world.run_while(20_000, |world| !world.runs_on(0));
    world.run_for(1_000);
    world.stray_registration(0, |it| {
        it.boot_id = "node1-1".into();
        it.replaces = None;
    });
    world.run_for(5_000);
}

fn a_fence_answers_after_the_return(world: &mut World) {
    let old = world.session_of(0);
    world.restart_agent(0, 200);
    world.run_for(3_000);
    world.late_fence(0, old, PowerState::Off);
    world.run_for(5_000);
}

fn a_node_is_back_before_its_fence(world: &mut World) {
    world.pace.fence = (6_000, 6_000);
    world.network.isolate(Place::Host(0), true);
    world.run_while(10_000, |world| !world.node_is(0, |it| *it == NodeState::Fencing));
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

fn a_device_does_not_do_it(world: &mut World) {
    if let Some(fence) = &mut world.hosts[0].fence {
        fence.broken = true;
    }
    world.hosts[0].agent_stalled_until = world.now + 30_000;
    world.run_for(30_000);
    if let Some(fence) = &mut world.hosts[0].fence {
        fence.broken = false;
    }
}

fn an_agent_is_away_for_long(world: &mut World) {
    world.agent_leaves(0);
    world.run_for(200);
    // The one that the service manager would start comes late.
    let incarnation = world.end_agent(0);
    world.after(90_000, Event::StartAgent(0, incarnation));
    world.run_for(95_000);
}

fn a_clock_stands_still(world: &mut World) {
    world.hosts[0].pausable = true;
    world.restart_agent(0, 200);
    world.run_for(3_000);
    world.pause_host(0, 15_000);
    world.run_for(25_000);
}

fn an_agent_hangs(world: &mut World) {
    world.hosts[0].agent_stalled_until = world.now + 20_000;
    world.run_for(25_000);
}

fn a_target_dies_while_memory_is_copied(world: &mut World) {
    world.pace.copy = (8_000, 8_000);
    world.hosts[1].boots_after_ms = Some(200);
    world.submit(Operation::Migrate { vm: vm(), to: node(1), mode: None });
    world.run_while(5_000, |world| world.migration_phase(uuid()) != Some(Phase::Copying));
    world.power_off(1, "power");
    world.run_for(15_000);
}

fn another_host_takes_the_name(world: &mut World) {
    world.stray_registration(0, |it| {
        it.hardware = Uuid::from_u128(0xBAD);
        it.boot_id = "node1-9".into();
    });
    world.run_for(5_000);
}

/// It says that the third host is off, which it never was.
fn a_device_lies(world: &mut World) {
    world.pace.fence = (20_000, 20_000);
    world.network.isolate(Place::Host(2), true);
    world.run_while(10_000, |world| !world.node_is(2, |it| *it == NodeState::Fencing));
    world.late_fence(2, world.session_of(2), PowerState::Off);
    world.run_for(500);
    // What was asked of it for real is forgotten.
    if let Some(fence) = &mut world.hosts[2].fence {
        fence.dark_until = world.now + 60_000;
    }
    world.network.isolate(Place::Host(2), false);
    world.run_for(30_000);
}

/// The node is not off: its agent asks to be taken back, again and again, while a fence is under way.
fn an_operator_is_wrong(world: &mut World) {
    world.pace.fence = (12_000, 12_000);
    world.network.isolate(Place::Host(0), true);
    world.run_while(10_000, |world| !world.node_is(0, |it| *it == NodeState::Fencing));
    world.network.isolate(Place::Host(0), false);
    world.run_for(3_000);
    world.submit(Operation::ConfirmOff { node: node(0), why: "it looked dark".into() });
    world.run_for(15_000);
}

/// Its guest runs on without the lease, so that the node's death by lease is not the guest's.
fn a_node_is_removed_too_early(world: &mut World) {
    world.network.isolate(Place::Host(0), true);
    world.run_while(20_000, |world| {
        !world.node_is(0, |it| matches!(it, NodeState::Dead(ProofOfDeath::Lease { .. })))
    });
    world.submit(Operation::RemoveNode(node(0)));
    world.run_for(3_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(5_000);
}

fn a_node_is_removed_and_comes_back(world: &mut World) {
    world.hosts[2].boots_after_ms = None;
    world.power_off(2, "power");
    world.run_while(20_000, |world| !world.node_is(2, |it| matches!(it, NodeState::Dead(_))));
    world.submit(Operation::RemoveNode(node(2)));
    world.run_for(2_000);
    world.power_on(2);
    world.run_for(5_000);
}

fn begin_a_slow_start(world: &mut World) {
    world.submit(Operation::Stop { vm: vm(), now: true });
    world.run_while(10_000, |world| !world.copies(uuid()).is_empty());
    world.run_for(1_000);
    world.pace.start = (4_000, 4_000);
    world.submit(Operation::Enable { vm: vm(), on: Some(node(0)) });
    world.run_for(600);
    world.pace.start = (50, 100);
}

fn an_agent_dies_while_a_guest_starts(world: &mut World) {
    begin_a_slow_start(world);
    world.restart_agent(0, 200);
    world.run_for(10_000);
}

/// By a call of an agent that has ended since, whose ledger is lost: when another host has taken its guest over.
fn a_guest_is_let_run_too_late(world: &mut World) {
    begin_a_slow_start(world);
    world.pace.call = (9_000, 9_000);
    world.run_while(5_000, |world| world.copies(uuid()).is_empty());
    world.pace.call = (1, 5);
    let incarnation = world.lose_ledger(0);
    world.after(100, Event::StartAgent(0, incarnation));
    world.network.isolate(Place::Host(0), true);
    world.run_for(15_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(5_000);
}

/// The cluster has not heard of the start yet, and somebody has moved the guest since.
fn a_ledger_is_lost_after_a_start(world: &mut World) {
    world.submit(Operation::Stop { vm: vm(), now: true });
    world.run_while(10_000, |world| !world.copies(uuid()).is_empty());
    world.run_for(1_000);
    world.submit(Operation::Enable { vm: vm(), on: Some(node(0)) });
    world.run_while(5_000, |world| world.hosts[0].has_begun_nothing());
    world.cut_from_replicas(0, true);
    world.run_while(5_000, |world| world.copies(uuid()).is_empty());
    world.begin_migration(uuid(), 0, 1, None);
    world.run_while(5_000, |world| world.migration_phase(uuid()).is_some());
    let incarnation = world.lose_ledger(0);
    world.after(200, Event::StartAgent(0, incarnation));
    world.cut_from_replicas(0, false);
    world.run_for(15_000);
}

fn a_node_is_cut_off_for_long(world: &mut World) {
    world.cut_from_replicas(0, true);
    world.run_for(super::quiet::HOLD_MS + 15_000);
    world.cut_from_replicas(0, false);
}

fn one_clock_of_the_host_stands_still(world: &mut World) {
    // From here on: what has passed so far counts as one and the same.
    world.hosts[0].drift_ppm.1 = -1_000_000;
    world.restart_agent(0, 100);
    world.run_for(3_000);
    world.network.isolate(Place::Host(0), true);
    world.run_for(15_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

fn one_clock_of_the_leader_runs_on(world: &mut World) {
    for replica in &mut world.replicas {
        replica.drift_ppm.0 = 3_000_000;
    }
    world.run_for(2_000);
    world.network.isolate(Place::Host(0), true);
    world.run_for(15_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

/// The answer to a heartbeat is as old as it may be, and the lease with it.
fn answers_take_long(world: &mut World) {
    world.network.slow_to = Some((Place::Host(0), 400));
    world.run_for(5_000);
    world.network.isolate(Place::Host(0), true);
    world.run_for(15_000);
    world.network.isolate(Place::Host(0), false);
    world.network.slow_to = None;
    world.run_for(10_000);
}

/// It leads on for the host that only it reaches, and the others have another leader.
fn a_leader_is_cut_off_with_a_host(world: &mut World) {
    let leader = world.planes[0].leader.unwrap_or_default();
    for host in [1, 2] {
        world.network.cut(Place::Host(host), Place::Replica(leader), true);
        world.network.cut(Place::Replica(leader), Place::Host(host), true);
    }
    for other in (0..3).filter(|other| *other != leader) {
        for place in [Place::Replica(leader), Place::Host(0)] {
            world.network.cut(place, Place::Replica(other), true);
            world.network.cut(Place::Replica(other), place, true);
        }
    }
    world.run_for(15_000);
    world.network.heal();
    world.run_for(10_000);
}

/// Its loss is proposed and not committed yet.
fn a_node_is_heard_too_late(world: &mut World) {
    world.network.isolate(Place::Host(0), true);
    world.run_for(2_000);
    world.network.delay = (400, 400);
    world.run_while(5_000, |world| {
        let leader = world.planes[0].leader.unwrap_or_default();
        world.replicas[leader].leading.as_ref().is_some_and(|it| it.given_up.is_empty())
    });
    world.network.delay = (1, 5);
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

/// Both hosts reach each other all the time, and so the guest would come to life at the target.
fn a_target_is_cut_off_while_it_is_built(world: &mut World) {
    world.pace.copy = (7_000, 7_000);
    world.submit(Operation::Migrate { vm: vm(), to: node(1), mode: None });
    world.run_while(5_000, |world| world.migration_phase(uuid()) != Some(Phase::Copying));
    // Not so long that its death is proven.
    world.hosts[1].fence = None;
    world.cut_from_replicas(1, true);
    world.run_for(9_000);
    world.cut_from_replicas(1, false);
    world.run_for(10_000);
}

fn a_libvirt_hangs_on_a_host_cut_off(world: &mut World) {
    if let Some(watchdog) = &mut world.hosts[0].watchdog {
        // Fed so often that it is surely to be fed before the guest is killed.
        watchdog.timeout_ms = 300;
        watchdog.fed = Some(world.now);
    }
    world.hosts[0].libvirt_stalled_until = world.now + 10_000;
    world.network.isolate(Place::Host(0), true);
    world.run_for(15_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

fn orders_of_the_session_before_come_late(world: &mut World) {
    let old = world.session_of(0);
    world.restart_agent(0, 200);
    world.run_for(3_000);
    world.late_orders(old.0, world.truth().epoch.0);
    world.run_for(2_000);
}

fn orders_of_the_epoch_before_come_late(world: &mut World) {
    let old = world.truth().epoch.0;
    world.restore();
    world.run_for(60_000);
    world.late_orders(world.session_of(0).0, old);
    world.run_for(2_000);
}

fn an_old_replica_hears_of_the_restored_one(world: &mut World) {
    world.restore();
    let met =
        |world: &World| world.hosts[0].agent.as_ref().map_or(0, |it| it.core.ledger().epoch());
    world.run_while(30_000, |world| met(world) < 2);
    // Nobody has taken this one away yet.
    world.replicas[0].superseded = false;
    world.start_replica(0);
    let Some(node) = world.id_of(0) else { return };
    let request = Request::Heartbeat {
        node,
        session: world.session_of(0),
        number: 1,
        epoch: met(world),
        loads: Default::default(),
    };
    let message = Event::ToReplica { replica: 0, host: Some(0), request, forwarded: false };
    world.after(0, message);
    world.run_for(60_000);
}

fn another_node_falls_silent_after_a_release(world: &mut World) {
    for host in 1..4 {
        world.network.isolate(Place::Host(host), true);
    }
    world.run_while(20_000, |world| world.truth().mass_loss.is_none());
    let nodes = {
        let truth = world.truth();
        let lost = truth.mass_loss.iter().flat_map(|loss| &loss.nodes);
        lost.filter_map(|id| truth.nodes.get(id)).map(|node| node.name.clone()).collect()
    };
    world.submit(Operation::ReleaseMassLoss { nodes });
    world.run_while(20_000, |world| (1..4).any(|it| !world.node_is(it, is_lost)));
    world.network.isolate(Place::Host(4), true);
    world.run_for(10_000);
    for host in 1..5 {
        world.network.isolate(Place::Host(host), false);
    }
    world.run_for(20_000);
}

/// A service of so many scripts, one after the other.
fn service_of(scripts: usize) -> ServiceSpec {
    let script = |number: usize| Script {
        program: ScriptProgram::Ocf(format!("berth:drill-{number}")),
        parameters: BTreeMap::new(),
        start_timeout_ms: 5_000,
        stop_timeout_ms: 5_000,
        checks: Vec::new(),
    };
    let member = |number: usize| MemberSpec {
        name: lawful(MemberName::new(format!("s{number}"))),
        kind: MemberKind::Script(script(number)),
        under: None,
        weight: MemberWeight::Critical,
        restart_limit: RestartLimit::default(),
        tolerance: Tolerance::default(),
    };
    ServiceSpec {
        name: lawful(ServiceName::new("drill")),
        id: Uuid::from_u128(0xD0),
        members: (1..=scripts).map(member).collect(),
        policy: ServicePolicy::default(),
    }
}

/// Nothing tells its next agent what runs there, but what was noted since the host booted.
fn a_ledger_is_lost_on_a_host_cut_off(world: &mut World) {
    let spec = service_of(1);
    let (service, ask) = (spec.name.clone(), ServiceAsk::Enable { on: Some(node(0)) });
    world.submit(Operation::AddService(Box::new(spec)));
    world.run_for(2_000);
    world.submit(Operation::AskService { service: service.clone(), ask });
    world.run_while(20_000, |world| {
        world.truth().services.get(&service).is_none_or(|it| it.state != ServiceState::Started)
    });
    world.network.isolate(Place::Host(0), true);
    let incarnation = world.lose_ledger(0);
    world.after(100, Event::StartAgent(0, incarnation));
    world.run_for(30_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

/// The second one runs by hand, and its node is cut off while the first is still being started.
fn a_script_by_hand_is_not_ordered_yet(world: &mut World) {
    let spec = service_of(2);
    let (service, ask) = (spec.name.clone(), ServiceAsk::Enable { on: None });
    world.hosts[0].scripts.insert("berth:drill-2".into());
    world.submit(Operation::AddService(Box::new(spec)));
    world.run_for(2_000);
    world.submit(Operation::AskService { service: service.clone(), ask });
    world.run_while(20_000, |world| {
        world.truth().services.get(&service).is_none_or(|it| it.owner.is_none())
    });
    world.network.isolate(Place::Host(0), true);
    world.run_for(30_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

/// By that ledger the guest runs on without a lease, and by what its node was told since it does not.
fn a_ledger_from_before_an_edit_comes_back(world: &mut World) {
    let before = world.ledger_of(0);
    let Some(mut spec) = world.truth().vms.get(&vm()).map(|it| it.spec.clone()) else { return };
    spec.policy.on_isolation = OnIsolation::Suspend;
    world.submit(Operation::EditVm(Box::new(spec)));
    world.run_while(10_000, |world| {
        world.truth().vms.get(&vm()).is_none_or(|it| it.outlives_lease() || it.must_be_told())
    });
    world.network.isolate(Place::Host(0), true);
    let incarnation = world.put_ledger_back(0, before);
    world.after(100, Event::StartAgent(0, incarnation));
    world.run_for(15_000);
    world.network.isolate(Place::Host(0), false);
    world.run_for(10_000);
}

fn is_lost(state: &NodeState) -> bool {
    matches!(state, NodeState::Lost)
}
