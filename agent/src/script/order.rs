//! Orders about scripts as the agent takes them from the wire, checked.

use model::service::Script;
use proto::convert::{self, ConvertError, service};
use proto::v1;
use uuid::Uuid;

/// One order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptOrder {
    /// Its number.
    pub id: u64,
    /// The service's id.
    pub service: Uuid,
    /// The service's name.
    pub name: String,
    /// What.
    pub kind: Kind,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Start it.
    Start(Named),
    /// Stop it.
    Stop(Named),
    /// Say whether any of them runs.
    Probe(Vec<Named>),
}

/// A script with its member's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The member.
    pub member: String,
    /// Its script.
    pub script: Script,
}

/// A script that is up here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The service's id.
    pub service: Uuid,
    /// The service's name.
    pub name: String,
    /// The member and its script.
    pub named: Named,
    /// The order that started it.
    pub started_by: u64,
}

/// Reads an order; `None` for a kind that this version does not know.
pub fn read(order: v1::ScriptOrder) -> Result<Option<ScriptOrder>, ConvertError> {
    use v1::script_order::Kind as Wire;
    let kind = match order.kind {
        None => return Ok(None),
        Some(Wire::Start(it)) => Kind::Start(named(it)?),
        Some(Wire::Stop(it)) => Kind::Stop(named(it)?),
        Some(Wire::Probe(it)) => {
            Kind::Probe(it.scripts.into_iter().map(named).collect::<Result<_, _>>()?)
        }
    };
    let service = convert::uuid("service_id", &order.service_id)?;
    Ok(Some(ScriptOrder { id: order.id, service, name: order.service, kind }))
}

/// Reads what is to be checked.
pub fn read_watched(watched: v1::WatchedScript) -> Result<Watched, ConvertError> {
    Ok(Watched {
        service: convert::uuid("service_id", &watched.service_id)?,
        name: watched.service,
        named: named(v1::NamedScript { member: watched.member, script: watched.script })?,
        started_by: watched.started_by,
    })
}

fn named(named: v1::NamedScript) -> Result<Named, ConvertError> {
    let script = service::script(named.script.unwrap_or_default())?;
    Ok(Named { member: named.member, script })
}
