use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proto::v1::member_spec::Kind;
use proto::v1::script::Program;
use proto::v1::{self, Script};

use super::{Places, Word, import, open};
use crate::fleet::file::{self, FleetFile};

/// Relative, so that the golden files name no machine's paths; tests run in the crate's directory.
fn data(name: &str) -> PathBuf {
    Path::new("tests/data/import").join(name)
}

fn run(name: &str) -> super::Imported {
    let text = std::fs::read_to_string(data(name).join("cluster.conf")).unwrap();
    let root = data(name).join("root");
    let places = Places { root: &root, libvirt: &root.join("etc/libvirt/qemu") };
    import(&text, places).unwrap()
}

/// `BERTH_GOLDEN=write` writes the files anew; then look at what changed.
fn golden(path: &Path, found: &str) {
    if std::env::var_os("BERTH_GOLDEN").is_some() {
        std::fs::write(path, found).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    assert_eq!(found, expected, "{} differs", path.display());
}

fn compare(name: &str) {
    let imported = run(name);
    let report: String = imported.report.iter().map(|line| line.text() + "\n").collect();
    golden(&data(name).join("report.txt"), &report);
    golden(&data(name).join("fleet.yaml"), &imported.file);
    file::read(&imported.file).unwrap();
}

#[test]
fn failover_domains_with_all_flags_and_fencing_come_over() {
    compare("domains");
}

#[test]
fn services_with_nested_resources_come_over_in_the_order_of_their_start() {
    compare("services");
}

#[test]
fn vms_with_every_attribute_come_over() {
    compare("vms");
}

fn refused(text: &str) -> String {
    let nowhere = Path::new("/nonexistent");
    import(text, Places { root: nowhere, libvirt: nowhere }).unwrap_err()
}

fn rm(inside: &str) -> String {
    format!(
        "<cluster name='c'><clusternodes><clusternode name='a'/></clusternodes>\n<rm>\n{inside}</rm></cluster>"
    )
}

#[test]
fn a_file_that_is_malformed_hostile_or_ambiguous_is_refused_with_its_line() {
    let laughs = "<?xml version='1.0'?>\n<!DOCTYPE lolz [\n<!ENTITY lol 'lol'>\n<!ENTITY lol2 '&lol;&lol;&lol;'>\n]>\n<cluster name='&lol2;'/>";
    let external = "<!DOCTYPE c [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>\n<cluster name='&x;'/>";
    let deep = "<a>".repeat(100);
    let huge = " ".repeat(9 * 1024 * 1024);
    for (text, said) in [
        (laughs.to_owned(), "document type declaration is not taken"),
        (external.to_owned(), "line 1: a document type declaration"),
        ("<cluster>\n<rm name='&x;'/></cluster>".to_owned(), "line 2"),
        ("<cluster>\n&x;</cluster>".to_owned(), "line 2: the entity &x; is not known"),
        (deep, "nested more than 64 deep"),
        (huge, "more than the 8388608 that are taken"),
        (String::new(), "there is no element in it"),
        ("<cluster>\n\n<rm>".to_owned(), "line 3: <rm> is not closed"),
        ("<cluster>\n</rm></cluster>".to_owned(), "line 2"),
        ("<cluster/><cluster/>".to_owned(), "a second outermost element"),
        ("<cluster name='a' name='b'/>".to_owned(), "line 1"),
        ("<fleet/>".to_owned(), "the outermost element is <fleet>"),
        ("<cluster><rm/>\n<rm/></cluster>".to_owned(), "line 2: a second <rm>"),
        (rm("<vm name='x'/>\n<vm name='x'/>\n"), "line 4: VM x for the second time, after line 3"),
        (rm("<service name='x'/>\n<service name='x'/>\n"), "service x for the second time"),
        (rm("<vm/>\n"), "line 3: <vm> has no name"),
        (rm("<vm ref='x'/>\n"), "line 3: there is no <vm> x among the resources"),
        (
            rm("<vm name='x' max_restarts='many'/>\n"),
            "line 3: <vm max_restarts=\"many\"> is not a whole number",
        ),
        (rm("<vm name='x' restart_expire_time='1y'/>\n"), "is not a time such as 90, 90s or 1h30m"),
        (rm("<vm name='x' restart_expire_time='99999999999999999w'/>\n"), "is not a time"),
        (rm("<vm name='x' autostart='maybe'/>\n"), "is neither 0 nor 1"),
        (rm("<vm name='x' recovery='often'/>\n"), "line 3: VM x: recovery: \"often\" is none of"),
        (
            rm("<vm name='x'\n xmlfile='x.xml'/>\n"),
            "line 3: VM x: \"x.xml\" is not an absolute path",
        ),
        (rm("<vm name='x' path='/a:b'/>\n"), "line 3: VM x: \"b\" is not an absolute path"),
        (rm("<vm name='x' snapshot='saves'/>\n"), "line 3: VM x: save_dir: "),
        (
            rm("<vm name='x' status_program=' '><action name='start' timeout='2d'/></vm>"),
            "line 3: VM x: start_timeout: ",
        ),
        (rm("<vm name='../x'/>\n"), "line 3: VM \"../x\": "),
        (
            rm("\n<service name='s' recovery='often'><ip address='10.0.0.1'/></service>\n"),
            "line 4: service s: recovery: \"often\" is none of",
        ),
        (
            rm("<service name='s'><script name='i' file='init'/></service>\n"),
            "line 3: service s: program: \"init\" is not an absolute path",
        ),
        (
            rm(
                "<service name='s'><fs name='f'><action name='stop' timeout='2d'/></fs></service>\n",
            ),
            "line 3: service s: stop_timeout: ",
        ),
        (
            "<cluster><clusternodes>\n<clusternode name='a b'/></clusternodes></cluster>".into(),
            "line 2: node \"a b\": ",
        ),
        (
            rm(
                "<failoverdomains><failoverdomain name='d'/>\n<failoverdomain name='d'/></failoverdomains>",
            ),
            "failover domain d for the second time",
        ),
        (
            rm(
                "<failoverdomains><failoverdomain name='d'>\n<failoverdomainnode name='a'/>\n<failoverdomainnode name='a'/></failoverdomain></failoverdomains>",
            ),
            "line 5: member of failover domain d: a for the second time",
        ),
        (
            rm(
                "<resources>\n<script name='s' file='/a'/>\n<script name='s' file='/b'/></resources>",
            ),
            "line 5: <script> s for the second time, after line 4; which one is meant?",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(said), "{}: {error}", &text[..text.len().min(200)]);
    }
}

fn report(inside: &str) -> (FleetFile, Vec<String>) {
    let root = data("vms").join("root");
    let imported =
        import(&rm(inside), Places { root: &root, libvirt: &root.join("etc/libvirt/qemu") })
            .unwrap();
    let lines = imported.report.iter().map(|line| line.text()).collect();
    (file::read(&imported.file).unwrap(), lines)
}

fn says(report: &[String], said: &str) -> bool {
    report.iter().any(|line| line.contains(said))
}

#[test]
fn a_place_of_domain_xml_where_there_is_none_is_not_taken_over_and_what_to_do_is_said() {
    // Attributes, the place that every start reads, and what is said.
    for (attributes, place, said) in [
        (
            "name='every' xmlfile='/shared/every.xml'",
            "/shared/every.xml",
            "maps    line 3: VM every: domain XML",
        ),
        (
            "name='vm01' path='/nowhere:/shared/definitions'",
            "/nowhere:/shared/definitions",
            "maps    line 3: VM vm01: domain XML",
        ),
        // As with RGManager: the file, if it is there, and else the path.
        (
            "name='every' xmlfile='/shared/every.xml' path='/shared'",
            "/shared/every.xml",
            "differs line 3: VM every: path is left out",
        ),
        (
            "name='vm01' xmlfile='/gone' path='/shared/definitions'",
            "/shared/definitions",
            "differs line 3: VM vm01: xmlfile /gone is left out",
        ),
        (
            "name='local' xmlfile='/gone/local.xml'",
            "",
            "differs line 3: VM local: xmlfile /gone/local.xml is left out, for it cannot be used here; the definition is kept in the control plane. When every node sees it there: berthctl vm edit local --xml-file /gone/local.xml",
        ),
        ("name='local' path='/a:/b'", "", "berthctl vm edit local --xml-path /a:/b"),
        ("name='wrong' xmlfile='/shared/wrong.xml'", "", "wrong.xml: it is of the domain other"),
        ("name='x' xmlfile='/shared'", "", "shared: it is no regular file"),
    ] {
        let (file, report) = report(&format!("<vm {attributes}/>"));
        let entry = file.vms.unwrap_or_default().into_values().next().unwrap();
        let handling = entry.policy.handling.unwrap_or_default();
        let found = handling.xml_file + &handling.xml_path.join(":");
        assert_eq!(found, place, "{attributes}: {report:#?}");
        assert!(says(&report, said), "{attributes}: {report:#?}");
    }
}

#[test]
fn a_file_without_an_end_is_not_read_to_it() {
    assert!(open(Path::new("/dev/zero")).unwrap_err().contains("more than the 8388608 bytes"));
    let root = Path::new("/dev");
    let (_, report) = {
        let imported =
            import(&rm("<vm name='x' xmlfile='/zero'/>"), Places { root, libvirt: root }).unwrap();
        (imported.file, imported.report.iter().map(|line| line.text()).collect::<Vec<_>>())
    };
    assert!(says(&report, "/dev/zero: it is no regular file"), "{report:#?}");
}

#[test]
fn what_the_host_itself_needs_is_no_member_of_a_service() {
    for (file, said) in [
        ("/etc/init.d/libvirtd", "Berth works through it"),
        ("/etc/rc.d/init.d/libvirt-guests", "behind Berth's back"),
        ("/etc/init.d/clvmd", "belongs to the old cluster"),
    ] {
        let (scripts, report) =
            service(&format!("<script name='m' file='{file}'/><script name='k' file='/k'/>"));
        assert_eq!(scripts.len(), 1, "{report:#?}");
        let line = format!("cannot  line 4: service s: script m ({file}) is left out: ");
        assert!(report.iter().any(|it| it.starts_with(&line) && it.contains(said)), "{report:#?}");
    }
    let (_, report) = service("<fs name='f' self_fence='1'/>");
    assert!(says(&report, "differs line 4: service s: fs f: with self_fence the agent reboots"));
}

#[test]
fn what_would_be_refused_or_would_kill_later_is_said_now() {
    let root = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        let xml = format!(
            "<domain type='kvm'><name>{name}</name><uuid>5e0e8a7e-0000-4000-8000-000000000001</uuid><memory>1024</memory></domain>"
        );
        std::fs::write(root.path().join(format!("{name}.xml")), xml).unwrap();
    }
    let text = rm(
        "<vm name='one' path='/'/>\n<vm name='two' path='/'/>\n<vm name='x' migration_mapping='a:a-hb,z:z-hb'>\n<action name='stop' timeout='0'/></vm>",
    );
    let imported = import(&text, Places { root: root.path(), libvirt: root.path() }).unwrap();
    let report: Vec<String> = imported.report.iter().map(|line| line.text()).collect();
    for said in [
        "cannot  line 4: VM two has the UUID 5e0e8a7e-0000-4000-8000-000000000001 of VM one",
        "differs line 5: VM x: migration_mapping: z is no node of this cluster",
        "differs line 6: VM x: a time of 0 is left out",
    ] {
        assert!(says(&report, said), "{said}: {report:#?}");
    }
    // A stop that had no limit is no kill.
    let policy = file::read(&imported.file).unwrap().vms.unwrap().remove("x").unwrap().policy;
    assert_eq!(policy.stop_timeout_ms, proto::file::vm_policy().stop_timeout_ms);
}

