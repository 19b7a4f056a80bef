//! What agents say of a service's scripts.

use uuid::Uuid;

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{MemberName, NodeId, OrderId, ServiceName};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::service::{ScriptIntent, ScriptState, ServiceRecord, Tolerance};
use crate::vm::MayRun;

impl ClusterState {
    /// An order to a script came to this.
    pub(in crate::apply) fn script_done(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        name: &ServiceName,
        id: OrderId,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let place = self.node_name(node);
        let record = self.service_mut(cx, name)?;
        // A report of an order that is no longer outstanding says nothing new.
        let Some(order) = record.order.take_if(|order| order.id == id && order.node == node) else {
            return Ok(());
        };
        let member = order.member.clone();
        let Some(it) = record.members.get_mut(&member) else { return Ok(()) };
        let (state, text) = match (order.intent, error) {
            (ScriptIntent::Start, None) => {
                it.started_by = order.id;
                it.failure = None;
                it.found_up = false;
                it.tolerated.clear();
                it.script = ScriptState::Up;
                return Ok(());
            }
            (ScriptIntent::Stop, None) => {
                it.script = ScriptState::Down;
                // Only what is known of is stopped: from before a restore others may run there. So the node is asked for
                // all of them now, and leaves by that word and no other.
                if off(Rule::StoppedScriptIsAsked) {
                    record.may_run.remove(&node);
                } else if record.scripts_are_down() {
                    record.seen.remove(&node);
                    record.may_run.insert(node, MayRun { since: cx.index });
                }
                return Ok(());
            }
            (ScriptIntent::Start, Some(error)) => (
                ScriptState::Unstarted,
                format!("the start of {member} on {place} failed: {error}"),
            ),
            (ScriptIntent::Stop, Some(error)) => {
                (ScriptState::Stuck, format!("the stop of {member} on {place} failed: {error}"))
            }
        };
        it.script = state;
        it.failure = Some(text.clone());
        let text = format!("service {name}: {text}");
        self.emit_service(cx, EventKind::ServiceMemberFailed, name, Some(node), text);
        Ok(())
    }

    /// The agent's word that none of a service's scripts runs there.
    pub(in crate::apply) fn scripts_absent(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        name: &ServiceName,
        floor: u64,
    ) -> Result<(), Rejection> {
        let record = self.service_mut(cx, name)?;
        record.seen.remove(&node);
        let knowing = record
            .may_run
            .get(&node)
            .is_some_and(|entry| floor >= entry.since || off(Rule::AbsentNeedsFloor));
        if !knowing {
            return Ok(());
        }
        record.may_run.remove(&node);
        if record.owner == Some(node) {
            for member in record.members.values_mut() {
                member.script = ScriptState::Down;
                member.found_up = false;
            }
        }
        Ok(())
    }

    /// Scripts run on a node that was asked, or may: it stays in the set.
    pub(in crate::apply) fn scripts_seen(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        id: Uuid,
        members: &[MemberName],
    ) -> Result<(), Rejection> {
        let Some(name) = self.service_by_id.get(&id).cloned() else { return Ok(()) };
        let place = self.node_name(node);
        let record = self.service_mut(cx, &name)?;
        record.may_run.entry(node).or_insert(MayRun { since: cx.index });
        if record.owner == Some(node) && record.order.is_none() && record.asks_owner() {
            record.still_up(members, &place);
        }
        let seen = members.iter().cloned().collect();
        if record.seen.insert(node, seen).is_some_and(|before| before.iter().eq(members)) {
            return Ok(());
        }
        let names: Vec<_> = members.iter().map(MemberName::as_str).collect();
        let text = format!("service {name}: {} may run on {place}", names.join(", "));
        self.emit_service(cx, EventKind::ServiceSeen, &name, Some(node), text);
        Ok(())
    }

    /// A check of a script that is up.
    pub(in crate::apply) fn script_status(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        id: Uuid,
        member: &MemberName,
        started_by: OrderId,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let Some(name) = self.service_by_id.get(&id).cloned() else { return Ok(()) };
        let at = cx.at;
        let place = self.node_name(node);
        let record = self.service(&name)?;
        let Some(tolerance) = record.spec.member(member).map(|spec| spec.tolerance) else {
            return Ok(());
        };
        let ordered = record.order.as_ref().is_some_and(|order| order.member == *member);
        let meant = record.owner == Some(node)
            && !ordered
            && record.members.get(member).is_some_and(|it| {
                it.started_by == started_by
                    && matches!(it.script, ScriptState::Up | ScriptState::Bad)
            });
        if !meant {
            return Ok(());
        }
        let record = self.service_mut(cx, &name)?;
        let Some(it) = record.members.get_mut(member) else { return Ok(()) };
        let Some(error) = error else {
            it.script = ScriptState::Up;
            it.failure = None;
            return self.note_service_runs(cx, &name);
        };
        let text = format!("{member} failed on {place}: {error}");
        it.failure = Some(text.clone());
        let passes = tolerance.lets_pass(&mut it.tolerated, at);
        if !passes {
            it.script = ScriptState::Bad;
        }
        let rest = if passes { ", which is tolerated" } else { "" };
        let text = format!("service {name}: {text}{rest}");
        self.emit_service(cx, EventKind::ServiceMemberFailed, &name, Some(node), text);
        Ok(())
    }
}

impl ServiceRecord {
    /// It leaves its owner, and these run there though all is said to be down: they are stopped, once more or for the first
    /// time. One whose stop has come to nothing is the operator's.
    fn still_up(&mut self, members: &[MemberName], place: &str) {
        let scripts = self.spec.scripts().map(|(name, _)| name);
        for name in scripts.filter(|name| members.contains(name)) {
            let Some(it) = self.members.get_mut(name).filter(|it| it.script == ScriptState::Down)
            else {
                continue;
            };
            let (state, text) = match std::mem::replace(&mut it.found_up, true) {
                false => {
                    (ScriptState::Bad, format!("{name} runs on {place}, and was not known to"))
                }
                true => (
                    ScriptState::Stuck,
                    format!(
                        "the stop of {name} on {place} was said to be done, and it may still run"
                    ),
                ),
            };
            (it.script, it.failure) = (state, Some(text));
        }
    }
}

impl Tolerance {
    /// Notes a failed check and says whether it is let pass: so many within the window are.
    fn lets_pass(
        &self,
        failures: &mut Vec<crate::time::Timestamp>,
        at: crate::time::Timestamp,
    ) -> bool {
        if self.max_failures == 0 || self.expire_ms == 0 {
            return false;
        }
        failures.retain(|moment| at.since(*moment) < self.expire_ms);
        failures.push(at);
        failures.len() <= self.max_failures as usize
    }
}
