//! How a VM is treated on its host, beyond starting and stopping it.

use model::command::GuestNote;
use model::vm::StopCause;

use super::*;
use crate::hypervisor::HypervisorError;
use crate::hypervisor::call::Call;

fn start_with(id: u64, change: impl FnOnce(&mut v1::StartOrder)) -> v1::Order {
    let mut start = v1::StartOrder { xml: xml(), ..Default::default() };
    change(&mut start);
    order(id, v1::order::Kind::Start(start))
}

fn stop_with(id: u64, change: impl FnOnce(&mut v1::StopOrder)) -> v1::Order {
    let mut stop = v1::StopOrder { graceful_ms: Some(1_000), ..Default::default() };
    change(&mut stop);
    order(id, v1::order::Kind::Stop(stop))
}

fn checks(shell: &str) -> v1::Checks {
    v1::Checks {
        shell: shell.into(),
        interval_ms: 10_000,
        timeout_ms: 20_000,
        ..Default::default()
    }
}

#[test]
fn memory_is_saved_at_a_stop_and_restored_once_under_the_new_mark() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    let file = "/saved/v.20.save".to_owned();
    bench.give(vec![stop_with(20, |stop| stop.memory_file = Some(file.clone()))]);
    assert_eq!(bench.told()[2..], ["absent up to 20: SAVED", "done 20: ok"]);
    for id in [30, 50] {
        bench.give(vec![start_with(id, |start| start.memory_file = Some(file.clone()))]);
        assert_eq!(bench.fake.mark_of(VM).unwrap().generation, id);
        bench.give(vec![stop(id + 10, None)]);
    }
    let calls: Vec<_> = bench.fake.calls().into_iter().filter(|it| it != "destroy").collect();
    let restore = "restore /saved/v.20.save";
    // The second time the file is gone, and the guest boots.
    assert_eq!(
        calls,
        [
            "create v",
            "resume",
            "save /saved/v.20.save",
            restore,
            "resume",
            restore,
            "create v",
            "resume"
        ]
    );
}

#[test]
fn a_guest_that_is_never_killed_outlives_its_stop_which_fails() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    bench.fake.set_faults(Faults { deaf_guests: true, ..Faults::default() });
    bench.give(vec![stop_with(20, |stop| stop.ask_only = true)]);
    bench.pass(2_000, true);
    let told = bench.told();
    assert!(told[0].contains("never destroyed (no-kill)"), "{told:?}");
    assert_eq!(bench.presence(), Some(Presence::Running));
    assert!(!bench.fake.calls().contains(&"destroy".to_owned()));
}

#[test]
fn a_start_is_done_when_its_checks_succeed_and_cleared_away_when_they_do_not_in_time() {
    let mut bench = bench();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("works");
    let line = format!("test -e {}", file.display());
    let with = |id| {
        let line = line.clone();
        start_with(id, move |start| {
            start.checks = Some(checks(&line));
            start.timeout_ms = 12_000;
        })
    };
    bench.give(vec![with(10)]);
    bench.pass(4_000, true);
    assert_eq!(bench.told(), Vec::<String>::new(), "it is not started yet");
    std::fs::write(&file, "").unwrap();
    bench.pass(2_000, true);
    assert_eq!(bench.told(), ["seen RUNNING", "done 10: ok"]);
    bench.give(vec![stop(20, None)]);
    bench.told();
    std::fs::remove_file(&file).unwrap();
    bench.give(vec![with(30)]);
    bench.pass(13_000, true);
    let told = bench.told();
    assert!(told[0].contains("checks did not succeed within 12 s"), "{told:?}");
    assert!(told[1].starts_with("absent up to 30"), "{told:?}");
    assert_eq!(bench.presence(), None);
}