#[test]
fn a_dependency_on_what_is_not_in_the_file_is_said() {
    let (_, report) = report(
        "<vm name='local' depend='service:gone'/>\n<vm name='x' depend='vm:local'/>\n<service name='s' depend='libvirt'><ip address='10.0.0.1'/></service>\n<service name='libvirt'><script name='l' file='/etc/init.d/libvirtd'/></service>",
    );
    let said: Vec<_> = report.iter().filter(|line| line.contains("depends on")).collect();
    assert_eq!(said.len(), 2, "{report:#?}");
    assert!(
        said[0].starts_with(
            "cannot  line 3: VM local depends on service:gone, which is not in the file"
        )
    );
    assert!(
        said[1].starts_with("cannot  line 5: service s depends on service:libvirt, which is not")
    );
}

#[test]
fn a_delay_that_let_one_of_two_nodes_win_is_not_waited_for() {
    let nowhere = Path::new("/nonexistent");
    let text = "<cluster><clusternodes><clusternode name='a'><fence><method name='1'><device name='i' delay='15'/></method></fence></clusternode></clusternodes><fencedevices><fencedevice name='i' agent='fence_ipmilan' ipaddr='10.0.0.1'/></fencedevices><rm/></cluster>";
    let imported = import(text, Places { root: nowhere, libvirt: nowhere }).unwrap();
    let nodes = file::read(&imported.file).unwrap().nodes.unwrap();
    let options = &nodes["a"].fence_devices.as_ref().unwrap()[0].options;
    assert_eq!(options.keys().collect::<Vec<_>>(), ["ipaddr"]);
    let said = "fence_ipmilan: the delay of 15 is left out";
    assert!(
        imported.report.iter().any(|line| line.word == Word::Differs && line.text.contains(said))
    );
}

