//! The state as operators see it.

use model::cluster::ClusterState;
use model::dependency::Dependency;
use model::domain_xml::HostTie;
use model::event::Event;
use model::failover_domain::Rank;
use model::hold::Lock;
use model::id::NodeId;
use model::liveness::Liveness;
use model::node::{AfterFence, AfterShutdown, FenceDevice, NodeRecord, NodeState, ProofOfDeath};
use model::plan::{Candidate, Load, Plan, Reason};
use model::service::{MemberKind, MemberMode, MemberSpec, ServiceOperation, ServiceRecord};
use model::settings::Settings;
use model::vm::{MigrationMode, OperationPhase, VmPolicy, VmRecord};

use uuid::Uuid;

use crate::v1;

/// What the leader knows beyond the state; a follower has none of it.
#[derive(Debug, Clone, Default)]
pub struct LeaderView {
    /// What it hears.
    pub liveness: Liveness,
    /// What it plans.
    pub plan: Plan,
}

/// A VM, with the leader's reason where there is one.
pub fn vm(
    state: &ClusterState,
    record: &VmRecord,
    leader: Option<&LeaderView>,
    with_xml: bool,
) -> v1::Vm {
    let name = |node: NodeId| state.node_name(node);
    let policy = &record.spec.policy;
    v1::Vm {
        name: record.spec.name.to_string(),
        uuid: record.spec.uuid.to_string(),
        state: record.state.as_str().into(),
        desired: record.desired.as_str().into(),
        owner: record.owner.map(name),
        last_owner: record.last_owner.map(name),
        generation: record.generation.0,
        memory_mib: record.spec.memory_mib,
        vcpus: record.spec.vcpus,
        policy: Some(self::policy(policy)),
        disks: record
            .spec
            .disks
            .iter()
            .map(|disk| v1::Disk {
                source: disk.source.clone(),
                readonly: disk.readonly,
                shareable: disk.shareable,
            })
            .collect(),
        host_ties: record.spec.host_ties.iter().map(host_tie).collect(),
        seen: record
            .seen
            .iter()
            .map(|(node, sighting)| v1::Sighting {
                node: name(*node),
                presence: sighting.presence.as_str().into(),
            })
            .collect(),
        may_run: record.may_run.keys().map(|node| name(*node)).collect(),
        restart_count: record.restart_count,
        claim: record.claim.as_ref().map(|claim| v1::Claim {
            reason: claim.reason.clone(),
            by: claim.by.clone(),
            at_ms: claim.at.0,
        }),
        home: record.stay.home.map(name),
        waits_for: record.stay.waits_for.map(name),
        state_since_ms: record.state_since.0,
        revision: record.changed,
        spec_revision: record.spec_revision,
        operation: record.operation.as_ref().map(operation),
        reason: leader.and_then(|leader| leader.plan.vms.get(&record.spec.name)).map(reason),
        progress: None,
        failure: record.failure.as_ref().map(|failure| failure.why.clone()),
        xml: if with_xml { record.spec.xml.to_string() } else { String::new() },
        owner_silent: record
            .owner
            .and_then(|owner| state.nodes.get(&owner))
            .is_some_and(|node| node.state != NodeState::Online),
        frozen: record.frozen.as_ref().map(|freeze| v1::Freeze {
            by: freeze.by.clone(),
            why: freeze.why.clone(),
            since_ms: freeze.since.0,
            until_ms: freeze.until.map(|until| until.0),
        }),
        status_failures: record.status_failures.len() as u32,
        placed: record.placed_at.is_some(),
        last_migration: record.migration.as_ref().map(|it| v1::VmMigration {
            from: name(it.from),
            to: name(it.to),
            mode: migration_mode(it.mode).into(),
            phase: it.phase.as_str().into(),
            open: it.phase.is_open(),
            begun_ms: it.begun.0,
            since_ms: it.since.0,
        }),
        ailment: record.ailment.as_ref().map(|it| v1::Ailment {
            kind: it.kind.as_str().into(),
            why: it.why.clone(),
            node: name(it.node),
            since_ms: it.at.0,
        }),
        saved: record.saved.as_ref().map(|it| v1::SavedMemory {
            file: it.file.clone(),
            node: name(it.node),
            shared: it.shared,
            at_ms: it.at.0,
        }),
        measured: leader.and_then(|leader| measured(leader, [record.spec.uuid])),
    }
}

