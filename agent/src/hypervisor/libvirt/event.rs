//! libvirt's lifecycle events in our words. The numbers are those of `virDomainEventType` and its details.

use model::vm::StopCause;
use uuid::Uuid;
use virt::sys;

use crate::hypervisor::HypervisorEvent;

pub(super) fn translate(uuid: Uuid, event: i32, detail: i32) -> HypervisorEvent {
    if event as u32 != sys::VIR_DOMAIN_EVENT_STOPPED {
        return HypervisorEvent::Changed(uuid);
    }
    let cause = match detail as u32 {
        sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => StopCause::GuestShutdown,
        sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED => StopCause::Destroyed,
        sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => StopCause::Crashed,
        sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => StopCause::MigratedAway,
        sys::VIR_DOMAIN_EVENT_STOPPED_SAVED => StopCause::Saved,
        sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => StopCause::Failed,
        _ => StopCause::Unknown,
    };
    HypervisorEvent::Stopped(uuid, cause)
}