#[test]
fn what_nothing_uses_is_said_and_left_out() {
    let nowhere = Path::new("/nonexistent");
    let text = "<cluster><clusternodes><clusternode name='a'><altname name='a2'/><fence><method name='1'><device name='used'/></method></fence></clusternode></clusternodes>\n\
        <fencedevices><fencedevice name='used' agent='fence_xvm'/>\n<fencedevice name='idle' agent='fence_xvm'/></fencedevices>\n\
        <rm><resources><ip address='10.0.0.1'/>\n<ip address='10.0.0.2'/><script name='k' file='/k'/></resources>\n\
        <service name='s'><ip ref='10.0.0.1'><script ref='k'/></ip></service></rm></cluster>";
    let imported = import(text, Places { root: nowhere, libvirt: nowhere }).unwrap();
    let report: Vec<String> = imported.report.iter().map(|line| line.text()).collect();
    let left_out: Vec<_> = report.iter().filter(|line| line.contains("left out")).collect();
    assert_eq!(
        left_out,
        [
            "differs line 1: node a: <altname> is left out: where an agent finds the replicas is set in its own configuration",
            "differs line 3: fence device idle is of no node's fencing and left out",
            "differs line 5: <ip> 10.0.0.2 among the resources is used by nothing and left out",
        ]
    );
}