/// What these guests used together, if any of them was measured lately.
fn measured(leader: &LeaderView, vms: impl IntoIterator<Item = Uuid>) -> Option<v1::MeasuredLoad> {
    let found = vms.into_iter().filter_map(|uuid| leader.liveness.measured.get(&uuid));
    found.fold(None, |sum: Option<v1::MeasuredLoad>, load| {
        let sum = sum.unwrap_or_default();
        Some(v1::MeasuredLoad {
            cpu_milli: sum.cpu_milli + load.cpu_milli,
            memory_mib: sum.memory_mib + load.memory_mib,
        })
    })
}

/// The lock of the cluster.
pub fn lock(lock: &Lock) -> v1::Lock {
    v1::Lock { by: lock.by.clone(), why: lock.why.clone(), since_ms: lock.since.0 }
}

pub(super) fn write_dependency(dependency: &Dependency) -> v1::Dependency {
    v1::Dependency { on: dependency.on.to_string(), mode: dependency.mode.as_str().into() }
}

fn host_tie(tie: &HostTie) -> v1::HostTie {
    v1::HostTie { what: tie.what.clone(), keeps_from: tie.keeps_from.as_str().into() }
}

fn migration_mode(mode: MigrationMode) -> &'static str {
    match mode {
        MigrationMode::Live => "live",
        MigrationMode::Pause => "pause",
    }
}

fn operation(operation: &model::vm::OperationRecord) -> v1::Operation {
    let (phase, failure) = phase(&operation.phase);
    v1::Operation {
        request_id: operation.request.to_string(),
        verb: operation.verb.as_str().into(),
        phase: phase.into(),
        failure,
        at_ms: operation.at.0,
    }
}

/// A service, with the leader's reason where there is one.
pub fn service(
    state: &ClusterState,
    record: &ServiceRecord,
    leader: Option<&LeaderView>,
) -> v1::Service {
    let name = |node: NodeId| state.node_name(node);
    let member = |spec: &MemberSpec| {
        let it = record.members.get(&spec.name);
        v1::Member {
            name: spec.name.to_string(),
            kind: match &spec.kind {
                MemberKind::Vm(_) => "vm",
                MemberKind::Script(script) => script.program.kind(),
            }
            .into(),
            state: record.member_word(state, spec).into(),
            off: it.is_some_and(|it| it.mode == MemberMode::Off),
            failure: it.and_then(|it| it.failure.clone()),
        }
    };
    v1::Service {
        spec: Some(super::service::write_spec(&record.spec)),
        id: record.spec.id.to_string(),
        state: record.state.as_str().into(),
        desired: record.desired.as_str().into(),
        owner: record.owner.map(name),
        last_owner: record.last_owner.map(name),
        partial: record.is_partial(),
        frozen: record.frozen.as_ref().map(|freeze| format!("by {}: {}", freeze.by, freeze.why)),
        members: record.spec.members.iter().map(member).collect(),
        may_run: record.may_run.keys().map(|node| name(*node)).collect(),
        restart_count: record.restart_count,
        state_since_ms: record.state_since.0,
        spec_revision: record.spec_revision,
        revision: record.changed,
        operation: record.operation.as_ref().map(service_operation),
        reason: leader.and_then(|leader| leader.plan.services.get(&record.spec.name)).map(reason),
        failure: record.failure.as_ref().map(|failure| failure.why.clone()),
        owner_silent: record
            .owner
            .and_then(|owner| state.nodes.get(&owner))
            .is_some_and(|node| node.state != NodeState::Online),
    }
}

