//! The agent's memory on disk: for each VM the highest order taken or promised, and what the last one came to. Synced
//! before the agent acts, so that an order is done once over restarts, and one that was ruled out stays so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use model::node::SeenDomain;
use model::order::Floors;
use model::sabotage::{Rule, off};
use model::vm::{OnIsolation, Presence};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::hypervisor::DomainFacts;
use crate::script::ledger::{Bound, ServiceEntry};
use crate::vm::order::{Kind, Order};
use crate::vm::request_queue::Memory;

/// The format this version writes: a head line with version and checksum, then JSON.
const VERSION: u32 = 4;
const MAGIC: &str = "berth-ledger";

/// What an order came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Which.
    pub order: u64,
    /// `None` for success.
    pub error: Option<String>,
}

/// What is known of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Orders below this are refused, and so is this one unless it was begun or done.
    pub floor: u64,
    /// The ownership of the last order.
    pub generation: u64,
    /// The order that was begun and not finished.
    pub begun: Option<u64>,
    /// The order that was begun brings a guest to life: libvirt may do so after the agent's death.
    pub bringing: bool,
    /// The last order that was finished.
    pub done: Option<Done>,
    /// An order has brought it to life here or taken it over: the lease binds it.
    pub bound: bool,
    /// What is done with it when the lease runs out.
    pub on_isolation: OnIsolation,
}

/// All that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// The highest epoch that was met; orders of an older one are refused.
    pub epoch: u64,
    /// The cluster of that epoch, whose mark counts.
    pub cluster: Option<Uuid>,
    /// Orders before this one may have been done by an agent whose ledger is lost.
    #[serde(default)]
    pub memory_from: u64,
    /// How guests are treated without a lease; the design's defaults where no session has said it yet.
    #[serde(default)]
    pub terms: IsolationTerms,
    /// Orders up to this one are refused, whatever they are about that has no entry; zero in formats before the fourth.
    #[serde(default)]
    pub floor: u64,
    /// By VM.
    pub vms: BTreeMap<Uuid, Entry>,
    /// By service; none in formats before the third.
    #[serde(default)]
    pub services: BTreeMap<Uuid, ServiceEntry>,
}

impl Entries {
    /// The entry of a VM; a new one has promised what all have.
    fn vm(&mut self, uuid: Uuid) -> &mut Entry {
        let new = || Entry { floor: self.floor, ..Entry::default() };
        self.vms.entry(uuid).or_insert_with(new)
    }

    /// The same of a service.
    pub(crate) fn service(&mut self, id: Uuid) -> &mut ServiceEntry {
        let new = || ServiceEntry { floor: self.floor, ..ServiceEntry::default() };
        self.services.entry(id).or_insert_with(new)
    }

    /// Orders up to the floor are refused, but for those about what may run here: of these holds what was promised before.
    /// Entries that say no more than this are dropped.
    fn promise_all_but(&mut self, floors: &Floors) {
        if self.floor >= floors.below {
            return;
        }
        for uuid in &floors.vms {
            self.vm(*uuid);
        }
        for id in &floors.services {
            self.service(*id);
        }
        self.vms.retain(|uuid, entry| {
            if floors.vms.contains(uuid) {
                return true;
            }
            entry.floor = entry.floor.max(floors.below);
            *entry != Entry { floor: floors.below, ..Entry::default() }
        });
        self.services.retain(|id, entry| {
            if floors.services.contains(id) {
                return true;
            }
            entry.floor = entry.floor.max(floors.below);
            let (name, floor) = (entry.name.clone(), floors.below);
            *entry != ServiceEntry { name, floor, ..ServiceEntry::default() }
        });
        self.floor = floors.below;
    }
}

/// The highest epoch that was met, and whose it is.
pub type Met = (Option<Uuid>, u64);

