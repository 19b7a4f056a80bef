//! The reports that wait for an answer. Many go in one request; where such a request is refused, each goes alone, so that
//! one that the control plane cannot take does not take the others with it.

use proto::convert::agent::bounded;
use proto::v1;
use proto::v1::report::Report as Kind;
use tokio::sync::mpsc;
use tracing::warn;

/// Reports that go in one request: one log entry holds a few hundred.
const REPORTS_AT_ONCE: usize = 100;

/// The reports that wait, and what was taken of them and is not answered yet.
pub struct Outbox {
    queue: mpsc::UnboundedReceiver<v1::Report>,
    unanswered: Vec<v1::Report>,
    /// How many of these, from the first, are on their way.
    sent: usize,
    /// How many of these, from the first, go alone.
    alone: usize,
}

/// What is to be done after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The next batch is sent.
    GoOn,
    /// The session has to end: a sighting was refused, and only a registration's inventory tells of it again.
    EndSession,
}

impl Outbox {
    /// Over the drivers' queue.
    pub fn new(queue: mpsc::UnboundedReceiver<v1::Report>) -> Self {
        Self { queue, unanswered: Vec::new(), sent: 0, alone: 0 }
    }

    /// Before a registration: what was seen before is told by its inventory; what became of orders is kept,
    /// and which starts a restored control plane may not know of.
    pub fn keep_outcomes(&mut self) {
        while let Ok(report) = self.queue.try_recv() {
            self.unanswered.push(bounded(report));
        }
        let kept =
            |it: &v1::Report| matches!(it.report, Some(Kind::OrderDone(_) | Kind::StartedHere(_)));
        self.unanswered.retain(kept);
        (self.sent, self.alone) = (0, 0);
    }

    /// What goes next; `None` when nothing will come any more. The same until it is taken or refused: it goes under one id,
    /// and what was added to it could be lost.
    pub async fn batch(&mut self) -> Option<Vec<v1::Report>> {
        if self.sent == 0 {
            self.fill().await?;
            let limit = if self.alone > 0 { 1 } else { REPORTS_AT_ONCE };
            self.sent = self.unanswered.len().min(limit);
        }
        Some(self.unanswered[..self.sent].to_vec())
    }

    async fn fill(&mut self) -> Option<()> {
        if self.unanswered.is_empty() {
            self.unanswered.push(bounded(self.queue.recv().await?));
        }
        while self.unanswered.len() < REPORTS_AT_ONCE
            && let Ok(report) = self.queue.try_recv()
        {
            self.unanswered.push(bounded(report));
        }
        Some(())
    }

    /// The last batch was taken.
    pub fn taken(&mut self) {
        self.unanswered.drain(..self.sent);
        self.sent = 0;
        self.alone = self.alone.saturating_sub(1);
    }

    /// The last batch was not understood, or is too large: sending it again would never help.
    pub fn refused(&mut self, why: &str) -> Refused {
        if self.sent > 1 {
            warn!(self.sent, why, "reports were refused together and are sent one by one");
            self.alone = std::mem::take(&mut self.sent);
            return Refused::GoOn;
        }
        let report = self.unanswered.first().and_then(|it| it.report.clone());
        warn!(?report, why, "a report was refused and is left out");
        self.taken();
        match report {
            Some(Kind::Seen(_)) => Refused::EndSession,
            _ => Refused::GoOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str) -> v1::Report {
        let seen = v1::SeenDomain { name: name.into(), ..Default::default() };
        v1::Report { report: Some(Kind::Seen(seen)) }
    }

    fn done(order: u64) -> v1::Report {
        let done = v1::OrderDone { order, error: Some("é".repeat(2_000)), ..Default::default() };
        v1::Report { report: Some(Kind::OrderDone(done)) }
    }

    fn absent(floor: u64) -> v1::Report {
        let absent = v1::Absent { floor, ..Default::default() };
        v1::Report { report: Some(Kind::Absent(absent)) }
    }

    fn short(report: &v1::Report) -> String {
        match report.report.as_ref().unwrap() {
            Kind::Seen(seen) => format!("seen {}", seen.name),
            Kind::OrderDone(done) => format!("done {}", done.order),
            Kind::Absent(absent) => format!("absent {}", absent.floor),
            other => panic!("{other:?}"),
        }
    }

    async fn next(outbox: &mut Outbox) -> String {
        let batch = outbox.batch().await.unwrap();
        batch.iter().map(short).collect::<Vec<_>>().join(", ")
    }

    fn outbox(reports: Vec<v1::Report>) -> (mpsc::UnboundedSender<v1::Report>, Outbox) {
        let (sender, queue) = mpsc::unbounded_channel();
        for report in reports {
            sender.send(report).unwrap();
        }
        (sender, Outbox::new(queue))
    }

    #[tokio::test]
    async fn a_refused_report_takes_no_other_with_it() {
        let (queue, mut outbox) = outbox(vec![absent(1), absent(2), seen("a")]);
        assert_eq!(next(&mut outbox).await, "absent 1, absent 2, seen a");
        assert_eq!(outbox.refused("too large"), Refused::GoOn);
        queue.send(done(7)).unwrap();
        assert_eq!(next(&mut outbox).await, "absent 1");
        outbox.taken();
        assert_eq!(next(&mut outbox).await, "absent 2");
        assert_eq!(outbox.refused("no"), Refused::GoOn);
        assert_eq!(next(&mut outbox).await, "seen a");
        outbox.taken();
        // And then as many as there are go together again.
        queue.send(done(8)).unwrap();
        assert_eq!(next(&mut outbox).await, "done 7, done 8");
    }

    #[tokio::test]
    async fn a_sighting_that_is_refused_ends_the_session_and_outcomes_are_kept_over_it() {
        let (queue, mut outbox) = outbox(vec![seen("a"), done(7), absent(1)]);
        assert_eq!(next(&mut outbox).await, "seen a, done 7, absent 1");
        outbox.refused("no");
        assert_eq!(next(&mut outbox).await, "seen a");
        assert_eq!(outbox.refused("no"), Refused::EndSession);
        outbox.keep_outcomes();
        queue.send(done(8)).unwrap();
        assert_eq!(next(&mut outbox).await, "done 7, done 8");
    }

    #[tokio::test]
    async fn what_could_not_be_sent_is_sent_again_and_no_more_at_once_than_one_entry_holds() {
        let (queue, mut few) = outbox(vec![done(1)]);
        assert_eq!(next(&mut few).await, "done 1");
        queue.send(done(2)).unwrap();
        assert_eq!(next(&mut few).await, "done 1");
        few.taken();
        assert_eq!(next(&mut few).await, "done 2");
        let (_queue, mut outbox) = outbox((0..250).map(done).collect());
        let first = outbox.batch().await.unwrap();
        assert_eq!(first.len(), REPORTS_AT_ONCE);
        assert_eq!(outbox.batch().await.unwrap(), first);
        outbox.keep_outcomes();
        assert_eq!(outbox.batch().await.unwrap().len(), REPORTS_AT_ONCE);
        outbox.taken();
        assert_eq!(short(&outbox.batch().await.unwrap()[0]), "done 100");
    }
}
