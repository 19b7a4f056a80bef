//! Several changes at once: all of them or nothing, on the configuration that was looked at.
#![expect(clippy::unwrap_used, reason = "a story that cannot be told is a test that failed")]

use std::collections::BTreeMap;

use model::command::{Command, Operation};
use model::domain_xml::Disk;
use model::failover_domain::FailoverDomain;
use model::id::{ClusterId, FailoverDomainName, PlacementRuleName, RequestId, VmName};
use model::placement_rule::{PlacementRule, PlacementRuleKind};
use model::settings::Settings;
use model::time::Timestamp;
use model::vm::{Desired, VmPolicy, VmSpec, VmState};
use model::{Accepted, ClusterState, Rejection};
use uuid::Uuid;

struct Story {
    state: ClusterState,
    index: u64,
}

impl Story {
    fn begin() -> Self {
        let mut story = Self { state: ClusterState::default(), index: 0 };
        let cluster = ClusterId(Uuid::from_u128(1));
        story.act(Operation::Initialise { cluster, settings: Settings::default() }).unwrap();
        story
    }

    fn act(&mut self, operation: Operation) -> Result<Accepted, Rejection> {
        self.index += 1;
        let command = Command {
            request: RequestId(Uuid::from_u128(u128::from(self.index) + 100)),
            at: Timestamp(self.index),
            by: "test".into(),
            operation,
        };
        self.state.apply(self.index, &command)
    }

    fn together(&mut self, based_on: u64, changes: Vec<Operation>) -> Result<Accepted, Rejection> {
        self.act(Operation::ApplyChanges { batch: BATCH, parts: 0, based_on, changes })
    }
}

const BATCH: Uuid = Uuid::from_u128(77);

fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

fn add(name: &str) -> Operation {
    let uuid = Uuid::from_u128(1_000 + u128::from(name.as_bytes()[0]));
    Operation::AddVm(Box::new(VmSpec {
        name: vm(name),
        uuid,
        xml: "<domain/>".into(),
        memory_mib: 64,
        vcpus: 1,
        disks: Vec::new(),
        host_ties: Default::default(),
        policy: VmPolicy::default(),
    }))
}

#[test]
fn changes_are_made_together_or_not_at_all() {
    let mut story = Story::begin();
    assert_eq!(story.state.configuration, 0);
    let accepted =
        story.together(0, vec![add("a"), add("b"), Operation::Enable { vm: vm("a"), on: None }]);
    let revision = accepted.unwrap().revision;
    assert_eq!(story.state.vms.len(), 2);
    assert_eq!(story.state.vms[&vm("a")].desired, Desired::Enabled);
    assert_eq!(story.state.vms[&vm("b")].state, VmState::Disabled);
    assert_eq!(story.state.configuration, revision);
    // The events of one revision are told apart by their number.
    let events: Vec<_> =
        story.state.events.iter().filter(|event| event.revision == revision).collect();
    assert!(events.iter().enumerate().all(|(number, event)| event.sequence == number as u32));
    assert!(events.len() >= 3);

    // The third is refused, so the first two are not made.
    let before = story.state.clone();
    let refused = story
        .together(revision, vec![Operation::ForgetVm(vm("b")), add("c"), add("a")])
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "nothing was changed, because add-vm a is refused: a VM named a is managed already; edit it with `berthctl vm edit`, or forget it first"
    );
    assert_eq!(story.state.vms, before.vms);
    assert_eq!(story.state.vm_by_uuid, before.vm_by_uuid);
    assert_eq!(story.state.events, before.events);
    assert_eq!(story.state.configuration, revision);
}

#[test]
fn changes_of_a_configuration_that_was_changed_since_are_refused() {
    let mut story = Story::begin();
    story.act(add("a")).unwrap();
    let looked_at = story.state.configuration;
    // What is done about a VM is no change of the configuration.
    story.act(Operation::Enable { vm: vm("a"), on: None }).unwrap();
    assert_eq!(story.state.configuration, looked_at);
    let domain = FailoverDomain {
        name: FailoverDomainName::new("d").unwrap(),
        nodes: BTreeMap::new(),
        ordered: false,
        restricted: false,
        nofailback: false,
        failback: Default::default(),
    };
    // A refused change is none either.
    story.act(Operation::PutFailoverDomain(domain)).unwrap_err();
    assert_eq!(story.state.configuration, looked_at);
    let now = story.act(add("b")).unwrap().revision;
    assert_eq!(
        story.together(looked_at, vec![add("c")]).unwrap_err(),
        Rejection::ConfigurationChanged { based_on: looked_at, now }
    );
    story.together(now, vec![add("c")]).unwrap();
}

#[test]
fn only_definitions_and_enable_can_be_made_together() {
    let mut story = Story::begin();
    story.act(add("a")).unwrap();
    let now = story.state.configuration;
    for operation in [
        Operation::Disable(vm("a")),
        Operation::ReleaseMassLoss { nodes: Vec::new() },
        Operation::RestoreEnd,
        Operation::ApplyChanges { batch: BATCH, parts: 0, based_on: now, changes: Vec::new() },
    ] {
        let refused = story.together(now, vec![operation.clone()]).unwrap_err();
        assert!(matches!(refused, Rejection::OneOfMany { .. }), "{operation:?}: {refused}");
    }
}

