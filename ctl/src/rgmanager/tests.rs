use std::ffi::OsString;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::plan::{EXCLUSIVE_IS_THERE, OTHERS_ARE_THERE};
use proto::v1;

use super::clustat::{self, View};
use super::clusvcadm::{self, Answer, Request, Verb, announce, answer, closest};
use super::{local_node, options};
use crate::exit::{Failure, Kind};

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
}

fn node(id: u64, name: &str, state: &str) -> v1::Node {
    v1::Node { id, name: name.into(), state: state.into(), ..v1::Node::default() }
}

fn vm(name: &str, state: &str, owner: Option<&str>, last: Option<&str>) -> v1::Vm {
    v1::Vm {
        name: name.into(),
        state: state.into(),
        owner: owner.map(Into::into),
        last_owner: last.map(Into::into),
        state_since_ms: 1_764_057_600_000,
        ..v1::Vm::default()
    }
}

fn status() -> v1::Status {
    v1::Status {
        cluster: "5d5c8b4e".into(),
        term: 7,
        nodes: vec![
            node(5, "node2.example.com", "lost"),
            node(3, "node1.example.com", "online"),
            node(9, "a-host-with-a-name-that-is-longer-than-its-column.example.com", "suspect"),
        ],
        vms: vec![
            vm("web", "started", Some("node1.example.com"), None),
            v1::Vm {
                frozen: Some(v1::Freeze::default()),
                restart_count: 2,
                ..vm("db", "migrating", Some("node1.example.com"), None)
            },
            vm("new", "disabled", None, None),
            vm("mail", "stopped", None, Some("node2.example.com")),
            vm("twice", "conflict", Some("node1.example.com"), None),
        ],
        services: vec![v1::Service {
            spec: Some(v1::ServiceSpec { name: "shop".into(), ..v1::ServiceSpec::default() }),
            state: "started".into(),
            owner: Some("node1.example.com".into()),
            frozen: Some("x".into()),
            partial: true,
            state_since_ms: 1_764_057_600_000,
            ..v1::Service::default()
        }],
        ..v1::Status::default()
    }
}

fn view(quorate: bool) -> View {
    let mut view = View::new(&status(), quorate, Some("node1.example.com"));
    view.cluster = "alpha".into();
    view.id = 42;
    view.now = Timestamp::from_second(1_764_057_600).unwrap();
    view.zone = TimeZone::UTC;
    view.columns = 80;
    view
}

fn clustat(line: &str) -> clustat::Request {
    clustat::parse("clustat", &words(line)).unwrap()
}

#[test]
fn clustat_prints_what_rgmanager_printed() {
    let (text, code) = clustat::text(&view(true), &clustat(""));
    assert_eq!(code, 0);
    assert_eq!(
        text,
        "Cluster Status for alpha @ Tue Nov 25 08:00:00 2025
Member Status: Quorate

 Member Name                             ID   Status
 ------ ----                             ---- ------
 node1.example.com                           3 Online, Local, rgmanager
 node2.example.com                           5 Offline
 a-host-with-a-name-that-is-longer-than-i    9 Online, rgmanager

 Service Name                   Owner (Last)                   State         
 ------- ----                   ----- ------                   -----         
 service:shop                   node1.example.com              started   [ZP]
 vm:db                          node1.example.com              started    [Z]
 vm:mail                        (node2.example.com)            stopped       
 vm:new                         (none)                         disabled      
 vm:twice                       (node1.example.com)            failed        
 vm:web                         node1.example.com              started       
"
    );
    let (text, code) = clustat::text(&view(true), &clustat("-l -s vm:mail"));
    assert_eq!(code, 110);
    assert!(
        text.ends_with(
            "Service Name      : vm:mail
  Current State   : stopped (110)
  Flags           : none (0)
  Owner           : none
  Last Owner      : node2.example.com
  Last Transition : Tue Nov 25 08:00:00 2025

"
        ),
        "{text}"
    );
    let (text, _) = clustat::text(&view(false), &clustat(""));
    assert!(text.contains("Member Status: Inquorate\n"), "{text}");
    assert!(text.ends_with("Service states unavailable: Operation requires quorum\n"), "{text}");
}

