use model::vm::StopCause;

use super::*;
use crate::hypervisor::fake::{FakeHypervisor, Faults};
use crate::hypervisor::{Hypervisor, HypervisorEvent};

const VM: Uuid = Uuid::from_u128(0x77);

struct Bench {
    fake: Arc<FakeHypervisor>,
    driver: mpsc::UnboundedSender<Message>,
    reports: mpsc::UnboundedReceiver<v1::Report>,
    _directory: tempfile::TempDir,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let (fake, mut events) = FakeHypervisor::new();
    let (sender, reports) = mpsc::unbounded_channel();
    let tools = Tools {
        hypervisor: HypervisorHandle::new(fake.clone()),
        ledger: Ledger::open(directory.path()).unwrap(),
        reports: sender,
        jobs: Jobs::default(),
        working: Arc::default(),
    };
    let driver = spawn(VM, tools);
    let told = driver.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let message = match event {
                HypervisorEvent::Changed(_) => Message::Changed,
                HypervisorEvent::Stopped(_, cause) => Message::Stopped(cause),
                HypervisorEvent::Connected | HypervisorEvent::Disconnected => continue,
            };
            let _ = told.send(message);
        }
    });
    Bench { fake, driver, reports, _directory: directory }
}

fn order(id: u64, kind: Kind) -> Order {
    Order { id, generation: id, cluster: Uuid::from_u128(1), vm: "v".into(), uuid: VM, kind }
}

fn start(id: u64) -> Order {
    let xml = format!(
        "<domain type='qemu'><name>v</name><uuid>{VM}</uuid><memory>16384</memory></domain>"
    );
    order(id, Kind::Start { xml })
}

impl Bench {
    fn give(&self, orders: Vec<Order>) {
        self.driver.send(Message::Orders(orders)).unwrap();
    }

    /// The next report, in short.
    async fn next(&mut self) -> String {
        use v1::report::Report as Kind;
        let report = tokio::time::timeout(Duration::from_secs(20), self.reports.recv())
            .await
            .unwrap()
            .unwrap();
        match report.report.unwrap() {
            Kind::Seen(seen) => format!("seen {}", seen.presence().as_str_name()),
            Kind::Absent(absent) => {
                format!("absent up to {}: {}", absent.floor, absent.cause().as_str_name())
            }
            Kind::OrderDone(done) => {
                format!("done {}: {}", done.order, done.error.unwrap_or("ok".into()))
            }
        }
    }

    /// Reports up to and with the one that begins like this.
    async fn until(&mut self, beginning: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let next = self.next().await;
            all.push(next.clone());
            if next.starts_with(beginning) {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn a_start_is_seen_before_it_is_done_and_done_once() {
    let mut bench = bench();
    bench.give(vec![start(5)]);
    let reports = bench.until("done 5").await;
    assert_eq!(reports, ["seen RUNNING", "done 5: ok"]);
    assert!(bench.fake.domain(VM).unwrap().is_some());
    bench.give(vec![start(5)]);
    assert_eq!(bench.until("done 5").await, ["done 5: ok"]);
    assert_eq!(bench.fake.calls(), ["create v"]);
}

#[tokio::test]
async fn a_start_that_fails_says_so_and_then_that_it_is_not_here() {
    let mut bench = bench();
    bench.fake.set_faults(Faults { start_fails: 1, ..Faults::default() });
    bench.give(vec![start(5)]);
    let reports = bench.until("absent").await;
    assert_eq!(
        reports,
        ["done 5: the fake is told to fail", "absent up to 5: STOP_CAUSE_UNSPECIFIED"]
    );
}

#[tokio::test]
async fn an_order_older_than_a_promise_is_refused() {
    let mut bench = bench();
    bench.give(vec![order(9, Kind::Probe)]);
    assert_eq!(bench.next().await, "absent up to 9: STOP_CAUSE_UNSPECIFIED");
    bench.give(vec![start(8)]);
    assert!(bench.next().await.starts_with("done 8: this node has promised"));
    assert!(bench.fake.calls().is_empty());
}

#[tokio::test]
async fn a_guest_that_shuts_down_is_not_destroyed() {
    let mut bench = bench();
    bench.give(vec![start(5)]);
    bench.until("done 5").await;
    bench.give(vec![order(6, Kind::Stop { graceful_ms: Some(60_000) })]);
    let reports = bench.until("absent").await;
    assert_eq!(reports[0], "done 6: ok");
    assert!(reports[1].starts_with("absent up to 6"), "{reports:?}");
    assert_eq!(bench.fake.calls(), ["create v", "shutdown"]);
}

#[tokio::test]
async fn a_deaf_guest_is_destroyed_when_its_time_is_over_or_the_stop_is_hastened() {
    let mut bench = bench();
    bench.fake.set_faults(Faults { deaf_guests: true, ..Faults::default() });
    bench.give(vec![start(5)]);
    bench.until("done 5").await;
    bench.give(vec![order(6, Kind::Stop { graceful_ms: Some(3_600_000) })]);
    bench.give(vec![order(7, Kind::Stop { graceful_ms: None })]);
    let reports = bench.until("absent").await;
    assert_eq!(reports[0], "done 7: ok");
    assert!(reports[1].starts_with("absent up to 7"), "{reports:?}");
    bench.give(vec![start(8)]);
    bench.until("done 8").await;
    bench.give(vec![order(9, Kind::Stop { graceful_ms: Some(1) })]);
    let reports = bench.until("absent").await;
    assert_eq!(reports[0], "done 9: ok");
    assert_eq!(bench.fake.calls().last().unwrap(), "destroy");
}

#[tokio::test]
async fn a_qemu_that_dies_is_told_with_its_cause_and_a_libvirt_that_is_away_tells_nothing() {
    let mut bench = bench();
    bench.give(vec![start(5)]);
    bench.until("done 5").await;
    bench.fake.set_faults(Faults { disconnected: true, ..Faults::default() });
    bench.fake.kill(VM, StopCause::Crashed);
    while bench.fake.unanswered() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(bench.reports.is_empty());
    bench.fake.set_faults(Faults::default());
    assert_eq!(bench.next().await, "absent up to 5: GUEST_CRASHED");
}

#[tokio::test]
async fn an_adopted_domain_bears_the_mark() {
    let mut bench = bench();
    bench.fake.appear(VM, "v", Presence::Running);
    assert_eq!(bench.next().await, "seen RUNNING");
    bench.give(vec![order(5, Kind::Adopt)]);
    bench.until("done 5").await;
    assert_eq!(bench.fake.mark_of(VM).unwrap().generation, 5);
}

#[tokio::test]
async fn a_domain_that_migrated_is_gone_by_migration() {
    let mut bench = bench();
    bench.give(vec![start(5)]);
    bench.until("done 5").await;
    bench.give(vec![order(
        6,
        Kind::Migrate { uri: "qemu://b".into(), live: true, cancelled: false },
    )]);
    assert_eq!(bench.until("absent").await, ["done 6: ok", "absent up to 6: MIGRATED_AWAY"]);
}
