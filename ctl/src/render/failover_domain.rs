//! A failover domain as it is printed.

use std::collections::BTreeMap;

use proto::v1;
use serde::Serialize;

/// A failover domain.
#[derive(Debug, Serialize)]
pub struct FailoverDomain {
    name: String,
    nodes: BTreeMap<String, u32>,
    ordered: bool,
    restricted: bool,
    nofailback: bool,
    failback: Failback,
}

#[derive(Debug, Serialize)]
struct Failback {
    delay_ms: u64,
    at_once: u32,
    per_hour: u32,
    window_minutes: Option<[u32; 2]>,
    relocate: bool,
}

impl From<&v1::FailoverDomain> for FailoverDomain {
    fn from(domain: &v1::FailoverDomain) -> Self {
        Self {
            name: domain.name.clone(),
            nodes: domain.nodes.iter().map(|(node, priority)| (node.clone(), *priority)).collect(),
            ordered: domain.ordered,
            restricted: domain.restricted,
            nofailback: domain.nofailback,
            failback: {
                let failback = domain.failback.unwrap_or_default();
                Failback {
                    delay_ms: failback.delay_ms,
                    at_once: failback.at_once,
                    per_hour: failback.per_hour,
                    window_minutes: failback.window.map(|window| [window.from, window.to]),
                    relocate: failback.relocate,
                }
            },
        }
    }
}