#[test]
fn clustat_writes_the_xml_that_rgmanager_wrote() {
    let (text, code) = clustat::xml(&view(true), &clustat("-x"));
    assert_eq!(code, 0);
    assert_eq!(
        text,
        r#"<?xml version="1.0"?>
<clustat version="4.1.1">
  <cluster name="alpha" id="42" generation="7"/>
  <quorum quorate="1" groupmember="1"/>
  <nodes>
    <node name="node1.example.com" state="1" local="1" estranged="0" rgmanager="1" rgmanager_master="0" qdisk="0" nodeid="0x00000003"/>
    <node name="node2.example.com" state="0" local="0" estranged="0" rgmanager="0" rgmanager_master="0" qdisk="0" nodeid="0x00000005"/>
    <node name="a-host-with-a-name-that-is-longer-than-its-column.example.com" state="1" local="0" estranged="0" rgmanager="1" rgmanager_master="0" qdisk="0" nodeid="0x00000009"/>
  </nodes>
  <groups>
    <group name="service:shop" state="112" state_str="started" flags="3" flags_str="frozen partial" owner="node1.example.com" last_owner="node1.example.com" restarts="0" last_transition="1764057600" last_transition_str="Tue Nov 25 08:00:00 2025"/>
    <group name="vm:db" state="112" state_str="started" flags="1" flags_str="frozen" owner="node1.example.com" last_owner="node1.example.com" restarts="2" last_transition="1764057600" last_transition_str="Tue Nov 25 08:00:00 2025"/>
    <group name="vm:mail" state="110" state_str="stopped" flags="0" flags_str="" owner="none" last_owner="node2.example.com" restarts="0" last_transition="1764057600" last_transition_str="Tue Nov 25 08:00:00 2025"/>
    <group name="vm:new" state="119" state_str="disabled" flags="0" flags_str="" owner="none" last_owner="none" restarts="0" last_transition="1764057600" last_transition_str="Tue Nov 25 08:00:00 2025"/>
    <group name="vm:twice" state="114" state_str="failed" flags="0" flags_str="" owner="none" last_owner="node1.example.com" restarts="0" last_transition="1764057600" last_transition_str="Tue Nov 25 08:00:00 2025"/>
    <group name="vm:web" state="112" state_str="started" flags="0" flags_str="" owner="node1.example.com" last_owner="node1.example.com" restarts="0" last_transition="1764057600" last_transition_str="Tue Nov 25 08:00:00 2025"/>
  </groups>
</clustat>
"#
    );
    // What a program can't trip over: names from outside are escaped.
    let mut odd = view(true);
    odd.cluster = "<a & \"b\">".into();
    let (text, _) = clustat::xml(&odd, &clustat("-x"));
    assert!(text.contains("name=\"&lt;a &amp; &quot;b&quot;&gt;\""), "{text}");
}

#[test]
fn clustat_ends_as_scripts_expect() {
    for (line, code) in [
        ("-s vm:web", 0),
        ("-s vm:db", 0),
        ("-s vm:mail", 110),
        ("-s vm:new", 119),
        ("-s vm:twice", 114),
        ("-s shop", 0),
        ("-s web", 255),
        ("-s vm:nobody", 255),
        ("-m node1.example.com", 0),
        ("-m node2.example.com", 1),
        ("-m node3", 255),
        ("-m node1.example.com -s vm:new", 119),
        ("-m node2.example.com -s vm:web", 1),
    ] {
        assert_eq!(clustat::text(&view(true), &clustat(line)).1, code, "{line}");
        assert_eq!(clustat::xml(&view(true), &clustat(line)).1, code, "{line} -x");
    }
    let (text, _) = clustat::text(&view(true), &clustat("-s vm:web"));
    assert!(!text.contains("Member"), "{text}");
    let (text, _) = clustat::xml(&view(true), &clustat("-m node1.example.com"));
    assert!(!text.contains("<group") && !text.contains("<quorum"), "{text}");
}

