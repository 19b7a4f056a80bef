//! A control plane that was already running when the story begins: its nodes and VMs as the story has them, by the
//! commands that would have led there.

use model::command::{Decision, Operation, Report};
use model::id::{NodeId, NodeName, SessionId, VmName};
use model::node::{NodeState, ProofOfDeath, SeenDomain};
use model::vm::{MigrationMode, Presence, StopCause};

use super::file::{InitialVm, NodeWord, Scenario, VmWord};
use super::stage::{Scribe, decide, order};

fn node(scribe: &Scribe<'_>, name: &str) -> Result<(NodeId, SessionId), String> {
    let name = NodeName::new(name).map_err(|error| error.to_string())?;
    let state = scribe.state();
    let node = state.node_named(&name);
    node.map(|node| (node.id, node.last_session))
        .ok_or_else(|| format!("{name} is no node of the cluster"))
}

/// A VM whose start on its node has just been ordered comes to be as the story has it.
pub(super) fn vm(scribe: &mut Scribe<'_>, name: &VmName, told: &InitialVm) -> Result<(), String> {
    let (node, session) = self::node(scribe, &told.node)?;
    let state = scribe.state();
    let uuid = state.vms.get(name).map(|vm| vm.spec.uuid).unwrap_or_default();
    let report = |scribe: &mut Scribe<'_>, reports: Vec<Report>| {
        scribe.write(Operation::Report { node, session, reports })
    };
    let done = |scribe: &Scribe<'_>, error: Option<&str>| Report::OrderDone {
        uuid,
        order: order(scribe, name),
        error: error.map(str::to_owned),
    };
    if told.state == VmWord::Failed {
        let failed = done(scribe, Some("it had failed before the story"));
        let gone = Report::Absent { uuid, floor: u64::MAX, cause: None };
        report(scribe, vec![failed, gone])?;
        let why = "it had failed before the story".to_owned();
        return decide(scribe, name, Decision::Disable { why });
    }
    let domain = SeenDomain::active(name.as_str(), Presence::Running, 1);
    let started = done(scribe, None);
    report(scribe, vec![Report::Seen { uuid, domain }, started])?;
    match told.state {
        VmWord::Running | VmWord::WaitingForFence | VmWord::Recovering | VmWord::Failed => Ok(()),
        VmWord::Stopped => {
            scribe.write(Operation::Stop { vm: name.clone(), now: true })?;
            decide(scribe, name, Decision::Stop { node, graceful_ms: None })?;
            let stopped = done(scribe, None);
            let cause = Some(StopCause::Destroyed);
            report(scribe, vec![Report::Absent { uuid, floor: u64::MAX, cause }, stopped])
        }
        VmWord::MovingLive => {
            let target = told.target.as_deref().unwrap_or_default();
            let (to, _) = self::node(scribe, target)?;
            let target = NodeName::new(target).map_err(|error| error.to_string())?;
            scribe.write(Operation::Migrate { vm: name.clone(), to: target, mode: None })?;
            let mode = MigrationMode::Live;
            decide(scribe, name, Decision::Migrate { from: node, to, mode })
        }
    }
}

/// Nodes as the story has them; those of which it says nothing were last heard long ago.
pub(super) fn nodes(scribe: &mut Scribe<'_>, scenario: &Scenario) -> Result<(), String> {
    let told = scenario.initial_state.as_ref();
    for name in told.into_iter().flat_map(|told| told.nodes.keys()) {
        node(scribe, name)?;
    }
    let dead = |name: &str| {
        let recovering = |vm: &InitialVm| vm.state == VmWord::Recovering && vm.node == name;
        told.is_some_and(|told| told.vms.values().any(recovering))
    };
    let waits = |name: &str| {
        let waiting = |vm: &InitialVm| vm.state == VmWord::WaitingForFence && vm.node == name;
        told.is_some_and(|told| told.vms.values().any(waiting))
    };
    for name in scenario.cluster.nodes.keys() {
        let (node, session) = node(scribe, name)?;
        let word = told.and_then(|told| told.nodes.get(name)).copied();
        if word == Some(NodeWord::Maintenance) {
            let node = NodeName::new(name).map_err(|error| error.to_string())?;
            scribe.write(Operation::SetMaintenance { node, on: true, until_boot: false })?;
        }
        let fenced = dead(name);
        let up = matches!(word, Some(NodeWord::Up | NodeWord::Maintenance));
        if up && !fenced && !waits(name) {
            continue;
        }
        scribe.write(Operation::NodeLost { node, session, silent_ms: 3_001 })?;
        if fenced || waits(name) || word == Some(NodeWord::BeingFenced) {
            scribe.write(Operation::FenceAsked { node, session })?;
            scribe.tell("fence-asked", name);
        }
        if fenced {
            let proof = ProofOfDeath::Fenced { device: "fence_sim".into() };
            scribe.write(Operation::NodeDead { node, session, proof })?;
            scribe.tell("fenced", name);
        }
    }
    debug_assert!(scribe.state().nodes.values().all(|it| it.state != NodeState::Off));
    Ok(())
}
