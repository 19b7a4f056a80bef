//! Putting services under management, changing and forgetting them. Starts and stops nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::apply::depend::Definition;
use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{Generation, NodeId, ServiceName, VmName};
use crate::rejection::Rejection;
use crate::service::{
    MAX_MEMBERS, MemberKind, MemberRecord, MemberSpec, ScriptState, ServiceRecord, ServiceSpec,
    ServiceState,
};
use crate::time::Timestamp;
use crate::vm::{Desired, MayRun, OperationPhase};

impl ClusterState {
    pub(in crate::apply) fn add_service(
        &mut self,
        cx: &mut Context,
        spec: &ServiceSpec,
    ) -> Result<(), Rejection> {
        let name = spec.name.clone();
        if self.services.contains_key(&name) {
            return Err(bad(spec, "a service of that name is managed already; edit it"));
        }
        if self.service_by_id.contains_key(&spec.id) {
            return Err(bad(spec, "its id belongs to another service"));
        }
        if let Some(vm) = self.vm_by_uuid.get(&spec.id) {
            // What agents say under that id is said of the VM, and would be taken for its scripts'.
            return Err(bad(spec, &format!("its id is the UUID of VM {vm}; add it once more")));
        }
        self.check_service(cx, spec)?;
        // Nobody knows yet where its scripts run: every node is asked, but for those proven dead.
        let has_scripts = spec.scripts().next().is_some();
        let may_run = self
            .nodes_alive()
            .filter(|_| has_scripts)
            .map(|node| (node, MayRun { since: cx.index }))
            .collect();
        let members = spec
            .members
            .iter()
            .map(|member| (member.name.clone(), MemberRecord::default()))
            .collect();
        let record = Arc::new(ServiceRecord {
            spec: spec.clone(),
            spec_revision: cx.index,
            desired: Desired::Disabled,
            state: ServiceState::Disabled,
            owner: None,
            last_owner: None,
            generation: Generation(cx.index),
            may_run,
            seen: BTreeMap::new(),
            members,
            order: None,
            operation: None,
            failure: None,
            restarts: Vec::new(),
            restart_count: 0,
            frozen: None,
            cold: None,
            depends_met: false,
            placed_at: None,
            failback_not_before: Timestamp::default(),
            state_since: cx.at,
            changed: cx.index,
        });
        self.must_not_clash(cx, |state| {
            state.services.insert(name.clone(), record.clone());
            Ok(())
        })?;
        self.service_by_id.insert(spec.id, name.clone());
        for vm in spec.vms() {
            self.service_of.insert(vm.clone(), name.clone());
        }
        self.services.insert(name.clone(), record);
        let text = format!("service {name} was added by {}", cx.by);
        self.emit_service(cx, EventKind::ServiceAdded, &name, None, text);
        Ok(())
    }

    pub(in crate::apply) fn edit_service(
        &mut self,
        cx: &mut Context,
        asked: &ServiceSpec,
    ) -> Result<(), Rejection> {
        let name = asked.name.clone();
        let record = self.service(&name)?;
        let spec = ServiceSpec { id: record.spec.id, ..asked.clone() };
        self.check_service(cx, &spec)?;
        let busy = record.operation.as_ref().is_some_and(|it| it.phase == OperationPhase::Halfway)
            || matches!(
                record.state,
                ServiceState::Starting | ServiceState::Stopping | ServiceState::Migrating
            );
        if busy || record.order.is_some() {
            return Err(record.wrong_state("wait until that is done, then edit it"));
        }
        // A script that may run is stopped with the parameters it was started with, and not left behind.
        for (member, script) in record.spec.scripts() {
            let found = record.seen.values().any(|seen| seen.contains(member));
            let down = !found
                && record.members.get(member).is_none_or(|it| it.script == ScriptState::Down);
            let same = matches!(
                spec.member(member).map(|it| &it.kind),
                Some(MemberKind::Script(new))
                    if new.program == script.program && new.parameters == script.parameters
            );
            if !down && !same {
                let why = format!(
                    "member {member} may be up: its program and parameters can be changed, and it can be taken out, when it runs nowhere; `berthctl disable service:{name}` stops it, and what runs unasked is stopped where it runs"
                );
                return Err(record.wrong_state(&why));
            }
        }
        self.must_not_clash(cx, |state| {
            state.service_mut(cx, &name)?.spec = spec.clone();
            Ok(())
        })?;
        for vm in record.spec.vms() {
            self.service_of.remove(vm);
        }
        for vm in spec.vms() {
            self.service_of.insert(vm.clone(), name.clone());
        }
        // Editing stops nothing: what it newly depends on binds it from when that is started.
        let depends_met = self.unmet(&spec.policy.depend).next().is_none();
        let record = self.service_mut(cx, &name)?;
        record.depends_met &= depends_met;
        // Nobody knows yet where new ones run, whether the service itself is up or down.
        let new_scripts = spec.scripts().any(|(member, script)| {
            !matches!(
                record.spec.member(member).map(|it| &it.kind),
                Some(MemberKind::Script(old)) if old == script
            )
        });
        if spec.scripts().next().is_none() {
            record.may_run.clear();
            record.seen.clear();
        }
        let mut members = std::mem::take(&mut record.members);
        record.members = spec
            .members
            .iter()
            .map(|member| (member.name.clone(), members.remove(&member.name).unwrap_or_default()))
            .collect();
        record.spec = spec;
        record.spec_revision = cx.index;
        if new_scripts {
            self.ask_for_scripts(cx, &name, None)?;
        }
        let text = format!("service {name} was edited by {}", cx.by);
        self.emit_service(cx, EventKind::ServiceEdited, &name, None, text);
        Ok(())
    }

