//! What a seed is about: the same world with other equipment, and other troubles more often than others.
//!
//! Chance alone seldom puts three rare things into one minute. A theme makes one part of the law the likely one to be hit.

use fastrand::Rng;

/// What goes wrong, before chance has chosen where and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A machine is cut off, a link, or all links are bad.
    Network,
    /// The machines fall into two groups that do not reach each other.
    Split,
    /// A host loses its power.
    PowerOff,
    /// An agent's process ends.
    AgentEnds,
    /// An agent ends by plan: it says so and disarms its watchdog.
    AgentLeaves,
    /// An agent stands still.
    AgentStalls,
    /// libvirtd stands still.
    LibvirtStalls,
    /// libvirtd ends.
    LibvirtCrashes,
    /// All of a host stands still, its clock too.
    HostPauses,
    /// A replica's process ends.
    ReplicaStops,
    /// A replica stands still.
    ReplicaStalls,
    /// All replicas stand still at once.
    ControlPlaneStalls,
    /// A fence device does not answer.
    FenceDark,
    /// A fence device says that it did what it did not do.
    FenceBroken,
    /// Calls of libvirt fail.
    CallsFail,
    /// A guest ends.
    GuestDies,
    /// Somebody uses virsh.
    Outsider,
    /// All processes of a host stand still; its clock and its watchdog do not.
    HostFreezes,
    /// libvirt takes its time.
    LibvirtSlow,
    /// A ledger is lost.
    LedgerLost,
    /// A ledger comes back from an older copy.
    LedgerRolledBack,
    /// The control plane comes back from a backup.
    Restore,
}

impl Trouble {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Split => "split",
            Self::PowerOff => "power-off",
            Self::AgentEnds => "agent-ends",
            Self::AgentLeaves => "agent-leaves",
            Self::AgentStalls => "agent-stalls",
            Self::LibvirtStalls => "libvirt-stalls",
            Self::LibvirtCrashes => "libvirt-crashes",
            Self::HostPauses => "host-pauses",
            Self::ReplicaStops => "replica-stops",
            Self::ReplicaStalls => "replica-stalls",
            Self::ControlPlaneStalls => "control-plane-stalls",
            Self::FenceDark => "fence-dark",
            Self::FenceBroken => "fence-broken",
            Self::CallsFail => "calls-fail",
            Self::GuestDies => "guest-dies",
            Self::Outsider => "outsider",
            Self::HostFreezes => "host-freezes",
            Self::LibvirtSlow => "libvirt-slow",
            Self::LedgerLost => "ledger-lost",
            Self::LedgerRolledBack => "ledger-rolled-back",
            Self::Restore => "restore",
        }
    }
}

/// What a seed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// A bit of all.
    Everything,
    /// Nothing but the lease and the watchdog proves a death, and clocks run as far apart as they may.
    LeaseOnly,
    /// Fence devices that lie, are dark, or answer late; hosts that boot quickly.
    Fences,
    /// Messages that arrive long after they were sent.
    LateMessages,
    /// Replicas that stand still, are cut off, or are replaced by restored ones.
    ControlPlane,
    /// Migrations, and what can end in the middle of one.
    Moves,
}

/// Chances in so many.
type Chance = (u32, u32);

impl Theme {
    const ALL: [Self; 6] = [
        Self::Everything,
        Self::LeaseOnly,
        Self::Fences,
        Self::LateMessages,
        Self::ControlPlane,
        Self::Moves,
    ];

    /// A seed's theme.
    pub fn of_seed(seed: u64) -> Self {
        Self::ALL[(seed % Self::ALL.len() as u64) as usize]
    }

    /// How likely a host has a watchdog.
    pub fn watched(self) -> Chance {
        match self {
            Self::LeaseOnly | Self::LateMessages => (9, 10),
            _ => (3, 4),
        }
    }

