//! The file, as the format has it; an unknown key, event or value is an error that names its line.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A story.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// `ha-scenario/1`.
    pub format: Format,
    /// Its name.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Features that it needs beyond the core.
    #[serde(default, deserialize_with = "or_nothing")]
    pub requires: Vec<String>,
    /// The cluster.
    pub cluster: Cluster,
    /// VMs.
    #[serde(default, deserialize_with = "or_nothing")]
    pub vms: BTreeMap<String, Vm>,
    /// Rules.
    #[serde(default, deserialize_with = "or_nothing")]
    pub rules: Vec<Rule>,
    /// A control plane that was already running.
    #[serde(default)]
    pub initial_state: Option<InitialState>,
    /// What happens.
    #[serde(default, deserialize_with = "or_nothing")]
    pub timeline: Vec<Step>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Option<Expect>,
}

/// What a file says first, whatever else is in it.
#[derive(Debug, Clone, Deserialize)]
pub struct Head {
    /// `ha-scenario/1`.
    pub format: Format,
    /// Its name.
    pub name: String,
    /// Features that it needs beyond the core.
    #[serde(default, deserialize_with = "or_nothing")]
    pub requires: Vec<String>,
}

/// The format's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Format {
    /// The one that is known.
    #[serde(rename = "ha-scenario/1")]
    One,
}

/// The cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its nodes.
    pub nodes: BTreeMap<String, Node>,
    /// Where its replicas live.
    #[serde(default)]
    pub replicas: Replicas,
    /// What a clean shutdown of a node means.
    #[serde(default)]
    pub shutdown_policy: ShutdownPolicy,
    /// How nodes are weighed.
    #[serde(default)]
    pub placement: PlacementMode,
    /// A VM that is to start may be placed better first.
    #[serde(default)]
    pub rebalance_on_start: bool,
    /// Running VMs may be moved to even out load.
    #[serde(default)]
    pub auto_rebalance: bool,
}

/// One node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// At the beginning.
    #[serde(default)]
    pub power: Switch,
    /// Processors.
    #[serde(default)]
    pub cpu: Option<f64>,
    /// Memory.
    #[serde(default)]
    pub mem_mib: Option<Mebibytes>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Off.
    #[default]
    Off,
    /// On.
    On,
}

/// Where replicas live.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Replicas {
    /// So many, on machines of their own.
    Number(usize),
    /// `one-per-node`.
    Word(OnePerNode),
}

/// The word.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum OnePerNode {
    /// One on every node, whose fate it shares.
    #[serde(rename = "one-per-node")]
    OnePerNode,
}

impl Default for Replicas {
    fn default() -> Self {
        Self::Word(OnePerNode::OnePerNode)
    }
}

/// What a clean shutdown of a node means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum ShutdownPolicy {
    #[default]
    Conditional,
    Freeze,
    Failover,
    Migrate,
}

/// How nodes are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum PlacementMode {
    #[default]
    Count,
    Static,
    Dynamic,
}

/// What the operator wants of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum Desired {
    Running,
    Stopped,
    Disabled,
    Ignored,
}

/// Processors and memory.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub struct Size {
    #[serde(default)]
    pub cpu: Option<f64>,
    #[serde(default)]
    pub mem_mib: Option<Mebibytes>,
}

/// Memory; a part of one counts as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Mebibytes(pub u64);

impl TryFrom<f64> for Mebibytes {
    type Error = String;

    fn try_from(told: f64) -> Result<Self, Self::Error> {
        match told.is_finite() && told >= 0.0 {
            true => Ok(Self(told.ceil() as u64)),
            false => Err(format!("{told} is no size of memory")),
        }
    }
}

/// What a key says that is there and says nothing.
fn or_nothing<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// So many, or always.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum Times {
    /// So many.
    Number(u32),
    /// `always`.
    Always(Always),
}

/// The word.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Always {
    /// Every time.
    Always,
}

impl Times {
    /// As a number that is never reached, where it is always.
    pub fn count(self) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Always(_) => u32::MAX,
        }
    }
}

/// What goes wrong with a VM.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub struct VmFaults {
    #[serde(default)]
    pub start_fails: Option<Times>,
    #[serde(default)]
    pub migrate_fails: Option<Times>,
    #[serde(default)]
    pub stop_fails: Option<Times>,
    #[serde(default)]
    pub missing: bool,
    #[serde(default)]
    pub only_on: Option<String>,
}

/// One VM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub struct Vm {
    pub node: String,
    pub desired: Desired,
    #[serde(default = "yes")]
    pub live: bool,
    #[serde(default)]
    pub auto_moves: Option<AutoMoves>,
    #[serde(default)]
    pub max_restart: Option<u32>,
    #[serde(default)]
    pub max_relocate: Option<u32>,
    #[serde(default = "yes")]
    pub failback: bool,
    #[serde(default)]
    pub size: Option<Size>,
    #[serde(default)]
    pub load: Option<Size>,
    #[serde(default)]
    pub added_later: bool,
    #[serde(default)]
    pub faults: Option<VmFaults>,
}

