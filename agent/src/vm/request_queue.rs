//! Pure: what to do about an order that arrives, given what was done and what is being done.
//!
//! Orders come as a whole list, again and again, until they are reported; each is done once.

use model::sabotage::{Rule, off};

use crate::vm::ledger::Entry;
use crate::vm::order::{Kind, Order};

/// What to do about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Note it in the ledger, then carry it out.
    Run,
    /// It was begun by an agent that did not live to finish it: find out what became of it.
    RunAgain,
    /// It was done; say again what it came to (`None` for success).
    AnswerAgain(Option<String>),
    /// It is being done.
    UnderWay,
    /// Something else is being done; it comes again.
    Wait,
    /// Hasten the graceful stop that is being done; this order takes its place.
    Hasten,
    /// Call off the migration that is being done.
    CallOff,
    /// Look, and answer.
    Look,
    /// It is older than what was promised: not to be done by anyone any more.
    Stale,
    /// It would bring a guest to life, and there is no lease: it comes again.
    NoLease,
}

/// What the ledger knows of a VM.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// Orders below this are refused, and so is this one unless it was begun or done.
    pub floor: u64,
    /// Its entry.
    pub noted: Option<&'a Entry>,
    /// The first order that would be remembered if it had been done.
    pub from: u64,
}

/// The verdict on `order`. `running` is the order being carried out, `lease` says whether this node holds its lease now.
pub fn judge(order: &Order, memory: &Memory<'_>, running: Option<&Order>, lease: bool) -> Verdict {
    let Memory { floor, noted, from } = *memory;
    if let Some(running) = running {
        return beside(order, running);
    }
    if order.kind == Kind::Probe {
        return Verdict::Look;
    }
    // It may have been done, and its guest may be elsewhere by now; all else is harmless when it is done again.
    if matches!(order.kind, Kind::Start { .. }) && order.id < from {
        return Verdict::Stale;
    }
    let run = match order.kind.needs_lease() && !lease && !off(Rule::NoStartWithoutLease) {
        true => Verdict::NoLease,
        false => Verdict::Run,
    };
    let done = noted.and_then(|noted| noted.done.as_ref());
    if let Some(done) = done.filter(|done| done.order == order.id)
        && !off(Rule::LedgerOnce)
    {
        return Verdict::AnswerAgain(done.error.clone());
    }
    if off(Rule::LedgerFloor) {
        return run;
    }
    let begun = noted.and_then(|noted| noted.begun);
    match order.id {
        id if id < floor => Verdict::Stale,
        id if id == floor && begun == Some(id) && run == Verdict::Run => Verdict::RunAgain,
        id if id == floor && begun == Some(id) => run,
        id if id == floor && !off(Rule::LedgerOnce) => Verdict::Stale,
        _ => run,
    }
}

