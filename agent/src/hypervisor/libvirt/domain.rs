//! What libvirt says of one domain, and a migration of it.

use std::io;

use model::node::SeenDomain;
use model::vm::Presence;
use quick_xml::events::Event;
use quick_xml::reader::Reader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;
use virt::domain::{
    Domain, DomainPausedReason, DomainPausedReasonEnum, DomainState, DomainStateReason,
    MigrateParameters,
};
use virt::enumutil::Enum;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use crate::hypervisor::call::Migration;
use crate::hypervisor::mark::{self, Mark, NAMESPACE};
use crate::hypervisor::{DomainFacts, HypervisorError, JobStats, Result};

/// How long after SIGKILL a process may still be there: the kernel has to write back what it holds.
const KILL_LIMIT_SECONDS: i64 = 4;

pub(super) fn facts(domain: &Domain) -> std::result::Result<DomainFacts, Error> {
    let info = domain.info()?;
    // A state that this version does not know holds a guest, for all that is known.
    let presence = presence(info.state.unwrap_or(DomainState::Running), || why_paused(domain));
    let mark = match presence {
        Some(_) => mark(domain)?,
        None => None,
    };
    Ok(DomainFacts {
        uuid: domain.uuid()?,
        seen: SeenDomain {
            name: domain.name()?,
            presence,
            // libvirt gives KiB.
            memory_mib: info.max_mem.div_ceil(1024),
            generation: None,
            // Not to be had of a transient domain, which cannot be started with the host either.
            autostart: domain.autostart().unwrap_or(false),
        },
        mark,
    })
}

/// Of a running domain what it would be the next time, without the traces of this run.
pub(super) fn definition(domain: &Domain) -> std::result::Result<String, Error> {
    domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE)
}

