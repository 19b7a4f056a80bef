//! Stepper: all of the agent's decisions. Registrations, answered heartbeats, orders, events and answers of the
//! hypervisor come in; calls and reports go out. The shell around it only carries them.
//!
//! ```text
//!             registered                  heartbeat answered
//!  no session ──────────▶ session, no lease ──────────▶ lease ──┐ time
//!       ▲                        ▲                               ▼
//!       └── the session is over ─┴── isolated: guests are stopped, the watchdog starves unless that is sure
//! ```

use std::collections::{BTreeMap, BTreeSet};

use model::command::GuestNote;
use model::handling::Checks;
use model::node::SeenDomain;
use model::order::Floors;
use model::sabotage::{Rule, off};
use model::vm::{Presence, StopCause};
use proto::convert;
use proto::v1;
use tracing::{info, warn};
use uuid::Uuid;

use crate::clock::Reading;
use crate::hypervisor::call::Answer;
use crate::hypervisor::{DomainFacts, JobStats, Result as Called};
use crate::lease::Lease;
use crate::script;
use crate::script::call::{Outcome, ScriptCall};
use crate::script::driver::ServiceDriver;
use crate::script::order::{ScriptOrder, Watched};
use crate::script::orphan::Orphan;
use crate::vm::driver::{Driver, SETTLE_MS, Scene, VmCall};
use crate::vm::ledger::{IsolationTerms, Ledger, LedgerError};
use crate::vm::order::{self, Order};

/// What the leader gave with a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The session.
    pub session: u64,
    /// The control plane's epoch.
    pub epoch: u64,
    /// The cluster.
    pub cluster: Uuid,
    /// How long an answered heartbeat lets this node run VMs.
    pub lease_ttl_ms: u64,
    /// How long its self-fence may take.
    pub self_fence_ms: u64,
    /// How long a suspended copy is kept without contact.
    pub isolation_hold_ms: u64,
    /// What a lost ledger has to know again.
    pub floors: Floors,
}

impl Given {
    /// Reads a registration's reply.
    pub fn read(reply: &v1::RegisterReply) -> Result<Self, convert::ConvertError> {
        let ids = |field, ids: &[String]| -> Result<_, convert::ConvertError> {
            ids.iter().map(|id| convert::uuid(field, id)).collect()
        };
        Ok(Self {
            session: reply.session,
            epoch: reply.epoch,
            cluster: convert::uuid("cluster", &reply.cluster)?,
            lease_ttl_ms: reply.lease_ttl_ms,
            self_fence_ms: reply.self_fence_ms,
            isolation_hold_ms: reply.isolation_hold_ms,
            floors: Floors {
                below: reply.floor,
                vms: ids("vms", &reply.vms)?,
                services: ids("services", &reply.services)?,
            },
        })
    }
}

/// Why a session that was given is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SessionRefused {
    /// From a control plane that another has taken the place of.
    #[error(
        "it is of epoch {given}, and this agent has met epoch {met}: a restored control plane has taken its place"
    )]
    OldEpoch {
        /// Of the session.
        given: u64,
        /// The highest that was met.
        met: u64,
    },
    /// The lease, the marks and the numbers of orders are one cluster's.
    #[error(
        "it is of cluster {given}, and this host of cluster {known}; to move the host, stop its agent, make sure that nothing of the other cluster runs here, and remove `ledger` from the agent's data directory"
    )]
    OtherCluster {
        /// Of the session.
        given: Uuid,
        /// Of the ledger.
        known: Uuid,
    },
    /// What it says could not be kept.
    #[error("what it says could not be noted")]
    Ledger(#[from] LedgerError),
}

/// What is to be kept an eye on; what cannot be read is left alone, as with orders.
fn watches(watches: Vec<v1::Watch>) -> BTreeMap<Uuid, (String, Checks)> {
    let read = |watch: v1::Watch| -> Result<_, convert::ConvertError> {
        let checks = convert::agent::checks(watch.checks.unwrap_or_default())?;
        Ok((convert::uuid("uuid", &watch.uuid)?, (watch.vm, checks)))
    };
    let mut all = BTreeMap::new();
    for watch in watches {
        match read(watch) {
            Ok((uuid, watch)) => drop(all.insert(uuid, watch)),
            Err(error) => warn!(%error, "a check that cannot be read is left alone"),
        }
    }
    all
}

