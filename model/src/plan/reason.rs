//! Why something is done to a VM or a node, and why nothing is: typed, and printed by `berthctl explain`.

use crate::plan::placement::NoPlace;

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is as it should be.
    AsWanted,
    /// A decision is proposed now.
    Deciding(String),
    /// An order is out and not reported yet.
    OrderOut {
        /// What.
        what: String,
        /// To whom.
        node: String,
        /// That node is in session.
        online: bool,
    },
    /// It may be running on nodes that have not said otherwise.
    MayRunOn {
        /// Which, with their states.
        nodes: Vec<String>,
    },
    /// No node can take it.
    NoPlace(NoPlace),
    /// The owner is not heard; its death is not proven.
    OwnerSilent {
        /// Which.
        node: String,
        /// What is done about it.
        doing: String,
    },
    /// A backoff runs.
    WaitingUntil {
        /// Milliseconds from now.
        wait_ms: u64,
        /// After what.
        why: String,
    },
    /// A stop failed; the operator must act.
    StopFailed {
        /// What it said.
        why: String,
    },
    /// It runs twice; the operator must act.
    Conflict {
        /// Where.
        nodes: Vec<String>,
    },
    /// It left the cluster.
    Lost,
    /// It runs though it should not, started by somebody else.
    RunsUnasked {
        /// Where.
        nodes: Vec<String>,
    },
    /// A node is silent, not yet for long.
    Suspect {
        /// For how long.
        silent_ms: u64,
    },
    /// Many nodes seem lost at once: nothing is fenced before an operator says so.
    MassLoss,
    /// A copy of it is stopped on a node, and is dealt with.
    StoppedCopy {
        /// Where.
        node: String,
        /// What is waited for.
        waiting_for: String,
    },
    /// An operator works on it.
    Frozen {
        /// Who froze it.
        by: String,
        /// Why.
        why: String,
        /// Milliseconds until it ends by itself.
        left_ms: Option<u64>,
    },
    /// Nothing is started in the cluster.
    Locked {
        /// Who locked it.
        by: String,
        /// Why.
        why: String,
    },
    /// What it depends on is not started.
    DependsOn {
        /// What, with its state or that it is unknown.
        on: Vec<String>,
    },
    /// It is not started before those that come first.
    StartsLater {
        /// Which is being started.
        after: String,
    },
    /// A better node would take it, and something holds that up.
    FailbackWaits {
        /// The better node.
        to: String,
        /// What is waited for.
        why: String,
    },
    /// Its guest is there and does not work.
    Ailing {
        /// What is wrong.
        why: String,
        /// What is waited for.
        waiting_for: String,
    },
    /// Its agent ended by plan, and is not back yet.
    Away,
    /// A fence is under way.
    Fencing,
    /// A member's life is its service's.
    Member {
        /// Which service.
        service: String,
    },
    /// A service waits for a member.
    MemberWaits {
        /// Which.
        member: String,
        /// What that is doing.
        what: String,
    },
    /// A member needs an operator.
    MemberStuck {
        /// Why, as a sentence.
        why: String,
    },
    /// A member runs away from its service.
    MemberElsewhere {
        /// Which.
        member: String,
        /// Where.
        node: String,
    },
    /// A service is set aside by an operator.
    ServiceFrozen {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// Its host shuts down in good order.
    ShuttingDown,
    /// An operator holds up all that is done by itself.
    Paused {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// Nothing is done about it, as an operator said.
    Ignored,
    /// An outside job claims it.
    Claimed {
        /// What for.
        reason: String,
        /// Who said so.
        by: String,
    },
    /// It was stopped with its host, which is to come back.
    WaitsForHost {
        /// Which.
        node: String,
    },
    /// It is to be moved, and cannot be.
    CannotLeave {
        /// Why.
        why: String,
    },
    /// It was moved, or a move of it failed, a moment ago.
    MoveWaits {
        /// Milliseconds from now.
        wait_ms: u64,
    },
    /// It is to be moved as soon as there is room among the moves under way.
    MoveQueued {
        /// Where to.
        to: String,
    },
    /// The fence failed, or there is none; the lease may still prove it.
    NoProofYet {
        /// What has been tried and what is waited for.
        waiting_for: String,
    },
}

impl Reason {
    /// The word programs match on; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AsWanted => "as-wanted",
            Self::Deciding(_) => "deciding",
            Self::OrderOut { .. } => "order-out",
            Self::MayRunOn { .. } => "may-run-elsewhere",
            Self::NoPlace(_) => "no-place",
            Self::OwnerSilent { .. } => "owner-silent",
            Self::WaitingUntil { .. } => "waiting",
            Self::StopFailed { .. } => "stop-failed",
            Self::Conflict { .. } => "conflict",
            Self::Lost => "lost",
            Self::RunsUnasked { .. } => "runs-unasked",
            Self::Suspect { .. } => "suspect",
            Self::MassLoss => "mass-loss",
            Self::StoppedCopy { .. } => "stopped-copy",
            Self::Frozen { .. } => "frozen",
            Self::Locked { .. } => "locked",
            Self::DependsOn { .. } => "depends-on",
            Self::StartsLater { .. } => "starts-later",
            Self::FailbackWaits { .. } => "failback-waits",
            Self::Ailing { .. } => "ailing",
            Self::Away => "away",
            Self::Fencing => "fencing",
            Self::NoProofYet { .. } => "no-proof-of-death",
            Self::Member { .. } => "member",
            Self::MemberWaits { .. } => "member-waits",
            Self::MemberStuck { .. } => "member-stuck",
            Self::MemberElsewhere { .. } => "member-elsewhere",
            Self::ServiceFrozen { .. } => "frozen",
            Self::ShuttingDown => "shutting-down",
            Self::Paused { .. } => "paused",
            Self::Ignored => "ignored",
            Self::Claimed { .. } => "claimed",
            Self::WaitsForHost { .. } => "waits-for-host",
            Self::CannotLeave { .. } => "cannot-leave",
            Self::MoveWaits { .. } => "move-waits",
            Self::MoveQueued { .. } => "move-queued",
        }
    }

    /// Whether this will not pass by itself soon: who waits for it should be told.
    pub fn is_stuck(&self) -> bool {
        matches!(
            self,
            Self::NoPlace(_)
                | Self::StopFailed { .. }
                | Self::Conflict { .. }
                | Self::Lost
                | Self::Frozen { .. }
                | Self::Locked { .. }
                | Self::DependsOn { .. }
                | Self::MassLoss
                | Self::NoProofYet { .. }
                | Self::MemberStuck { .. }
                | Self::Paused { .. }
                | Self::Ignored
                | Self::Claimed { .. }
                | Self::WaitsForHost { .. }
                | Self::CannotLeave { .. }
                | Self::Ailing { .. }
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AsWanted => write!(formatter, "it is as it should be"),
            Self::Deciding(what) => write!(formatter, "{what}"),
            Self::OrderOut { what, node, online: true } => {
                write!(formatter, "waiting for {node} to {what}")
            }
            Self::OrderOut { what, node, online: false } => {
                write!(
                    formatter,
                    "waiting for {node}, which is not in session, to {what} or to be proven dead"
                )
            }
            Self::MayRunOn { nodes } => {
                write!(formatter, "it may still be running on {}", nodes.join(", "))
            }
            Self::NoPlace(no_place) => write!(formatter, "{no_place}"),
            Self::OwnerSilent { node, doing } => {
                write!(formatter, "its node {node} is not heard: {doing}")
            }
            Self::WaitingUntil { wait_ms, why } => {
                write!(formatter, "the next attempt is in {} s: {why}", wait_ms.div_ceil(1_000))
            }
            Self::StopFailed { why } => {
                write!(formatter, "{why}; make sure that it is down, then `berthctl disable` it")
            }
            Self::Conflict { nodes } => {
                write!(
                    formatter,
                    "it runs on {} at once: `berthctl resolve` with `--keep NODE` destroys the other copies",
                    nodes.join(" and ")
                )
            }
            Self::Lost => write!(
                formatter,
                "it left by a migration that was not ordered here and is seen nowhere; `berthctl enable` starts it anew if it is surely down"
            ),
            Self::RunsUnasked { nodes } => {
                write!(
                    formatter,
                    "it runs on {} though it is not enabled; `berthctl enable` tracks it there",
                    nodes.join(" and ")
                )
            }
            Self::Suspect { silent_ms } => write!(formatter, "not heard for {silent_ms} ms"),
            Self::MassLoss => write!(
                formatter,
                "many nodes seem lost at once, which is a broken network until proven otherwise; `berthctl node release NODE...` fences them all the same"
            ),
            Self::StoppedCopy { node, waiting_for } => {
                write!(formatter, "a stopped copy of it is on {node}: {waiting_for}")
            }
            Self::Frozen { by, why, left_ms } => {
                write!(formatter, "frozen by {by}: {why}; nothing is done to it")?;
                match left_ms {
                    Some(left_ms) => {
                        write!(formatter, " for another {} s", left_ms.div_ceil(1_000))
                    }
                    None => write!(formatter, " until `berthctl unfreeze`"),
                }
            }
            Self::Locked { by, why } => write!(
                formatter,
                "the cluster is locked by {by}: {why}; nothing is started until `berthctl unlock`"
            ),
            Self::DependsOn { on } => {
                write!(formatter, "it waits for what it depends on: {}", on.join(", "))
            }
            Self::StartsLater { after } => {
                write!(
                    formatter,
                    "it starts after {after}, which comes first by its start priority"
                )
            }
            Self::FailbackWaits { to, why } => {
                write!(formatter, "it would go back to {to}: {why}")
            }
            Self::Ailing { why, waiting_for } => write!(formatter, "{why}: {waiting_for}"),
            Self::Away => write!(formatter, "its agent ended by plan and is not back yet"),
            Self::Fencing => write!(formatter, "its fence devices are being asked"),
            Self::Member { service } => {
                write!(
                    formatter,
                    "it is a member of service {service}, which starts it in its turn"
                )
            }
            Self::MemberWaits { member, what } => {
                write!(formatter, "waiting for member {member}, which is {what}")
            }
            Self::MemberStuck { why } => write!(formatter, "{why}"),
            Self::MemberElsewhere { member, node } => write!(
                formatter,
                "member {member} runs on {node}, away from its service; `berthctl migrate` brings it back, or relocate the service"
            ),
            Self::ServiceFrozen { by, why } => write!(formatter, "{by} froze it: {why}"),
            Self::NoProofYet { waiting_for } => {
                write!(formatter, "its death is not proven: {waiting_for}")
            }
            Self::ShuttingDown => write!(formatter, "its host shuts down in good order"),
            Self::Paused { by, why } => {
                write!(formatter, "{by} paused the cluster ({why}); `berthctl unpause` goes on")
            }
            Self::Ignored => write!(
                formatter,
                "nothing is done about it, as an operator said; `berthctl enable` takes it back"
            ),
            Self::Claimed { reason, by } => write!(
                formatter,
                "{by} claims it ({reason}), so it is not started; `berthctl vm unclaim` ends that"
            ),
            Self::WaitsForHost { node } => write!(
                formatter,
                "it was stopped with its host {node} and waits for it; `berthctl enable` starts it elsewhere, and if {node} is not to come back, `berthctl node confirm-off {node}` frees all that waits for it (not with shutdown_policy freeze)"
            ),
            Self::CannotLeave { why } => {
                write!(formatter, "it is to be moved and cannot be: {why}")
            }
            Self::MoveWaits { wait_ms } => write!(
                formatter,
                "it is to be moved, in {} s: the last move of it is not long ago",
                wait_ms.div_ceil(1_000)
            ),
            Self::MoveQueued { to } => {
                write!(formatter, "it is to be moved to {to} when fewer moves are under way")
            }
        }
    }
}