fn service_operation(operation: &ServiceOperation) -> v1::Operation {
    let (phase, failure) = phase(&operation.phase);
    v1::Operation {
        request_id: operation.request.to_string(),
        verb: operation.verb.as_str().into(),
        phase: phase.into(),
        failure,
        at_ms: operation.at.0,
    }
}

fn phase(phase: &OperationPhase) -> (&'static str, Option<String>) {
    match phase {
        OperationPhase::Pending => ("pending", None),
        OperationPhase::Halfway => ("halfway", None),
        OperationPhase::Done => ("done", None),
        OperationPhase::Failed(why) => ("failed", Some(why.clone())),
    }
}

/// A reason.
pub fn reason(reason: &Reason) -> v1::Reason {
    v1::Reason { code: reason.code().into(), text: reason.to_string(), stuck: reason.is_stuck() }
}

/// A node; `load` is what is taken of it.
pub fn node(
    state: &ClusterState,
    record: &NodeRecord,
    load: &Load,
    leader: Option<&LeaderView>,
) -> v1::Node {
    let heard = leader.and_then(|leader| leader.liveness.heard.get(&record.id));
    let silent_ms =
        heard.filter(|heard| heard.session == record.last_session).map(|heard| heard.silent_ms);
    let suspect = record.state == NodeState::Online
        && silent_ms.is_some_and(|silent_ms| silent_ms > state.settings.suspect_after_ms);
    v1::Node {
        id: record.id.0,
        name: record.name.to_string(),
        state: if suspect { "suspect" } else { record.state.as_str() }.into(),
        hardware: record.hardware.to_string(),
        boot_id: record.boot_id.clone(),
        session: record.last_session.0,
        memory_mib: record.capacity.memory_mib,
        cpus: record.capacity.cpus,
        used_memory_mib: load.used_memory_mib(record.id),
        used_vcpus: load.used_vcpus(record.id) as u32,
        migration_uri: record.migration_uri.clone(),
        watchdog_timeout_ms: record.watchdog_timeout_ms,
        agent_version: record.agent_version.clone(),
        fence_devices: record.fence_devices.iter().map(fence_device).collect(),
        state_since_ms: record.state_since.0,
        silent_ms,
        reason: leader.and_then(|leader| leader.plan.nodes.get(&record.id)).map(reason),
        unmanaged: record
            .unmanaged
            .iter()
            .map(|(uuid, domain)| v1::UnmanagedDomain {
                uuid: uuid.to_string(),
                name: domain.name.clone(),
                presence: domain.presence.map_or("inactive", |presence| presence.as_str()).into(),
                memory_mib: domain.memory_mib,
            })
            .collect(),
        measured: leader.and_then(|leader| {
            let own = state.vms.values().filter(|vm| vm.owner == Some(record.id));
            measured(leader, own.map(|vm| vm.spec.uuid))
        }),
        vms: state
            .vms
            .values()
            .filter(|vm| vm.owner == Some(record.id))
            .map(|vm| vm.spec.name.to_string())
            .collect(),
        proof_of_death: match &record.state {
            NodeState::Dead(ProofOfDeath::Fenced { device }) => Some(format!("{device} says off")),
            NodeState::Dead(ProofOfDeath::Lease { silent_ms }) => {
                Some(format!("lease and watchdog ran out after {silent_ms} ms"))
            }
            NodeState::Dead(ProofOfDeath::NewBoot) => Some("it booted anew".into()),
            NodeState::Dead(ProofOfDeath::Confirmed { by, why }) => {
                Some(format!("{by} made sure: {why}"))
            }
            NodeState::Online | NodeState::Lost | NodeState::Fencing | NodeState::Off => None,
        },
        pausable: record.pausable,
        vouched: record.vouched,
        away: record.away,
        lock_manager: record.lock_manager.clone(),
        after_fence: match record.after_fence {
            AfterFence::StayOff => "stay-off".into(),
            AfterFence::PowerOn { per_hour } => format!("power-on/{per_hour}"),
        },
        fence_history: record
            .fence_history
            .iter()
            .map(|attempt| v1::FenceAttempt {
                at_ms: attempt.at.0,
                outcome: attempt.outcome.clone(),
                proven: attempt.proven,
            })
            .collect(),
        dark_fence: record.dark_fence.clone(),
        libvirt_guests: record.features.libvirt_guests,
        fence_agents: record.features.fence_agents.iter().cloned().collect(),
        autostart: record.autostart.iter().map(ToString::to_string).collect(),
        lease_proof_ms: record.lease_proof_ms(state.settings.drift_percent),
        maintenance: record.maintenance.is_some(),
        maintenance_by: record.maintenance.as_ref().map(|it| it.by.clone()),
        maintenance_until_boot: record.maintenance.as_ref().is_some_and(|it| it.until_boot),
        shutdown: record.shutdown.map(|shutdown| {
            match shutdown.then {
                AfterShutdown::StayOff => "stay-off",
                AfterShutdown::Reboot => "reboot",
            }
            .into()
        }),
    }
}