/// Where the ledger is kept; on stable storage when `write` returns.
pub trait LedgerStorage: Send {
    /// Replaces all of it.
    fn write(&mut self, entries: &Entries) -> Result<(), LedgerError>;
    /// Notes what Berth has stopped. It has to outlive the agent, and not the host: after a boot there is nothing.
    fn write_suspended(&mut self, suspended: &Suspended) -> Result<(), LedgerError>;
    /// Notes what the ledger says of this boot, in the same way: one that is lost or comes back older does not know of it, and
    /// nothing on the host does.
    fn write_since_boot(&mut self, noted: &SinceBoot) -> Result<(), LedgerError>;
}

/// The VMs whose vCPUs Berth has stopped on this host, by self-fence or because it created them so.
pub type Suspended = BTreeMap<Uuid, Suspension>;

/// What is noted of one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Whose copy that is; `None` where it is whichever is here.
    pub generation: Option<u64>,
    /// Since when self-fence keeps it, in milliseconds of the clock that counts from this boot.
    pub since_ms: Option<u64>,
}

impl Suspension {
    /// Created as this generation, and not let run yet.
    pub fn created(generation: u64) -> Self {
        Self { generation: Some(generation), since_ms: None }
    }

    /// Stopped by self-fence at this moment.
    pub fn fenced(since_ms: u64) -> Self {
        Self { generation: None, since_ms: Some(since_ms) }
    }
}

/// What the control plane said last of how guests are treated without a lease, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationTerms {
    /// How long stopping them may take.
    pub self_fence_ms: u64,
    /// How long a suspended copy is kept.
    pub hold_ms: u64,
}

impl Default for IsolationTerms {
    /// The design's (section 5).
    fn default() -> Self {
        Self { self_fence_ms: 1_000, hold_ms: 600_000 }
    }
}

/// What of the ledger matters since the host booted, though the ledger be lost or an older one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinceBoot {
    /// Scripts that may be running here, by service: its name, and each of them.
    scripts: BTreeMap<Uuid, (String, Vec<Bound>)>,
    /// Guests that run on without a lease, with the ownership that was told so.
    run_on: BTreeMap<Uuid, u64>,
}

/// Why the ledger cannot be used. The agent does not start without it: it could do an order twice.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk.
    #[error("the ledger {} could not be {what}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// By a newer agent.
    #[error("the ledger {} has format {found}, and this agent knows formats up to {VERSION}; install one as new as the one that wrote it", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Not what was written.
    #[error("the ledger {} is damaged ({reason}); when no VM of the cluster runs on this host, remove the file and start the agent again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that was seen.
        reason: String,
    },
}

/// The ledger of all VMs. Its methods that change something block for one fsync.
pub struct Ledger {
    storage: Box<dyn LedgerStorage>,
    entries: Entries,
    suspended: Suspended,
    noted: SinceBoot,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ledger").field("entries", &self.entries).finish_non_exhaustive()
    }
}

struct LedgerFile {
    path: PathBuf,
    suspended: PathBuf,
    since_boot: PathBuf,
}

impl LedgerFile {
    /// Whole or not at all, and not for ever: it is lost with the host's power.
    fn note(path: &Path, what: &impl Serialize) -> Result<(), LedgerError> {
        let file = |source| LedgerError::File { what: "written", path: path.to_owned(), source };
        let text = serde_json::to_string(what).map_err(|error| file(io::Error::other(error)))?;
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).map_err(file)
    }
}

