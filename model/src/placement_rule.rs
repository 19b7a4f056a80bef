//! Placement rules: VMs that are to be on one node, and VMs that are never to be.
//!
//! A rule may name VMs that are not managed: it holds for them as soon as they are. Rules over nodes are failover domains.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterState;
use crate::id::{PlacementRuleName, VmName};
use crate::service::ServiceSpec;

/// What a rule says of its VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacementRuleKind {
    /// All on one node.
    Together,
    /// No two on one node.
    Apart,
}

impl PlacementRuleKind {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::Apart => "apart",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Together, Self::Apart].into_iter().find(|it| it.as_str() == text)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRule {
    /// Its name.
    pub name: PlacementRuleName,
    /// What it says.
    pub kind: PlacementRuleKind,
    /// Of whom; two or more.
    pub vms: BTreeSet<VmName>,
}

/// Two things that cannot both hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesClash {
    /// As a sentence without its stop.
    pub why: String,
}

/// All rules together, as placement needs them: what is in no rule is not in here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleIndex {
    /// Sets of VMs that are to be on one node, rules that share a VM taken together; in the order of their first names.
    groups: Vec<BTreeSet<VmName>>,
    group_of: BTreeMap<VmName, usize>,
    /// VMs that may not be where this one is, with the rule that says so.
    apart: BTreeMap<VmName, BTreeMap<VmName, PlacementRuleName>>,
}

impl RuleIndex {
    /// Over all rules.
    pub fn of<'r>(rules: impl IntoIterator<Item = &'r PlacementRule>) -> Self {
        let mut index = Self::default();
        for rule in rules {
            match rule.kind {
                PlacementRuleKind::Together => index.join(&rule.vms),
                PlacementRuleKind::Apart => index.part(rule),
            }
        }
        index.groups.retain(|group| !group.is_empty());
        index.groups.sort();
        for (number, group) in index.groups.iter().enumerate() {
            index.group_of.extend(group.iter().map(|vm| (vm.clone(), number)));
        }
        index
    }

    fn join(&mut self, vms: &BTreeSet<VmName>) {
        let mut joined = vms.clone();
        for group in self.groups.iter_mut().filter(|group| !group.is_disjoint(vms)) {
            joined.append(group);
        }
        self.groups.push(joined);
    }

    fn part(&mut self, rule: &PlacementRule) {
        for vm in &rule.vms {
            let others = rule.vms.iter().filter(|other| *other != vm);
            let known = self.apart.entry(vm.clone()).or_default();
            known.extend(others.map(|other| (other.clone(), rule.name.clone())));
        }
    }

    /// Nothing is ruled.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.apart.is_empty()
    }

    /// Some rule names the VM.
    pub fn names(&self, vm: &VmName) -> bool {
        self.group_of.contains_key(vm) || self.apart.contains_key(vm)
    }

    /// The VMs that are to be where this one is, itself among them; `None` where no rule says so.
    pub fn group(&self, vm: &VmName) -> Option<&BTreeSet<VmName>> {
        self.group_of.get(vm).and_then(|number| self.groups.get(*number))
    }

    /// The VMs that may not be where this one is, for its own sake or for that of one that is to be with it; with the rule.
    pub fn foes(&self, vm: &VmName) -> BTreeMap<&VmName, &PlacementRuleName> {
        let alone = BTreeSet::from([vm.clone()]);
        let group = self.group(vm).unwrap_or(&alone);
        group.iter().filter_map(|it| self.apart.get(it)).flatten().collect()
    }

    /// Two VMs that are to be together and apart.
    fn contradiction(&self) -> Option<RulesClash> {
        self.groups.iter().find_map(|group| {
            group.iter().find_map(|vm| {
                let (other, rule) =
                    self.apart.get(vm)?.iter().find(|(it, _)| group.contains(it))?;
                Some(RulesClash {
                    why: format!(
                        "{vm} and {other} are kept together by other rules or by their service, and apart by {rule}"
                    ),
                })
            })
        })
    }
}

impl ClusterState {
    /// The rules as placement needs them.
    pub fn rule_index(&self) -> RuleIndex {
        RuleIndex::of(self.placement_rules.values().map(AsRef::as_ref))
    }