    /// How likely a host has a fence device.
    pub fn fenced(self) -> Chance {
        match self {
            Self::LeaseOnly => (0, 1),
            Self::LateMessages => (1, 3),
            Self::Fences => (1, 1),
            _ => (3, 4),
        }
    }

    /// How likely a host is a virtual machine.
    pub fn pausable(self) -> Chance {
        match self {
            Self::LeaseOnly | Self::LateMessages => (1, 12),
            _ => (1, 4),
        }
    }

    /// Clocks are as far apart as the law allows for.
    pub fn worst_clocks(self) -> bool {
        self == Self::LeaseOnly
    }

    /// How late the second copy of a message may come, in milliseconds.
    pub fn late_ms(self) -> u64 {
        match self {
            Self::LateMessages => 30_000,
            _ => 2_000,
        }
    }

    /// How long a copy that self-fence has suspended is kept, least and most, in milliseconds.
    pub fn hold_ms(self) -> (u64, u64) {
        match self {
            Self::LateMessages => (2_000, 15_000),
            _ => (5_000, 60_000),
        }
    }

    /// How long a host that lost its power stays off, least and most, in milliseconds.
    pub fn off_ms(self) -> (u64, u64) {
        match self {
            Self::Fences => (500, 6_000),
            _ => (500, 40_000),
        }
    }

    /// How long a control plane that was replaced lives on, at the most, in milliseconds.
    pub fn old_plane_lives_ms(self) -> u64 {
        match self {
            // Longer, and what it takes for a proof by lease of a node that has gone over to the new one is none.
            Self::ControlPlane => 3_900,
            _ => 2_000,
        }
    }

    /// What goes wrong next.
    pub fn some_trouble(self, rng: &mut Rng) -> Trouble {
        let weights = self.weights();
        let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.u32(0..sum);
        for (trouble, weight) in weights {
            if left < weight {
                return trouble;
            }
            left -= weight;
        }
        Trouble::Network
    }

    fn weights(self) -> Vec<(Trouble, u32)> {
        use Trouble::*;
        let common = [
            (Network, 10),
            (Split, 2),
            (PowerOff, 10),
            (AgentEnds, 6),
            (AgentLeaves, 2),
            (AgentStalls, 7),
            (LibvirtStalls, 6),
            (LibvirtCrashes, 4),
            (HostPauses, 5),
            (HostFreezes, 4),
            (LibvirtSlow, 4),
            (LedgerRolledBack, 2),
            (ReplicaStops, 8),
            (ReplicaStalls, 9),
            (ControlPlaneStalls, 1),
            (FenceDark, 4),
            (FenceBroken, 2),
            (CallsFail, 4),
            (GuestDies, 4),
            (Outsider, 12),
            (LedgerLost, 3),
            (Restore, 1),
        ];
        let more: &[(Trouble, u32)] = match self {
            Self::Everything => &[],
            Self::LeaseOnly => &[
                (Network, 60),
                (Split, 20),
                (AgentLeaves, 15),
                (LibvirtStalls, 20),
                (LedgerLost, 12),
                (AgentEnds, 10),
            ],
            Self::Fences => &[
                (PowerOff, 30),
                (FenceBroken, 50),
                (FenceDark, 20),
                (Network, 50),
                (ControlPlaneStalls, 10),
            ],
            Self::LateMessages => &[(Network, 90), (AgentEnds, 20), (GuestDies, 20)],
            Self::ControlPlane => &[
                (ReplicaStalls, 40),
                (ReplicaStops, 15),
                (Split, 40),
                (ControlPlaneStalls, 30),
                (Restore, 8),
            ],
            Self::Moves => &[
                (PowerOff, 15),
                (Network, 20),
                (LibvirtStalls, 15),
                (LibvirtCrashes, 10),
                (CallsFail, 25),
                (Outsider, 40),
                (AgentEnds, 10),
            ],
        };
        common.into_iter().chain(more.iter().copied()).collect()
    }
}