#[test]
fn clustat_takes_its_flags_as_getopt_did() {
    assert_eq!(clustat("-lfx").group, None);
    assert!(clustat("-lf").long && clustat("-lf").fast);
    assert_eq!(clustat("-swww").group.unwrap(), "service:www");
    assert_eq!(clustat("-i 0").interval, Some(1));
    assert_eq!(clustat("-i x").interval, Some(1));
    assert_eq!(clustat("-i5").interval, Some(5));
    assert!(clustat("-Q").quorum && clustat("-I").node_id && clustat("-v").version);
    let early = clustat::parse("clustat", &words("-i 5 -x")).unwrap_err();
    assert_eq!(early.out, "Error: Options '-i' and '-x' are mutually exclusive\n");
    assert_eq!(early.code, 1);
    for line in ["-h", "-k", "-s", "--long"] {
        let early = clustat::parse("clustat", &words(line)).unwrap_err();
        assert!(early.out.starts_with("usage: clustat <options>\n") && early.code == 0, "{line}");
    }
    assert_eq!(options(&words("-- -x"), "", "x"), []);
}

fn clusvcadm(line: &str) -> Request {
    clusvcadm::parse("clusvcadm", &words(line)).unwrap()
}

#[test]
fn clusvcadm_takes_all_flags() {
    let act = |verb, group: &str, member: Option<&str>| Request::Act {
        verb,
        group: group.into(),
        member: member.map(Into::into),
        by_domain: false,
        quiet: false,
    };
    for (line, request) in [
        ("-e vm:x", act(Verb::Enable, "vm:x", None)),
        ("-e x", act(Verb::Enable, "service:x", None)),
        ("-evm:x -m n", act(Verb::Enable, "vm:x", Some("n"))),
        ("-n n -e vm:x", act(Verb::Enable, "vm:x", Some("n"))),
        ("-d vm:x", act(Verb::Disable, "vm:x", None)),
        ("-s vm:x", act(Verb::Stop, "vm:x", None)),
        ("-r vm:x -m n", act(Verb::Relocate, "vm:x", Some("n"))),
        ("-R vm:x", act(Verb::Restart, "vm:x", None)),
        ("-M vm:x -m n", act(Verb::Migrate, "vm:x", Some("n"))),
        ("-Z vm:x", act(Verb::Freeze, "vm:x", None)),
        ("-U vm:x", act(Verb::Unfreeze, "vm:x", None)),
        ("-c x", act(Verb::Convalesce, "service:x", None)),
        ("-l", Request::Lock),
        ("-u", Request::Unlock),
        ("-S", Request::ShowLock),
    ] {
        assert_eq!(clusvcadm(line), request, "{line}");
    }
    assert!(matches!(clusvcadm("-qFe vm:x"), Request::Act { by_domain: true, quiet: true, .. }));
    for (line, said, code) in [
        ("", "usage: clusvcadm [command]\n", 1),
        ("-h", "usage: clusvcadm [command]\n", 1),
        ("-y", "usage: clusvcadm [command]\n", 1),
        ("-m n", "usage: clusvcadm [command]\n", 1),
        ("-M vm:x", "Migration requires a target cluster member\n", 1),
        ("-v", env!("CARGO_PKG_VERSION"), 0),
    ] {
        let early = clusvcadm::parse("clusvcadm", &words(line)).unwrap_err();
        assert!(early.out.starts_with(said), "{line}: {early:?}");
        assert_eq!(early.code, code, "{line}");
    }
    for line in ["-F -m n -e vm:x", "-n n -F -e vm:x"] {
        let early = clusvcadm::parse("clusvcadm", &words(line)).unwrap_err();
        assert_eq!(early.error, "Cannot use '-F' with '-n' or '-m'\n");
        assert_eq!(early.code, 1);
    }
}

