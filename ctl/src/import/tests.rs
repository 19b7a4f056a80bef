use std::path::{Path, PathBuf};

use super::{Places, Word, import};
use crate::fleet::file;

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
        (rm("<vm name='x' recovery='often'/>\n"), "VM x: recovery: \"often\" is none of"),
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

#[test]
fn the_illustrated_configuration_of_a_large_user_maps_but_for_what_it_has_to_be_told() {
    let imported = run("vms");
    let of_vm01: Vec<_> =
        imported.report.iter().filter(|line| line.text.starts_with("VM vm01")).collect();
    assert!(of_vm01.iter().all(|line| line.word == Word::Maps), "{of_vm01:?}");
}