fn yes() -> bool {
    true
}

/// How automatic moves go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum AutoMoves {
    Cold,
    Live,
}

/// A rule about VMs and nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub struct Rule {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: RuleKind,
    pub vms: Vec<String>,
    #[serde(default)]
    pub nodes: BTreeMap<String, u32>,
    #[serde(default)]
    pub strict: bool,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum RuleKind {
    NodeAffinity,
    Apart,
    Together,
}

/// A control plane that was already running.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub struct InitialState {
    #[serde(default)]
    pub leader_was: Option<String>,
    #[serde(default)]
    pub nodes: BTreeMap<String, NodeWord>,
    #[serde(default)]
    pub vms: BTreeMap<String, InitialVm>,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum NodeWord {
    Up,
    Unknown,
    BeingFenced,
    Maintenance,
}

/// How a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum VmWord {
    Running,
    Stopped,
    MovingLive,
    Recovering,
    WaitingForFence,
    Failed,
}

/// How a VM was.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub struct InitialVm {
    pub node: String,
    pub state: VmWord,
    #[serde(default)]
    pub target: Option<String>,
}

/// One step of the timeline.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Informative.
    #[serde(default)]
    pub at: Option<f64>,
    /// What is waited for.
    #[serde(default)]
    pub wait: Option<Wait>,
    /// What happens then, at one instant.
    #[serde(default, deserialize_with = "or_nothing")]
    pub events: Vec<Event>,
}

/// What is waited for.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Wait {
    /// `settled`.
    Word(Settled),
    /// The first moment all of these hold.
    Until(Until),
}

/// The word.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settled {
    /// Nothing is in flight.
    Settled,
}

/// All of these.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Until {
    /// Conditions.
    pub until: Vec<Condition>,
}

/// One condition.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub struct Condition {
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default)]
    pub vm: Option<String>,
    pub is: Word,
}

/// A word about a node or a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum Word {
    Up,
    Unknown,
    BeingFenced,
    Maintenance,
    Running,
    Stopped,
    MovingLive,
    Recovering,
    WaitingForFence,
    Failed,
}

/// Something that happens.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "do", deny_unknown_fields)]
#[expect(missing_docs, reason = "the format's own words")]
pub enum Event {
    #[serde(rename = "node.power")]
    Power { node: String, to: Switch },
    #[serde(rename = "node.network")]
    Network { node: String, to: Link },
    #[serde(rename = "node.shutdown")]
    Shutdown { node: String, then: Then },
    #[serde(rename = "vm.desire")]
    Desire { vm: String, state: Desired },
    #[serde(rename = "vm.move")]
    Move { vm: String, to: String, live: bool },
    #[serde(rename = "vm.stop")]
    Stop { vm: String, timeout_s: u64 },
    #[serde(rename = "vm.add")]
    Add {
        vm: String,
        #[serde(default)]
        node: Option<String>,
        #[serde(default)]
        desired: Option<Desired>,
        #[serde(default)]
        already_running: bool,
    },
    #[serde(rename = "vm.remove")]
    Remove { vm: String },
    #[serde(rename = "vm.load")]
    Load {
        vm: String,
        kind: LoadKind,
        #[serde(default)]
        cpu: Option<f64>,
        #[serde(default)]
        mem_mib: Option<Mebibytes>,
    },
    #[serde(rename = "vm.lock")]
    Lock { vm: String, reason: String },
    #[serde(rename = "vm.moved-outside")]
    MovedOutside { vm: String, to: String },
    #[serde(rename = "admin.maintenance")]
    Maintenance { node: String, on: bool },
    #[serde(rename = "admin.pause")]
    Pause { mode: PauseMode },
    #[serde(rename = "admin.resume")]
    Resume {
        #[serde(default)]
        mode: Option<PauseMode>,
    },
    #[serde(rename = "agent.restart")]
    RestartAgent { node: String },
    #[serde(rename = "replica.stop")]
    StopReplica {
        node: String,
        #[serde(default)]
        graceful: bool,
    },
    #[serde(rename = "node.control-store")]
    ControlStore { node: String, path: StorePath, to: StoreState },
    #[serde(rename = "control.stall")]
    Stall { part: Part, rounds: u64 },
    #[serde(rename = "wait")]
    Wait { seconds: Seconds },
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(pub f64);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(told: f64) -> Result<Self, Self::Error> {
        match told.is_finite() && told >= 0.0 {
            true => Ok(Self(told)),
            false => Err(format!("{told} seconds cannot pass")),
        }
    }
}

/// The words of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum Link {
    Isolated,
    Connected,
}

