use super::*;

const SMALL: &str =
    "<domain type='qemu'>\n <name>a &amp; b</name>\n <memory unit='MB'>64</memory>\n</domain>\n";

#[test]
fn a_small_domain_is_read_with_libvirts_defaults() {
    let domain = parse(SMALL).unwrap();
    assert_eq!(domain.name.as_str(), "a & b");
    assert_eq!((domain.memory_mib, domain.vcpus, domain.uuid), (62, 1, None));
}

#[test]
fn a_missing_uuid_is_filled_in_and_the_rest_is_left_alone() {
    let uuid = Uuid::from_u128(7);
    let filled = parse(SMALL).unwrap().xml_with_uuid(SMALL, uuid);
    assert_eq!(parse(&filled).unwrap().uuid, Some(uuid));
    assert_eq!(filled.replace(&format!("\n  <uuid>{uuid}</uuid>"), ""), SMALL);
}

#[test]
fn disks_are_named_by_their_source() {
    let xml = "<domain type='kvm'><name>v</name><memory>1048576</memory><vcpu placement='static'>4</vcpu><devices>
        <disk type='file' device='disk'><source file='/a.img'/><target dev='vda'/></disk>
        <disk type='network'><source protocol='rbd' name='pool/x'><host name='h'/></source><shareable/></disk>
        <disk type='file' device='cdrom'><source file='/b.iso'/></disk>
        <disk type='file' device='cdrom'><target dev='hda'/></disk></devices></domain>";
    let domain = parse(xml).unwrap();
    assert_eq!((domain.memory_mib, domain.vcpus), (1024, 4));
    let disks: Vec<_> = domain
        .disks
        .iter()
        .map(|disk| (disk.source.as_str(), disk.readonly, disk.shareable))
        .collect();
    assert_eq!(
        disks,
        [("file:/a.img", false, false), ("rbd:pool/x", false, true), ("file:/b.iso", true, false)]
    );
}

#[test]
fn what_is_not_a_domain_is_refused_with_the_line_and_the_reason() {
    for (xml, line, reason) in [
        ("", 1, "no <domain>"),
        ("hello", 1, "outside the <domain>"),
        ("<network/>", 1, "<network>, not <domain>"),
        ("<domain>\n</domain>", 1, "no type attribute"),
        ("<domain type='kvm'>\n<name>v</name>\n</domain>", 3, "no <memory>"),
        ("<domain type='kvm'>\n<memory>1</memory></domain>", 2, "no <name>"),
        ("<domain type='kvm'>\n<name>v</nam>", 2, "</nam>"),
        ("<domain type='kvm'>\n\n<name>v", 3, "ends inside <name>"),
        ("<domain type='kvm'>\n<name>v</name>\n<name>w</name></domain>", 3, "stands twice"),
        (
            "<domain type='kvm'>\n<name>a/b</name><memory>1</memory></domain>",
            2,
            "may not contain '/'",
        ),
        ("<domain type='lxc'>\n<name>v</name></domain>", 1, "those of QEMU"),
        ("<domainsnapshot><domain type='kvm'/></domainsnapshot>", 1, "take the <domain> out"),
        ("<domain type='kvm'>\n<name>  </name><memory>1</memory></domain>", 2, "white space"),
        (
            "<domain type='kvm'><name>v</name>\n<memory unit='parsec'>1</memory></domain>",
            2,
            "unit parsec",
        ),
        (
            "<domain type='kvm'><name>v</name>\n<memory>many</memory></domain>",
            2,
            "not a whole number",
        ),
        ("<domain type='kvm'>\n<name>v</name><uuid>12</uuid></domain>", 2, "<uuid> 12"),
        ("<!DOCTYPE d [<!ENTITY x 'y'>]>\n<domain type='kvm'/>", 1, "document type"),
        ("<domain type='kvm'>\n<name>&x;</name></domain>", 2, "entity &x;"),
    ] {
        let error = parse(xml).unwrap_err();
        assert!(error.reason.contains(reason), "{xml:?}: {error}");
        assert_eq!(error.line, line, "{xml:?}: {error}");
    }
}

