use std::path::Path;

use proto::v1;
use proto::v1::submit_request::Operation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::diff::{self, Verb};
use super::file;

fn domain(name: &str, more: &str) -> String {
    format!(
        "<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>00000000-0000-4000-8000-0000000000{:02x}</uuid>\n  <memory>1024</memory>\n{more}</domain>\n",
        name.len()
    )
}

fn fleet() -> v1::Fleet {
    let fleet = v1::Fleet {
        configuration: 17,
        settings: Some(v1::Settings { heartbeat_ms: 400, ..proto::file::settings() }),
        failover_domains: vec![v1::FailoverDomain {
            name: "web".into(),
            nodes: [("node1".to_owned(), 1), ("node2".to_owned(), 2)].into(),
            ordered: true,
            ..proto::file::failover_domain()
        }],
        nodes: vec![v1::FleetNode {
            name: "node1".into(),
            fence_devices: vec![v1::FenceDevice {
                agent: "fence_ipmilan".into(),
                options: [("ip".to_owned(), "10.0.0.1".to_owned())].into(),
                timeout_ms: 20_000,
                level: 1,
                kept: vec!["password".into()],
            }],
            vouched: false,
            after_fence: "stay-off".into(),
        }],
        vms: vec![
            v1::FleetVm {
                name: "a".into(),
                xml: domain("a", ""),
                policy: Some(v1::VmPolicy {
                    recovery: "relocate".into(),
                    failover_domain: Some("web".into()),
                    ..proto::file::vm_policy()
                }),
            },
            v1::FleetVm {
                name: "bb".into(),
                xml: domain(
                    "bb",
                    "\t<!-- tabs,  spaces at the end  \r\n  and: 'quotes' \"two\" -->  \n\n",
                ),
                policy: Some(proto::file::vm_policy()),
            },
        ],
        placement_rules: vec![v1::PlacementRule {
            name: "apart".into(),
            kind: "apart".into(),
            vms: vec!["a".into(), "bb".into()],
        }],
        services: vec![v1::ServiceSpec {
            name: "shop".into(),
            members: vec![
                v1::MemberSpec {
                    name: "a".into(),
                    kind: Some(v1::member_spec::Kind::Vm("a".into())),
                    weight: "critical".into(),
                    ..v1::MemberSpec::default()
                },
                v1::MemberSpec {
                    name: "shopd".into(),
                    kind: Some(v1::member_spec::Kind::Script(v1::Script {
                        program: Some(v1::script::Program::Ocf("heartbeat:IPaddr2".into())),
                        parameters: [("ip".to_owned(), "10.0.0.9".to_owned())].into(),
                        ..v1::Script::default()
                    })),
                    under: Some("a".into()),
                    weight: "non-critical".into(),
                    ..v1::MemberSpec::default()
                },
            ],
            policy: None,
        }],
    };
    proto::convert::fleet::canonical(fleet).unwrap()
}

fn back(text: &str, now: &v1::Fleet) -> Result<v1::Fleet, String> {
    file::wanted(file::read(text)?, now, Path::new("."))
}

#[test]
fn what_is_exported_and_read_again_is_the_same() {
    let fleet = fleet();
    let text = file::write(&fleet, Some(17), None).unwrap();
    // Domain XML is read from the file, whatever is there now; only nodes are not made by a file.
    let empty = v1::Fleet {
        vms: Vec::new(),
        failover_domains: Vec::new(),
        settings: None,
        ..fleet.clone()
    };
    assert_eq!(back(&text, &empty).unwrap(), fleet, "{text}");
    assert!(diff::changes(&fleet, &back(&text, &fleet).unwrap()).is_empty());
    assert!(text.starts_with("format: berth-fleet/1\nbased_on: 17\n"), "{text}");
    assert!(!text.contains("on_isolation"), "defaults are not written: {text}");
}