    /// The first thing in the rules and restricted failover domains that can never hold, if there is one.
    pub fn rules_clash(&self) -> Option<RulesClash> {
        // Whatever is in one service is on one node.
        let services: Vec<_> = self.services.values().filter_map(|it| as_rule(&it.spec)).collect();
        let rules = self.placement_rules.values().map(AsRef::as_ref);
        let index = RuleIndex::of(rules.chain(&services));
        index
            .contradiction()
            .or_else(|| index.groups.iter().find_map(|group| self.without_a_node(group)))
            .or_else(|| self.placement_rules.values().find_map(|rule| self.too_few_nodes(rule)))
    }

    /// The members of the VM's restricted failover domain.
    fn restricted_to(&self, vm: &VmName) -> Option<(&VmName, BTreeSet<String>)> {
        let (name, record) = self.vms.get_key_value(vm)?;
        let domain = self.failover_domains.get(record.spec.policy.failover_domain.as_ref()?)?;
        let nodes = domain.nodes.keys().map(ToString::to_string).collect();
        domain.restricted.then_some((name, nodes))
    }

    fn without_a_node(&self, group: &BTreeSet<VmName>) -> Option<RulesClash> {
        let mut common: Option<(&VmName, BTreeSet<String>)> = None;
        for (vm, nodes) in group.iter().filter_map(|vm| self.restricted_to(vm)) {
            let Some((first, left)) = &mut common else {
                common = Some((vm, nodes));
                continue;
            };
            left.retain(|node| nodes.contains(node));
            if left.is_empty() {
                return Some(RulesClash {
                    why: format!(
                        "{first} and {vm} are kept together, and their restricted failover domains share no node"
                    ),
                });
            }
        }
        None
    }

    fn too_few_nodes(&self, rule: &PlacementRule) -> Option<RulesClash> {
        if rule.kind != PlacementRuleKind::Apart {
            return None;
        }
        let restricted: Vec<_> = rule.vms.iter().filter_map(|vm| self.restricted_to(vm)).collect();
        let nodes: BTreeSet<&String> = restricted.iter().flat_map(|(_, nodes)| nodes).collect();
        (restricted.len() > nodes.len()).then(|| RulesClash {
            why: format!(
                "{} VMs of rule {} are kept apart, and their restricted failover domains have {} nodes between them",
                restricted.len(),
                rule.name,
                nodes.len()
            ),
        })
    }
}

/// A service of two VMs or more says of them what a rule would.
fn as_rule(spec: &ServiceSpec) -> Option<PlacementRule> {
    let vms: BTreeSet<VmName> = spec.vms().cloned().collect();
    let name = PlacementRuleName::new(spec.name.as_str()).ok()?;
    (vms.len() > 1).then_some(PlacementRule { name, kind: PlacementRuleKind::Together, vms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, kind: PlacementRuleKind, vms: &[&str]) -> PlacementRule {
        PlacementRule {
            name: PlacementRuleName::new(name).unwrap(),
            kind,
            vms: vms.iter().map(|vm| VmName::new(vm).unwrap()).collect(),
        }
    }

    #[test]
    fn rules_that_share_a_vm_make_one_group_and_its_foes_are_everybodys() {
        let rules = [
            rule("a", PlacementRuleKind::Together, &["1", "2"]),
            rule("b", PlacementRuleKind::Together, &["3", "4"]),
            rule("c", PlacementRuleKind::Together, &["2", "3"]),
            rule("d", PlacementRuleKind::Apart, &["4", "5"]),
        ];
        let index = RuleIndex::of(&rules);
        let vm = |name: &str| VmName::new(name).unwrap();
        assert_eq!(index.group(&vm("1")).unwrap().len(), 4);
        assert_eq!(index.foes(&vm("1")).into_keys().collect::<Vec<_>>(), [&vm("5")]);
        assert_eq!(index.foes(&vm("5")).into_keys().collect::<Vec<_>>(), [&vm("4")]);
        assert_eq!(index.contradiction(), None);
        assert!(index.names(&vm("5")) && !index.names(&vm("6")));
    }

    #[test]
    fn two_vms_cannot_be_together_and_apart_by_whatever_detour() {
        let rules = [
            rule("a", PlacementRuleKind::Together, &["1", "2"]),
            rule("b", PlacementRuleKind::Together, &["2", "3"]),
            rule("c", PlacementRuleKind::Apart, &["1", "3"]),
        ];
        let clash = RuleIndex::of(&rules).contradiction().unwrap();
        assert_eq!(
            clash.why,
            "1 and 3 are kept together by other rules or by their service, and apart by c"
        );
    }
}