fn mark(domain: &Domain) -> std::result::Result<Option<Mark>, Error> {
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    match domain.metadata(kind, Some(NAMESPACE), sys::VIR_DOMAIN_AFFECT_LIVE) {
        Ok(element) => Ok(mark::read(&element)),
        Err(error) if error.code().is_known_and(|code| code == ErrorNumber::NoDomainMetadata) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The state comes from `virDomainGetInfo`: the crate's `state` loses libvirt's error, and would make a domain that has
/// just gone look like one in an unknown state.
fn presence(state: DomainState, why_paused: impl FnOnce() -> Presence) -> Option<Presence> {
    match state {
        DomainState::Shutoff => None,
        DomainState::Paused => Some(why_paused()),
        DomainState::Shutdown => Some(Presence::ShuttingDown),
        DomainState::Crashed => Some(Presence::Crashed),
        DomainState::PMSuspended => Some(Presence::Paused),
        DomainState::NoState | DomainState::Running | DomainState::Blocked => {
            Some(Presence::Running)
        }
    }
}

fn why_paused(domain: &Domain) -> Presence {
    match domain.state() {
        Ok((_, Enum::Known(DomainStateReason::Paused(reason)))) => paused(domain, reason),
        _ => Presence::Paused,
    }
}

/// A paused domain may be a migration's half-built target. Both sides of a migration show the reason "migration" at
/// times, but libvirt gives job statistics on the source only: on the target it refuses them as long as the job runs.
fn paused(domain: &Domain, reason: DomainPausedReasonEnum) -> Presence {
    match reason.unwrap_or(DomainPausedReason::Unknown) {
        DomainPausedReason::StartingUp => Presence::Incoming,
        DomainPausedReason::Migration if domain.job_info().is_err() => Presence::Incoming,
        // A post-copy migration's source is the same in its last moment, however long that takes: its guest has run at the
        // target, and what is left here is never it again.
        DomainPausedReason::Migration | DomainPausedReason::PostCopy => Presence::Leaving,
        DomainPausedReason::PostCopyFailed if domain.job_info().is_ok() => Presence::Leaving,
        // The target, with a part of its memory missing.
        DomainPausedReason::PostCopyFailed | DomainPausedReason::Crashed => Presence::Crashed,
        DomainPausedReason::IOError => Presence::IoError,
        DomainPausedReason::Watchdog => Presence::WatchdogPaused,
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
    migration: &Migration,
    without_proof: bool,
) -> std::result::Result<(), Error> {
    let options = &migration.options;
    let mut flags = sys::VIR_MIGRATE_PEER2PEER;
    for (set, flag) in [
        (migration.live, sys::VIR_MIGRATE_LIVE),
        (without_proof || options.allow_unsafe, sys::VIR_MIGRATE_UNSAFE),
        (options.tunnelled, sys::VIR_MIGRATE_TUNNELLED),
        (options.tls, sys::VIR_MIGRATE_TLS),
        (options.auto_converge && migration.live, sys::VIR_MIGRATE_AUTO_CONVERGE),
        (options.post_copy && migration.live, sys::VIR_MIGRATE_POSTCOPY),
        (options.compressed, sys::VIR_MIGRATE_COMPRESSED),
        (options.abort_on_error, sys::VIR_MIGRATE_ABORT_ON_ERROR),
        (options.parallel > 0, sys::VIR_MIGRATE_PARALLEL),
    ] {
        if set {
            flags |= flag;
        }
    }
    if options.max_downtime_ms > 0 {
        domain.migrate_set_max_downtime(options.max_downtime_ms, 0)?;
    }
    let parameters = MigrateParameters {
        uri: migration.data_uri.clone(),
        bandwidth: (options.bandwidth_mib_s > 0).then_some(options.bandwidth_mib_s),
        parallel_connections: (options.parallel > 0)
            .then(|| i32::try_from(options.parallel).unwrap_or(i32::MAX)),
        ..MigrateParameters::default()
    };
    if domain.is_persistent()? {
        flags |= sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
    }
    domain.migrate_to_uri3(Some(&migration.uri), parameters, flags)
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

/// The processes whose command line has `-uuid UUID`, as libvirt starts QEMU. Found through /proc, so that it does not
/// depend on a libvirtd that hangs or has just forgotten a domain.
pub(crate) fn qemu_processes() -> io::Result<Vec<(Uuid, i32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // A process that ends while it is looked at has an unreadable command line.
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let mut words = line.split(|byte| *byte == 0);
        if words.any(|word| word == b"-uuid")
            && let Some(uuid) = words.next().and_then(|word| Uuid::try_parse_ascii(word).ok())
        {
            found.push((uuid, process));
        }
    }
    Ok(found)
}

/// The process of that QEMU.
pub(super) fn qemu_process(uuid: Uuid) -> io::Result<Option<i32>> {
    Ok(qemu_processes()?.into_iter().find(|(other, _)| *other == uuid).map(|(_, process)| process))
}

/// Kills it and waits until the kernel has let go of it.
pub(super) fn kill_qemu(uuid: Uuid) -> io::Result<()> {
    while let Some(process) = qemu_process(uuid)? {
        let Some(process) = Pid::from_raw(process) else { return Ok(()) };
        let handle = match pidfd_open(process, PidfdFlags::empty()) {
            Ok(handle) => handle,
            // It ended just now; perhaps another has its number already, so it is looked for anew.
            Err(Errno::SRCH) => continue,
            Err(error) => return Err(error.into()),
        };
        // The handle is of the process that is there now: is that still the one?
        if qemu_process(uuid)? != Some(process.as_raw_nonzero().get()) {
            continue;
        }
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let limit = Timespec { tv_sec: KILL_LIMIT_SECONDS, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit))? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process {} does not end", process.as_raw_nonzero()),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RGManager's agent took it for a failure (rhbz#514044), and stopped a guest that ran.
    #[test]
    fn complaint_no_state_was_taken_for_a_failure() {
        for (state, expected) in [
            (DomainState::NoState, Some(Presence::Running)),
            (DomainState::Running, Some(Presence::Running)),
            (DomainState::Blocked, Some(Presence::Running)),
            (DomainState::Paused, Some(Presence::IoError)),
            (DomainState::Shutdown, Some(Presence::ShuttingDown)),
            (DomainState::Crashed, Some(Presence::Crashed)),
            (DomainState::PMSuspended, Some(Presence::Paused)),
            (DomainState::Shutoff, None),
        ] {
            assert_eq!(presence(state, || Presence::IoError), expected, "{state:?}");
        }
    }
}