/// `adopt` comes before `apply`: an empty section would have it forget what was adopted.
#[test]
fn what_the_cluster_conf_does_not_speak_of_has_no_section_in_the_file() {
    for (inside, sections) in [
        ("", ""),
        ("<vm name='local'/>", "vms"),
        ("<service name='s'><ip address='10.0.0.1'/></service>", "services"),
        ("<service name='hollow'/>", ""),
        (
            "<failoverdomains><failoverdomain name='d'><failoverdomainnode name='a'/></failoverdomain><failoverdomain name='empty'/></failoverdomains>",
            "failover_domains",
        ),
    ] {
        let (file, _) = report(inside);
        let there = [
            ("settings", file.settings.is_some()),
            ("failover_domains", file.failover_domains.is_some()),
            ("vms", file.vms.is_some()),
            ("placement_rules", file.placement_rules.is_some()),
            ("services", file.services.is_some()),
        ];
        let there: Vec<_> = there.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        assert_eq!(there.join(" "), sections, "{inside}");
        // Applied to a fleet that has VMs, it forgets them only where it has a section for VMs.
        let adopted = v1::FleetVm { name: "adopted".into(), ..v1::FleetVm::default() };
        let now = v1::Fleet { vms: vec![adopted], ..v1::Fleet::default() };
        let file = FleetFile { nodes: None, services: None, ..file };
        let wanted = file::wanted(file, &now, Path::new(".")).unwrap();
        let kept = wanted.vms.iter().any(|vm| vm.name == "adopted");
        assert_eq!(kept, sections != "vms", "{inside}");
    }
}

