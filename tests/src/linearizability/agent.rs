//! A stand-in of an agent: it registers a node and says of each order that it was carried out, so that owners change as
//! fast as the control plane can decide. All of them share one world, in which a VM that is started twice is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use proto::convert::rejection;
use proto::v1::agent_session_client::AgentSessionClient;
use proto::v1::order::Kind;
use proto::v1::report::Report as Said;
use proto::v1::{self, Order, OrderList, Report};
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::linearizability::operator::{Replicas, within};

/// Between two attempts at replicas that are in trouble.
const AGAIN: Duration = Duration::from_millis(50);

/// Which guests run where.
#[derive(Default)]
pub struct World {
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    running: BTreeMap<String, BTreeSet<String>>,
    starts: usize,
    twice: Vec<String>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, uuid: &str, node: &str) {
        let mut guests = self.lock();
        guests.starts += 1;
        let places = guests.running.entry(uuid.to_owned()).or_default();
        places.insert(node.to_owned());
        if places.len() > 1 {
            let text = format!("{uuid} runs on {places:?}");
            guests.twice.push(text);
        }
    }

    fn stop(&self, uuid: &str, node: &str) {
        if let Some(places) = self.lock().running.get_mut(uuid) {
            places.remove(node);
        }
    }

    fn runs(&self, uuid: &str, node: &str) -> bool {
        self.lock().running.get(uuid).is_some_and(|places| places.contains(node))
    }

    fn at(&self, node: &str) -> Vec<String> {
        let guests = self.lock();
        let here = guests.running.iter().filter(|(_, places)| places.contains(node));
        here.map(|(uuid, _)| uuid.clone()).collect()
    }

    /// How many starts there were.
    pub fn starts(&self) -> usize {
        self.lock().starts
    }

    /// Every moment in which a VM ran in two places.
    pub fn twice(&self) -> Vec<String> {
        self.lock().twice.clone()
    }
}

/// One node's.
pub struct Agent {
    /// The node's name.
    pub node: String,
    /// Whom it speaks to.
    pub replicas: Replicas,
    /// What it acts on.
    pub world: Arc<World>,
}

/// What a node remembers of orders: the highest it acted on, by VM, and what came of each.
#[derive(Default)]
struct Ledger {
    floors: BTreeMap<String, u64>,
    done: BTreeMap<u64, Option<String>>,
}

struct Session {
    epoch: u64,
    node_id: u64,
    session: u64,
    heartbeat: Duration,
}