/// How a VM is treated.
pub fn policy(policy: &VmPolicy) -> v1::VmPolicy {
    v1::VmPolicy {
        recovery: policy.recovery.as_str().into(),
        max_restarts: policy.restart_limit.max_restarts,
        restart_expire_ms: policy.restart_limit.expire_ms,
        failover_domain: policy.failover_domain.as_ref().map(ToString::to_string),
        migration: migration_mode(policy.migration).into(),
        stop_timeout_ms: policy.stop_timeout_ms,
        on_isolation: policy.on_isolation.as_str().into(),
        on_conflict: policy.on_conflict.as_str().into(),
        migratable: policy.migratable.as_str().into(),
        handling: Some(super::handling::write(&policy.handling)),
        placing: Some(super::placing::write_placing(policy)),
        autostart: Some(policy.autostart),
        exclusive: policy.exclusive,
        depend: policy.depend.iter().map(write_dependency).collect(),
        start_priority: policy.start_priority,
        max_failures: policy.failure_tolerance.max_failures,
        failure_expire_ms: policy.failure_tolerance.expire_ms,
    }
}

/// What holds for the whole cluster.
pub fn settings(settings: &Settings) -> v1::Settings {
    v1::Settings {
        heartbeat_ms: settings.heartbeat_ms,
        suspect_after_ms: settings.suspect_after_ms,
        lost_after_ms: settings.lost_after_ms,
        lease_ttl_ms: settings.lease_ttl_ms,
        answer_timeout_ms: settings.answer_timeout_ms,
        self_fence_ms: settings.self_fence_ms,
        drift_percent: settings.drift_percent,
        conflict_grace_ms: settings.conflict_grace_ms,
        fence_retry_ms: settings.fence_retry_ms,
        isolation_hold_ms: settings.isolation_hold_ms,
        mass_loss_percent: settings.mass_loss_percent,
        fence_probe_ms: settings.fence_probe_ms,
        election_max_ms: settings.election_max_ms,
        placement: settings.placement.as_str().into(),
        rebalance_on_start: settings.rebalance_on_start,
        auto_rebalance: settings.auto_rebalance,
        rebalance_threshold_percent: settings.rebalance_threshold_percent,
        rebalance_hold_ms: settings.rebalance_hold_ms,
        rebalance_margin_percent: settings.rebalance_margin_percent,
        moves_at_once: settings.moves_at_once,
        moves_per_node: settings.moves_per_node,
        shutdown_policy: settings.shutdown_policy.as_str().into(),
    }
}