#[test]
fn one_word_of_the_migration_options_that_cannot_be_taken_leaves_the_others() {
    let (file, report) = report(
        "<vm name='x' migrate_options='--unsafe --frobnicate 3 --bandwidth 100 --timeout=60 --copy-storage-all --live' migration_mapping='a:a-hb,b,c:c-hb' __max_failures='3' migration_uri='xenmigr://%s/'/>",
    );
    let policy = file.vms.unwrap().remove("x").unwrap().policy;
    let migration = policy.handling.unwrap().migration.unwrap();
    assert!(migration.allow_unsafe);
    assert_eq!((migration.bandwidth_mib_s, migration.timeout_ms), (100, 60_000));
    let routes: BTreeSet<_> = migration.routes.keys().map(String::as_str).collect();
    assert_eq!(routes, BTreeSet::from(["a", "c"]));
    for said in [
        "cannot  line 3: VM x: \"--frobnicate 3\" is left out: the migration option --frobnicate is not known",
        "cannot  line 3: VM x: \"--copy-storage-all\" is left out",
        "cannot  line 3: VM x: \"b\" is left out: \"b\" is no MEMBER:TARGET",
        "differs line 3: VM x: migrate_options --timeout=60: virsh suspends the guest then",
        "differs line 3: VM x: migrate_options --live",
        "differs line 3: VM x: __max_failures alone",
        "cannot  line 3: VM x: migration_uri xenmigr://%s/",
    ] {
        assert!(says(&report, said), "{said}: {report:#?}");
    }
}

/// The only service of this cluster.conf, and the report.
fn service(inside: &str) -> (Vec<Script>, Vec<String>) {
    let nowhere = Path::new("/nonexistent");
    let text = rm(&format!("<service name='s'>\n{inside}\n</service>"));
    let imported = import(&text, Places { root: nowhere, libvirt: nowhere }).unwrap();
    let services = file::read(&imported.file).unwrap().services.unwrap_or_default();
    let members = services.into_values().flat_map(|service| service.spec().unwrap().members);
    let scripts = members.filter_map(|member| match member.kind {
        Some(Kind::Script(script)) => Some(script),
        _ => None,
    });
    (scripts.collect(), imported.report.iter().map(|line| line.text()).collect())
}

