//! What the pure parts of the agent ask of the hypervisor, and what it answers: calls as data.

use std::time::Duration;

use uuid::Uuid;

use super::mark::Mark;
use super::{DomainFacts, Hypervisor, JobStats, Result};

/// One call about one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// What is seen of it.
    Look,
    /// Create the domain.
    Create {
        /// Its XML, the mark in it.
        xml: String,
    },
    /// Ask the guest to shut down.
    Shutdown,
    /// End the domain.
    Destroy,
    /// Stop its vCPUs and let its writes drain.
    Suspend,
    /// Let its vCPUs run.
    Resume,
    /// Kill its QEMU process without libvirt's help, and wait until it is gone.
    Kill,
    /// Migrate it.
    Migrate {
        /// The target's libvirt URI.
        uri: String,
        /// The guest runs on meanwhile.
        live: bool,
    },
    /// Call off its migration.
    AbortJob,
    /// How far its migration is.
    Job,
    /// Mark it as the cluster's.
    Mark(Mark),
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// What is seen: `None` for a sure "not here".
    Seen(Option<DomainFacts>),
    /// How far it is; `None` when nothing is under way.
    Job(Option<JobStats>),
}

/// libvirt answers in milliseconds, or it hangs.
const LIMIT: Duration = Duration::from_secs(5);
/// libvirt itself sends SIGTERM, and SIGKILL ten seconds later.
const DESTROY_LIMIT: Duration = Duration::from_secs(15);

impl Call {
    /// How long it may take; `None` for what brings a guest to life, here or elsewhere: after a time-out nobody could say
    /// any more whether the guest will come.
    pub fn limit(&self) -> Option<Duration> {
        match self {
            Self::Create { .. } | Self::Migrate { .. } => None,
            Self::Destroy => Some(DESTROY_LIMIT),
            Self::Look
            | Self::Shutdown
            | Self::Suspend
            | Self::Resume
            | Self::Kill
            | Self::AbortJob
            | Self::Job
            | Self::Mark(_) => Some(LIMIT),
        }
    }

    /// For messages: "libvirt did not … within".
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Look => "look at a domain",
            Self::Create { .. } => "create a domain",
            Self::Shutdown => "shut a guest down",
            Self::Destroy => "destroy a domain",
            Self::Suspend => "suspend a domain",
            Self::Resume => "resume a domain",
            Self::Kill => "kill a QEMU",
            Self::Migrate { .. } => "migrate a domain",
            Self::AbortJob => "abort a migration",
            Self::Job => "ask for a job",
            Self::Mark(_) => "mark a domain",
        }
    }

    /// Makes the call; blocks.
    pub fn make(&self, uuid: Uuid, hypervisor: &dyn Hypervisor) -> Result<Answer> {
        let done = |result: Result<()>| result.map(|()| Answer::Done);
        match self {
            Self::Look => hypervisor.look(uuid).map(Answer::Seen),
            Self::Create { xml } => done(hypervisor.create(xml)),
            Self::Shutdown => done(hypervisor.shutdown(uuid)),
            Self::Destroy => done(hypervisor.destroy(uuid)),
            Self::Suspend => done(hypervisor.suspend(uuid)),
            Self::Resume => done(hypervisor.resume(uuid)),
            Self::Kill => done(hypervisor.kill(uuid)),
            Self::Migrate { uri, live } => done(hypervisor.migrate(uuid, uri, *live)),
            Self::AbortJob => done(hypervisor.abort_job(uuid)),
            Self::Job => hypervisor.job(uuid).map(Answer::Job),
            Self::Mark(mark) => done(hypervisor.mark(uuid, mark)),
        }
    }
}
