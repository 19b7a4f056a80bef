//! Teeth for the simulator: each rule of the law can be switched off by name, and the sweep must then find a violation.
//!
//! Only builds with the feature `sabotage` have the switch; in all others [`off`] is `false` at compile time.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// A rule of the law, or of what keeps it, that can be switched off.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

rules! {
    /// `apply` refuses a start while another node is in the may-run set.
    MayRunRefusal = "may-run-refusal";
    /// A migration puts the target into the set before its order leaves.
    TargetInSet = "target-in-set";
    /// A failed start takes nobody out of the set.
    FailedStartStaysInSet = "failed-start-stays-in-set";
    /// Only a word given knowing of the entry takes a node out.
    AbsentNeedsFloor = "absent-needs-floor";
    /// A half-built migration target never counts as running.
    IncomingIsNotRunning = "incoming-is-not-running";
    /// A dead target of a migration under way stays in the set until the source gave up.
    DeadTargetStays = "dead-target-stays";
    /// A VM that is added may run on every node.
    NewVmEverywhere = "new-vm-everywhere";
    /// A restored control plane knows nothing of where VMs run.
    RestoredIsUnknown = "restored-is-unknown";
    /// A death is proven of one session.
    ProofOfOneSession = "proof-of-one-session";
    /// A node returns only when its fence is resolved.
    FenceResolvedFirst = "fence-resolved-first";
    /// A registration that was long on its way is refused.
    RegistrationInTurn = "registration-in-turn";
    /// A lease proves death only where a watchdog is armed.
    LeaseProofNeedsWatchdog = "lease-proof-needs-watchdog";
    /// A lease proves death only where the host's clock cannot be paused.
    LeaseProofNeedsClock = "lease-proof-needs-clock";
    /// The proof by lease waits for the self-fence or the watchdog too.
    LeaseProofWaitsForFence = "lease-proof-waits-for-fence";
    /// Clocks drift; the proof by lease allows for it.
    Drift = "drift";
    /// An agent that went away disarmed its watchdog.
    AwayEndsLeaseProof = "away-ends-lease-proof";
    /// When many nodes seem lost at once nothing is fenced.
    MassLossBrake = "mass-loss-brake";
    /// The release of a mass loss is of the nodes it names, and not of others that fall silent after it.
    ReleaseIsOfItsNodes = "release-is-of-its-nodes";
    /// In a conflict nothing is done by itself.
    ConflictIsLeftAlone = "conflict-is-left-alone";
    /// A VM that left by somebody's migration is not started again.
    LostIsNotRestarted = "lost-is-not-restarted";
    /// Only the present generation is resumed.
    ResumeSameGeneration = "resume-same-generation";
    /// Reports of an old session are refused.
    ReportOfOldSession = "report-of-old-session";
    /// A decision is refused when its record has changed since.
    DecisionOnPresentState = "decision-on-present-state";
    /// A request that is sent again is done once.
    RequestOnce = "request-once";
    /// A heartbeat is answered only after a quorum round that began after it arrived.
    QuorumBeforeAnswer = "quorum-before-answer";
    /// Once a loss is proposed the session is answered no more.
    NoAnswerAfterLoss = "no-answer-after-loss";
    /// A new leader counts every lease from its own beginning.
    NewLeaderWaits = "new-leader-waits";
    /// A leader that stalled counts every lease anew.
    StalledLeaderWaits = "stalled-leader-waits";
    /// A deposed leader's proposals are refused by its term.
    TermFence = "term-fence";
    /// "Off" is proof only when the device, asked afterwards, says off.
    FenceAskedAfterwards = "fence-asked-afterwards";
    /// An order leaves only after it is committed.
    IntentBeforeEffect = "intent-before-effect";
    /// The lease counts from the moment the heartbeat was sent.
    LeaseFromSending = "lease-from-sending";
    /// Without a lease nothing is brought to life.
    NoStartWithoutLease = "no-start-without-lease";
    /// When the lease runs out the node's VMs are stopped.
    SelfFence = "self-fence";
    /// A half-built target is destroyed when the lease runs out.
    SelfFenceIncoming = "self-fence-incoming";
    /// When libvirt does not answer, the QEMU process is killed.
    SelfFenceKills = "self-fence-kills";
    /// The watchdog starves when guests cannot be made sure of.
    WatchdogStarves = "watchdog-starves";
    /// Every domain that bears the mark is bound by the lease.
    MarkBinds = "mark-binds";
    /// Only what Berth suspended is resumed.
    ResumeOnlyOwn = "resume-only-own";
    /// Orders of another session are refused.
    OrderOfSession = "order-of-session";
    /// Orders of an older epoch are refused.
    OrderOfEpoch = "order-of-epoch";
    /// Orders of an older term are refused.
    OrderOfTerm = "order-of-term";
    /// An order that was ruled out is refused.
    LedgerFloor = "ledger-floor";
    /// Each order is done once.
    LedgerOnce = "ledger-once";
    /// The ledger is on disk before the agent acts.
    LedgerFirst = "ledger-first";
    /// Registering restores the floors of a lost ledger.
    FloorsRestored = "floors-restored";
    /// A question that was not answered is not "not here".
    SilenceIsNotAbsence = "silence-is-not-absence";
    /// libvirt's word alone is not "not here" while a QEMU process has the UUID.
    ProcessCounts = "process-counts";
    /// A node that is in a may-run set cannot be removed.
    NodeInSetStays = "node-in-set-stays";
    /// A node id never comes twice.
    NodeIdOnce = "node-id-once";
    /// A generation never comes twice.
    GenerationOnce = "generation-once";
    /// A restored control plane has a higher epoch.
    EpochRises = "epoch-rises";
    /// A replica that meets a higher epoch stops.
    HigherEpochStops = "higher-epoch-stops";
    /// A boot proves a death only of the same hardware.
    SameHardware = "same-hardware";
    /// A node that is heard after its "off" voids the proof, and that is an alarm.
    ProofVoidAlarm = "proof-void-alarm";
    /// The proof by lease outlasts the lease that was granted, and not the one that is granted now.
    LeaseTermsOfSession = "lease-terms-of-session";
    /// Nobody's word makes a node dead that is heard.
    ConfirmOffOfTheSilent = "confirm-off-of-the-silent";
    /// Of two clocks the agent believes the one that ran further.
    AgentTakesLargerClock = "agent-takes-larger-clock";
    /// Of two clocks the leader believes the one that ran less.
    LeaderTakesSmallerClock = "leader-takes-smaller-clock";
    /// What libvirt was asked for before an agent's death may still come: so it comes with its vCPUs stopped.
    LostStartMayCome = "lost-start-may-come";
    /// What libvirt may have been asked to let run, by a call whose answer nobody has, is not kept stopped without a lease.
    LostResumeMayCome = "lost-resume-may-come";
    /// A new ledger cannot know which starts were done before it, and refuses them.
    NewLedgerRefuses = "new-ledger-refuses";
    /// A copy that self-fence has suspended is destroyed when its hold is over.
    HoldEnds = "hold-ends";
    /// Nothing is done to a frozen VM.
    FrozenIsLeftAlone = "frozen-is-left-alone";
    /// Nothing starts while the cluster is locked.
    LockHoldsStarts = "lock-holds-starts";
    /// Nothing is done by itself while the cluster is paused.
    PauseHoldsAll = "pause-holds-all";
    /// A VM that an outside job claims is not started.
    ClaimHoldsStart = "claim-holds-start";
    /// No member of a service starts while another node may run any of it.
    ServiceMayRunRefusal = "service-may-run-refusal";
    /// Only its agent's word that none of its scripts runs there takes a node out of a service's set.
    StoppedScriptIsAsked = "stopped-script-is-asked";
    /// What may be running of scripts is known though the ledger is lost.
    BoundOutlivesLedger = "bound-outlives-ledger";
    /// The lease proves nothing of scripts that nobody ordered where they run.
    LeaseProvesTheBound = "lease-proves-the-bound";
    /// No guest runs on without a lease by the word of a ledger that is older than the last order.
    OldLedgerRunsNothingOn = "old-ledger-runs-nothing-on";
}

impl Rule {
    /// The rule of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.as_str() == text)
    }
}

#[cfg(feature = "sabotage")]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Whether this thread has switched the rule off.
    pub fn off(rule: Rule) -> bool {
        OFF.get() == Some(rule)
    }

    /// Switches one rule off in this thread, or all of them on.
    pub fn switch_off(rule: Option<Rule>) {
        OFF.set(rule);
    }
}

#[cfg(feature = "sabotage")]
pub use switch::{off, switch_off};

/// Whether the rule is switched off: never, in this build.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn off(_rule: Rule) -> bool {
    false
}