impl Agent {
    /// Registers, and again whenever a session ends; until it is aborted.
    pub async fn run(self) {
        let hardware = Uuid::new_v4().to_string();
        let mut ledger = Ledger::default();
        let mut epoch = 0;
        let mut replica = 0;
        loop {
            let announce = v1::AnnounceRequest { node: self.node.clone() };
            let Ok(announced) = within(self.client(replica).announce(announce)).await else {
                replica += 1;
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let request = v1::RegisterRequest {
                request_id: Uuid::new_v4().to_string(),
                node: self.node.clone(),
                hardware: hardware.clone(),
                boot_id: "boot".into(),
                memory_mib: 1 << 20,
                cpus: 64,
                migration_uri: format!("test://{}/", self.node),
                watchdog_timeout_ms: None,
                agent_version: "stand-in".into(),
                fence_agents: Vec::new(),
                libvirt_guests: false,
                epoch,
                pausable: false,
                lock_manager: None,
                replaces: announced.last_session,
                inventory: self.world.at(&self.node).into_iter().map(seen).collect(),
            };
            let mut client = self.client(replica);
            match within(client.register(request)).await {
                // A restored control plane has taken this one's place.
                Ok(given) if given.epoch < epoch => replica += 1,
                Ok(given) => {
                    epoch = given.epoch;
                    let session = Session {
                        epoch,
                        node_id: given.node_id,
                        session: given.session,
                        heartbeat: Duration::from_millis(given.heartbeat_ms),
                    };
                    tokio::select! {
                        () = self.heartbeats(&session) => {}
                        () = self.obey(&session, &mut ledger) => {}
                    }
                }
                Err(_) => {
                    replica += 1;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn client(&self, replica: usize) -> AgentSessionClient<Channel> {
        AgentSessionClient::new(self.replicas.channel(replica))
    }

    async fn heartbeats(&self, session: &Session) {
        let mut replica = 0;
        for number in 1.. {
            let message = v1::HeartbeatRequest {
                node_id: session.node_id,
                session: session.session,
                number,
                jobs: Vec::new(),
                epoch: session.epoch,
                loads: Vec::new(),
            };
            let mut client = self.client(replica);
            match tokio::time::timeout(session.heartbeat, client.heartbeat(message)).await {
                Ok(Ok(_)) => tokio::time::sleep(session.heartbeat).await,
                Ok(Err(status)) if is_over(&status) => return,
                Ok(Err(_)) => {
                    replica += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                Err(_) => replica += 1,
            }
        }
    }

    /// Until the session is over.
    async fn obey(&self, session: &Session, ledger: &mut Ledger) {
        for replica in 0.. {
            let message =
                v1::WatchOrdersRequest { node_id: session.node_id, session: session.session };
            match within(self.client(replica).watch_orders(message)).await {
                Ok(mut stream) => {
                    // A stream through a replica that stands still tells nothing; the lists are repeated well within this.
                    while let Ok(Ok(Some(list))) =
                        tokio::time::timeout(4 * session.heartbeat, stream.message()).await
                    {
                        if self.carry_out(session, list, ledger).await.is_err() {
                            return;
                        }
                    }
                }
                Err(status) if is_over(&status) => return,
                Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn carry_out(
        &self,
        session: &Session,
        list: OrderList,
        ledger: &mut Ledger,
    ) -> Result<(), Status> {
        let mut reports = Vec::new();
        for order in list.orders {
            reports.extend(
                self.act(order, ledger).into_iter().map(|said| Report { report: Some(said) }),
            );
        }
        if reports.is_empty() { Ok(()) } else { self.report(session, reports).await }
    }

    /// Each order once, and none that is older than another of that VM.
    fn act(&self, order: Order, ledger: &mut Ledger) -> Vec<Said> {
        let Order { id, uuid, kind: Some(kind), .. } = order else { return Vec::new() };
        let floor = ledger.floors.entry(uuid.clone()).or_default();
        let fresh = id > *floor;
        if !fresh && !matches!(kind, Kind::Probe(_)) && !ledger.done.contains_key(&id) {
            return Vec::new();
        }
        *floor = id.max(*floor);
        if fresh {
            match kind {
                Kind::Start(_) => self.world.start(&uuid, &self.node),
                Kind::Stop(_) => self.world.stop(&uuid, &self.node),
                Kind::Migrate(_) | Kind::Adopt(_) | Kind::Probe(_) | Kind::Resume(_) => {}
            }
        }
        let mut said = Vec::new();
        said.push(if self.world.runs(&uuid, &self.node) {
            Said::Seen(seen(uuid.clone()))
        } else {
            Said::Absent(v1::Absent { uuid: uuid.clone(), floor: *floor, cause: 0 })
        });
        if !matches!(kind, Kind::Probe(_)) {
            let refused = matches!(kind, Kind::Migrate(_)).then(|| "a stand-in cannot".to_owned());
            let error = ledger.done.entry(id).or_insert(refused).clone();
            said.push(Said::OrderDone(v1::OrderDone { uuid, order: id, error }));
        }
        said
    }

    /// Until it is taken; an error when the session is over.
    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<(), Status> {
        let message = v1::ReportRequest {
            request_id: Uuid::new_v4().to_string(),
            node_id: session.node_id,
            session: session.session,
            reports,
        };
        let mut replica = 0;
        loop {
            match within(self.client(replica).report(message.clone())).await {
                Ok(_) => return Ok(()),
                Err(status) if is_over(&status) => return Err(status),
                Err(_) => replica += 1,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn seen(uuid: String) -> v1::SeenDomain {
    v1::SeenDomain {
        name: uuid.clone(),
        uuid,
        presence: v1::Presence::Running.into(),
        memory_mib: 16,
        generation: None,
        autostart: false,
    }
}

fn is_over(status: &Status) -> bool {
    rejection::word(status).is_some()
}
