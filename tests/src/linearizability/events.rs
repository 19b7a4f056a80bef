//! What the replicas say happened, beside what clients were told: each acknowledged write is there, at the revision that
//! was told, once, on every replica.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use proto::v1::{Event, GetStatusRequest, WatchEventsRequest};

use crate::linearizability::operator::{Answer, Replicas, may_be_trouble, within};
use crate::linearizability::register::Outcome;
use crate::linearizability::workload::Written;

const AGAIN: Duration = Duration::from_millis(20);

/// Waits until one replica has applied everything up to a revision.
pub async fn caught_up(
    replicas: &Replicas,
    replica: usize,
    revision: u64,
    patience: Duration,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let request = GetStatusRequest { stale: true };
        let mut applied = 0;
        match within(replicas.control(replica).get_status(request)).await {
            Ok(status) if status.revision >= revision => return Ok(()),
            Ok(status) => applied = status.revision,
            Err(status) => may_be_trouble(&status)?,
        }
        ensure!(
            begun.elapsed() < patience,
            "replica {} stays at revision {applied}, and {revision} is committed",
            replica + 1
        );
        tokio::time::sleep(AGAIN).await;
    }
}

/// The events of one replica in a span of revisions; the first is left out.
pub async fn of(replicas: &Replicas, replica: usize, after: u64, last: u64) -> Result<Vec<Event>> {
    let request =
        WatchEventsRequest { after_revision: after, stale: true, ..WatchEventsRequest::default() };
    let mut stream = within(replicas.control(replica).watch_events(request)).await?;
    let mut events = Vec::new();
    while let Some(event) = stream.message().await? {
        if event.revision <= last {
            events.push(event);
        }
    }
    Ok(events)
}

/// Whether two replicas tell the same.
pub fn same(one: &[Event], other: &[Event]) -> Result<()> {
    let differs = one.iter().zip(other).find(|(one, other)| one != other);
    ensure!(differs.is_none(), "the first difference is {differs:?}");
    ensure!(
        one.len() == other.len(),
        "one has {} events and the other {}; their last are {:?} and {:?}",
        one.len(),
        other.len(),
        one.last(),
        other.last()
    );
    Ok(())
}

/// Whether the writes and the events agree.
pub fn agree(written: &[Written], events: &[Event]) -> Result<()> {
    let asked: Vec<&Event> = events
        .iter()
        .filter(|event| matches!(event.kind.as_str(), "vm-edited" | "operation-asked"))
        .collect();
    let mut by_operator: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in &asked {
        for word in event.text.split([' ', ';']) {
            by_operator.entry(word).or_default().push(event);
        }
    }
    for write in written {
        let found = by_operator.get(write.operator.as_str()).map_or(&[][..], Vec::as_slice);
        let revisions: Vec<u64> = found.iter().map(|event| event.revision).collect();
        let told = match write.answer {
            Answer::Register(Outcome::Done { revision }) => revisions == [revision],
            Answer::Register(Outcome::Unknown) => revisions.len() <= 1,
            Answer::Register(Outcome::Superseded) | Answer::Refused => revisions.is_empty(),
        };
        let same_vm = found.iter().all(|event| event.vm.as_ref() == Some(&write.vm));
        ensure!(told && same_vm, "{write:?} is in the events at {revisions:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, text: &str) -> Event {
        let kind = "operation-asked".into();
        Event { revision, kind, vm: Some("v".into()), text: text.into(), ..Event::default() }
    }

    fn written(outcome: Outcome) -> [Written; 1] {
        [Written { operator: "c1-1".into(), vm: "v".into(), answer: Answer::Register(outcome) }]
    }

    #[test]
    fn an_acknowledged_write_is_in_the_events_once_at_its_revision() {
        let done = written(Outcome::Done { revision: 5 });
        let there = event(5, "c1-1 asked to stop v");
        let other = event(6, "c1-11 asked to stop v");
        assert!(agree(&done, &[there.clone(), other.clone()]).is_ok());
        assert!(agree(&done, &[other]).is_err(), "it is not there");
        assert!(agree(&done, &[event(6, &there.text)]).is_err(), "it is elsewhere");
        assert!(
            agree(&done, &[there.clone(), event(6, &there.text)]).is_err(),
            "it is there twice"
        );
        assert!(agree(&written(Outcome::Superseded), std::slice::from_ref(&there)).is_err());
        assert!(agree(&written(Outcome::Unknown), &[there]).is_ok());
    }
}
