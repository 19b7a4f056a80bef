//! An order as the agent takes it from the wire, checked.

use model::vm::OnIsolation;
use proto::convert::{self, ConvertError};
use proto::v1;
use uuid::Uuid;

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
    Start {
        /// The domain XML.
        xml: String,
    },
    /// Shut it down; destroy it after so long, or at once.
    Stop {
        /// Milliseconds for the guest.
        graceful_ms: Option<u64>,
    },
    /// Migrate it, or call that off.
    Migrate {
        /// The target's libvirt URI.
        uri: String,
        /// The guest runs on meanwhile.
        live: bool,
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

impl Kind {
    /// The word for logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Migrate { .. } => "migrate",
            Self::Adopt => "adopt",
            Self::Probe => "probe",
            Self::Resume => "resume",
        }
    }

    /// It brings a guest to life, here or elsewhere: not without a lease.
    pub fn needs_lease(&self) -> bool {
        matches!(self, Self::Start { .. } | Self::Resume | Self::Migrate { cancelled: false, .. })
    }
}

/// Reads an order; `None` for a kind that this version does not know, which a newer leader may send.
pub fn read(order: v1::Order, cluster: Uuid) -> Result<Option<Order>, ConvertError> {
    use v1::order::Kind as Wire;
    let Some(kind) = order.kind.clone() else { return Ok(None) };
    let kind = match kind {
        Wire::Start(start) => Kind::Start { xml: start.xml },
        Wire::Stop(stop) => Kind::Stop { graceful_ms: stop.graceful_ms },
        Wire::Migrate(migrate) => {
            Kind::Migrate { uri: migrate.uri, live: migrate.live, cancelled: migrate.cancelled }
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