/// What was noted there; nothing where that cannot be read.
fn noted<T: serde::de::DeserializeOwned + Default>(path: &Path) -> T {
    let text = fs::read_to_string(path).ok();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl LedgerStorage for LedgerFile {
    fn write(&mut self, entries: &Entries) -> Result<(), LedgerError> {
        write(&self.path, entries)
    }

    fn write_suspended(&mut self, suspended: &Suspended) -> Result<(), LedgerError> {
        Self::note(&self.suspended, suspended)
    }

    fn write_since_boot(&mut self, noted: &SinceBoot) -> Result<(), LedgerError> {
        Self::note(&self.since_boot, noted)
    }
}

impl Ledger {
    /// Reads the ledger in `directory`, or begins one. What self-fence has stopped is noted in `run`, which is empty
    /// after a boot.
    pub fn open(directory: &Path, run: &Path) -> Result<Self, LedgerError> {
        let path = directory.join("ledger");
        let file = |what, source| LedgerError::File { what, path: path.clone(), source };
        fs::create_dir_all(directory).map_err(|source| file("made", source))?;
        let entries = match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Entries::default(),
            Err(source) => return Err(file("read", source)),
        };
        let stopped = run.join("suspended");
        fs::create_dir_all(run).map_err(|source| LedgerError::File {
            what: "made",
            path: run.to_owned(),
            source,
        })?;
        let since_boot = run.join("since-boot");
        // One that cannot be read costs no more than a resume by hand.
        let (suspended, known) = (noted(&stopped), noted(&since_boot));
        let storage = LedgerFile { path, suspended: stopped, since_boot };
        Ok(Self::over(Box::new(storage), entries, suspended).knowing(known))
    }

    /// Over any storage, with what it holds.
    pub fn over(storage: Box<dyn LedgerStorage>, entries: Entries, suspended: Suspended) -> Self {
        let noted = SinceBoot::of(&entries);
        Self { storage, entries, suspended, noted }
    }

    /// What is noted of its suspension.
    pub fn suspension(&self, uuid: Uuid) -> Option<Suspension> {
        self.suspended.get(&uuid).copied()
    }

    /// What may be running since the host booted is bound, whatever the ledger knows of it, and no guest runs on without a lease
    /// by the word of a ledger that is older than the last order.
    pub fn knowing(mut self, noted: SinceBoot) -> Self {
        if !off(Rule::OldLedgerRunsNothingOn) {
            for (uuid, entry) in &mut self.entries.vms {
                let told = noted.run_on.get(uuid) == Some(&entry.generation);
                if entry.on_isolation == OnIsolation::Continue && !told {
                    entry.on_isolation = OnIsolation::default();
                }
            }
        }
        if !off(Rule::BoundOutlivesLedger) {
            for (id, (name, scripts)) in noted.scripts.clone() {
                self.entries.service(id).know(name, scripts);
            }
        }
        self.noted = noted;
        self
    }

    /// Whether Berth has stopped the copy whose mark names this generation: nothing else may be resumed. A copy that came here
    /// later, as by a migration, was stopped by somebody else.
    pub fn is_suspended(&self, uuid: Uuid, generation: Option<u64>) -> bool {
        let noted = self.suspension(uuid);
        noted.is_some_and(|it| it.generation.is_none() || it.generation == generation)
    }

    /// What is known of a VM.
    pub fn entry(&self, uuid: Uuid) -> Option<&Entry> {
        self.entries.vms.get(&uuid)
    }

    /// What there is to judge its orders by.
    pub fn memory(&self, uuid: Uuid) -> Memory<'_> {
        let (floor, from) = (self.floor(uuid), self.entries.memory_from);
        Memory { floor, noted: self.entry(uuid), from }
    }

    /// Up to which order all are refused that are about a VM.
    pub fn floor(&self, uuid: Uuid) -> u64 {
        self.entry(uuid).map_or(self.entries.floor, |entry| entry.floor)
    }

    /// The VMs it knows.
    pub fn vms(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.entries.vms.keys().copied()
    }

    /// The highest epoch that was met.
    pub fn epoch(&self) -> u64 {
        self.entries.epoch
    }

    /// The same, and whose it is.
    pub fn met(&self) -> Met {
        (self.entries.cluster, self.entries.epoch)
    }

    /// An order is about to be carried out.
    pub fn begin(&mut self, order: &Order) -> Result<(), LedgerError> {
        self.change(|entries| {
            let entry = entries.vm(order.uuid);
            entry.floor = entry.floor.max(order.id);
            entry.generation = order.generation;
            entry.begun = Some(order.id);
            entry.bringing = matches!(order.kind, Kind::Start(_) | Kind::Resume);
            if matches!(order.kind, Kind::Start(_) | Kind::Adopt | Kind::Resume) {
                entry.bound = true;
                entry.on_isolation = order.on_isolation;
            }
        })
    }

    /// It came to this; `lost` when it may still bring a guest to life.
    pub fn finish(
        &mut self,
        uuid: Uuid,
        order: u64,
        error: Option<String>,
        lost: bool,
    ) -> Result<(), LedgerError> {
        self.change(|entries| {
            let entry = entries.vm(uuid);
            entry.begun = None;
            entry.bringing = lost;
            entry.done = Some(Done { order, error });
        })
    }

    /// It was seen to run: what libvirt was asked for has come.
    pub fn note_come(&mut self, uuid: Uuid) -> Result<(), LedgerError> {
        if !self.entry(uuid).is_some_and(|entry| entry.bringing) {
            return Ok(());
        }
        self.change(|entries| {
            if let Some(entry) = entries.vms.get_mut(&uuid) {
                entry.bringing = false;
            }
        })
    }

    /// Orders up to this one are refused from now on.
    pub fn promise(&mut self, uuid: Uuid, floor: u64) -> Result<(), LedgerError> {
        if self.floor(uuid) >= floor {
            return Ok(());
        }
        self.change(|entries| {
            let entry = entries.vm(uuid);
            entry.floor = entry.floor.max(floor);
        })
    }

    /// The host came to another cluster, whose numbers have nothing to do with those known here: orders of it from before
    /// this one nobody remembers. What is bound stays so, and so does what may still come to life.
    pub fn change_cluster(
        &mut self,
        cluster: Uuid,
        epoch: u64,
        from: u64,
    ) -> Result<(), LedgerError> {
        self.change(|entries| {
            (entries.cluster, entries.epoch) = (Some(cluster), epoch);
            (entries.floor, entries.memory_from) = (0, from);
            for entry in entries.vms.values_mut() {
                (entry.floor, entry.begun, entry.done) = (0, None, None);
                if !entry.bringing {
                    entry.generation = 0;
                }
            }
            for entry in entries.services.values_mut() {
                (entry.floor, entry.begun, entry.done) = (0, None, None);
            }
        })
    }

    /// A session begins: its epoch; where this ledger is new, the first order that it will remember; how guests are treated
    /// without a lease, for an agent that is started again while the host is cut off; and what is refused from now on.
    pub fn note_session(
        &mut self,
        (cluster, epoch): (Uuid, u64),
        remember_from: Option<u64>,
        floors: &Floors,
        terms: IsolationTerms,
    ) -> Result<(), LedgerError> {
        self.change(|entries| {
            (entries.cluster, entries.epoch) = (Some(cluster), entries.epoch.max(epoch));
            entries.memory_from = remember_from.unwrap_or(entries.memory_from);
            entries.terms = terms;
            entries.promise_all_but(floors);
        })
    }

    /// Berth is about to stop its vCPUs, or to create it with stopped ones.
    pub fn note_suspended(&mut self, uuid: Uuid, noted: Suspension) -> Result<(), LedgerError> {
        self.change_suspended(uuid, Some(noted))
    }

    /// They run again, or it is gone.
    pub fn forget_suspended(&mut self, uuid: Uuid) -> Result<(), LedgerError> {
        self.change_suspended(uuid, None)
    }

    fn change_suspended(&mut self, uuid: Uuid, to: Option<Suspension>) -> Result<(), LedgerError> {
        if self.suspended.get(&uuid) == to.as_ref() {
            return Ok(());
        }
        let mut all = self.suspended.clone();
        match to {
            Some(noted) => all.insert(uuid, noted),
            None => all.remove(&uuid),
        };
        self.storage.write_suspended(&all)?;
        self.suspended = all;
        Ok(())
    }

    /// The cluster whose marks count.
    pub fn cluster(&self) -> Option<Uuid> {
        self.entries.cluster
    }

    /// How guests are treated without a lease.
    pub fn terms(&self) -> IsolationTerms {
        self.entries.terms
    }

    /// What is seen, as the cluster is told of it: with the generation where it bears this cluster's mark, and one
    /// that self-fence stopped told apart from one that somebody paused.
    pub fn as_ours(&self, facts: DomainFacts) -> SeenDomain {
        let DomainFacts { uuid, mut seen, mark } = facts;
        // Before the first registration, or after the ledger was lost, any cluster's may be this one's.
        let ours =
            mark.filter(|mark| self.entries.cluster.is_none_or(|cluster| cluster == mark.cluster));
        seen.generation = ours.map(|mark| mark.generation);
        let generation = mark.map(|mark| mark.generation);
        let suspended = self.is_suspended(uuid, generation) || off(Rule::ResumeOnlyOwn);
        if seen.presence == Some(Presence::Paused) && suspended {
            seen.presence = Some(Presence::Suspended);
        }
        seen
    }

    /// All that it holds.
    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// On disk first: what is not written down did not happen.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Entries)) -> Result<(), LedgerError> {
        let mut entries = self.entries.clone();
        change(&mut entries);
        if !off(Rule::LedgerFirst) {
            self.storage.write(&entries)?;
        }
        let noted = SinceBoot::of(&entries);
        if noted != self.noted {
            self.storage.write_since_boot(&noted)?;
        }
        (self.entries, self.noted) = (entries, noted);
        Ok(())
    }
}