/// What follows a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum Then {
    StayOff,
    PowerOn,
}

/// Which load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum LoadKind {
    Size,
    Load,
}

/// How automatic actions are held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum PauseMode {
    Freeze,
    Ignore,
}

/// Which way to the replicas' storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum StorePath {
    ReadWrite,
    Update,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum StoreState {
    Fail,
    Work,
}

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the format's own words")]
pub enum Part {
    ControlPlane,
    Agents,
}

/// What must come of a story.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// VMs in the end: state, and node where it matters.
    #[serde(default)]
    pub vms: BTreeMap<String, ExpectedVm>,
    /// Nodes whose death must have been proven.
    #[serde(default)]
    pub fenced: Vec<String>,
    /// Nodes whose death must not have been proven.
    #[serde(default)]
    pub not_fenced: Vec<String>,
    /// Lines that must be in the trace in this order: event and its first arguments.
    #[serde(default)]
    pub trace: Vec<Vec<String>>,
    /// Lines that must not be in the trace.
    #[serde(default)]
    pub never: Vec<Vec<String>>,
}

/// How a VM must be in the end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedVm {
    /// As the trace's last line says.
    pub state: String,
    /// Where, if it matters.
    #[serde(default)]
    pub node: Option<String>,
}

/// Why a file is none, with the line.
#[derive(Debug)]
pub struct FileError(String);

impl FileError {
    /// With what it says.
    pub fn new(why: String) -> Self {
        Self(why)
    }
}

impl std::fmt::Display for FileError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for FileError {}

/// Reads a file's text.
pub fn parse(text: &str) -> Result<Scenario, FileError> {
    let mut scenario: Scenario = read(text)?;
    // What is said of a VM that comes later may all be said by the event that brings it.
    for event in scenario.timeline.iter().flat_map(|step| &step.events) {
        if let Event::Add { vm, node: Some(node), desired, .. } = event {
            scenario.vms.entry(vm.clone()).or_insert_with(|| Vm {
                node: node.clone(),
                desired: desired.unwrap_or(Desired::Running),
                live: true,
                auto_moves: None,
                max_restart: None,
                max_relocate: None,
                failback: true,
                size: None,
                load: None,
                added_later: true,
                faults: None,
            });
        }
    }
    Ok(scenario)
}

/// Reads only what a file says first.
pub fn head(text: &str) -> Result<Head, FileError> {
    read(text)
}

/// Reads only its name, which even a file with mistakes may have.
pub fn name(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    read(text).ok().map(|named: Named| named.name)
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, FileError> {
    // Of YAML 1.2, in which `on` and `off` are words: they are keys and values of the format.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let all = error.to_string();
        let first = all.lines().next().unwrap_or_default();
        FileError(first.strip_prefix("error: ").unwrap_or(first).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "format: ha-scenario/1
name: small
cluster:
  nodes: {node1: {power: 'off', cpu: 24.0, mem_mib: 131072}}
  replicas: 3
timeline:
- at: 20
  wait: settled
  events:
  - {do: node.power, node: node1, to: 'on'}
- wait: {until: [{node: node1, is: up}]}
";

    #[test]
    fn a_small_story_is_read() {
        let scenario = parse(SMALL).unwrap();
        assert_eq!((scenario.name.as_str(), scenario.timeline.len()), ("small", 2));
    }

    #[test]
    fn a_key_that_says_nothing_is_as_one_that_is_not_there() {
        let timeline = SMALL.find("timeline:").unwrap();
        let text = format!("{}vms:\nrules:\nrequires:\ntimeline:\n", &SMALL[..timeline]);
        let scenario = parse(&text).unwrap();
        assert!(scenario.vms.is_empty() && scenario.rules.is_empty());
        assert!(scenario.requires.is_empty() && scenario.timeline.is_empty());
        assert_eq!(head(&text).unwrap().requires, Vec::<String>::new());
    }

    #[test]
    fn a_part_of_a_mebibyte_counts_as_a_whole() {
        let scenario = parse(&SMALL.replace("131072", "131071.5")).unwrap();
        assert_eq!(scenario.cluster.nodes["node1"].mem_mib, Some(Mebibytes(131_072)));
    }

    #[test]
    fn an_unknown_key_event_or_value_names_its_line() {
        for (from, to, line) in [
            ("replicas: 3", "replicaz: 3", "line 5"),
            ("node.power, node", "node.fly, node", "line 10"),
            ("to: 'on'", "to: 'up'", "line 10"),
            ("is: up", "is: tired", "line 11"),
            ("{do: node.power, node: node1, to: 'on'}", "{do: wait, seconds: -1}", "line 10"),
            ("mem_mib: 131072", "mem_mib: -1", "line 4"),
        ] {
            let error = parse(&SMALL.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(line), "{to}: {error}");
        }
    }
}