/// What the mass-loss brake says, while it holds.
pub fn mass_loss(state: &ClusterState) -> Option<String> {
    let names = mass_loss_nodes(state);
    state.braked().then(|| format!("{} seem lost at once; nothing is fenced", names.join(", ")))
}

/// The nodes that the mass-loss brake is for, while it holds.
pub fn mass_loss_nodes(state: &ClusterState) -> Vec<String> {
    let loss = state.mass_loss.iter().filter(|_| state.braked());
    loss.flat_map(|loss| &loss.nodes).map(|node| state.node_name(*node)).collect()
}

/// VMs that run on a host without a lock manager: there nothing but Berth keeps a second copy from their disks.
pub fn unguarded(state: &ClusterState) -> Vec<String> {
    let unguarded = |vm: &&std::sync::Arc<VmRecord>| {
        let owner = vm.owner.and_then(|owner| state.nodes.get(&owner));
        owner.is_some_and(|node| node.lock_manager.is_none())
    };
    state.vms.values().filter(unguarded).map(|vm| vm.spec.name.to_string()).collect()
}

/// A fence device without its options, which may be secret.
fn fence_device(device: &FenceDevice) -> String {
    match device.level {
        0 => device.agent.clone(),
        level => format!("{} (level {level})", device.agent),
    }
}

/// An event.
pub fn event(event: &Event) -> v1::Event {
    v1::Event {
        revision: event.revision,
        sequence: event.sequence,
        at_ms: event.at.0,
        kind: event.kind.as_str().into(),
        severity: event.kind.severity().as_str().into(),
        vm: event.vm.as_ref().map(ToString::to_string),
        node: event.node.as_ref().map(ToString::to_string),
        service: event.service.as_ref().map(ToString::to_string),
        text: event.text.clone(),
    }
}

/// A node weighed for a VM.
pub fn candidate(candidate: Candidate) -> v1::Candidate {
    v1::Candidate {
        node: candidate.name,
        priority: match candidate.rank {
            Some(Rank::Member(priority)) if priority > 0 => Some(u32::from(priority)),
            Some(Rank::Member(_) | Rank::Outside) | None => None,
        },
        free_memory_mib: candidate.free_memory_mib,
        free_vcpus: candidate.free_vcpus,
        refused: candidate.refused,
        busy_permille: candidate.busy,
    }
}

/// A failover domain.
pub fn failover_domain(domain: &model::failover_domain::FailoverDomain) -> v1::FailoverDomain {
    v1::FailoverDomain {
        name: domain.name.to_string(),
        nodes: domain
            .nodes
            .iter()
            .map(|(node, priority)| (node.to_string(), u32::from(*priority)))
            .collect(),
        ordered: domain.ordered,
        restricted: domain.restricted,
        nofailback: domain.nofailback,
        failback: Some(v1::Failback {
            delay_ms: domain.failback.delay_ms,
            at_once: domain.failback.at_once,
            per_hour: domain.failback.per_hour,
            window: domain
                .failback
                .window
                .map(|window| v1::Window { from: window.from.into(), to: window.to.into() }),
            relocate: domain.failback.relocate,
        }),
    }
}

#[cfg(test)]
mod tests {
    use model::liveness::Measured;

    use super::*;

    #[test]
    fn what_guests_use_is_added_up_and_nothing_is_not_zero() {
        let [one, other, silent] = [1, 2, 3].map(Uuid::from_u128);
        let mut leader = LeaderView::default();
        leader.liveness.measured = [
            (one, Measured { cpu_milli: 900, memory_mib: 64 }),
            (other, Measured { cpu_milli: 200, memory_mib: 32 }),
        ]
        .into();
        let sum = v1::MeasuredLoad { cpu_milli: 1_100, memory_mib: 96 };
        assert_eq!(measured(&leader, [one, silent, other]), Some(sum));
        assert_eq!(measured(&leader, [silent]), None);
    }
}
