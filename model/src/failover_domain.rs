//! Failover domains: which nodes a VM may run on, and which it prefers.
//!
//! Source: RGManager reference, section 2. Priorities count only in an ordered domain, 1 is the best.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{FailoverDomainName, NodeName};

/// A set of nodes with rules, as RGManager's `<failoverdomain>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverDomain {
    /// Its name.
    pub name: FailoverDomainName,
    /// Members with their priorities, 1 (best) to 100.
    pub nodes: BTreeMap<NodeName, u8>,
    /// Priorities count.
    pub ordered: bool,
    /// VMs may run on members only.
    pub restricted: bool,
    /// A VM stays where it is when a better member returns.
    pub nofailback: bool,
    /// How VMs come back to a better node.
    pub failback: Failback,
}

/// How VMs come back to a better node of their failover domain: at once and without limits unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failback {
    /// How long the better node has to be online before, in milliseconds.
    pub delay_ms: u64,
    /// VMs of this domain on their way at a time; 0 = no limit.
    pub at_once: u32,
    /// VMs of this domain that come back within an hour; 0 = no limit.
    pub per_hour: u32,
    /// Only at this time of the day.
    pub window: Option<Window>,
    /// A VM that cannot be migrated is stopped and started there; otherwise it stays.
    pub relocate: bool,
}

/// A time of the day, in UTC. Over midnight where it ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Minutes since midnight, 0 to 1439.
    pub from: u16,
    /// Minutes since midnight, 0 to 1439, no longer in it.
    pub to: u16,
}

/// How a node stands in a domain; smaller is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A member; in an ordered domain with its priority, else 0.
    Member(u8),
    /// Not a member of a domain that is not restricted.
    Outside,
}

impl FailoverDomain {
    /// How `node` stands, or `None` where the domain is restricted and the node is not in it.
    pub fn rank(&self, node: &NodeName) -> Option<Rank> {
        match self.nodes.get(node) {
            Some(priority) if self.ordered => Some(Rank::Member(*priority)),
            Some(_) => Some(Rank::Member(0)),
            None if self.restricted => None,
            None => Some(Rank::Outside),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_ranks_by_priority_only_where_the_domain_is_ordered() {
        let name = |text: &str| NodeName::new(text).unwrap();
        let mut domain = FailoverDomain {
            name: FailoverDomainName::new("d").unwrap(),
            nodes: BTreeMap::from([(name("a"), 1), (name("b"), 2)]),
            ordered: true,
            restricted: false,
            nofailback: false,
            failback: Failback::default(),
        };
        assert!(domain.rank(&name("a")) < domain.rank(&name("b")));
        assert_eq!(domain.rank(&name("c")), Some(Rank::Outside));
        domain.ordered = false;
        assert_eq!(domain.rank(&name("a")), domain.rank(&name("b")));
        domain.restricted = true;
        assert_eq!(domain.rank(&name("c")), None);
    }
}
