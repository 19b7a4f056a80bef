//! What libvirt says of one domain, and a migration of it.

use std::io;

use model::node::SeenDomain;
use model::vm::Presence;
use quick_xml::events::Event;
use quick_xml::reader::Reader;
use uuid::Uuid;
use virt::domain::{
    Domain, DomainInfo, DomainPausedReason, DomainPausedReasonEnum, DomainState, DomainStateReason,
    MigrateParameters,
};
use virt::enumutil::Enum;
use virt::error::Error;
use virt::sys;

use crate::hypervisor::{DomainFacts, HypervisorError, JobStats, Result};

pub(super) fn facts(domain: &Domain) -> std::result::Result<DomainFacts, Error> {
    let info = domain.info()?;
    Ok(DomainFacts {
        uuid: domain.uuid()?,
        seen: SeenDomain {
            name: domain.name()?,
            presence: presence(domain, &info),
            // libvirt gives KiB.
            memory_mib: info.max_mem.div_ceil(1024),
        },
    })
}

/// The state comes from `virDomainGetInfo`: the crate's `state` loses libvirt's error, and would make a domain that has
/// just gone look like one in an unknown state.
fn presence(domain: &Domain, info: &DomainInfo) -> Option<Presence> {
    // A state that this version does not know holds a guest, for all that is known.
    match info.state.unwrap_or(DomainState::Running) {
        DomainState::Shutoff => None,
        DomainState::Paused => Some(match domain.state() {
            Ok((_, Enum::Known(DomainStateReason::Paused(reason)))) => paused(domain, reason),
            _ => Presence::Paused,
        }),
        DomainState::Shutdown => Some(Presence::ShuttingDown),
        DomainState::Crashed => Some(Presence::Crashed),
        DomainState::PMSuspended => Some(Presence::Paused),
        DomainState::NoState | DomainState::Running | DomainState::Blocked => {
            Some(Presence::Running)
        }
    }
}

/// A paused domain may be a migration's half-built target. Both sides of a migration show the reason "migration" at
/// times, but libvirt gives job statistics on the source only: on the target it refuses them as long as the job runs.
fn paused(domain: &Domain, reason: DomainPausedReasonEnum) -> Presence {
    match reason.unwrap_or(DomainPausedReason::Unknown) {
        DomainPausedReason::StartingUp => Presence::Incoming,
        DomainPausedReason::Migration if domain.job_info().is_err() => Presence::Incoming,
        _ => Presence::Paused,
    }
}

pub(super) fn job(domain: &Domain) -> std::result::Result<Option<JobStats>, Error> {
    // `job_stats` of the crate reads an array that libvirt does not give where there is no job.
    let stats = domain.job_info()?;
    if stats.r#type as u32 == sys::VIR_DOMAIN_JOB_NONE {
        return Ok(None);
    }
    Ok(Some(JobStats {
        elapsed_ms: stats.time_elapsed.unwrap_or(0),
        total_bytes: stats.data_total.unwrap_or(0),
        processed_bytes: stats.data_processed.unwrap_or(0),
        remaining_bytes: stats.data_remaining.unwrap_or(0),
    }))
}

/// Peer-to-peer: the two libvirtds speak to each other, so that the agent's own death ends nothing half-way. A domain
/// that is defined stays defined on the side where it runs.
pub(super) fn migrate(
    domain: &Domain,
    uri: &str,
    live: bool,
    without_proof: bool,
) -> std::result::Result<(), Error> {
    let mut flags = sys::VIR_MIGRATE_PEER2PEER;
    if live {
        flags |= sys::VIR_MIGRATE_LIVE;
    }
    if without_proof {
        flags |= sys::VIR_MIGRATE_UNSAFE;
    }
    if domain.is_persistent()? {
        flags |= sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
    }
    domain.migrate_to_uri3(Some(uri), MigrateParameters::default(), flags)
}

/// `<capabilities><host><uuid>`.
pub(super) fn host_uuid(capabilities: &str) -> Result<Uuid> {
    let unreadable = |why: String| {
        HypervisorError::Refused(format!("libvirt's capabilities cannot be read: {why}"))
    };
    let mut reader = Reader::from_str(capabilities);
    let mut inside = false;
    loop {
        match reader.read_event().map_err(|error| unreadable(error.to_string()))? {
            Event::Start(tag) => inside = tag.name().0 == "uuid",
            Event::Text(text) if inside => {
                return Uuid::parse_str(text.trim()).map_err(|error| unreadable(error.to_string()));
            }
            Event::Eof => {
                return Err(unreadable(
                    "the host has no UUID; set host_uuid in libvirtd.conf".into(),
                ));
            }
            _ => {}
        }
    }
}

/// The process of a QEMU whose command line has `-uuid UUID`, as libvirt starts them. Found through /proc, so that it
/// does not depend on a libvirtd that hangs or has just forgotten a domain.
pub(super) fn qemu_process(uuid: Uuid) -> io::Result<Option<i32>> {
    let wanted = uuid.to_string();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // A process that ends while it is looked at has an unreadable command line.
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let mut words = line.split(|byte| *byte == 0);
        if words.any(|word| word == b"-uuid") && words.next() == Some(wanted.as_bytes()) {
            return Ok(Some(process));
        }
    }
    Ok(None)
}
