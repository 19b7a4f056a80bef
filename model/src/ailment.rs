//! What is wrong with a guest whose QEMU is there: it runs in name only, and that is not health.

use serde::{Deserialize, Serialize};

use crate::handling::{GuestEnd, GuestPolicy, OnIoError, OnReboot};
use crate::id::NodeId;
use crate::time::Timestamp;
use crate::vm::{Presence, StopCause};

/// What kind of wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AilmentKind {
    /// It is paused, for its storage failed.
    IoError,
    /// It panicked or crashed, and its domain is kept as it was.
    Crashed,
    /// Its own watchdog device bit, and it is paused.
    Watchdog,
    /// Its status program or its guest agent says so.
    Check,
    /// It rebooted, and its policy does not let it run on.
    Rebooted,
}

/// What is wrong with a guest, on its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ailment {
    /// What kind.
    pub kind: AilmentKind,
    /// A sentence without its stop.
    pub why: String,
    /// Where.
    pub node: NodeId,
    /// When it was committed.
    pub at: Timestamp,
}

impl AilmentKind {
    /// What a presence says of a guest's health; `None` for nothing bad.
    pub fn of(presence: Presence) -> Option<Self> {
        match presence {
            Presence::IoError => Some(Self::IoError),
            Presence::Crashed => Some(Self::Crashed),
            Presence::WatchdogPaused => Some(Self::Watchdog),
            Presence::Running
            | Presence::Paused
            | Presence::Incoming
            | Presence::ShuttingDown
            | Presence::Suspended
            | Presence::Leaving => None,
        }
    }

    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IoError => "io-error",
            Self::Crashed => "crashed",
            Self::Watchdog => "watchdog",
            Self::Check => "check",
            Self::Rebooted => "rebooted",
        }
    }

    /// A sentence without its stop.
    pub fn why(self) -> &'static str {
        match self {
            Self::IoError => "it is paused because its storage failed",
            Self::Crashed => "the guest crashed",
            Self::Watchdog => "the guest's watchdog bit",
            Self::Check => "its checks fail",
            Self::Rebooted => "the guest rebooted",
        }
    }
}

impl GuestPolicy {
    /// What follows when a guest ended for this cause. A QEMU that failed, and an end that nobody saw, are no doing of the
    /// guest's: they are failures always.
    pub fn after(&self, cause: StopCause) -> GuestEnd {
        match cause {
            StopCause::GuestShutdown => self.on_shutdown,
            StopCause::Crashed => self.on_crash,
            StopCause::Panicked => self.on_panic,
            StopCause::Watchdog => self.on_watchdog,
            StopCause::Destroyed | StopCause::Saved | StopCause::Terminated => self.on_destroy,
            StopCause::MigratedAway | StopCause::Failed | StopCause::Unknown => GuestEnd::Recover,
        }
    }

    /// What follows when a guest that ailed so has been stopped.
    pub fn after_ailment(&self, kind: AilmentKind) -> GuestEnd {
        match kind {
            // What libvirt keeps crashed has panicked: of a QEMU that crashed there is nothing left.
            AilmentKind::Crashed => self.on_panic,
            AilmentKind::Rebooted => match self.on_reboot {
                OnReboot::End(end) => end,
                OnReboot::RunOn => GuestEnd::Recover,
            },
            AilmentKind::Watchdog => self.on_watchdog,
            AilmentKind::IoError | AilmentKind::Check => GuestEnd::Recover,
        }
    }

    /// A guest that ails so is stopped, rather than helped or left alone.
    pub fn stops(&self, kind: AilmentKind) -> bool {
        match kind {
            AilmentKind::IoError => self.on_io_error == OnIoError::Restart,
            AilmentKind::Rebooted => self.on_reboot != OnReboot::RunOn,
            AilmentKind::Crashed | AilmentKind::Watchdog | AilmentKind::Check => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_a_guest_has_its_policy_and_a_failed_qemu_is_always_a_failure() {
        let policy = GuestPolicy {
            on_shutdown: GuestEnd::Stop,
            on_crash: GuestEnd::Disable,
            on_panic: GuestEnd::Stop,
            on_reboot: OnReboot::End(GuestEnd::Disable),
            on_watchdog: GuestEnd::Stop,
            on_destroy: GuestEnd::Disable,
            on_io_error: OnIoError::Leave,
        };
        for (cause, end) in [
            (StopCause::GuestShutdown, GuestEnd::Stop),
            (StopCause::Crashed, GuestEnd::Disable),
            (StopCause::Panicked, GuestEnd::Stop),
            (StopCause::Watchdog, GuestEnd::Stop),
            (StopCause::Destroyed, GuestEnd::Disable),
            (StopCause::Terminated, GuestEnd::Disable),
            (StopCause::Saved, GuestEnd::Disable),
            (StopCause::Failed, GuestEnd::Recover),
            (StopCause::Unknown, GuestEnd::Recover),
        ] {
            assert_eq!(policy.after(cause), end, "{cause:?}");
            // RGManager's: everything is a failure.
            assert_eq!(GuestPolicy::default().after(cause), GuestEnd::Recover, "{cause:?}");
        }
        assert_eq!(policy.after_ailment(AilmentKind::Rebooted), GuestEnd::Disable);
        assert!(policy.stops(AilmentKind::Rebooted));
        assert!(!GuestPolicy::default().stops(AilmentKind::Rebooted), "a reboot is no failure");
    }
}
