//! What RGManager called a resource group or service, and its states by number.

use proto::v1;

/// RGManager's states. `checking` (116) it never set, and `migrating` (120) not since 2009.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Stopped = 110,
    Starting = 111,
    Started = 112,
    Stopping = 113,
    Failed = 114,
    Uninitialized = 115,
    Recovering = 118,
    Disabled = 119,
}

impl State {
    /// A VM that migrates was `started` at its source. One that runs twice, or that was migrated out of the cluster, needs
    /// an administrator as one whose stop failed does, and scripts know that state.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "stopped" => Self::Stopped,
            "starting" => Self::Starting,
            "started" | "migrating" => Self::Started,
            "stopping" => Self::Stopping,
            "failed" | "conflict" | "lost" => Self::Failed,
            "recovering" => Self::Recovering,
            "disabled" => Self::Disabled,
            _ => Self::Uninitialized,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Uninitialized => "uninitialized",
            Self::Recovering => "recovering",
            Self::Disabled => "disabled",
        }
    }

    /// The owner is the last one, for nothing runs.
    pub(super) fn is_down(self) -> bool {
        matches!(self, Self::Stopped | Self::Disabled | Self::Failed)
    }

    /// What `clustat -s` ends with.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Starting | Self::Started | Self::Stopping => 0,
            other => other as u8,
        }
    }
}

/// Flags of a group, as bits.
pub(super) const FROZEN: u32 = 1;
pub(super) const PARTIAL: u32 = 2;

/// A group as `clustat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// `vm:NAME` or `service:NAME`.
    pub(super) name: String,
    pub(super) state: State,
    pub(super) flags: u32,
    pub(super) owner: Option<String>,
    pub(super) last_owner: Option<String>,
    pub(super) restarts: u32,
    /// Seconds since the Unix epoch.
    pub(super) since: u64,
}

impl Group {
    /// All groups, sorted by name as RGManager does.
    pub(super) fn all(status: &v1::Status) -> Vec<Self> {
        let vms = status.vms.iter().map(Self::of_vm);
        let mut groups: Vec<_> = vms.chain(status.services.iter().map(Self::of_service)).collect();
        groups.sort_by(|left, right| left.name.cmp(&right.name));
        groups
    }

    fn of_vm(vm: &v1::Vm) -> Self {
        let state = State::of(&vm.state);
        // Of one that failed Berth keeps where it may still run; RGManager's last owner is that.
        let (first, second) = match state.is_down() {
            true => (&vm.owner, &vm.last_owner),
            false => (&vm.last_owner, &vm.owner),
        };
        Self {
            name: format!("vm:{}", vm.name),
            state,
            flags: if vm.frozen.is_some() { FROZEN } else { 0 },
            owner: vm.owner.clone(),
            last_owner: first.clone().or_else(|| second.clone()),
            restarts: vm.restart_count,
            since: vm.state_since_ms / 1_000,
        }
    }

    fn of_service(service: &v1::Service) -> Self {
        let name = service.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        let flags = (if service.frozen.is_some() { FROZEN } else { 0 })
            | (if service.partial { PARTIAL } else { 0 });
        let group = Self::of_vm(&v1::Vm {
            state: service.state.clone(),
            owner: service.owner.clone(),
            last_owner: service.last_owner.clone(),
            restart_count: service.restart_count,
            state_since_ms: service.state_since_ms,
            ..v1::Vm::default()
        });
        Self { name: format!("service:{name}"), flags, ..group }
    }

    pub(super) fn flag_words(&self, separator: &str) -> String {
        let words = [(FROZEN, "frozen"), (PARTIAL, "partial")];
        let set = words.iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, word)| *word);
        set.collect::<Vec<_>>().join(separator)
    }

    pub(super) fn flag_letters(&self) -> String {
        let letters = [(FROZEN, 'Z'), (PARTIAL, 'P')];
        letters.iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, letter)| *letter).collect()
    }
}

/// The group's full name: without a prefix a service is meant.
pub(super) fn full_name(text: &str) -> String {
    if text.contains(':') { text.to_owned() } else { format!("service:{text}") }
}