#[test]
fn a_huge_text_is_refused_before_it_is_read() {
    let xml =
        format!("<domain type='kvm'><name>v</name><!--{}--></domain>", "x".repeat(MAX_XML_BYTES));
    assert!(parse(&xml).unwrap_err().reason.contains("more than"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[<>/&;='\"a-z \n]{0,200}") {
        let _ = parse(&format!("<domain type='kvm'>{text}</domain>"));
        let _ = parse(&text);
    }
}

fn memory(inner: &str) -> Result<u64, DomainXmlError> {
    let xml = format!("<domain type='kvm'><name>v</name>{inner}</domain>");
    parse(&xml).map(|domain| domain.memory_mib)
}

#[test]
fn memory_is_read_in_libvirts_units_and_rounded_up() {
    for (unit, amount, mib) in [
        ("", "1048576", 1_024),
        (" unit='KiB'", "1048577", 1_025),
        (" unit='k'", "2048", 2),
        (" unit='KB'", "1048576", 1_000),
        (" unit='b'", "1", 1),
        (" unit='bytes'", "1048577", 2),
        (" unit='M'", "512", 512),
        (" unit='MB'", "64", 62),
        (" unit='mib'", "64", 64),
        (" unit='GiB'", "3", 3_072),
        (" unit='G'", "3", 3_072),
        (" unit='GB'", "1", 954),
        (" unit='T'", "1", 1 << 20),
        (" unit='TB'", "1", 953_675),
        (" unit='PiB'", "1", 1 << 30),
    ] {
        let read = memory(&format!("<memory{unit}> {amount} </memory>"));
        assert_eq!(read, Ok(mib), "{amount}{unit}");
    }
    for refused in ["0", "-1", "1.5", "", "99999999999999999999"] {
        assert!(memory(&format!("<memory>{refused}</memory>")).is_err(), "{refused:?}");
    }
    assert!(memory("<memory unit='EiB'>16</memory>").unwrap_err().reason.contains("out of range"));
}

#[test]
fn numa_cells_and_memory_devices_are_the_memory_where_there_are_such() {
    let cells = "<cpu><numa><cell id='0' memory='512' unit='MiB'/><cell id='1' memory='524288'/></numa></cpu>";
    let dimm = "<devices><memory model='dimm'><target><size unit='MiB'>256</size></target></memory></devices>";
    assert_eq!(memory(cells), Ok(1_024));
    assert_eq!(memory(&format!("<memory unit='GiB'>9</memory>{cells}")), Ok(1_024));
    assert_eq!(memory(&format!("{cells}{dimm}")), Ok(1_280));
    assert_eq!(memory(&format!("<memory unit='GiB'>1</memory>{dimm}")), Ok(1_024));
}

#[test]
fn a_byte_order_mark_and_other_peoples_elements_are_left_where_they_are() {
    let xml = "\u{feff}<?xml version='1.0' encoding='UTF-8'?>\n<!-- kept --><domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n<metadata><a:b xmlns:a='urn:a'>&lt;</a:b></metadata><name>v</name><memory>1024</memory><qemu:commandline><qemu:arg value='-s'/></qemu:commandline><surprise/></domain>\n";
    let uuid = Uuid::from_u128(9);
    let domain = parse(xml).unwrap();
    let filled = domain.xml_with_uuid(xml, uuid);
    assert_eq!(parse(&filled).unwrap().uuid, Some(uuid));
    assert_eq!(filled.replace(&format!("\n  <uuid>{uuid}</uuid>"), ""), xml);
}

/// What keeps a domain with this inside from migrating, and what it would miss elsewhere.
fn ties(inside: &str) -> (Vec<String>, Vec<String>) {
    let xml = format!(
        "<domain type='kvm'><name>v</name><memory>1024</memory><devices>{inside}</devices></domain>"
    );
    let all = parse(&xml).unwrap().host_ties;
    let (stay, miss): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|tie| tie.keeps_from == KeepsFrom::Migrating);
    let what = |ties: Vec<HostTie>| ties.into_iter().map(|tie| tie.what).collect();
    (what(stay), what(miss))
}

#[test]
fn what_keeps_a_domain_from_migrating_is_found() {
    for (inside, what) in [
        (
            "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/></source></hostdev>",
            "the host's PCI device 0000:06:12.5",
        ),
        (
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='53764d0e-85a0-42b4-af5c-2046b460b1dc'/></source></hostdev>",
            "the host's mediated device 53764d0e-85a0-42b4-af5c-2046b460b1dc",
        ),
        (
            "<hostdev mode='subsystem' type='scsi_host'><source/></hostdev>",
            "a scsi_host device of its host",
        ),
        ("<hostdev mode='capabilities' type='misc'/>", "a capability of its host (misc)"),
        (
            "<interface type='hostdev'><source><address type='pci' bus='3'/></source></interface>",
            "the host's network device 0000:03:00.0",
        ),
        (
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
            "/dev/vhost-vdpa-0",
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/></filesystem>",
            "the host's file system /srv",
        ),
        (
            "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm1'/></backend></tpm>",
            "the host's TPM /dev/tpm1",
        ),
        (
            "<disk type='nvme' device='disk'><source type='pci' namespace='1'><address bus='0x01'/></source></disk>",
            "NVMe disk 0000:01:00.0",
        ),
        (
            "<disk type='block' device='disk'><source dev='/dev/sdb'/></disk>",
            "the local disk /dev/sdb",
        ),
        (
            "<disk type='dir' device='disk'><source dir='/srv/x'/></disk>",
            "the host's directory /srv/x",
        ),
        ("<disk type='file'><source file='/a'/><transient/></disk>", "transient"),
        (
            "<shmem name='s'><model type='ivshmem'/></shmem>",
            "memory shared with others on its host (s)",
        ),
        (
            "<input type='passthrough'><source evdev='/dev/input/event1'/></input>",
            "/dev/input/event1",
        ),
        ("<smartcard mode='host'/>", "a smart card"),
        ("<memory model='sgx-epc'><target/></memory>", "sgx-epc"),
    ] {
        let (stay, miss) = ties(inside);
        assert_eq!(stay.len(), 1, "{inside}: {stay:?}");
        assert!(stay[0].contains(what), "{inside}: {stay:?}");
        assert!(miss.is_empty(), "{inside}: {miss:?}");
    }
}

#[test]
fn what_migrates_and_is_missed_elsewhere_is_found() {
    for (inside, what) in [
        (
            "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>",
            "USB device 1234:beef",
        ),
        ("<tpm><backend type='emulator' version='2.0'/></tpm>", "swtpm"),
        ("<disk type='block' device='cdrom'><source dev='/dev/sr0'/></disk>", "/dev/sr0"),
        ("<serial type='dev'><source path='/dev/ttyS0'/></serial>", "/dev/ttyS0"),
        (
            "<memory model='nvdimm'><source><path>/mnt/pmem</path></source><target/></memory>",
            "/mnt/pmem",
        ),
    ] {
        let (stay, miss) = ties(inside);
        assert!(stay.is_empty(), "{inside}: {stay:?}");
        assert_eq!(miss.len(), 1, "{inside}: {miss:?}");
        assert!(miss[0].contains(what), "{inside}: {miss:?}");
    }
}

#[test]
fn what_is_the_same_everywhere_ties_nothing() {
    for inside in [
        "<disk type='file' device='disk'><source file='/srv/shared/a.img'/></disk>",
        "<disk type='block' device='disk'><source dev='/dev/mapper/mpatha'/></disk>",
        "<disk type='network' device='disk'><source protocol='rbd' name='p/i'/></disk>",
        "<disk type='block' device='cdrom'><source dev='/dev/vg/iso'/></disk>",
        "<disk type='file' device='cdrom'><target dev='hda'/></disk>",
        "<interface type='bridge'><source bridge='br0'/></interface>",
        "<interface type='hostdev'><source><address type='pci'/></source><teaming type='transient' persistent='ua-0'/></interface>",
        "<shmem name='s' role='master'><model type='ivshmem-plain'/></shmem>",
    ] {
        assert_eq!(ties(inside), (vec![], vec![]), "{inside}");
    }
}

/// The namespace makes it QEMU's, whatever its prefix is and wherever it is declared.
#[test]
fn arguments_for_qemu_are_found_by_their_namespace_and_not_by_their_prefix() {
    const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
    for (declared, inside, found) in [
        (format!("xmlns:qemu='{QEMU}'"), "<qemu:commandline/>".to_owned(), true),
        (
            format!("xmlns:q='{QEMU}'"),
            "<q:commandline><q:arg value='-s'/></q:commandline>".into(),
            true,
        ),
        (String::new(), format!("<q:commandline xmlns:q='{QEMU}'/>"), true),
        (String::new(), format!("<commandline xmlns='{QEMU}'/>"), true),
        // Another one's, though it is called qemu.
        ("xmlns:qemu='urn:mine'".into(), "<qemu:commandline/>".into(), false),
        (format!("xmlns:q='{QEMU}'"), "<q:commandline xmlns:q='urn:mine'/>".into(), false),
        (format!("xmlns:q='{QEMU}'"), "<q:capabilities/>".into(), false),
        (format!("xmlns:q='{QEMU}'"), "<metadata><q:commandline/></metadata>".into(), false),
        (String::new(), "<commandline/>".into(), false),
    ] {
        let xml = format!(
            "<domain type='kvm' {declared}><name>v</name><memory>1024</memory>{inside}</domain>"
        );
        let ties = parse(&xml).unwrap().host_ties;
        assert_eq!(ties.len(), usize::from(found), "{xml}: {ties:?}");
        assert!(ties.iter().all(|tie| tie.what.contains("arguments of its own for QEMU")));
    }
}

#[test]
fn what_the_domain_itself_ties_is_found() {
    let of = |inside: &str| {
        let xml =
            format!("<domain type='kvm'><name>v</name><memory>1024</memory>{inside}</domain>");
        parse(&xml).unwrap().host_ties
    };
    let cpu = "<cpu><feature policy='require' name='invtsc'/></cpu>";
    assert_eq!(of(cpu)[0].keeps_from, KeepsFrom::Migrating);
    assert_eq!(of(&format!("{cpu}<clock><timer name='tsc' frequency='2'/></clock>")), []);
    assert_eq!(of("<launchSecurity type='sev'/>")[0].keeps_from, KeepsFrom::Migrating);
    let efi = of("<os firmware='efi'/>");
    assert_eq!(efi[0].keeps_from, KeepsFrom::FindingItElsewhere);
    assert!(efi[0].what.contains("/var/lib/libvirt/qemu/nvram"));
    assert!(of("<os><nvram>/srv/vars.fd</nvram></os>")[0].what.contains("/srv/vars.fd"));
    assert_eq!(of("<os><type>hvm</type></os>"), []);
}

mod generated {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9_.+ -]{0,3}[a-zA-Z0-9]"
    }

    /// Elements that nobody knows, nested a little.
    fn strange() -> impl Strategy<Value = String> {
        let leaf = (text(), "[a-z]{1,4}(:[a-z]{1,4})?")
            .prop_map(|(text, name)| format!("<{name} a='{text}'>{text}&amp;</{name}>"));
        leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::vec(inner, 0..3)
                .prop_map(|all| format!("<!-- c --><x:y>{}</x:y>", all.concat()))
        })
    }

    proptest! {
        #[test]
        fn a_domain_is_read_as_it_was_written_whatever_stands_beside_it(
            name in text(),
            uuid: Option<[u8; 16]>,
            mib in 1u64..4_000_000,
            vcpus in 1u32..512,
            strange in proptest::collection::vec(strange(), 3),
        ) {
            prop_assume!(uuid != Some([0; 16]));
            let uuid = uuid.map(Uuid::from_bytes);
            let uuid_text = uuid.map(|uuid| format!("<uuid>{uuid}</uuid>")).unwrap_or_default();
            let xml = format!(
                "<domain type='qemu'>{}<name>{name}</name>{uuid_text}{}<memory unit='MiB'>{mib}</memory>\n<vcpu>{vcpus}</vcpu>{}</domain>",
                strange[0], strange[1], strange[2],
            );
            let domain = parse(&xml).unwrap();
            prop_assert_eq!(domain.name.as_str(), name.as_str());
            prop_assert_eq!((domain.uuid, domain.memory_mib, domain.vcpus), (uuid, mib, vcpus));
            let fresh = Uuid::from_u128(5);
            let filled = domain.xml_with_uuid(&xml, fresh);
            prop_assert_eq!(filled.replacen(&format!("\n  <uuid>{fresh}</uuid>"), "", 1), xml);
        }

        #[test]
        fn a_domain_that_was_cut_or_garbled_is_refused_or_read_but_never_a_panic(
            at in 0usize..600,
            length in 0usize..20,
            instead in "[<>/&;='\"a-z!\\[\\]?-]{0,8}",
        ) {
            let xml = "<domain type='kvm'><name>v</name><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid><memory unit='KiB'>219100</memory><vcpu placement='static'>2</vcpu><cpu><numa><cell id='0' memory='1' unit='GiB'/></numa><feature name='invtsc'/></cpu><devices><disk type='block' device='disk'><source dev='/dev/sdb'/></disk><hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/></source></hostdev></devices></domain>";
            let begin = at.min(xml.len());
            let end = (begin + length).min(xml.len());
            let _ = parse(&format!("{}{instead}{}", &xml[..begin], &xml[end..]));
        }
    }
}
