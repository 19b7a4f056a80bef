//! What an operator asked for: the domain, and how to treat it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Migratable, VmPolicy};
use crate::domain_xml::{Disk, HostTie, KeepsFrom};
use crate::id::VmName;

/// What the operator asked for: the domain and how to treat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The domain's `<name>`.
    pub name: VmName,
    /// The domain's `<uuid>`.
    pub uuid: Uuid,
    /// The domain XML as it was given, plus the UUID where it had none.
    pub xml: Arc<str>,
    /// The domain's `<memory>`, rounded up.
    pub memory_mib: u64,
    /// The domain's `<vcpu>`.
    pub vcpus: u32,
    /// The domain's disks and other block sources.
    pub disks: Vec<Disk>,
    /// What ties the domain to the host it runs on.
    pub host_ties: Vec<HostTie>,
    /// How to treat it.
    pub policy: VmPolicy,
}

impl VmSpec {
    /// Why it cannot be migrated, as a sentence without its stop; `None` where it can.
    pub fn cannot_migrate(&self) -> Option<String> {
        let ties: Vec<_> = self
            .host_ties
            .iter()
            .filter(|tie| tie.keeps_from == KeepsFrom::Migrating)
            .map(|tie| tie.what.as_str())
            .collect();
        match self.policy.migratable {
            Migratable::Yes => None,
            Migratable::No => Some("it is set not to be migrated (`--migratable no`)".into()),
            Migratable::Auto if ties.is_empty() => None,
            Migratable::Auto => Some(format!("it has {}", ties.join(", and "))),
        }
    }
}
