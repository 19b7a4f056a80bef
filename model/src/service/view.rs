//! How a service's members stand, read off the state: one word for scripts and VMs alike.

use crate::cluster::ClusterState;
use crate::id::{MemberName, NodeId};
use crate::service::{MemberKind, MemberSpec, ScriptIntent, ScriptState, ServiceRecord};
use crate::vm::{Desired, OrderIntent, VmRecord, VmState};

/// How a VM stands as a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmStanding {
    /// It is down for sure: it may run nowhere.
    Down,
    /// It runs there.
    Up(NodeId),
    /// Something is under way, or not known yet.
    Busy,
    /// It failed: a start did not work out, or it died.
    Failing,
    /// A stop of it failed, it runs twice, or it left: an operator must act.
    Stuck,
}

/// How one member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView<'s> {
    /// What was asked.
    pub spec: &'s MemberSpec,
    /// How it stands.
    pub standing: VmStanding,
}

impl MemberView<'_> {
    /// Its name.
    pub fn name(&self) -> &MemberName {
        &self.spec.name
    }
}

impl ServiceRecord {
    /// How each member stands, in the order of their start.
    pub fn standings<'s>(&'s self, state: &ClusterState) -> Vec<MemberView<'s>> {
        self.spec
            .members
            .iter()
            .map(|spec| MemberView { spec, standing: self.standing(state, spec) })
            .collect()
    }

    fn standing(&self, state: &ClusterState, spec: &MemberSpec) -> VmStanding {
        match &spec.kind {
            MemberKind::Vm(vm) => state.vms.get(vm).map_or(VmStanding::Down, |it| of_vm(it)),
            MemberKind::Script(_) => self.of_script(&spec.name),
        }
    }

    fn of_script(&self, name: &MemberName) -> VmStanding {
        if self.order.as_ref().is_some_and(|order| order.member == *name) {
            return VmStanding::Busy;
        }
        match (self.members.get(name).map(|member| member.script), self.owner) {
            (Some(ScriptState::Up), Some(owner)) => VmStanding::Up(owner),
            (Some(ScriptState::Up | ScriptState::Unstarted | ScriptState::Bad), _) => {
                VmStanding::Failing
            }
            (Some(ScriptState::Stuck), _) => VmStanding::Stuck,
            (Some(ScriptState::Down) | None, _) => VmStanding::Down,
        }
    }

    /// The word operators read of a member.
    pub fn member_word(&self, state: &ClusterState, spec: &MemberSpec) -> &'static str {
        if let MemberKind::Vm(vm) = &spec.kind {
            return state.vms.get(vm).map_or("unknown", |record| record.state.as_str());
        }
        match self.order.as_ref().filter(|order| order.member == spec.name) {
            Some(order) if order.intent == ScriptIntent::Start => "starting",
            Some(_) => "stopping",
            None => self.members.get(&spec.name).map_or("stopped", |it| it.script.as_str()),
        }
    }
}

fn of_vm(record: &VmRecord) -> VmStanding {
    let adopting =
        record.order.as_ref().is_some_and(|order| matches!(order.intent, OrderIntent::Adopt));
    match (record.state, record.owner) {
        (VmState::Started, Some(owner))
            if record.desired == Desired::Enabled && (record.order.is_none() || adopting) =>
        {
            VmStanding::Up(owner)
        }
        (VmState::Stopped | VmState::Disabled, _)
            if record.may_run.is_empty() && record.order.is_none() =>
        {
            VmStanding::Down
        }
        (VmState::Recovering, _) if record.order.is_none() => VmStanding::Failing,
        // It is being stopped once more.
        (VmState::Failed, _) if record.open_operation().is_some() => VmStanding::Busy,
        (VmState::Failed | VmState::Conflict | VmState::Lost, _) => VmStanding::Stuck,
        _ => VmStanding::Busy,
    }
}