/// What a step led to.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// Calls to be made; the answer of each comes back by its number.
    pub calls: Vec<VmCall>,
    /// What the cluster is to hear, in order.
    pub reports: Vec<v1::Report>,
    /// Scripts to be run; the outcome of each comes back by its number.
    pub scripts: Vec<ScriptCall>,
    /// Runs of scripts to be ended.
    pub kills: Vec<u64>,
}

/// The agent without its shell.
pub struct AgentCore {
    ledger: Ledger,
    lease: Lease,
    session: Option<Given>,
    /// The highest term whose orders were seen, in this epoch.
    term: u64,
    drivers: BTreeMap<Uuid, Driver>,
    services: BTreeMap<Uuid, ServiceDriver>,
    next_call: u64,
    /// This agent has had a session.
    registered_once: bool,
    /// A heartbeat of this agent was answered while the lease held.
    heard: bool,
    /// libvirt has said once what runs here: before that nothing is known to be safe.
    inventory_known: bool,
    /// The ledger was empty when this agent began, and what was asked of libvirt before may be in it no more.
    ledger_is_new: bool,
    /// Until when that matters: libvirt has answered, and shows what it was asked before a while later.
    unknown_until: Option<u64>,
    isolated: bool,
    effects: Effects,
}

impl AgentCore {
    /// An agent that begins, with what one before it left behind.
    pub fn new(ledger: Ledger, lease: Lease) -> Self {
        let drivers = ledger.vms().map(|uuid| (uuid, Driver::new(uuid, &ledger, None))).collect();
        let services =
            ledger.services().map(|(id, it)| (id, ServiceDriver::new(id, &it.name))).collect();
        Self {
            services,
            ledger_is_new: ledger.epoch() == 0,
            unknown_until: None,
            ledger,
            lease,
            session: None,
            term: 0,
            drivers,
            next_call: 1,
            registered_once: false,
            heard: false,
            inventory_known: false,
            isolated: false,
            effects: Effects::default(),
        }
    }

    /// Runs of scripts that an agent before this one left under way are being ended: nothing else is done with their
    /// services before each of them is gone.
    pub fn wait_for(&mut self, orphans: &[Orphan]) {
        for orphan in orphans {
            let id = orphan.service;
            let driver = self.services.entry(id).or_insert_with(|| ServiceDriver::new(id, ""));
            driver.wait_for(orphan);
        }
    }

    /// One of them is gone.
    pub fn orphan_gone(&mut self, service: Uuid, now: Reading) {
        self.with_service(service, now, ServiceDriver::orphan_gone);
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The lease.
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// The session, while it has one.
    pub fn session(&self) -> Option<&Given> {
        self.session.as_ref()
    }

    /// How far migrations are, by VM, with the order they belong to.
    pub fn jobs(&self) -> impl Iterator<Item = (Uuid, (u64, JobStats))> + '_ {
        self.drivers.iter().filter_map(|(uuid, driver)| Some((*uuid, driver.job?)))
    }

