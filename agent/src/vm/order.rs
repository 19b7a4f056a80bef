//! An order as the agent takes it from the wire, checked.

use model::handling::{Checks, DomainSource, START_TIMEOUT_MS};
use model::vm::OnIsolation;
use proto::convert::{self, ConvertError};
use proto::v1;
use uuid::Uuid;

use crate::hypervisor::call::Migration;

/// What is to be done, and under which ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub id: u64,
    /// The ownership it serves.
    pub generation: u64,
    /// Whose it is.
    pub cluster: Uuid,
    /// The VM's name, for messages.
    pub vm: String,
    /// The VM.
    pub uuid: Uuid,
    /// What this node does with it when its lease runs out.
    pub on_isolation: OnIsolation,
    /// What.
    pub kind: Kind,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Create the domain, unless it is there.
    Start(Box<StartOrder>),
    /// Shut it down; destroy it after so long, or at once.
    Stop {
        /// Milliseconds for the guest.
        graceful_ms: Option<u64>,
        /// Its memory is saved there first.
        memory_file: Option<String>,
        /// It is never destroyed.
        ask_only: bool,
    },
    /// Migrate it, or call that off.
    Migrate {
        /// Where and how.
        migration: Box<Migration>,
        /// It is called off.
        cancelled: bool,
    },
    /// Mark it as the cluster's.
    Adopt,
    /// Say whether it is there.
    Probe,
    /// Let a copy that self-fence suspended run on.
    Resume,
}

/// A start, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOrder {
    /// The domain XML, as the log has it.
    pub xml: String,
    /// Where it is read from instead.
    pub source: DomainSource,
    /// Restored from here, if the file is there.
    pub memory_file: Option<String>,
    /// What has to succeed before it is started.
    pub checks: Checks,
    /// Milliseconds within which that has to be.
    pub timeout_ms: u64,
}

impl Kind {
    /// A plain start of this XML.
    pub fn start(xml: impl Into<String>) -> Self {
        Self::Start(Box::new(StartOrder {
            xml: xml.into(),
            source: DomainSource::Stored,
            memory_file: None,
            checks: Checks::default(),
            timeout_ms: START_TIMEOUT_MS,
        }))
    }

    /// A plain stop.
    pub fn stop(graceful_ms: Option<u64>) -> Self {
        Self::Stop { graceful_ms, memory_file: None, ask_only: false }
    }

    /// The word for logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Stop { .. } => "stop",
            Self::Migrate { .. } => "migrate",
            Self::Adopt => "adopt",
            Self::Probe => "probe",
            Self::Resume => "resume",
        }
    }

    /// It brings a guest to life, here or elsewhere: not without a lease.
    pub fn needs_lease(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Resume | Self::Migrate { cancelled: false, .. })
    }
}

/// Reads an order; `None` for a kind that this version does not know, which a newer leader may send.
pub fn read(order: v1::Order, cluster: Uuid) -> Result<Option<Order>, ConvertError> {
    use v1::order::Kind as Wire;
    let Some(kind) = order.kind.clone() else { return Ok(None) };
    let kind = match kind {
        Wire::Start(start) => Kind::Start(Box::new(StartOrder {
            xml: start.xml,
            source: convert::handling::source(start.xml_file, start.xml_path)?,
            memory_file: start.memory_file,
            checks: start.checks.map(convert::agent::checks).transpose()?.unwrap_or_default(),
            // What an older leader does not say.
            timeout_ms: if start.timeout_ms == 0 { START_TIMEOUT_MS } else { start.timeout_ms },
        })),
        Wire::Stop(stop) => Kind::Stop {
            graceful_ms: stop.graceful_ms,
            memory_file: stop.memory_file,
            ask_only: stop.ask_only,
        },
        Wire::Migrate(migrate) => {
            let options = migrate.options.map(convert::handling::migration).transpose()?;
            let migration = Migration {
                uri: migrate.uri,
                data_uri: migrate.data_uri,
                live: migrate.live,
                options: options.unwrap_or_default(),
            };
            Kind::Migrate { migration: Box::new(migration), cancelled: migrate.cancelled }
        }
        Wire::Adopt(_) => Kind::Adopt,
        Wire::Probe(_) => Kind::Probe,
        Wire::Resume(_) => Kind::Resume,
    };
    let on_isolation = match order.on_isolation() {
        // What an older leader does not say is the default of the VM's policy.
        v1::OnIsolation::Unspecified | v1::OnIsolation::Suspend => OnIsolation::Suspend,
        v1::OnIsolation::Destroy => OnIsolation::Destroy,
        v1::OnIsolation::Continue => OnIsolation::Continue,
    };
    let uuid = convert::uuid("uuid", &order.uuid)?;
    Ok(Some(Order {
        id: order.id,
        generation: order.generation,
        cluster,
        vm: order.vm,
        uuid,
        on_isolation,
        kind,
    }))
}
