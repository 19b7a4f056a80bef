//! A VM as its clients see it: a register that is written with compare-and-set on its revision.
//!
//! What is written is unique to each write and changed by clients only. The revision rises with every change of the
//! record; of a steady VM only clients change it, of a live one the leader and the agents do too, and its owner with it.

use crate::linearizability::checker::Model;

/// The register of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    /// Nobody but the clients changes the record.
    pub steady: bool,
}

/// What is known of the register between two operations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The last write.
    pub value: u128,
    /// The record's revision, or what it is at least.
    pub revision: u64,
    /// Whether that is its very revision, and was when the operation was done.
    pub exact: bool,
    /// The owner at just this revision, where a read told.
    pub owner: Option<Option<String>>,
}

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The last write.
    pub value: u128,
    /// The record's revision.
    pub revision: u64,
    /// The node that may run it.
    pub owner: Option<String>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done {
        /// The revision that it made.
        revision: u64,
    },
    /// It was refused, because the revision was another one.
    Superseded,
    /// Nobody answered.
    Unknown,
}

/// One operation with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// The VM was read.
    Read(Read),
    /// The VM was written.
    Write {
        /// What was written.
        value: u128,
        /// Only if the revision was this one.
        expected: Option<u64>,
        /// What became of it.
        outcome: Outcome,
    },
}

impl From<Read> for State {
    fn from(read: Read) -> Self {
        Self { value: read.value, revision: read.revision, exact: true, owner: Some(read.owner) }
    }
}

impl Register {
    /// Whether the revision can be this one now.
    fn can_be_at(self, state: &State, revision: u64) -> bool {
        if self.steady && state.exact {
            state.revision == revision
        } else {
            state.revision <= revision
        }
    }

    fn read(self, state: &State, read: &Read) -> Option<State> {
        let contradicted = read.revision == state.revision
            && state.exact
            && state.owner.as_ref().is_some_and(|owner| *owner != read.owner);
        let fits =
            state.value == read.value && self.can_be_at(state, read.revision) && !contradicted;
        fits.then(|| read.clone().into())
    }
}

impl Model for Register {
    type State = State;
    type Operation = Operation;

    fn step(&self, state: &State, operation: &Operation) -> Option<State> {
        let (value, expected, outcome) = match operation {
            Operation::Read(read) => return self.read(state, read),
            Operation::Write { value, expected, outcome } => (*value, *expected, *outcome),
        };
        let guard_holds = expected.is_none_or(|expected| self.can_be_at(state, expected));
        let before = expected.unwrap_or(0).max(state.revision);
        let written = |revision, exact| Some(State { value, revision, exact, owner: None });
        match outcome {
            Outcome::Done { revision } if guard_holds && revision > before => {
                written(revision, true)
            }
            Outcome::Done { .. } => None,
            // A live VM may have changed by itself in the meantime.
            Outcome::Superseded => {
                let same = self.steady && state.exact && expected == Some(state.revision);
                (expected.is_some() && !same).then(|| state.clone())
            }
            Outcome::Unknown => written(before + 1, false).filter(|_| guard_holds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linearizability::checker::{Timed, Verdict, check};

    const STEADY: Register = Register { steady: true };
    const LIVE: Register = Register { steady: false };

    fn begin() -> State {
        read(0, 10, Some("a")).into()
    }

    fn read(value: u128, revision: u64, owner: Option<&str>) -> Read {
        Read { value, revision, owner: owner.map(Into::into) }
    }

    fn saw(value: u128, revision: u64, owner: &str) -> Operation {
        Operation::Read(read(value, revision, Some(owner)))
    }

    fn wrote(value: u128, expected: u64, revision: u64) -> Operation {
        Operation::Write { value, expected: Some(expected), outcome: Outcome::Done { revision } }
    }

    fn write(value: u128, expected: Option<u64>, outcome: Outcome) -> Operation {
        Operation::Write { value, expected, outcome }
    }

    /// One after the other; an operation without an answer is only called.
    fn holds(register: Register, operations: &[Operation]) -> bool {
        let history: Vec<_> = operations
            .iter()
            .enumerate()
            .map(|(index, operation)| {
                let called = 2 * index as u64;
                let unknown =
                    matches!(operation, Operation::Write { outcome: Outcome::Unknown, .. });
                let answered = (!unknown).then_some(called + 1);
                Timed { called, answered, operation: operation.clone() }
            })
            .collect();
        check(&register, begin(), &history, 100_000) == Verdict::Linearizable
    }

    #[test]
    fn what_may_happen_is_accepted() {
        let stories = [
            vec![wrote(1, 10, 11), saw(1, 11, "a"), write(2, Some(10), Outcome::Superseded)],
            vec![write(1, Some(10), Outcome::Unknown), saw(0, 10, "a"), saw(1, 15, "a")],
            vec![write(1, Some(10), Outcome::Unknown), wrote(2, 10, 12), saw(2, 12, "a")],
            vec![write(1, None, Outcome::Unknown), write(2, Some(10), Outcome::Superseded)],
            vec![write(1, None, Outcome::Done { revision: 30 }), saw(1, 30, "a")],
        ];
        for register in [STEADY, LIVE] {
            for story in &stories {
                assert!(holds(register, story), "{register:?} {story:?}");
            }
        }
        assert!(holds(
            LIVE,
            &[saw(0, 12, "b"), wrote(1, 14, 15), saw(1, 15, "c"), saw(1, 16, "d")]
        ));
        assert!(holds(LIVE, &[write(1, Some(10), Outcome::Superseded)]));
    }

    #[test]
    fn what_must_not_happen_is_found() {
        let stories = [
            ("a stale read", vec![wrote(1, 10, 11), saw(0, 10, "a")]),
            ("a lost update", vec![wrote(1, 10, 11), saw(0, 12, "a")]),
            ("a lost update under another", vec![wrote(1, 10, 11), wrote(2, 10, 12)]),
            ("a write that comes back", vec![wrote(1, 10, 11), wrote(2, 11, 12), saw(1, 13, "a")]),
            ("a read that goes back", vec![saw(0, 14, "a"), saw(0, 13, "a")]),
            ("a value from nowhere", vec![saw(7, 11, "a")]),
            ("two owners of one revision", vec![saw(0, 12, "a"), saw(0, 12, "b")]),
            ("a write that made no revision", vec![wrote(1, 10, 10)]),
            (
                "an unanswered write that was seen and is gone",
                vec![write(1, Some(10), Outcome::Unknown), saw(1, 11, "a"), saw(0, 12, "a")],
            ),
            (
                "an unanswered write that was done against its guard",
                vec![wrote(1, 10, 11), write(2, Some(10), Outcome::Unknown), saw(2, 12, "a")],
            ),
        ];
        for register in [STEADY, LIVE] {
            for (what, story) in &stories {
                assert!(!holds(register, story), "{register:?}: {what}");
            }
        }
    }

    #[test]
    fn a_steady_vm_changes_by_its_clients_only() {
        assert!(!holds(STEADY, &[saw(0, 12, "a")]), "it rose by itself");
        assert!(!holds(STEADY, &[write(1, Some(10), Outcome::Superseded)]), "refused for nothing");
        assert!(!holds(STEADY, &[wrote(1, 9, 11)]), "done against its guard");
        assert!(!holds(STEADY, &[wrote(1, 12, 13)]), "done on a revision that never was");
    }
}