/// The same message with another value in every field: what gets lost on the way shows.
fn other<T: Serialize + DeserializeOwned>(message: &T) -> T {
    let mut value = serde_json::to_value(message).unwrap();
    let keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    for key in keys {
        let before = value[&key].clone();
        let deep = different(&before);
        let shapes = [
            deep,
            json!(7),
            json!(true),
            json!("x"),
            json!({}),
            json!(["x"]),
            json!([{}]),
            json!({"x": "y"}),
            json!({"x": 3}),
        ];
        let taken = shapes.into_iter().find(|candidate| {
            value[&key] = candidate.clone();
            // What is read and written again is the same, so that the value is really taken.
            serde_json::from_value::<T>(value.clone())
                .is_ok_and(|read| serde_json::to_value(read).unwrap()[&key] != before)
        });
        assert!(taken.is_some(), "{key} takes no other value than {before}");
    }
    serde_json::from_value(value).unwrap()
}

fn different(value: &Value) -> Value {
    match value {
        Value::Bool(value) => (!value).into(),
        Value::Number(number) => (number.as_u64().unwrap_or_default() + 7).into(),
        Value::String(text) => format!("{text}x").into(),
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().map(|(key, value)| (key.clone(), different(value))).collect()
        }
        other => other.clone(),
    }
}

/// What is exported of a service is what `service add` and `edit` take, and the other way round.
#[test]
fn a_service_is_written_one_way_for_all_commands() {
    let fleet = fleet();
    let text = file::write(&fleet, None, None).unwrap();
    let all: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let mut shop = all["services"]["shop"].clone();
    shop["name"] = json!("shop");
    let read = crate::service_file::read(&shop.to_string()).unwrap().spec().unwrap();
    let canonical =
        proto::convert::fleet::canonical(v1::Fleet { services: vec![read], ..fleet.clone() });
    assert_eq!(canonical.unwrap().services, fleet.services, "{text}");
    assert!(!text.contains("kind:\n"), "{text}");
}

#[test]
fn no_field_is_lost_on_the_way_through_a_file() {
    let mut fleet = fleet();
    fleet.settings = Some(other(&proto::file::settings()));
    fleet.failover_domains =
        vec![v1::FailoverDomain { name: "web".into(), ..other(&proto::file::failover_domain()) }];
    let policy = other(&proto::file::vm_policy());
    fleet.vms[0].policy = Some(policy.clone());
    let treated = other(&proto::file::service_policy());
    fleet.services[0].policy = Some(treated.clone());
    let text = file::write(&fleet, None, None).unwrap();
    let read = file::read(&text).unwrap();
    let shop = read.services.unwrap()["shop"].clone().spec().unwrap();
    assert_eq!(shop.policy, Some(treated), "{text}");
    assert_eq!(read.settings, fleet.settings, "{text}");
    assert_eq!(read.vms.unwrap()["a"].policy, policy, "{text}");
    let domain = read.failover_domains.unwrap().remove("web").unwrap();
    assert_eq!(v1::FailoverDomain { name: "web".into(), ..domain }, fleet.failover_domains[0]);
}

#[test]
fn what_the_cluster_would_refuse_is_refused_before_anything_is_sent() {
    let now = fleet();
    let xml = "\"<domain type='kvm'><name>a</name><memory>1024</memory></domain>\"";
    let text =
        format!("format: berth-fleet/1\nvms:\n  a: {{xml: {xml}, policy: {{recovery: often}}}}\n");
    let error = back(&text, &now).unwrap_err();
    assert!(error.contains("VM a: recovery: \"often\" is none of restart"), "{error}");
    let text = "format: berth-fleet/1\nnodes:\n  node1: {fence_devices: [{agent: /bin/sh}]}\n";
    let error = back(text, &now).unwrap_err();
    assert!(error.contains("node node1: agent: \"/bin/sh\" is not"), "{error}");
}

