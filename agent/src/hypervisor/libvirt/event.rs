//! libvirt's events in our words. The numbers are those of `virDomainEventType`, its details, and
//! `virDomainEventWatchdogAction`.

use model::command::GuestNote;
use model::vm::StopCause;
use uuid::Uuid;
use virt::sys;

use super::ffi::RawEvent;
use crate::hypervisor::HypervisorEvent;

pub(super) fn translate(uuid: Uuid, event: RawEvent) -> Vec<HypervisorEvent> {
    let noted = |note, text| HypervisorEvent::Noted(uuid, note, text);
    match event {
        RawEvent::Lifecycle(event, detail) => lifecycle(uuid, event, detail),
        RawEvent::Reboot => vec![noted(GuestNote::Rebooted, String::new())],
        RawEvent::Watchdog(action) => {
            let (text, ends) = match action as u32 {
                sys::VIR_DOMAIN_EVENT_WATCHDOG_PAUSE => ("it is paused", false),
                sys::VIR_DOMAIN_EVENT_WATCHDOG_RESET => ("it is reset", false),
                sys::VIR_DOMAIN_EVENT_WATCHDOG_POWEROFF => ("it is powered off", true),
                sys::VIR_DOMAIN_EVENT_WATCHDOG_SHUTDOWN => ("it is shut down", true),
                sys::VIR_DOMAIN_EVENT_WATCHDOG_INJECTNMI => ("an NMI is injected", false),
                _ => ("nothing is done", false),
            };
            let ending = ends.then_some(HypervisorEvent::Ending(uuid, StopCause::Watchdog));
            let mut all = vec![noted(GuestNote::Watchdog, text.to_owned())];
            all.extend(ending);
            all
        }
        RawEvent::Pass(number) => {
            vec![HypervisorEvent::Pass(uuid, u32::try_from(number).unwrap_or_default())]
        }
        RawEvent::IoError { disk, reason } => {
            let text = if reason.is_empty() { disk } else { format!("{disk}: {reason}") };
            vec![noted(GuestNote::IoError, text)]
        }
    }
}

fn lifecycle(uuid: Uuid, event: i32, detail: i32) -> Vec<HypervisorEvent> {
    let (event, detail) = (event as u32, detail as u32);
    match event {
        sys::VIR_DOMAIN_EVENT_SHUTDOWN if detail == sys::VIR_DOMAIN_EVENT_SHUTDOWN_HOST => {
            let ending = HypervisorEvent::Ending(uuid, StopCause::Terminated);
            vec![ending, HypervisorEvent::Changed(uuid)]
        }
        sys::VIR_DOMAIN_EVENT_CRASHED => {
            let text = match detail {
                sys::VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED => "its crash kernel has taken over",
                _ => "",
            };
            vec![HypervisorEvent::Noted(uuid, GuestNote::Panicked, text.to_owned())]
        }
        sys::VIR_DOMAIN_EVENT_STOPPED => {
            let cause = match detail {
                sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => StopCause::GuestShutdown,
                sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED => StopCause::Destroyed,
                sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => StopCause::Crashed,
                sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => StopCause::MigratedAway,
                sys::VIR_DOMAIN_EVENT_STOPPED_SAVED => StopCause::Saved,
                sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => StopCause::Failed,
                _ => StopCause::Unknown,
            };
            vec![HypervisorEvent::Stopped(uuid, cause)]
        }
        _ => vec![HypervisorEvent::Changed(uuid)],
    }
}
