//! All that `status` shows, as it is printed.

use proto::v1;
use serde::Serialize;

use super::{FailoverDomain, Node, PlacementRule, Replica, Service, Vm, time};

/// All that `status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    cluster: String,
    epoch: u64,
    revision: u64,
    leader: Option<u64>,
    term: u64,
    replicas: Vec<Replica>,
    nodes: Vec<Node>,
    vms: Vec<Vm>,
    services: Vec<Service>,
    failover_domains: Vec<FailoverDomain>,
    placement_rules: Vec<PlacementRule>,
    pause: Option<Pause>,
    lock: Option<Lock>,
    mass_loss: Option<String>,
    mass_loss_nodes: Vec<String>,
    unguarded: Vec<String>,
    stale: bool,
}

#[derive(Debug, Serialize)]
struct Pause {
    mode: String,
    by: String,
    why: String,
    since: String,
}

#[derive(Debug, Serialize)]
struct Lock {
    by: String,
    why: String,
    since: String,
}

impl From<&v1::Status> for Status {
    fn from(status: &v1::Status) -> Self {
        Self {
            cluster: status.cluster.clone(),
            epoch: status.epoch,
            revision: status.revision,
            leader: status.leader,
            term: status.term,
            replicas: status.replicas.iter().map(Replica::from).collect(),
            nodes: status.nodes.iter().map(Node::from).collect(),
            vms: status.vms.iter().map(Vm::from).collect(),
            services: status.services.iter().map(Service::from).collect(),
            failover_domains: status.failover_domains.iter().map(FailoverDomain::from).collect(),
            mass_loss: status.mass_loss.clone(),
            mass_loss_nodes: status.mass_loss_nodes.clone(),
            unguarded: status.unguarded.clone(),
            stale: status.stale,
            lock: status.lock.as_ref().map(|lock| Lock {
                by: lock.by.clone(),
                why: lock.why.clone(),
                since: time(lock.since_ms),
            }),
            placement_rules: status.placement_rules.iter().map(PlacementRule::from).collect(),
            pause: status.pause.clone().map(|pause| Pause {
                mode: pause.mode,
                by: pause.by,
                why: pause.why,
                since: time(pause.at_ms),
            }),
        }
    }
}
