//! Nodes on the command line.

use std::time::Duration;

use clap::Subcommand;

use super::value::{duration, pair};
use super::{Deed, Read, placing};

/// Nodes.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List the nodes.
    List(Read),
    /// Show a node.
    Show {
        /// The node.
        node: String,
        #[command(flatten)]
        read: Read,
    },
    /// Say how a node is fenced: a fence agent with its options. With --add one more, as for a second power supply.
    Fence {
        /// The node.
        node: String,
        /// The fence agent, such as `fence_ipmilan`.
        #[arg(long, required_unless_present = "clear")]
        agent: Option<String>,
        /// An option of it, as KEY=VALUE. Kept secret.
        #[arg(long = "option", value_parser = pair)]
        options: Vec<(String, String)>,
        /// How long one call of it may take.
        #[arg(long, value_parser = duration, default_value = "20s")]
        call_timeout: Duration,
        /// Devices of one level must all say off; levels are tried in turn, the lowest first.
        #[arg(long, default_value_t = 0)]
        level: u8,
        /// Keep the devices that are set, and add this one.
        #[arg(long, conflicts_with = "clear")]
        add: bool,
        /// Remove the fence devices.
        #[arg(long, conflicts_with_all = ["agent", "options"])]
        clear: bool,
    },
    /// Say that a lost node is off, having made sure: its VMs start elsewhere.
    ConfirmOff(Deed),
    /// Many nodes seem lost at once and nothing is fenced: say that these are lost indeed, having looked at each.
    Release {
        /// All that seem lost, as `berthctl status` names them; refused where others do as well. Without any, the list is shown
        /// and asked about.
        nodes: Vec<String>,
    },
    /// How a node's death may be proven, and what follows a fence.
    Policy {
        /// The node.
        node: String,
        /// It is a virtual machine whose clock is never paused: its lease proves its death.
        #[arg(long, conflicts_with = "no_vouch_clock")]
        vouch_clock: bool,
        /// No longer so.
        #[arg(long)]
        no_vouch_clock: bool,
        /// `stay-off`, or `power-on/N` for N times an hour at the most.
        #[arg(long)]
        after_fence: Option<String>,
    },
    /// Move everything off a node and keep it empty until it has booted anew; VMs that cannot leave are named.
    Drain {
        /// The node.
        node: String,
        /// Keep it empty until `node maintenance NODE off`.
        #[arg(long)]
        stay: bool,
    },
    /// Move everything off a node and keep it empty, or take it back.
    Maintenance {
        /// The node.
        node: String,
        /// On or off.
        switch: placing::Switch,
    },
    /// Remove a node that can run nothing any more.
    Remove {
        /// The node.
        node: String,
    },
}