    /// What the steps so far led to.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    fn with(&mut self, uuid: Uuid, now: Reading, step: impl FnOnce(&mut Driver, &mut Scene<'_>)) {
        let ledger = &self.ledger;
        let unknown_until = self.unknown_until.filter(|until| now.boot_ms < *until);
        let forgotten = self.ledger_is_new || unknown_until.is_some();
        let inherits = !self.heard;
        let driver = self.drivers.entry(uuid).or_insert_with(|| {
            Driver::new(uuid, ledger, unknown_until).forgotten(forgotten).inheriting(inherits)
        });
        let mut scene = Scene {
            now: now.boot_ms,
            lease: self.lease.holds(now),
            ledger: &mut self.ledger,
            calls: &mut self.effects.calls,
            reports: &mut self.effects.reports,
            next_call: &mut self.next_call,
        };
        step(driver, &mut scene);
        if self.isolated {
            // One that has just come to be known is bound as well.
            let terms = scene.ledger.terms();
            driver.isolate(&mut scene, terms);
        }
    }

    fn with_all(&mut self, now: Reading, mut step: impl FnMut(&mut Driver, &mut Scene<'_>)) {
        let all: Vec<Uuid> = self.drivers.keys().copied().collect();
        for uuid in all {
            self.with(uuid, now, &mut step);
        }
    }

    fn with_service(
        &mut self,
        id: Uuid,
        now: Reading,
        step: impl FnOnce(&mut ServiceDriver, &mut script::driver::Scene<'_>),
    ) {
        let driver = self.services.entry(id).or_insert_with(|| ServiceDriver::new(id, ""));
        let mut scene = script::driver::Scene {
            now: now.boot_ms,
            lease: self.lease.holds(now),
            ledger: &mut self.ledger,
            calls: &mut self.effects.scripts,
            kills: &mut self.effects.kills,
            reports: &mut self.effects.reports,
            next_call: &mut self.next_call,
        };
        step(driver, &mut scene);
        if self.isolated && !driver.is_isolated() {
            driver.isolate(&mut scene);
        }
        if driver.is_idle(&self.ledger) {
            self.services.remove(&id);
        }
    }

    fn with_all_services(
        &mut self,
        now: Reading,
        mut step: impl FnMut(&mut ServiceDriver, &mut script::driver::Scene<'_>),
    ) {
        let all: Vec<Uuid> = self.services.keys().copied().collect();
        for id in all {
            self.with_service(id, now, &mut step);
        }
    }

    /// What is to be said of all domains at a registration: what libvirt listed, and what of it self-fence stopped.
    ///
    /// From here on the agent knows what runs here, and can make sure of it without a session.
    pub fn inventory(
        &mut self,
        domains: &[DomainFacts],
        now: Reading,
    ) -> BTreeMap<Uuid, SeenDomain> {
        let mut all: BTreeMap<Uuid, SeenDomain> =
            domains.iter().map(|it| (it.uuid, self.ledger.as_ours(it.clone()))).collect();
        for (uuid, seen) in all.iter().filter(|(_, seen)| seen.presence.is_some()) {
            self.with(*uuid, now, |driver, scene| driver.listed(scene, seen));
        }
        self.inventory_known = true;
        for (uuid, driver) in self.drivers.iter().filter(|(_, driver)| driver.may_come()) {
            let here = all.get(uuid).is_some_and(|seen| seen.presence.is_some());
            if !here {
                // Not "not here": it may come to life at any moment.
                let coming = SeenDomain::active(&driver.name(), Presence::Incoming, 0);
                all.insert(*uuid, coming);
            }
        }
        all
    }

    /// A session begins, with the inventory that it was given for.
    pub fn registered(
        &mut self,
        given: Given,
        inventory: &BTreeMap<Uuid, SeenDomain>,
        now: Reading,
    ) -> Result<(), SessionRefused> {
        let met = self.ledger.epoch();
        if let Some(known) = self.ledger.cluster().filter(|known| *known != given.cluster) {
            return Err(SessionRefused::OtherCluster { given: given.cluster, known });
        }
        if given.epoch < met && !off(Rule::OrderOfEpoch) {
            return Err(SessionRefused::OldEpoch { given: given.epoch, met });
        }
        let terms =
            IsolationTerms { self_fence_ms: given.self_fence_ms, hold_ms: given.isolation_hold_ms };
        let remember = self.ledger_is_new && !off(Rule::NewLedgerRefuses);
        self.ledger.note_session(
            (given.cluster, given.epoch),
            remember.then_some(given.session),
            &given.floors,
            terms,
        )?;
        if std::mem::take(&mut self.ledger_is_new) {
            self.unknown_until = Some(now.boot_ms + SETTLE_MS);
        }
        let first = !std::mem::replace(&mut self.registered_once, true);
        if given.epoch > met {
            // Terms of another control plane say nothing of this one's.
            self.term = 0;
        }
        self.session = Some(given);
        let known: BTreeSet<Uuid> = self.drivers.keys().chain(inventory.keys()).copied().collect();
        // An agent before this one may not have got to tell what a new epoch has to know.
        let anew = first || self.session.as_ref().is_some_and(|given| given.epoch > met);
        for uuid in known {
            let seen = inventory.get(&uuid).filter(|seen| seen.presence.is_some()).cloned();
            self.with(uuid, now, |driver, scene| {
                if anew {
                    driver.of_new_epoch(scene);
                }
                driver.registered(scene, seen);
                driver.hold(terms.hold_ms);
            });
        }
        self.services.values_mut().for_each(ServiceDriver::registered);
        Ok(())
    }

    /// The leader says that the session is over. The lease goes on until it runs out.
    pub fn session_over(&mut self) {
        self.session = None;
    }

    /// A heartbeat of the present session that was sent at that moment has been answered.
    pub fn heartbeat_answered(&mut self, sent: Reading, now: Reading) {
        let Some(given) = &self.session else { return };
        let before = self.lease.holds(now);
        self.lease.renew(sent, given.lease_ttl_ms, now);
        if !self.lease.holds(now) {
            return;
        }
        if !std::mem::replace(&mut self.heard, true) && before {
            // The lease of the agent before this one held on, and with it all that it had stopped had its lease back.
            self.with_all(now, Driver::has_its_lease);
        }
        if self.isolated || !before {
            if std::mem::take(&mut self.isolated) {
                info!("the lease is back: what was stopped waits for the leader's word");
            }
            self.with_all(now, |driver, scene| {
                driver.end_isolation(scene);
                driver.consider(scene);
            });
            self.with_all_services(now, |driver, scene| {
                driver.end_isolation(scene);
                driver.consider(scene);
            });
        }
    }

    /// Orders for another session, epoch, cluster or an older term are not for this agent (design section 3, order).
    pub fn orders(&mut self, list: v1::OrderList, now: Reading) {
        let Some(given) = &self.session else { return };
        let (session, cluster) = (given.session, given.cluster);
        let epoch = if off(Rule::OrderOfEpoch) { list.epoch } else { given.epoch };
        if list.epoch != epoch || list.cluster != cluster.to_string() {
            warn!(
                epoch = list.epoch,
                cluster = list.cluster,
                "orders of another epoch or cluster are refused"
            );
            return;
        }
        if list.term < self.term && !off(Rule::OrderOfTerm) {
            warn!(term = list.term, newest = self.term, "orders of a deposed leader are refused");
            return;
        }
        self.term = list.term;
        let mut by_vm: BTreeMap<Uuid, Vec<Order>> =
            self.drivers.keys().map(|uuid| (*uuid, Vec::new())).collect();
        for order in list.orders {
            if order.session != session && !off(Rule::OrderOfSession) {
                let of = order.session;
                warn!(order = order.id, session = of, "an order of another session is refused");
                continue;
            }
            match order::read(order, cluster) {
                Ok(Some(order)) => by_vm.entry(order.uuid).or_default().push(order),
                Ok(None) => {
                    warn!("an order of a kind that this version does not know is left alone");
                }
                Err(error) => warn!(%error, "an order that cannot be read is left alone"),
            }
        }
        let mut watches = watches(list.watches);
        for (uuid, orders) in by_vm {
            let watch = watches.remove(&uuid);
            self.with(uuid, now, |driver, scene| {
                driver.watch(scene, watch);
                driver.orders(scene, orders);
            });
        }
        for (uuid, watch) in watches {
            self.with(uuid, now, |driver, scene| driver.watch(scene, Some(watch)));
        }
        self.script_orders(list.scripts, list.watched, session, now);
    }

    fn script_orders(
        &mut self,
        orders: Vec<v1::ScriptOrder>,
        watched: Vec<v1::WatchedScript>,
        session: u64,
        now: Reading,
    ) {
        let mut work: BTreeMap<Uuid, (Vec<ScriptOrder>, Vec<Watched>)> =
            self.services.keys().map(|id| (*id, Default::default())).collect();
        for order in orders {
            if order.session != session && !off(Rule::OrderOfSession) {
                let of = order.session;
                warn!(order = order.id, session = of, "an order of another session is refused");
                continue;
            }
            match script::order::read(order) {
                Ok(Some(order)) => work.entry(order.service).or_default().0.push(order),
                Ok(None) => {
                    warn!("an order of a kind that this version does not know is left alone");
                }
                Err(error) => warn!(%error, "an order that cannot be read is left alone"),
            }
        }
        for watched in watched {
            match script::order::read_watched(watched) {
                Ok(watched) => work.entry(watched.service).or_default().1.push(watched),
                Err(error) => warn!(%error, "a script that cannot be read is not checked"),
            }
        }
        for (id, (orders, watched)) in work {
            self.with_service(id, now, |driver, scene| driver.orders(scene, orders, watched));
        }
    }

    /// A run of a script has ended.
    pub fn script_ended(&mut self, service: Uuid, id: u64, outcome: &Outcome, now: Reading) {
        self.with_service(service, now, |driver, scene| driver.answered(scene, id, outcome));
    }

    /// A domain changed, or ended for this cause.
    pub fn event(&mut self, uuid: Uuid, cause: Option<StopCause>, now: Reading) {
        self.with(uuid, now, |driver, scene| driver.event(scene, cause));
    }

    /// Something happened in a guest.
    pub fn noted(&mut self, uuid: Uuid, note: GuestNote, text: String, now: Reading) {
        self.with(uuid, now, |driver, scene| driver.noted(scene, note, text));
    }

    /// A domain is about to end, for a cause that its end itself will not tell.
    pub fn ending(&mut self, uuid: Uuid, cause: StopCause, now: Reading) {
        self.with(uuid, now, |driver, scene| driver.ending(scene.now, cause));
    }

    /// A migration begins this pass over its guest's memory.
    pub fn pass(&mut self, uuid: Uuid, number: u32, now: Reading) {
        self.with(uuid, now, |driver, scene| driver.pass(scene, number));
    }

    /// libvirt listed all domains: what is new is looked at, and what is known and may be gone.
    pub fn listed(&mut self, domains: &[DomainFacts], now: Reading) {
        let all: BTreeSet<Uuid> =
            self.drivers.keys().copied().chain(domains.iter().map(|domain| domain.uuid)).collect();
        for uuid in all {
            self.event(uuid, None, now);
        }
    }

    /// QEMU processes that are here, found without libvirt while there is no lease: what libvirt has told nothing of, as a guest
    /// that arrives while it hangs, is asked for, and until it has said what that is nothing is safe.
    pub fn processes(&mut self, running: &[Uuid], now: Reading) {
        if self.lease.holds(now) || off(Rule::ProcessCounts) {
            return;
        }
        for uuid in running {
            if !self.drivers.get(uuid).is_some_and(Driver::is_known) {
                self.event(*uuid, None, now);
            }
        }
    }

    /// The answer to a call.
    pub fn answered(&mut self, uuid: Uuid, id: u64, answer: Called<Answer>, now: Reading) {
        self.with(uuid, now, |driver, scene| driver.answered(scene, id, answer));
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Reading) {
        if !self.lease.holds(now) && !self.isolated && self.has_bound() {
            self.isolated = true;
            warn!("the lease has run out: guests are stopped");
        }
        self.with_all(now, Driver::tick);
        self.with_all_services(now, ServiceDriver::consider);
    }

    /// Something here is the lease's.
    fn has_bound(&self) -> bool {
        !self.drivers.is_empty() || !self.services.is_empty()
    }

    /// The next moment at which it wants a tick, on the clock that goes on while the host sleeps.
    pub fn wake_at(&self, now: Reading) -> Option<u64> {
        let left_ms = self.lease.left_ms(now);
        let lease = (left_ms > 0).then_some(now.boot_ms + left_ms);
        let scripts = self.services.values().filter_map(ServiceDriver::wake_at);
        self.drivers.values().filter_map(Driver::wake_at).chain(scripts).chain(lease).min()
    }

    /// libvirt has told this agent of all its domains.
    pub fn knows_inventory(&self) -> bool {
        self.inventory_known
    }

    /// The term of the newest orders that it has read.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// libvirt has not said yet what has become of that domain, which was not here before.
    pub fn awaits(&self, uuid: Uuid) -> bool {
        self.drivers.get(&uuid).is_some_and(Driver::is_awaited)
    }

    /// The watchdog may be fed: the lease holds, or every guest that it binds is stopped for sure.
    pub fn may_feed(&self, now: Reading) -> bool {
        self.lease.holds(now) || self.is_safe() || off(Rule::WatchdogStarves)
    }

    /// Every guest that the lease binds is stopped for sure, gone, or runs under a lock manager.
    pub fn is_safe(&self) -> bool {
        self.inventory_known
            && self.drivers.values().all(|driver| driver.is_safe(&self.ledger))
            && self.services.values().all(|driver| driver.is_safe(&self.ledger))
    }
}