impl SinceBoot {
    fn of(entries: &Entries) -> Self {
        let bound = entries.services.iter().filter(|(_, entry)| !entry.bound.is_empty());
        let on = entries.vms.iter().filter(|(_, it)| it.on_isolation == OnIsolation::Continue);
        Self {
            scripts: bound.map(|(id, it)| (*id, (it.name.clone(), it.bound.clone()))).collect(),
            run_on: on.map(|(uuid, it)| (*uuid, it.generation)).collect(),
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<Entries, LedgerError> {
    let damaged =
        |reason: &str| LedgerError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let (head, body) = text.split_once('\n').ok_or_else(|| damaged("it has no head line"))?;
    let words: Vec<&str> = head.split(' ').collect();
    let [MAGIC, version, sum] = words.as_slice() else {
        return Err(damaged("its head line is not one"));
    };
    let version: u32 = version.parse().map_err(|_| damaged("its version is not a number"))?;
    if version > VERSION {
        return Err(LedgerError::Newer { path: path.to_owned(), found: version });
    }
    if *sum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err(damaged("its checksum is another"));
    }
    serde_json::from_str(body).map_err(|error| damaged(&error.to_string()))
}

fn write(path: &Path, entries: &Entries) -> Result<(), LedgerError> {
    let file = |what, source| LedgerError::File { what, path: path.to_owned(), source };
    let body =
        serde_json::to_string(entries).map_err(|error| file("written", io::Error::other(error)))?;
    let head = format!("{MAGIC} {VERSION} {:08x}\n", crc32fast::hash(body.as_bytes()));
    let temporary = path.with_extension("tmp");
    let mut out = File::create(&temporary).map_err(|source| file("created", source))?;
    out.write_all(head.as_bytes())
        .and_then(|()| out.write_all(body.as_bytes()))
        .map_err(|source| file("written", source))?;
    out.sync_all().map_err(|source| file("synced", source))?;
    fs::rename(&temporary, path).map_err(|source| file("renamed", source))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| file("synced", source))
}

#[cfg(test)]
mod tests {
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
            ledger
                .note_session((Uuid::nil(), 1), None, &floors, IsolationTerms::default())
                .unwrap();
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
}