    /// Nobody knows where its scripts run: every node but one enters the set, until it says that none of them runs there.
    pub(in crate::apply) fn ask_for_scripts(
        &mut self,
        cx: &Context,
        name: &ServiceName,
        but: Option<NodeId>,
    ) -> Result<(), Rejection> {
        let asked: Vec<_> = self.nodes_alive().filter(|node| Some(*node) != but).collect();
        let record = self.service_mut(cx, name)?;
        if record.spec.scripts().next().is_some() {
            let entries = asked.into_iter().map(|node| (node, MayRun { since: cx.index }));
            record.may_run.extend(entries);
        }
        Ok(())
    }

    /// A node that was not known before enters the set of every service, until it says that none of its scripts runs there.
    pub(in crate::apply) fn ask_node_for_scripts(
        &mut self,
        cx: &Context,
        node: NodeId,
    ) -> Result<(), Rejection> {
        let has_scripts = |it: &&Arc<ServiceRecord>| it.spec.scripts().next().is_some();
        let names: Vec<_> =
            self.services.values().filter(has_scripts).map(|it| it.spec.name.clone()).collect();
        for name in names {
            let entry = MayRun { since: cx.index };
            self.service_mut(cx, &name)?.may_run.insert(node, entry);
        }
        Ok(())
    }

    pub(in crate::apply) fn forget_service(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        if record.order.is_some() {
            return Err(record.wrong_state("a member of it is starting or stopping; wait for it"));
        }
        self.services.remove(name);
        self.service_by_id.remove(&record.spec.id);
        for vm in record.spec.vms() {
            self.service_of.remove(vm);
        }
        let up = record.members.values().filter(|it| it.script != ScriptState::Down).count();
        let rest = match (up, record.owner) {
            (0, _) | (_, None) => String::new(),
            (count, Some(owner)) => {
                format!("; {count} scripts of it run on at {}", self.node_name(owner))
            }
        };
        let text = format!("service {name} was forgotten by {}{rest}", cx.by);
        self.emit_service(cx, EventKind::ServiceForgotten, name, None, text);
        Ok(())
    }

    /// What holds for a new and for an edited service alike.
    fn check_service(&self, cx: &Context, spec: &ServiceSpec) -> Result<(), Rejection> {
        if !(1..=MAX_MEMBERS).contains(&spec.members.len()) {
            let why =
                format!("a service has 1 to {MAX_MEMBERS} members, not {}", spec.members.len());
            return Err(bad(spec, &why));
        }
        if let Some(domain) = &spec.policy.failover_domain
            && !self.failover_domains.contains_key(domain)
        {
            return Err(Rejection::UnknownFailoverDomain { domain: domain.to_string() });
        }
        let mut names = BTreeSet::new();
        let mut vms = BTreeSet::new();
        for member in &spec.members {
            if let Some(parent) = &member.under
                && !names.contains(parent)
            {
                let why = format!(
                    "member {} hangs below {parent}, which is not among the members before it",
                    member.name
                );
                return Err(bad(spec, &why));
            }
            if !names.insert(member.name.clone()) {
                return Err(bad(spec, &format!("two members are named {}", member.name)));
            }
            if let Some(vm) = member.vm() {
                self.check_vm_member(spec, member, vm)?;
                if !vms.insert(vm.clone()) {
                    return Err(bad(spec, &format!("VM {vm} is a member twice")));
                }
            }
        }
        match cx.together {
            // Looked at once, when all changes are made.
            true => Ok(()),
            false => self.must_not_wait_for_itself(Definition::Service(spec)),
        }
    }

    fn check_vm_member(
        &self,
        spec: &ServiceSpec,
        member: &MemberSpec,
        vm: &VmName,
    ) -> Result<(), Rejection> {
        self.vm(vm)?;
        match self.service_of.get(vm) {
            Some(other) if *other != spec.name => {
                let why = format!(
                    "member {}: VM {vm} is a member of service {other} already",
                    member.name
                );
                Err(bad(spec, &why))
            }
            _ => Ok(()),
        }
    }
}

fn bad(spec: &ServiceSpec, why: &str) -> Rejection {
    Rejection::BadService { service: spec.name.to_string(), why: why.to_owned() }
}
