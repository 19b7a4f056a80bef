//! A placement rule as it is printed.

use proto::v1;
use serde::Serialize;

/// A placement rule.
#[derive(Debug, Serialize)]
pub struct PlacementRule {
    name: String,
    kind: String,
    vms: Vec<String>,
}

impl From<&v1::PlacementRule> for PlacementRule {
    fn from(rule: &v1::PlacementRule) -> Self {
        let rule = rule.clone();
        Self { name: rule.name, kind: rule.kind, vms: rule.vms }
    }
}
