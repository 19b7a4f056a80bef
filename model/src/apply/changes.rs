//! Several changes at once: all of them or nothing.

use std::sync::Arc;

use uuid::Uuid;

use crate::apply::disks::DiskUsers;
use crate::cluster::{ClusterState, Context, StagedChanges};
use crate::command::Operation;
use crate::rejection::Rejection;

/// Of changes kept for later; at 100 KiB each, 100 MiB.
const MAX_PARTS: usize = 1_000;

impl ClusterState {
    /// Keeps changes for later. Part 0 drops what was kept of another batch: whoever staged it begins again.
    pub(super) fn stage_changes(
        &mut self,
        batch: Uuid,
        part: u32,
        changes: &[Operation],
    ) -> Result<(), Rejection> {
        let mut parts = match &self.staged {
            _ if part == 0 => Vec::new(),
            Some(staged) if staged.batch == batch => staged.parts.clone(),
            Some(_) | None => return Err(another_batch()),
        };
        if parts.len() != part as usize || parts.len() >= MAX_PARTS {
            return Err(Rejection::OutOfRange {
                what: "the number of a part of the changes".into(),
                value: part.to_string(),
                range: format!("{} and below {MAX_PARTS}", parts.len()),
            });
        }
        parts.push(Arc::new(changes.to_vec()));
        self.staged = Some(Arc::new(StagedChanges { batch, parts }));
        Ok(())
    }

    /// Makes all the changes, or none.
    pub(super) fn apply_changes(
        &mut self,
        cx: &mut Context,
        batch: Uuid,
        parts: u32,
        based_on: u64,
        changes: &[Operation],
    ) -> Result<(), Rejection> {
        if self.configuration != based_on {
            return Err(Rejection::ConfigurationChanged { based_on, now: self.configuration });
        }
        let staged = match (&self.staged, parts) {
            (_, 0) => None,
            (Some(staged), parts)
                if staged.batch == batch && staged.parts.len() == parts as usize =>
            {
                Some(staged.clone())
            }
            _ => return Err(another_batch()),
        };
        // The maps share their structure, so that a copy to be thrown away costs little.
        let mut next = self.clone();
        next.staged = None;
        let staged =
            staged.iter().flat_map(|staged| staged.parts.iter().flat_map(|part| part.iter()));
        let changes: Vec<&Operation> = staged.chain(changes).collect();
        cx.together = true;
        let made = next.make_all(cx, &changes);
        cx.together = false;
        made?;
        next.must_hold_together(self, &changes)?;
        *self = next;
        Ok(())
    }

    fn make_all(&mut self, cx: &mut Context, changes: &[&Operation]) -> Result<(), Rejection> {
        changes.iter().try_for_each(|change| {
            self.apply_one(cx, change).map_err(|why| one_of_many(change, why))
        })
    }

    /// What each change alone would be checked against all VMs and rules for: once for all of them, or thousands of VMs
    /// would hold up every replica for seconds. Only the end counts, so that two VMs may change their disks.
    fn must_hold_together(&self, before: &Self, changes: &[&Operation]) -> Result<(), Rejection> {
        let users = DiskUsers::all(self);
        for change in changes {
            self.made_must_not_wait_for_itself(change).map_err(|why| one_of_many(change, why))?;
            let Some(record) = change.defined_vm().and_then(|name| self.vms.get(name)) else {
                continue;
            };
            users.must_be_free(&record.spec).map_err(|why| one_of_many(change, why))?;
        }
        self.must_not_clash_anew(before)
    }

    fn apply_one(&mut self, cx: &mut Context, change: &Operation) -> Result<(), Rejection> {
        if !change.may_be_applied_with_others() {
            return Err(Rejection::OutOfRange {
                what: "a change that is made together with others".into(),
                value: change.subject(),
                range: "a definition of something, or `enable`".into(),
            });
        }
        self.operate(cx, change).map(|_| ())
    }
}

fn one_of_many(change: &Operation, why: Rejection) -> Rejection {
    Rejection::OneOfMany { change: change.subject(), why: Box::new(why) }
}

fn another_batch() -> Rejection {
    Rejection::Superseded { what: "what was staged of these changes".into() }
}
