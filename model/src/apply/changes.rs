//! Several changes at once: all of them or nothing.

use std::sync::Arc;

use uuid::Uuid;

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
        for change in staged.chain(changes) {
            next.apply_one(cx, change).map_err(|why| Rejection::OneOfMany {
                change: change.subject(),
                why: Box::new(why),
            })?;
        }
        *self = next;
        Ok(())
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

fn another_batch() -> Rejection {
    Rejection::Superseded { what: "what was staged of these changes".into() }
}