/// Start, stop, and depth, interval and time-out of each check, in seconds; as the metadata of the agents has them, but
/// for starts and stops below 60 s, which RGManager did not enforce.
#[test]
fn each_of_rgmanagers_agents_that_can_serve_brings_its_own_times() {
    for (resource, start, stop, checks) in [
        ("<script name='m' file='/m'/>", 300, 300, vec![(0, 30, 60)]),
        ("<ip address='10.0.0.1'/>", 60, 60, vec![(0, 20, 10), (10, 60, 20)]),
        (
            "<ip address='10.0.0.1' __enforce_timeouts='1'/>",
            20,
            20,
            vec![(0, 20, 10), (10, 60, 20)],
        ),
        ("<fs name='m'/>", 900, 60, vec![(0, 60, 10), (10, 30, 30), (20, 60, 30)]),
        ("<netfs name='m'/>", 900, 60, vec![(0, 60, 10), (10, 300, 30), (20, 600, 30)]),
        ("<bind-mount name='m'/>", 60, 60, vec![(0, 3_600, 5)]),
        ("<drbd name='m'/>", 60, 60, vec![(10, 60, 20)]),
        ("<db2 name='m'/>", 120, 120, vec![(0, 20, 60)]),
        ("<SAPInstance name='m'/>", 180, 240, vec![(0, 120, 60)]),
        ("<SAPDatabase name='m'/>", 1_800, 1_800, vec![(0, 120, 60)]),
        ("<unheard-of name='m'/>", 60, 60, vec![(0, 30, 20)]),
        // What `<action>` says comes before it.
        (
            "<fs name='m'><action name='start' timeout='20'/><action name='stop' timeout='1m'/></fs>",
            20,
            60,
            vec![(0, 60, 10), (10, 30, 30), (20, 60, 30)],
        ),
        (
            "<fs name='m'><action name='status' depth='*' interval='45'/></fs>",
            900,
            60,
            vec![(0, 45, 10), (10, 45, 30), (20, 45, 30)],
        ),
        (
            "<fs name='m'><action name='status' depth='10' interval='5m' timeout='90'/></fs>",
            900,
            60,
            vec![(0, 60, 10), (10, 300, 90), (20, 60, 30)],
        ),
        (
            "<drbd name='m'><action name='monitor' timeout='0'/></drbd>",
            60,
            60,
            vec![(10, 60, 20), (0, 30, 300)],
        ),
    ] {
        let (scripts, report) = service(resource);
        let [script] = scripts.as_slice() else { panic!("{resource}: {report:#?}") };
        let found: Vec<_> = script
            .checks
            .iter()
            .map(|check| (check.depth, check.interval_ms / 1_000, check.timeout_ms / 1_000))
            .collect();
        assert_eq!(script.start_timeout_ms, start * 1_000, "{resource}");
        assert_eq!(script.stop_timeout_ms, stop * 1_000, "{resource}");
        assert_eq!(found, checks, "{resource}");
    }
}

#[test]
fn an_agent_that_does_not_tell_down_from_unknown_is_left_out_and_what_takes_its_place_is_named() {
    for (kind, instead) in [
        ("apache", "heartbeat:apache"),
        ("mysql", "heartbeat:mysql"),
        ("named", "heartbeat:named"),
        ("openldap", "heartbeat:slapd"),
        ("postgres-8", "heartbeat:pgsql"),
        ("samba", "systemd units"),
        ("smb", "systemd units"),
        ("tomcat-5", "heartbeat:tomcat"),
        ("tomcat-6", "heartbeat:tomcat"),
        ("oracledb", "heartbeat:oracle"),
        ("orainstance", "heartbeat:oracle"),
        ("oradg", "heartbeat:oracle"),
        ("oralistener", "heartbeat:oralsnr"),
        ("ASEHAagent", "heartbeat:sybaseASE"),
        ("lvm", "heartbeat:LVM-activate"),
        ("clusterfs", "on every node"),
        ("nfsserver", "heartbeat:nfsserver"),
        ("nfsexport", "heartbeat:exportfs"),
        ("nfsclient", "heartbeat:exportfs"),
    ] {
        // What hangs below it stays.
        let (scripts, report) =
            service(&format!("<{kind} name='m'>\n<script name='k' file='/k'/></{kind}>"));
        let programs: Vec<_> = scripts.into_iter().filter_map(|script| script.program).collect();
        assert_eq!(programs, [Program::Lsb("/k".into())], "{kind}: {report:#?}");
        let said = format!("cannot  line 4: service s: {kind} m is left out: ");
        let line = report.iter().find(|line| line.starts_with(&said));
        assert!(line.is_some_and(|line| line.contains(instead)), "{kind}: {report:#?}");
    }
    let (_, report) = service("<unheard-of name='m'/>");
    let said = "differs line 4: service s: unheard-of m runs /usr/share/cluster/unheard-of.sh, whose metadata is not known";
    assert!(report.iter().any(|line| line.starts_with(said)), "{report:#?}");
}

#[test]
fn the_illustrated_configuration_of_a_large_user_maps_but_for_what_it_has_to_be_told() {
    let imported = run("vms");
    let of_vm01: Vec<_> =
        imported.report.iter().filter(|line| line.text.starts_with("VM vm01")).collect();
    assert!(of_vm01.iter().all(|line| line.word == Word::Maps), "{of_vm01:?}");
}
