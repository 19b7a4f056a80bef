//! On libvirt's own test driver: lifecycle and events, without a libvirtd.

use std::time::Duration;

use model::vm::{Presence, StopCause};

use super::*;

const XML: &str =
    "<domain type='test'><name>berth-unit</name><uuid>7c9e4a1e-3f0b-4a53-9a0b-7f3c53a6f001</uuid>
    <memory>8192</memory><os><type>hvm</type></os></domain>";

async fn next_stop(events: &mut mpsc::UnboundedReceiver<HypervisorEvent>) -> StopCause {
    loop {
        let event =
            tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
        if let HypervisorEvent::Stopped(_, cause) = event {
            return cause;
        }
    }
}

#[tokio::test]
async fn a_domain_is_created_marked_seen_and_destroyed_with_its_events() {
    let (libvirt, mut events) = Libvirt::start("test:///default", false).unwrap();
    let uuid = Uuid::parse_str("7c9e4a1e-3f0b-4a53-9a0b-7f3c53a6f001").unwrap();
    assert_eq!(libvirt.look(uuid).unwrap(), None);
    let mark = Mark { cluster: Uuid::from_u128(9), generation: 4 };
    let xml = crate::hypervisor::mark::insert(XML, &mark).unwrap();
    // libvirt's own test driver cannot create a domain whose vCPUs are stopped, and one that would run is not created.
    assert!(matches!(libvirt.create(&xml), Err(HypervisorError::Refused(_))));
    libvirt.with(|connection| connection.create_domain_xml(&xml, 0)).unwrap();
    let seen = libvirt.look(uuid).unwrap().unwrap();
    assert_eq!(
        (seen.seen.name.as_str(), seen.seen.presence, seen.seen.memory_mib),
        ("berth-unit", Some(Presence::Running), 8)
    );
    libvirt.mark(uuid, &Mark { generation: 5, ..mark }).unwrap();
    assert!(libvirt.domains().unwrap().iter().any(|domain| domain.uuid == uuid));
    libvirt.destroy(uuid).unwrap();
    assert_eq!(next_stop(&mut events).await, StopCause::Destroyed);
    assert_eq!(libvirt.look(uuid).unwrap(), None);
    assert_eq!(libvirt.destroy(uuid), Err(HypervisorError::NoDomain));
}

#[test]
fn a_libvirt_that_is_not_there_is_disconnected_and_no_domain_is_called_absent() {
    let (libvirt, _events) =
        Libvirt::start("qemu+unix:///system?socket=/nonexistent/berth", false).unwrap();
    assert!(matches!(libvirt.look(Uuid::from_u128(1)), Err(HypervisorError::Disconnected(_))));
}
