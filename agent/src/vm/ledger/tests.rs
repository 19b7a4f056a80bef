//! What the ledger keeps over restarts, and what it refuses to read.

use std::fs;

use super::*;

const VM: Uuid = Uuid::from_u128(3);

#[test]
fn what_was_noted_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(directory.path(), directory.path()).unwrap();
    let order = Order {
        id: 7,
        generation: 7,
        cluster: Uuid::nil(),
        vm: "v".into(),
        uuid: VM,
        on_isolation: OnIsolation::Destroy,
        kind: Kind::Adopt,
    };
    ledger.begin(&order).unwrap();
    ledger.finish(VM, 7, Some("no".into()), false).unwrap();
    ledger.promise(VM, 9).unwrap();
    ledger.promise(VM, 8).unwrap();
    ledger.note_suspended(VM, Suspension::created(7)).unwrap();
    let terms = IsolationTerms { self_fence_ms: 500, hold_ms: 9_000 };
    ledger.note_session((Uuid::nil(), 3), None, &Floors::default(), terms).unwrap();
    let ledger = Ledger::open(directory.path(), directory.path()).unwrap();
    let done = Some(Done { order: 7, error: Some("no".into()) });
    let expected = Entry {
        floor: 9,
        generation: 7,
        begun: None,
        bringing: false,
        done,
        bound: true,
        on_isolation: OnIsolation::Destroy,
    };
    assert_eq!((ledger.entry(VM), ledger.epoch()), (Some(&expected), 3));
    assert_eq!(ledger.terms(), terms);
    assert!(ledger.is_suspended(VM, Some(7)) && !ledger.is_suspended(VM, Some(8)));
}

#[test]
fn of_a_whole_cluster_what_may_run_here_is_noted_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(directory.path(), directory.path()).unwrap();
    let (kept, other, service) = (VM, Uuid::from_u128(4), Uuid::from_u128(5));
    let session = |ledger: &mut Ledger, below, vms: &[Uuid], services: &[Uuid]| {
        let (vms, services) = (vms.iter().copied(), services.iter().copied());
        let floors = Floors { below, vms: vms.collect(), services: services.collect() };
        ledger.note_session((Uuid::nil(), 1), None, &floors, IsolationTerms::default()).unwrap();
    };
    session(&mut ledger, 30, &[kept], &[]);
    assert_eq!((ledger.floor(kept), ledger.floor(other)), (0, 30));
    assert_eq!(ledger.vms().collect::<Vec<_>>(), [kept]);
    ledger.promise(other, 35).unwrap();
    session(&mut ledger, 40, &[other], &[service]);
    assert_eq!(
        ledger.vms().collect::<Vec<_>>(),
        [other],
        "of the other nothing was noted but a floor"
    );
    let ledger = Ledger::open(directory.path(), directory.path()).unwrap();
    assert_eq!((ledger.floor(kept), ledger.floor(other)), (40, 35));
    assert_eq!(ledger.service_or_new(service).floor, 30);
    assert_eq!(ledger.service_or_new(Uuid::from_u128(6)).floor, 40);
}

#[test]
fn a_ledger_that_comes_back_older_lets_no_guest_run_on_without_a_lease() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Ledger::open(directory.path(), directory.path()).unwrap();
    let told = |id, on_isolation| Order {
        id,
        generation: 7,
        cluster: Uuid::nil(),
        vm: "v".into(),
        uuid: VM,
        on_isolation,
        kind: Kind::Adopt,
    };
    let policy = |ledger: &Ledger| ledger.entry(VM).unwrap().on_isolation;
    open().begin(&told(7, OnIsolation::Continue)).unwrap();
    assert_eq!(policy(&open()), OnIsolation::Continue);
    let older = fs::read(directory.path().join("ledger")).unwrap();
    open().begin(&told(8, OnIsolation::Destroy)).unwrap();
    fs::write(directory.path().join("ledger"), older).unwrap();
    assert_eq!(policy(&open()), OnIsolation::Suspend);
}

#[test]
fn a_damaged_or_newer_ledger_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    Ledger::open(directory.path(), directory.path()).unwrap().promise(VM, 9).unwrap();
    let path = directory.path().join("ledger");
    let good = fs::read_to_string(&path).unwrap();
    for (text, reason) in [
        (good.replace("\"floor\":9", "\"floor\":8"), "checksum"),
        (good[..good.len() - 3].to_owned(), "checksum"),
        (good.replacen(" 4 ", " 5 ", 1), "formats up to 4"),
        (String::new(), "no head line"),
    ] {
        fs::write(&path, &text).unwrap();
        let error = Ledger::open(directory.path(), directory.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}