#[test]
fn what_is_too_large_for_one_entry_is_staged_first_and_made_with_the_last() {
    let mut story = Story::begin();
    let stage =
        |part, name| Operation::StageChanges { batch: BATCH, part, changes: vec![add(name)] };
    let apply = |parts, based_on| Operation::ApplyChanges {
        batch: BATCH,
        parts,
        based_on,
        changes: vec![add("z")],
    };
    story.act(stage(1, "a")).unwrap_err();
    story.act(stage(0, "a")).unwrap();
    story.act(stage(2, "b")).unwrap_err();
    story.act(stage(1, "b")).unwrap();
    assert!(story.state.vms.is_empty(), "nothing is changed yet");
    assert_eq!(story.state.configuration, 0);
    story.act(apply(1, 0)).unwrap_err();
    story.act(apply(2, 0)).unwrap();
    assert_eq!(story.state.vms.len(), 3);
    assert_eq!(story.state.staged, None);
    let now = story.state.configuration;
    // Whoever begins later throws out what was staged before.
    story.act(stage(0, "c")).unwrap();
    let other = Uuid::from_u128(78);
    story.act(Operation::StageChanges { batch: other, part: 0, changes: vec![add("d")] }).unwrap();
    story.act(stage(1, "e")).unwrap_err();
    let refused = story.act(apply(1, now)).unwrap_err();
    assert!(refused.to_string().contains("what was staged of these changes"), "{refused}");
    assert_eq!(story.state.vms.len(), 3);
}

/// Its disk, whether it only reads it, and whether it shares it.
fn with_disk(name: &str, source: &str, readonly: bool, shareable: bool) -> Box<VmSpec> {
    let Operation::AddVm(mut spec) = add(name) else { panic!() };
    spec.disks = vec![Disk { source: source.into(), readonly, shareable }];
    spec
}

#[test]
fn a_disk_has_one_writer_alone_and_among_others_alike() {
    let taken = |disk: &str, holder: &str| Rejection::DiskTaken {
        disk: disk.into(),
        holder: holder.into(),
    };
    for (first, second, allowed) in [
        // Whether they only read it, and whether they share it.
        ((false, false), (false, false), false),
        ((false, true), (false, true), true),
        ((false, true), (false, false), false),
        ((true, false), (true, false), true),
        ((true, false), (false, false), false),
        ((false, false), (true, false), false),
        ((false, true), (true, false), true),
        ((true, false), (false, true), true),
    ] {
        let (a, b) = (
            with_disk("a", "block:/dev/x", first.0, first.1),
            with_disk("b", "block:/dev/x", second.0, second.1),
        );
        let mut story = Story::begin();
        story.act(Operation::AddVm(a.clone())).unwrap();
        let alone = story.act(Operation::AddVm(b.clone()));
        assert_eq!(alone.is_ok(), allowed, "{first:?} {second:?}");
        let mut story = Story::begin();
        let together = story.together(0, vec![Operation::AddVm(a), Operation::AddVm(b)]);
        assert_eq!(together.is_ok(), allowed, "{first:?} {second:?}");
        if !allowed {
            assert_eq!(alone.unwrap_err(), taken("block:/dev/x", "a"));
            let why = Box::new(taken("block:/dev/x", "b"));
            let refused = Rejection::OneOfMany { change: "add-vm a".into(), why };
            assert_eq!(together.unwrap_err(), refused);
            assert!(story.state.vms.is_empty());
        }
    }
}

#[test]
fn two_vms_may_change_their_disks_together() {
    let mut story = Story::begin();
    story.act(Operation::AddVm(with_disk("a", "block:/dev/x", false, false))).unwrap();
    story.act(Operation::AddVm(with_disk("b", "block:/dev/y", false, false))).unwrap();
    let a = with_disk("a", "block:/dev/y", false, false);
    let b = with_disk("b", "block:/dev/x", false, false);
    story.act(Operation::EditVm(a.clone())).unwrap_err();
    let now = story.state.configuration;
    story.together(now, vec![Operation::EditVm(a.clone())]).unwrap_err();
    story.together(now, vec![Operation::EditVm(a), Operation::EditVm(b)]).unwrap();
}

#[test]
fn rules_that_clash_with_each_other_are_refused_together_as_alone() {
    let rule = |name: &str, kind| {
        let vms = [vm("a"), vm("b")].into();
        let name = PlacementRuleName::new(name).unwrap();
        Operation::PutPlacementRule(PlacementRule { name, kind, vms })
    };
    let (together, apart) =
        (rule("t", PlacementRuleKind::Together), rule("p", PlacementRuleKind::Apart));
    let mut story = Story::begin();
    let refused = story.together(0, vec![together.clone(), apart.clone()]).unwrap_err();
    assert!(matches!(refused, Rejection::RulesClash { .. }), "{refused}");
    assert!(story.state.placement_rules.is_empty());
    // Only the end counts.
    let (once, gone) =
        (together, Operation::RemovePlacementRule(PlacementRuleName::new("t").unwrap()));
    story.together(0, vec![once, apart, gone]).unwrap();
}
