//! What the pure parts of the agent ask of the hypervisor, and what it answers: calls as data.

use std::time::Duration;

use model::handling::{Checks, DomainSource, MigrationOptions};
use uuid::Uuid;

use super::mark::Mark;
use super::{DomainFacts, Hypervisor, HypervisorError, JobStats, Result};
use crate::domain_source;

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
    Migrate(Migration),
    /// Call off its migration.
    AbortJob,
    /// How far its migration is.
    Job,
    /// Mark it as the cluster's.
    Mark(Mark),
    /// Read its domain XML from where it is kept, and check that it is this VM's.
    ReadXml {
        /// Where.
        source: DomainSource,
        /// Its name.
        vm: String,
    },
    /// Bring it to life from its saved memory, if the file is there.
    Restore {
        /// The file.
        file: String,
        /// Its new mark.
        mark: Mark,
    },
    /// Save its memory and end it.
    Save {
        /// The file.
        file: String,
        /// Milliseconds it may take.
        limit_ms: u64,
    },
    /// Ask its status program and its guest agent.
    Check {
        /// Its name.
        vm: String,
        /// What is asked.
        checks: Checks,
    },
    /// Let it run on at the target of its migration.
    StartPostCopy,
}

/// Where a migration goes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The target's libvirt URI.
    pub uri: String,
    /// Where the guest's memory goes, if not where the target says.
    pub data_uri: Option<String>,
    /// The guest runs on meanwhile.
    pub live: bool,
    /// How else.
    pub options: MigrationOptions,
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
    /// A domain XML.
    Xml(String),
    /// Whether there was something to restore.
    Restored(bool),
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
            Self::Create { .. } | Self::Migrate(_) | Self::Restore { .. } => None,
            // It keeps its own time, and kills what it started.
            Self::Check { .. } => None,
            Self::Save { limit_ms, .. } => Some(Duration::from_millis(*limit_ms)),
            Self::Destroy => Some(DESTROY_LIMIT),
            Self::Look
            | Self::Shutdown
            | Self::Suspend
            | Self::Resume
            | Self::Kill
            | Self::AbortJob
            | Self::Job
            | Self::ReadXml { .. }
            | Self::StartPostCopy
            | Self::Mark(_) => Some(LIMIT),
        }
    }

    /// It waits for no turn: it may take longer than libvirt takes for an answer, or must not wait for calls to a libvirt that
    /// hangs.
    pub fn needs_no_turn(&self) -> bool {
        matches!(self, Self::ReadXml { .. } | Self::Save { .. } | Self::Kill)
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
            Self::Migrate(_) => "migrate a domain",
            Self::AbortJob => "abort a migration",
            Self::Job => "ask for a job",
            Self::Mark(_) => "mark a domain",
            Self::ReadXml { .. } => "read a domain XML",
            Self::Restore { .. } => "restore a domain",
            Self::Save { .. } => "save a domain",
            Self::Check { .. } => "check a guest",
            Self::StartPostCopy => "begin post-copy",
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
            Self::Migrate(migration) => done(hypervisor.migrate(uuid, migration)),
            Self::ReadXml { source, vm } => domain_source::read(source, vm, uuid)
                .map(Answer::Xml)
                .map_err(HypervisorError::Refused),
            Self::Restore { file, mark } => {
                hypervisor.restore(uuid, file, mark).map(Answer::Restored)
            }
            Self::Save { file, .. } => done(hypervisor.save(uuid, file)),
            Self::Check { vm, checks } => done(crate::check::run(checks, vm, uuid, &|limit| {
                hypervisor.ping_guest(uuid, limit)
            })),
            Self::StartPostCopy => done(hypervisor.start_post_copy(uuid)),
            Self::AbortJob => done(hypervisor.abort_job(uuid)),
            Self::Job => hypervisor.job(uuid).map(Answer::Job),
            Self::Mark(mark) => done(hypervisor.mark(uuid, mark)),
        }
    }
}