#[test]
fn clusvcadm_says_what_rgmanager_said() {
    for (verb, member, said) in [
        (Verb::Enable, None, "Local machine trying to enable vm:x..."),
        (Verb::Enable, Some("n"), "Member n trying to enable vm:x..."),
        (Verb::Disable, None, "Local machine disabling vm:x..."),
        (Verb::Stop, None, "Local machine stopping vm:x..."),
        (Verb::Restart, None, "Local machine trying to restart vm:x..."),
        (Verb::Relocate, None, "Trying to relocate vm:x..."),
        (Verb::Relocate, Some("n"), "Trying to relocate vm:x to n..."),
        (Verb::Migrate, Some("n"), "Trying to migrate vm:x to n..."),
        (Verb::Freeze, None, "Local machine freezing vm:x..."),
        (Verb::Unfreeze, None, "Local machine unfreezing vm:x..."),
        (Verb::Convalesce, None, "Local machine convalescing vm:x..."),
    ] {
        assert_eq!(announce(verb, "vm:x", member), said);
    }
}

#[test]
fn exit_codes_are_rgmanagers_modulo_256() {
    for (answer, code) in [
        (Answer::Success, 0),
        (Answer::Running, 0),
        (Answer::Fail, 255),
        (Answer::Abort, 254),
        (Answer::NoService, 252),
        (Answer::Dependency, 249),
        (Answer::Quorum, 247),
        (Answer::Again, 250),
        (Answer::Invalid, 248),
        (Answer::Frozen, 245),
        (Answer::Node, 244),
        (Answer::Domain, 241),
        (Answer::RanOn, 239),
        (Answer::Permission, 238),
    ] {
        assert_eq!(answer.exit_code(), code, "{answer:?}");
    }
}

#[test]
fn each_no_has_rgmanagers_number() {
    let no = |word: &str, message: &str| Failure {
        rejection: Some(word.into()),
        ..Failure::new(Kind::Refused, message)
    };
    let stuck = |code: &str, why: &str| Failure {
        reason: Some(code.into()),
        ..Failure::new(Kind::CannotNow, why)
    };
    let failed = |why: &str| Failure::new(Kind::OperationFailed, why);
    for (verb, failure, state, expected) in [
        (Verb::Enable, no("unknown-vm", ""), "", Answer::NoService),
        (Verb::Disable, no("unknown-service", ""), "", Answer::NoService),
        (Verb::Enable, no("frozen", ""), "started", Answer::Frozen),
        (Verb::Migrate, no("bad-target", "the node is lost"), "started", Answer::Node),
        (
            Verb::Migrate,
            no("bad-target", "restricted failover domain d"),
            "started",
            Answer::Domain,
        ),
        (Verb::Migrate, no("wrong-state", ""), "disabled", Answer::Again),
        (Verb::Relocate, no("wrong-state", ""), "disabled", Answer::Invalid),
        (Verb::Restart, no("wrong-state", ""), "failed", Answer::Fail),
        (Verb::Enable, no("wrong-state", ""), "failed", Answer::Abort),
        (Verb::Relocate, no("wrong-state", ""), "conflict", Answer::Abort),
        (Verb::Stop, no("wrong-state", ""), "failed", Answer::Fail),
        (Verb::Enable, no("locked", ""), "stopped", Answer::Again),
        // A failover domain that the node is not in, which is restricted: also where the node is only the one that was asked.
        (
            Verb::Enable,
            no("bad-target", "restricted failover domain d"),
            "disabled",
            Answer::Domain,
        ),
        (Verb::Enable, no("busy", "a migration"), "migrating", Answer::Running),
        (Verb::Enable, no("wrong-state", ""), "migrating", Answer::Running),
        (Verb::Unfreeze, no("not-frozen", ""), "started", Answer::Success),
        (Verb::Unfreeze, no("not-frozen", ""), "stopped", Answer::Success),
        (Verb::Unfreeze, no("not-frozen", ""), "disabled", Answer::Success),
        (Verb::Unfreeze, no("not-frozen", ""), "recovering", Answer::Again),
        (Verb::Unfreeze, no("not-frozen", ""), "failed", Answer::Again),
        (Verb::Migrate, no("cannot-migrate", ""), "started", Answer::Invalid),
        (Verb::Relocate, failed(EXCLUSIVE_IS_THERE), "started", Answer::Dependency),
        (Verb::Migrate, failed(OTHERS_ARE_THERE), "started", Answer::Dependency),
        (Verb::Migrate, failed("VM exclusive: no"), "started", Answer::RanOn),
        (Verb::Enable, stuck("depends-on", ""), "stopped", Answer::Dependency),
        (Verb::Enable, stuck("no-place", EXCLUSIVE_IS_THERE), "stopped", Answer::Dependency),
        (Verb::Enable, stuck("no-place", "b: it is lost"), "stopped", Answer::Domain),
        (Verb::Enable, stuck("locked", ""), "stopped", Answer::Again),
        (Verb::Enable, stuck("frozen", ""), "stopped", Answer::Frozen),
        (Verb::Enable, stuck("stop-failed", ""), "failed", Answer::Abort),
        (Verb::Migrate, Failure::new(Kind::OperationFailed, ""), "started", Answer::RanOn),
        (Verb::Enable, Failure::new(Kind::OperationFailed, ""), "disabled", Answer::Fail),
        (Verb::Enable, Failure::new(Kind::CannotNow, ""), "disabled", Answer::Domain),
        (Verb::Enable, Failure::new(Kind::Unreachable, ""), "disabled", Answer::Quorum),
    ] {
        assert_eq!(answer(verb, &failure, state), expected, "{verb:?} {failure:?} {state}");
    }
}

