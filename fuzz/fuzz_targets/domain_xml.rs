//! No text makes the reader of domain XMLs panic, and what it takes comes out unharmed: filled in with a UUID or marked, it
//! reads the same, and all that was there is there still.
#![no_main]

use agent::hypervisor::mark::{self, Mark};
use libfuzzer_sys::fuzz_target;
use model::domain_xml::parse;
use uuid::Uuid;

fuzz_target!(|text: &str| {
    let Ok(domain) = parse(text) else { return };
    let uuid = Uuid::from_u128(7);
    let filled = match domain.uuid {
        Some(_) => text.to_owned(),
        None => domain.xml_with_uuid(text, uuid),
    };
    let again = parse(&filled).expect("a domain with its UUID filled in is a domain");
    assert_eq!(again.uuid, Some(domain.uuid.unwrap_or(uuid)));
    assert_eq!((&again.name, again.memory_mib), (&domain.name, domain.memory_mib));
    assert_eq!((&again.disks, &again.host_ties), (&domain.disks, &domain.host_ties));
    let mark = Mark { cluster: uuid, generation: 3 };
    let Ok(marked) = mark::insert(&filled, &mark) else { return };
    let marked = parse(&marked).expect("a marked domain is a domain");
    assert_eq!((&marked.name, marked.uuid), (&again.name, again.uuid));
    assert_eq!((marked.memory_mib, &marked.disks), (again.memory_mib, &again.disks));
});