#[test]
fn a_diff_says_what_changes_and_in_which_order_it_can_be_made() {
    let now = fleet();
    let text = "format: berth-fleet/1
failover_domains:
  db: {nodes: {node1: 1}}
nodes:
  node1:
    fence_devices:
    - {agent: fence_ipmilan, level: 1, options: {ip: 10.0.0.1, password: hunter2}}
vms:
  a:
    xml: \"<domain type='kvm'><name>a</name><memory>1024</memory></domain>\"
    policy: {recovery: restart, failover_domain: db}
  c:
    xml: \"<domain type='kvm'><name>c</name><memory>1024</memory></domain>\"
";
    let changes = diff::changes(&now, &back(text, &now).unwrap());
    let said: Vec<_> = changes.iter().map(|change| (change.verb, change.object.as_str())).collect();
    assert_eq!(
        said,
        [
            (Verb::Add, "failover-domain db"),
            (Verb::Change, "node node1"),
            (Verb::Forget, "vm bb"),
            (Verb::Change, "vm a"),
            (Verb::Add, "vm c"),
            (Verb::Forget, "failover-domain web"),
        ]
    );
    let all: String = changes.iter().map(|change| change.text() + "\n").collect();
    assert!(all.contains("policy.recovery: relocate -> restart"), "{all}");
    assert!(all.contains("fence_devices[0].options.password: (set)"), "{all}");
    assert!(!all.contains("hunter2"), "{all}");
    assert!(all.contains("- vm bb (forgotten; what runs of it runs on)"), "{all}");
    // The VM keeps the UUID it has when the file does not say one.
    let Operation::EditVm(edit) = &changes[3].operations[0] else { panic!("{changes:?}") };
    assert!(edit.xml.contains("00000000-0000-4000-8000-000000000001"), "{}", edit.xml);
    let Operation::ApplyFleet(apply) = diff::request(17, &changes) else { panic!() };
    assert_eq!((apply.based_on, apply.changes.len()), (17, 6));
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let now = fleet();
    for (text, said) in [
        ("format: berth-fleet/2\n", "knows \"berth-fleet/1\" only"),
        ("format: berth-fleet/1\nvmz: {}\n", "vmz"),
        ("format: berth-fleet/1\nvms:\n  a: {xml: x, policy: {recovry: restart}}\n", "recovry"),
        ("format: berth-fleet/1\nvms:\n  a: {xml: x}\n  a: {xml: y}\n", "duplicate"),
        ("format: berth-fleet/1\nvms:\n  c: {}\n", "VM c has neither `xml` nor `xml_file`"),
        ("format: berth-fleet/1\nvms:\n  a: {xml: x, xml_file: y}\n", "VM a has both"),
        ("format: berth-fleet/1\nvms:\n  a: {xml: <domain/>}\n", "VM a is not a valid domain"),
        ("format: berth-fleet/1\nvms:\n  a: {xml_file: /nonexistent/a.xml}\n", "cannot be read"),
        ("format: berth-fleet/1\nnodes:\n  other: {vouched: true}\n", "start its agent first"),
        ("format: berth-fleet/1\nfailover_domains:\n  a: {name: b}\n", "calls itself \"b\""),
        ("format: berth-fleet/1\nsettings: {heartbeat_ms: soon}\n", "line 2"),
        ("- 1\n", ""),
    ] {
        let error = back(text, &now).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
    // The name in the XML is the VM's.
    let text = "format: berth-fleet/1\nvms:\n  b:\n    xml: \"<domain type='kvm'><name>a</name><memory>1024</memory></domain>\"\n";
    assert!(back(text, &now).unwrap_err().contains("is of the domain a"));
}

#[test]
fn a_file_of_aliases_that_grows_without_end_is_refused() {
    let mut text = String::from(
        "format: berth-fleet/1\nx: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n",
    );
    for level in 1..12 {
        let inner = format!("*a{}", level - 1);
        let list = [inner.as_str(); 9].join(", ");
        text.push_str(&format!("x{level}: &a{level} [{list}]\n"));
    }
    file::read(&text).unwrap_err();
}