fn beside(order: &Order, running: &Order) -> Verdict {
    if order.id == running.id {
        return match (&order.kind, &running.kind) {
            (Kind::Migrate { cancelled: true, .. }, Kind::Migrate { cancelled: false, .. }) => {
                Verdict::CallOff
            }
            _ => Verdict::UnderWay,
        };
    }
    match (&order.kind, &running.kind) {
        (Kind::Stop { graceful_ms: None, .. }, Kind::Stop { graceful_ms: Some(_), .. })
            if order.id > running.id =>
        {
            Verdict::Hasten
        }
        _ => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use model::vm::OnIsolation;
    use uuid::Uuid;

    use super::*;
    use crate::vm::ledger::Done;

    fn order(id: u64, kind: Kind) -> Order {
        Order {
            id,
            generation: 1,
            cluster: Uuid::nil(),
            vm: "v".into(),
            uuid: Uuid::nil(),
            on_isolation: OnIsolation::Suspend,
            kind,
        }
    }

    fn start(id: u64) -> Order {
        order(id, Kind::start(""))
    }

    fn stop(id: u64, graceful_ms: Option<u64>) -> Order {
        order(id, Kind::stop(graceful_ms))
    }

    fn migrate(id: u64, cancelled: bool) -> Order {
        let migration = crate::hypervisor::call::Migration {
            uri: String::new(),
            data_uri: None,
            live: true,
            options: Default::default(),
        };
        order(id, Kind::Migrate { migration: Box::new(migration), cancelled })
    }

    fn entry(floor: u64, begun: Option<u64>, done: Option<(u64, Option<&str>)>) -> Entry {
        let done = done.map(|(order, error)| Done { order, error: error.map(str::to_owned) });
        Entry { floor, generation: 1, begun, done, ..Entry::default() }
    }

    fn nothing(from: u64) -> Memory<'static> {
        Memory { floor: 0, noted: None, from }
    }

    #[test]
    fn each_order_has_its_verdict() {
        let failed = Some("no".to_owned());
        for (name, order, noted, running, expected) in [
            ("a first order is run", start(5), None, None, Verdict::Run),
            ("a newer order is run", start(9), Some(entry(5, None, None)), None, Verdict::Run),
            ("an older order is stale", start(4), Some(entry(5, None, None)), None, Verdict::Stale),
            (
                "an order that a probe's answer ruled out is stale",
                start(5),
                Some(entry(5, None, None)),
                None,
                Verdict::Stale,
            ),
            (
                "an order that was cut short is looked into again",
                start(5),
                Some(entry(5, Some(5), None)),
                None,
                Verdict::RunAgain,
            ),
            (
                "a done order is answered again",
                start(5),
                Some(entry(5, None, Some((5, None)))),
                None,
                Verdict::AnswerAgain(None),
            ),
            (
                "a failed order is answered again, not done again",
                start(5),
                Some(entry(5, None, Some((5, Some("no"))))),
                None,
                Verdict::AnswerAgain(failed),
            ),
            ("a repeated order is under way", start(5), None, Some(start(5)), Verdict::UnderWay),
            ("another order waits", stop(6, None), None, Some(start(5)), Verdict::Wait),
            (
                "a graceful stop is hastened",
                stop(6, None),
                None,
                Some(stop(5, Some(1))),
                Verdict::Hasten,
            ),
            (
                "a stop at once is not hastened",
                stop(6, None),
                None,
                Some(stop(5, None)),
                Verdict::Wait,
            ),
            (
                "a migration is called off",
                migrate(5, true),
                None,
                Some(migrate(5, false)),
                Verdict::CallOff,
            ),
            (
                "a probe looks",
                order(2, Kind::Probe),
                Some(entry(5, None, None)),
                None,
                Verdict::Look,
            ),
            (
                "a probe waits for what is under way",
                order(7, Kind::Probe),
                None,
                Some(start(5)),
                Verdict::Wait,
            ),
        ] {
            let noted = noted.as_ref();
            let memory = Memory { floor: noted.map_or(0, |it| it.floor), noted, from: 0 };
            assert_eq!(judge(&order, &memory, running.as_ref(), true), expected, "{name}");
        }
    }

    #[test]
    fn without_a_lease_nothing_is_brought_to_life_and_all_else_is_done() {
        for (order, expected) in [
            (start(5), Verdict::NoLease),
            (order(5, Kind::Resume), Verdict::NoLease),
            (migrate(5, false), Verdict::NoLease),
            (migrate(5, true), Verdict::Run),
            (stop(5, None), Verdict::Run),
            (order(5, Kind::Probe), Verdict::Look),
        ] {
            assert_eq!(judge(&order, &nothing(0), None, false), expected, "{order:?}");
        }
    }

    #[test]
    fn a_ledger_that_is_new_does_not_start_what_may_have_been_started_before_it() {
        for (order, expected) in [
            (start(5), Verdict::Stale),
            (start(7), Verdict::Run),
            (stop(5, None), Verdict::Run),
            (order(5, Kind::Adopt), Verdict::Run),
        ] {
            assert_eq!(judge(&order, &nothing(7), None, true), expected, "{order:?}");
        }
    }

    #[test]
    fn what_all_were_promised_holds_for_one_of_which_nothing_is_noted() {
        let memory = Memory { floor: 9, ..nothing(0) };
        for (order, expected) in
            [(start(8), Verdict::Stale), (stop(9, None), Verdict::Stale), (start(10), Verdict::Run)]
        {
            assert_eq!(judge(&order, &memory, None, true), expected, "{order:?}");
        }
    }
}
