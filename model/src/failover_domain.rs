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
        };
        assert!(domain.rank(&name("a")) < domain.rank(&name("b")));
        assert_eq!(domain.rank(&name("c")), Some(Rank::Outside));
        domain.ordered = false;
        assert_eq!(domain.rank(&name("a")), domain.rank(&name("b")));
        domain.restricted = true;
        assert_eq!(domain.rank(&name("c")), None);
    }
}