#[test]
fn a_name_that_is_no_member_is_the_closest_one() {
    let nodes = [node(1, "node1.example.com", "online"), node(2, "other", "online")];
    let (found, said) = closest(&nodes, "node1").unwrap();
    assert_eq!((found.id, said.as_str()), (1, "Closest match: 'node1.example.com'\n"));
    assert_eq!(closest(&nodes, "x").unwrap_err(), "No matches for 'x' found\n");
    let nodes = [node(1, "node1", "online"), node(2, "node2", "online")];
    let error = closest(&nodes, "node").unwrap_err();
    assert_eq!(error, "More than one possible match for 'node' found\n");
    assert_eq!(local_node(&nodes, Some("node2.example.com")).unwrap().id, 2);
    assert!(local_node(&nodes, Some("node3")).is_none());
}

/// Parity and complaints name a test in every row, and each of them is there.
#[test]
fn every_test_that_the_parity_table_names_exists() {
    fn sources(directory: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                sources(&path, all);
            } else if path.extension().is_some_and(|it| it == "rs") {
                all.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(workspace.join("docs/from-rgmanager.md")).unwrap();
    let mut all = String::new();
    for part in ["agent", "ctl", "model", "proto", "server", "tests"] {
        sources(&workspace.join(part), &mut all);
    }
    // The rows of a section's table, without its head.
    let rows = |section: &str, next: &str| {
        let (_, rest) = page.split_once(section).unwrap();
        let (table, _) = rest.split_once(next).unwrap();
        let lines = table.lines().filter(|line| line.starts_with("| ")).skip(2);
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let parity = rows("## Parity", "## Complaints");
    let complaints = rows("## Complaints", "## Every command");
    assert!(parity.len() > 40 && complaints.len() > 30, "{parity:?} {complaints:?}");
    for row in parity.iter().chain(&complaints) {
        let (_, tests) = row.trim_end_matches(" |").rsplit_once('|').unwrap();
        let names: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let name = name.rsplit("::").next().unwrap();
            let at = all.find(&format!("fn {name}("));
            let at = at.unwrap_or_else(|| panic!("{name} is named and not there"));
            let before = all[..at].trim_end_matches("async ").trim_end();
            assert!(before.ends_with("test]"), "{name} is no test");
        }
    }
}