#[test]
fn a_guest_that_runs_is_checked_and_only_news_of_success_is_told() {
    let mut bench = bench();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("works");
    std::fs::write(&file, "").unwrap();
    bench.give(vec![start(10)]);
    bench.told();
    let watch = v1::Watch {
        vm: "v".into(),
        uuid: VM.to_string(),
        checks: Some(checks(&format!("test -e {}", file.display()))),
    };
    let list = v1::OrderList {
        term: 1,
        epoch: 1,
        cluster: CLUSTER.to_string(),
        orders: Vec::new(),
        watches: vec![watch],
        ..v1::OrderList::default()
    };
    bench.core.orders(list, bench.at());
    bench.pass(35_000, true);
    assert_eq!(
        bench.told(),
        ["checked: ok"],
        "the first success is told, the next two are no news"
    );
    std::fs::remove_file(&file).unwrap();
    bench.pass(20_000, true);
    let told = bench.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("checked: its status program failed"), "{told:?}");
    std::fs::write(&file, "").unwrap();
    bench.pass(10_000, true);
    assert_eq!(bench.told(), ["checked: ok"]);
    // The cluster looks after it elsewhere now.
    bench.give(Vec::new());
    std::fs::remove_file(&file).unwrap();
    bench.pass(30_000, true);
    assert_eq!(bench.told(), Vec::<String>::new());
}

#[test]
fn complaint_status_failed_whenever_libvirtd_was_down() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    let checks = v1::Checks {
        guest_agent: true,
        interval_ms: 1_000,
        timeout_ms: 1_000,
        ..Default::default()
    };
    let watch = v1::Watch { vm: "v".into(), uuid: VM.to_string(), checks: Some(checks) };
    let list = v1::OrderList {
        term: 1,
        epoch: 1,
        cluster: CLUSTER.to_string(),
        orders: Vec::new(),
        watches: vec![watch],
        ..v1::OrderList::default()
    };
    bench.core.orders(list, bench.at());
    bench.pass(2_500, true);
    assert_eq!(bench.told(), ["checked: ok"]);
    bench.fake.set_faults(Faults { disconnected: true, ..Faults::default() });
    bench.core.event(VM, None, bench.at());
    bench.pass(10_000, true);
    assert_eq!(bench.told(), Vec::<String>::new(), "nobody can say, so nothing is said");
    bench.fake.set_faults(Faults::default());
    bench.pass(10_000, true);
    assert_eq!(bench.told(), Vec::<String>::new(), "and nothing had happened");
}

#[test]
fn a_domain_xml_in_a_file_is_read_at_the_start_and_has_to_be_the_vms() {
    let mut bench = bench();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("v.xml");
    let with = |id| {
        let path = file.display().to_string();
        start_with(id, move |start| start.xml_file = path)
    };
    std::fs::write(&file, xml().replace("<name>v<", "<name>w<")).unwrap();
    bench.give(vec![with(10)]);
    let told = bench.told();
    assert!(told[0].contains("is the domain w, not v"), "{told:?}");
    std::fs::write(&file, xml()).unwrap();
    bench.give(vec![with(20)]);
    assert_eq!(bench.told(), ["seen RUNNING", "done 20: ok"]);
}

#[test]
fn the_cause_of_an_end_is_what_was_said_just_before_it() {
    for (hint, end, cause) in [
        (Some(StopCause::Watchdog), StopCause::GuestShutdown, "WATCHDOG"),
        // QEMU's own way to power a guest off for its watchdog: it ends without a word.
        (Some(StopCause::Watchdog), StopCause::Failed, "WATCHDOG"),
        (Some(StopCause::Terminated), StopCause::GuestShutdown, "TERMINATED"),
        (Some(StopCause::Panicked), StopCause::Crashed, "PANICKED"),
        (None, StopCause::GuestShutdown, "GUEST_SHUTDOWN"),
        (None, StopCause::Crashed, "GUEST_CRASHED"),
    ] {
        let mut bench = bench();
        bench.give(vec![start(10)]);
        bench.told();
        match hint {
            Some(StopCause::Panicked) => {
                bench.core.noted(VM, GuestNote::Panicked, String::new(), bench.at());
            }
            Some(hint) => bench.core.ending(VM, hint, bench.at()),
            None => {}
        }
        if hint == Some(StopCause::Panicked) {
            // libvirt ends its QEMU, which says so.
            bench.core.ending(VM, StopCause::Terminated, bench.at());
        }
        // Looked at in between, while QEMU is still there.
        bench.fake.appear(VM, "v", Presence::Running);
        bench.settle();
        bench.fake.kill(VM, end);
        bench.core.event(VM, Some(end), bench.at());
        bench.settle();
        let told = bench.told();
        let last = told.last().unwrap();
        assert_eq!(*last, format!("absent up to 10: {cause}"), "{hint:?} then {end:?}");
    }
}

