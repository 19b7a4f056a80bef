//! Which disks belong to whom: two VMs that write one disk destroy it.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ClusterState;
use crate::domain_xml::Disk;
use crate::id::VmName;
use crate::rejection::Rejection;
use crate::vm::VmSpec;

/// Disks by their sources, with the VMs that have them.
pub(super) struct DiskUsers<'s> {
    by_source: BTreeMap<&'s str, Vec<(&'s VmName, &'s Disk)>>,
}

impl<'s> DiskUsers<'s> {
    /// All disks of all VMs.
    pub(super) fn all(state: &'s ClusterState) -> Self {
        Self::of(state, |_| true)
    }

    /// Those that matter to one VM.
    pub(super) fn for_one(state: &'s ClusterState, spec: &VmSpec) -> Self {
        let sources: BTreeSet<&str> = spec.disks.iter().map(|disk| disk.source.as_str()).collect();
        Self::of(state, |source| sources.contains(source))
    }

    fn of(state: &'s ClusterState, matters: impl Fn(&str) -> bool) -> Self {
        let mut by_source: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for record in state.vms.values() {
            for disk in record.spec.disks.iter().filter(|disk| matters(&disk.source)) {
                by_source.entry(&disk.source).or_default().push((&record.spec.name, disk));
            }
        }
        Self { by_source }
    }

    /// Refuses a VM one of whose disks is another's, unless both share it or both only read it, or one only reads what the
    /// other shares: the same from both sides, so that it does not matter who came first.
    pub(super) fn must_be_free(&self, spec: &VmSpec) -> Result<(), Rejection> {
        for disk in &spec.disks {
            let users = self.by_source.get(disk.source.as_str());
            let mut others = users.into_iter().flatten().filter(|(vm, _)| **vm != spec.name);
            let harmless = |theirs: &Disk| {
                let gives_way = |it: &Disk| it.readonly || it.shareable;
                gives_way(theirs) && gives_way(disk)
            };
            if let Some((holder, _)) = others.find(|(_, theirs)| !harmless(theirs)) {
                return Err(Rejection::DiskTaken {
                    disk: disk.source.clone(),
                    holder: holder.to_string(),
                });
            }
        }
        Ok(())
    }
}
