//! What a VM or service needs to run beside it: RGManager's `depend` and `depend_mode`.
//!
//! Source: RGManager reference, sections 1.1 and 6.1. There an unknown dependency counted as met; here it does not.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterState;
use crate::id::{ServiceName, VmName};
use crate::service::ServiceState;
use crate::vm::VmState;

/// Something that has to be started, wherever it runs, before what depends on it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependency {
    /// On what.
    pub on: Dependee,
    /// For how long.
    pub mode: DependMode,
}

/// What may be depended on; operators write `vm:NAME` or `service:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dependee {
    /// A VM.
    Vm(VmName),
    /// A service: all of it that is wanted is up.
    Service(ServiceName),
}

/// How long a dependency binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub enum DependMode {
    /// As long as it runs: when the dependency is lost it is stopped, and started again on its return.
    #[default]
    Hard,
    /// For the start only.
    Soft,
}

impl DependMode {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Hard, Self::Soft].into_iter().find(|mode| mode.as_str() == text)
    }
}

impl std::fmt::Display for Dependee {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vm(name) => write!(formatter, "vm:{name}"),
            Self::Service(name) => write!(formatter, "service:{name}"),
        }
    }
}

/// What keeps a dependency from being met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// Nothing of that name is managed.
    Unknown,
    /// It is in this state.
    NotStarted(&'static str),
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => write!(formatter, "unknown"),
            Self::NotStarted(state) => write!(formatter, "{state}"),
        }
    }
}

impl ClusterState {
    /// What of a VM's or service's dependencies is not started now, wherever it would be. While it migrates it runs.
    pub fn unmet<'p>(
        &self,
        depend: &'p [Dependency],
    ) -> impl Iterator<Item = (&'p Dependency, Unmet)> {
        depend.iter().filter_map(|dependency| {
            let state = match &dependency.on {
                Dependee::Vm(name) => self.vms.get(name).map(|record| {
                    let runs = matches!(record.state, VmState::Started | VmState::Migrating);
                    (runs, record.state.as_str())
                }),
                Dependee::Service(name) => self.services.get(name).map(|record| {
                    let runs =
                        matches!(record.state, ServiceState::Started | ServiceState::Migrating);
                    (runs, record.state.as_str())
                }),
            };
            match state {
                None => Some((dependency, Unmet::Unknown)),
                Some((true, _)) => None,
                Some((false, state)) => Some((dependency, Unmet::NotStarted(state))),
            }
        })
    }
}

impl ClusterState {
    /// What one that runs has lost of what it needs as long as it runs, given whether it had all of it before. What was
    /// never there while it ran, or is no longer known, stops nothing: editing and forgetting are passive.
    pub fn lost(&self, depend: &[Dependency], met_before: bool) -> Option<String> {
        self.unmet(depend).filter(|_| met_before).find_map(|(it, unmet)| match (it.mode, unmet) {
            (DependMode::Hard, Unmet::NotStarted(state)) => Some(format!(
                "{}, on which it depends, is {state}: it stops until that is started",
                it.on
            )),
            _ => None,
        })
    }

    /// Whether one that runs has all it depends on for the first time since it does.
    pub fn newly_met(&self, depend: &[Dependency], met_before: bool) -> bool {
        !depend.is_empty() && !met_before && self.unmet(depend).next().is_none()
    }

    /// Whether that is among what has to be started before this one is, over any number of steps. A service and its VMs are one
    /// for this.
    pub fn needs(&self, depend: &[Dependency], that: &Dependee) -> bool {
        let mut seen = BTreeSet::new();
        let mut left: Vec<Dependee> = depend.iter().map(|it| it.on.clone()).collect();
        while let Some(on) = left.pop() {
            if on == *that {
                return true;
            }
            if !seen.insert(on.clone()) {
                continue;
            }
            match &on {
                Dependee::Vm(vm) => {
                    left.extend(self.service_of.get(vm).cloned().map(Dependee::Service));
                    let record = self.vms.get(vm);
                    let depend = record.into_iter().flat_map(|it| &it.spec.policy.depend);
                    left.extend(depend.map(|it| it.on.clone()));
                }
                Dependee::Service(service) => {
                    let Some(record) = self.services.get(service) else { continue };
                    left.extend(record.spec.vms().cloned().map(Dependee::Vm));
                    left.extend(record.spec.policy.depend.iter().map(|it| it.on.clone()));
                }
            }
        }
        false
    }

    /// What has to be started before this one is, and is not.
    pub fn waits_for(&self, depend: &[Dependency]) -> Vec<String> {
        self.unmet(depend)
            .map(|(dependency, unmet)| format!("{} is {unmet}", dependency.on))
            .collect()
    }
}

/// A way from `start` back to itself over `next`, each step once named; `None` where there is none.
pub fn cycle<'s, T: Ord + Clone + 's>(
    start: &T,
    next: impl Fn(&T) -> Vec<T> + 's,
) -> Option<Vec<T>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start.clone()]];
    while let Some(way) = ways.pop() {
        let Some(last) = way.last() else { continue };
        for step in next(last) {
            if step == *start {
                return Some(way);
            }
            if seen.insert(step.clone()) {
                let mut longer = way.clone();
                longer.push(step);
                ways.push(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_found_over_any_number_of_steps_and_a_diamond_is_none() {
        let next = |edges: &'static [(u32, u32)]| {
            move |from: &u32| {
                edges.iter().filter(|(start, _)| start == from).map(|(_, end)| *end).collect()
            }
        };
        for (edges, expected) in [
            (&[][..], None),
            (&[(1, 1)][..], Some(vec![1])),
            (&[(1, 2), (2, 1)][..], Some(vec![1, 2])),
            (&[(1, 2), (2, 3), (3, 1)][..], Some(vec![1, 2, 3])),
            (&[(1, 2), (1, 3), (2, 4), (3, 4)][..], None),
            // A cycle elsewhere is not this one's.
            (&[(1, 2), (2, 3), (3, 2)][..], None),
        ] {
            assert_eq!(cycle(&1, next(edges)), expected, "{edges:?}");
        }
    }
}
