//! Failover domains: which nodes a VM may run on, and which it prefers.
//!
//! Source: RGManager reference, section 2. Priorities count only in an ordered domain, 1 is the best.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{FailoverDomainName, NodeName};
use crate::time::Timestamp;

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

/// What a node is worth for a VM at this moment; greater is better. RGManager's scores, by its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The VM may not run there.
    Illegal,
    /// It may, and a member of the domain would be better.
    Good,
    /// A member, and another one is preferred.
    Better,
    /// As good as any.
    Best,
}

impl FailoverDomain {
    /// What `node` is worth: the decision table of RGManager's `node_should_start`. `online` are the nodes that are there,
    /// `owner` the one of them on which the VM runs, if it does.
    ///
    /// A VM comes back to a node that is worth more than its owner. So it always moves into its domain when a member
    /// appears, also with `nofailback`, and never moves between members of equal priority.
    pub fn standing(
        &self,
        node: &NodeName,
        online: &BTreeSet<NodeName>,
        owner: Option<&NodeName>,
    ) -> Standing {
        if !online.contains(node) {
            return Standing::Illegal;
        }
        let members = || self.nodes.iter().filter(|(member, _)| online.contains(*member));
        let Some(priority) = self.nodes.get(node) else {
            return match (self.restricted, members().next()) {
                (true, _) => Standing::Illegal,
                (false, None) => Standing::Best,
                (false, Some(_)) => Standing::Good,
            };
        };
        let preferred =
            !self.ordered || members().map(|(_, priority)| priority).min() == Some(priority);
        let owner = owner.filter(|owner| online.contains(*owner));
        match (preferred, self.nofailback, owner) {
            (true, true, Some(owner)) if owner != node => Standing::Better,
            (true, ..) => Standing::Best,
            (false, true, Some(owner)) if owner == node => Standing::Best,
            (false, ..) => Standing::Better,
        }
    }

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

impl Window {
    /// Milliseconds from `now` until it is open; 0 while it is. One that ends where it begins is always open.
    pub fn opens_in_ms(self, now: Timestamp) -> u64 {
        const DAY_MS: u64 = 86_400_000;
        let (from, to) = (u64::from(self.from) * 60_000, u64::from(self.to) * 60_000);
        let of_day = now.0 % DAY_MS;
        let since_from = (of_day + DAY_MS - from) % DAY_MS;
        let length = if from == to { DAY_MS } else { (to + DAY_MS - from) % DAY_MS };
        if since_from < length { 0 } else { DAY_MS - since_from }
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

    fn names(text: &str) -> BTreeSet<NodeName> {
        text.split_whitespace().map(|name| NodeName::new(name).unwrap()).collect()
    }

    /// Section 2 of the reference, row by row. Members are a:1, b:2 and c:2; x is none.
    #[test]
    fn every_row_of_rgmanagers_decision_table_holds() {
        use Standing::{Best, Better, Good, Illegal};
        const PLAIN: (bool, bool, bool) = (false, false, false);
        const ORDERED: (bool, bool, bool) = (true, false, false);
        const RESTRICTED: (bool, bool, bool) = (false, true, false);
        const NOFAILBACK: (bool, bool, bool) = (false, false, true);
        const ORDERED_NOFAILBACK: (bool, bool, bool) = (true, false, true);
        for (row, (ordered, restricted, nofailback), node, online, owner, expected) in [
            ("node offline", PLAIN, "a", "b x", "", Illegal),
            ("node offline, restricted", RESTRICTED, "a", "b", "", Illegal),
            ("not a member, no member online: unrestricted", PLAIN, "x", "x", "", Best),
            ("not a member, no member online: restricted", RESTRICTED, "x", "x", "", Illegal),
            ("not a member, some member online: unrestricted", PLAIN, "x", "b x", "", Good),
            ("not a member, some member online: restricted", RESTRICTED, "x", "b x", "", Illegal),
            ("not a member, though it is the owner", NOFAILBACK, "x", "b x", "x", Good),
            ("member of an unordered domain", PLAIN, "b", "a b", "", Best),
            ("member of an unordered domain, another is the owner", PLAIN, "b", "a b", "a", Best),
            ("lower class online, ordered", ORDERED, "b", "a b", "", Better),
            ("lower class online, ordered, it is the owner", ORDERED, "b", "a b", "b", Better),
            ("the same with nofailback", ORDERED_NOFAILBACK, "b", "a b", "b", Best),
            ("nofailback, and another is the owner", ORDERED_NOFAILBACK, "b", "a b c", "c", Better),
            ("lowest class", ORDERED, "a", "a b", "", Best),
            ("lowest class that is online", ORDERED, "b", "b c", "", Best),
            ("ties are all best", ORDERED, "c", "b c", "b", Best),
            (
                "lowest class, nofailback, started elsewhere",
                ORDERED_NOFAILBACK,
                "a",
                "a b",
                "b",
                Better,
            ),
            (
                "lowest class, nofailback, it is the owner",
                ORDERED_NOFAILBACK,
                "a",
                "a b",
                "a",
                Best,
            ),
            (
                "lowest class, nofailback, the owner is offline",
                ORDERED_NOFAILBACK,
                "a",
                "a",
                "b",
                Best,
            ),
            (
                "nofailback, the owner is no member: it moves in",
                NOFAILBACK,
                "a",
                "a x",
                "x",
                Better,
            ),
        ] {
            let domain = FailoverDomain {
                name: FailoverDomainName::new("d").unwrap(),
                nodes: [("a", 1), ("b", 2), ("c", 2)]
                    .map(|(name, priority)| (NodeName::new(name).unwrap(), priority))
                    .into(),
                ordered,
                restricted,
                nofailback,
                failback: Failback::default(),
            };
            let node = NodeName::new(node).unwrap();
            let owner = names(owner).pop_first();
            let standing = domain.standing(&node, &names(online), owner.as_ref());
            assert_eq!(standing, expected, "{row}");
        }
    }

    #[test]
    fn a_window_opens_once_a_day_also_over_midnight() {
        let at = |hour: u64, minute: u64| Timestamp((3 * 24 * 60 + hour * 60 + minute) * 60_000);
        let hours = |from: u16, to: u16| Window { from: from * 60, to: to * 60 };
        for (window, now, opens_in_minutes) in [
            (hours(2, 4), at(2, 0), 0),
            (hours(2, 4), at(3, 59), 0),
            (hours(2, 4), at(4, 0), 22 * 60),
            (hours(2, 4), at(1, 30), 30),
            (hours(22, 4), at(23, 0), 0),
            (hours(22, 4), at(3, 0), 0),
            (hours(22, 4), at(12, 0), 10 * 60),
            (hours(5, 5), at(12, 0), 0),
        ] {
            assert_eq!(window.opens_in_ms(now), opens_in_minutes * 60_000, "{window:?} at {now:?}");
        }
    }
}