#[test]
fn a_look_from_before_an_end_does_not_make_its_cause_forgotten() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    bench.core.event(VM, None, bench.at());
    // The look sees it, and before its answer is read the guest has ended.
    let look = bench.core.take_effects().calls.remove(0);
    let answer = look.call.make(VM, &*bench.fake);
    bench.fake.kill(VM, StopCause::GuestShutdown);
    bench.core.event(VM, Some(StopCause::GuestShutdown), bench.at());
    bench.core.answered(VM, look.id, answer, bench.at());
    bench.pass(2_000, true);
    assert_eq!(bench.told().last().unwrap(), "absent up to 10: GUEST_SHUTDOWN");
}

#[test]
fn an_end_whose_own_word_is_lost_has_the_cause_that_was_said_before_it() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    bench.core.ending(VM, StopCause::Watchdog, bench.at());
    bench.fake.kill(VM, StopCause::GuestShutdown);
    while bench.events.try_recv().is_ok() {}
    bench.core.event(VM, None, bench.at());
    bench.pass(2_000, true);
    assert_eq!(bench.told().last().unwrap(), "absent up to 10: WATCHDOG");
}

#[test]
fn a_start_that_failed_does_not_make_what_somebody_paused_elsewhere_berths_own() {
    let mut bench = bench();
    let cluster = CLUSTER.to_string();
    let orders = vec![start(10)];
    let list = v1::OrderList { term: 1, epoch: 1, cluster, orders, ..v1::OrderList::default() };
    bench.core.orders(list, bench.at());
    // Its answer is lost, and whatever libvirt made of it.
    let mut created = false;
    while !created {
        for call in bench.core.take_effects().calls {
            created |= matches!(call.call, Call::Create { .. });
            let answer = match call.call {
                Call::Create { .. } => Err(HypervisorError::Disconnected("it broke".into())),
                other => other.make(VM, &*bench.fake),
            };
            bench.core.answered(VM, call.id, answer, bench.at());
        }
    }
    bench.pass(10_000, true);
    bench.told();
    // It runs on another host as the copy of another start, somebody pauses it there, and it is moved here.
    bench.fake.appear(VM, "v", Presence::Paused);
    bench.fake.mark(VM, &Mark { cluster: CLUSTER, generation: 20 }).unwrap();
    bench.core.event(VM, None, bench.at());
    bench.pass(2_000, true);
    assert_eq!(bench.told().last().unwrap(), "seen PAUSED");
    // What that start brings to life after all is Berth's own.
    bench.fake.mark(VM, &Mark { cluster: CLUSTER, generation: 10 }).unwrap();
    bench.core.event(VM, None, bench.at());
    bench.pass(2_000, true);
    assert_eq!(bench.told().last().unwrap(), "seen SUSPENDED");
}

#[test]
fn a_stop_by_self_fence_that_comes_when_the_lease_is_back_is_berths_own() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    // libvirt does not answer the suspension, and does it later.
    let mut asked = false;
    while !asked {
        bench.now += 50;
        bench.core.tick(bench.at());
        for call in bench.core.take_effects().calls {
            let suspend = matches!(call.call, Call::Suspend);
            asked |= suspend;
            let silence = || HypervisorError::Timeout {
                what: "suspend a domain",
                limit: std::time::Duration::from_secs(5),
            };
            let answer = if suspend { Err(silence()) } else { call.call.make(VM, &*bench.fake) };
            bench.core.answered(VM, call.id, answer, bench.at());
        }
    }
    bench.heartbeat();
    bench.core.event(VM, None, bench.at());
    bench.pass(2_000, true);
    bench.told();
    bench.fake.appear(VM, "v", Presence::Paused);
    bench.settle();
    assert_eq!(bench.told(), ["seen SUSPENDED"]);
    // It runs, and stays so for longer than that libvirt could owe anything: what stops it then is somebody else.
    bench.fake.appear(VM, "v", Presence::Running);
    bench.pass(6_000, true);
    bench.told();
    bench.fake.appear(VM, "v", Presence::Paused);
    bench.settle();
    assert_eq!(bench.told(), ["seen PAUSED"]);
}

#[test]
fn an_agent_that_is_started_again_ends_the_hold_of_the_one_before_it() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    // The bench's hold is a minute.
    bench.pass(10_000, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
    bench.restart(Lease::default());
    let domains = bench.fake.domains().unwrap();
    bench.core.inventory(&domains, bench.at());
    bench.pass(45_000, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
    bench.pass(15_000, false);
    assert_eq!(bench.presence(), None, "it was suspended for more than a minute");
}

#[test]
fn the_hold_of_a_copy_that_was_being_created_as_the_lease_ran_out_counts_from_then() {
    let mut bench = bench();
    let cluster = CLUSTER.to_string();
    let orders = vec![start(10)];
    let list = v1::OrderList { term: 1, epoch: 1, cluster, orders, ..v1::OrderList::default() };
    bench.core.orders(list, bench.at());
    let mut create = None;
    while create.is_none() {
        for call in bench.core.take_effects().calls {
            match call.call {
                Call::Create { .. } => create = Some(call),
                other => {
                    let answer = other.make(VM, &*bench.fake);
                    bench.core.answered(VM, call.id, answer, bench.at());
                }
            }
        }
    }
    // The lease runs out meanwhile, and the domain is there after that: its vCPUs are never let run.
    bench.pass(5_000, false);
    let create = create.unwrap();
    let answer = create.call.make(VM, &*bench.fake);
    bench.core.answered(VM, create.id, answer, bench.at());
    bench.pass(5_000, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
    bench.restart(Lease::default());
    let domains = bench.fake.domains().unwrap();
    bench.core.inventory(&domains, bench.at());
    bench.pass(53_000, false);
    assert_eq!(bench.presence(), None, "the bench's hold is a minute, of either agent's");
}

#[test]
fn a_copy_that_waits_with_its_lease_is_not_at_the_end_of_its_hold_when_its_agent_is_started_again()
{
    for lease_held_on in [false, true] {
        let mut bench = bench();
        bench.give(vec![start(10)]);
        bench.pass(10_000, false);
        assert_eq!(bench.presence(), Some(Presence::Paused));
        // The lease is back, and the leader does not let it run: another node may.
        bench.heartbeat();
        bench.pass(120_000, true);
        let lease = if lease_held_on { bench.core.lease() } else { Lease::default() };
        bench.restart(lease);
        let domains = bench.fake.domains().unwrap();
        bench.core.inventory(&domains, bench.at());
        if lease_held_on {
            bench.register(2);
            bench.pass(5_000, true);
        }
        bench.pass(30_000, false);
        assert_eq!(bench.presence(), Some(Presence::Paused), "lease held on: {lease_held_on}");
        bench.pass(35_000, false);
        assert_eq!(bench.presence(), None);
    }
}

#[test]
fn a_migration_whose_answer_is_lost_is_followed_and_not_called_failed() {
    for (arrives, told) in [(true, "done 11: ok"), (false, "libvirt's word on why was lost")] {
        let mut bench = bench();
        bench.give(vec![start(10)]);
        bench.told();
        let orders = vec![migrate(11)];
        let cluster = CLUSTER.to_string();
        let list = v1::OrderList { term: 1, epoch: 1, cluster, orders, ..v1::OrderList::default() };
        bench.core.orders(list, bench.at());
        let mut asked = false;
        while !asked {
            for call in bench.core.take_effects().calls {
                let migrate = matches!(call.call, Call::Migrate(_));
                asked |= migrate;
                let answer = match migrate {
                    true => Err(HypervisorError::Disconnected("it broke".into())),
                    false => call.call.make(VM, &*bench.fake),
                };
                bench.core.answered(VM, call.id, answer, bench.at());
            }
        }
        bench.fake.set_faults(Faults { migrating: 3, ..Faults::default() });
        bench.pass(500, true);
        assert_eq!(bench.told(), Vec::<String>::new(), "libvirt carries it on");
        if arrives {
            bench.fake.kill(VM, StopCause::MigratedAway);
        }
        bench.pass(3_000, true);
        let all = bench.told();
        assert!(all.iter().any(|it| it.contains(told)), "{all:?}");
    }
}

#[test]
fn a_cancel_that_came_before_there_was_a_job_is_given_again() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    let migration = |cancelled| v1::MigrateOrder {
        to: "b".into(),
        uri: "fake://b".into(),
        live: true,
        cancelled,
        ..Default::default()
    };
    let list = |cancelled| v1::OrderList {
        term: 1,
        epoch: 1,
        cluster: CLUSTER.to_string(),
        orders: vec![order(11, v1::order::Kind::Migrate(migration(cancelled)))],
        ..v1::OrderList::default()
    };
    bench.core.orders(list(false), bench.at());
    // The target is being asked: there is no job before it has answered.
    let mut aborts = 0;
    let mut step = |bench: &mut Bench| {
        for call in bench.core.take_effects().calls {
            match call.call {
                Call::Migrate(_) => {}
                Call::AbortJob => {
                    aborts += 1;
                    let error = HypervisorError::Refused("no job is active".into());
                    bench.core.answered(VM, call.id, Err(error), bench.at());
                }
                other => {
                    let answer = other.make(VM, &*bench.fake);
                    bench.core.answered(VM, call.id, answer, bench.at());
                }
            }
        }
        aborts
    };
    for _ in 0..3 {
        step(&mut bench);
    }
    bench.core.orders(list(true), bench.at());
    assert_eq!(step(&mut bench), 1);
    bench.fake.set_faults(Faults { migrating: 9, ..Faults::default() });
    for _ in 0..20 {
        bench.now += 50;
        bench.core.heartbeat_answered(bench.at(), bench.at());
        bench.core.tick(bench.at());
        step(&mut bench);
    }
    assert!(step(&mut bench) > 1, "now there is a job");
}

#[test]
fn a_guest_is_told_as_crashed_when_libvirt_keeps_it_and_not_while_it_is_being_ended() {
    let crashes = |kept: bool| {
        let mut bench = bench();
        bench.give(vec![start(10)]);
        bench.told();
        bench.core.noted(VM, GuestNote::Panicked, String::new(), bench.at());
        bench.fake.appear(VM, "v", Presence::Crashed);
        bench.core.event(VM, None, bench.at());
        bench.settle();
        if !kept {
            bench.fake.kill(VM, StopCause::Crashed);
            bench.core.event(VM, Some(StopCause::Crashed), bench.at());
            bench.settle();
        }
        bench.pass(3_000, true);
        bench.told()
    };
    let ended = crashes(false);
    assert!(ended.iter().all(|it| !it.contains("CRASHED")), "{ended:?}");
    assert_eq!(ended.last().unwrap(), "absent up to 10: PANICKED");
    let kept = crashes(true);
    assert_eq!(kept.iter().filter(|it| it.contains("CRASHED")).count(), 1, "{kept:?}");
}

#[test]
fn a_control_plane_of_a_new_epoch_is_told_which_start_was_the_last() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    let domains = bench.fake.domains().unwrap();
    let inventory = bench.core.inventory(&domains, bench.at());
    let given = Given {
        session: 2,
        epoch: 2,
        cluster: CLUSTER,
        lease_ttl_ms: 3_000,
        self_fence_ms: 1_000,
        isolation_hold_ms: 60_000,
        floors: Floors::default(),
    };
    bench.core.registered(given, &inventory, bench.at()).unwrap();
    bench.settle();
    let told = bench.told();
    assert!(told.iter().any(|it| it.starts_with("started here as ")), "{told:?}");
}
