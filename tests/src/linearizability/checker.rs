//! Is there an order in which a history's operations could have been done one at a time, each between its call and its
//! answer?
//!
//! The search of Wing and Gong with Lowe's memory of what was tried: the first call that the model takes is made, and
//! undone again when an answer comes up of a call that was not made. An operation without an answer may be made at any
//! time after its call, or never.

use std::collections::HashSet;
use std::hash::Hash;

/// An object without concurrency: what each operation does to it.
pub trait Model {
    /// What the object holds.
    type State: Clone + Eq + Hash;
    /// What is asked of it, with the answer.
    type Operation;

    /// The state after the operation, or `None` where it cannot have had this answer in this state.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;
}

/// One operation of a history. Times are of one clock that never goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed<O> {
    /// When it was asked, in nanoseconds.
    pub called: u64,
    /// When it was answered; `None` if it never was, so that it may have been done at any time since, or not at all.
    pub answered: Option<u64>,
    /// What was asked and answered.
    pub operation: O,
}

/// What a history is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violation {
        /// The most answered operations that could be ordered.
        ordered: usize,
        /// The operation, by its place in the history, whose answer nothing explains after those.
        unexplained: usize,
    },
    /// The search was given up. Says nothing about the history.
    Undecided,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Call(usize),
    Answer(usize),
}

/// Looks for an order, in at most `limit` different situations.
pub fn check<M: Model>(
    model: &M,
    begin: M::State,
    history: &[Timed<M::Operation>],
    limit: usize,
) -> Verdict {
    Search::new(model, begin, history).run(limit)
}

/// The history as a ring of events, from which what was made is taken out; the last index is the ring's head.
struct Search<'s, M: Model> {
    model: &'s M,
    history: &'s [Timed<M::Operation>],
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where an operation's call and answer are among the events.
    call: Vec<usize>,
    answer: Vec<Option<usize>>,
    state: M::State,
    made: Vec<u64>,
    /// What was made, with the state before it.
    path: Vec<(usize, M::State)>,
    unanswered_made: usize,
    tried: HashSet<(Vec<u64>, M::State)>,
}

impl<'s, M: Model> Search<'s, M> {
    fn new(model: &'s M, begin: M::State, history: &'s [Timed<M::Operation>]) -> Self {
        let mut events: Vec<(u64, Event)> = Vec::new();
        for (index, timed) in history.iter().enumerate() {
            events.push((timed.called, Event::Call(index)));
            events.extend(timed.answered.map(|at| (at, Event::Answer(index))));
        }
        // In one moment calls come first: what cannot be told apart counts as concurrent.
        events.sort_by_key(|(at, event)| (*at, matches!(event, Event::Answer(_))));
        let events: Vec<Event> = events.into_iter().map(|(_, event)| event).collect();
        let (mut call, mut answer) = (vec![0; history.len()], vec![None; history.len()]);
        for (place, event) in events.iter().enumerate() {
            match event {
                Event::Call(index) => call[*index] = place,
                Event::Answer(index) => answer[*index] = Some(place),
            }
        }
        let head = events.len();
        let ring = head + 1;
        Self {
            model,
            history,
            next: (0..ring).map(|place| (place + 1) % ring).collect(),
            previous: (0..ring).map(|place| (place + ring - 1) % ring).collect(),
            events,
            call,
            answer,
            state: begin,
            made: vec![0; history.len().div_ceil(64)],
            path: Vec::new(),
            unanswered_made: 0,
            tried: HashSet::new(),
        }
    }

    fn run(mut self, limit: usize) -> Verdict {
        let head = self.events.len();
        let answered = self.answer.iter().flatten().count();
        let (mut ordered, mut unexplained) = (0, None);
        let mut place = self.next[head];
        while self.path.len() - self.unanswered_made < answered {
            let stuck = match self.events.get(place) {
                Some(Event::Call(index)) => {
                    let index = *index;
                    place = if self.make(index) { self.next[head] } else { self.next[place] };
                    if self.tried.len() > limit {
                        return Verdict::Undecided;
                    }
                    continue;
                }
                Some(Event::Answer(index)) => *index,
                // An answer is met before the ring's end as long as one is left.
                None => return Verdict::Undecided,
            };
            let so_far = self.path.len() - self.unanswered_made;
            if so_far >= ordered {
                (ordered, unexplained) = (so_far, Some(stuck));
            }
            match self.undo() {
                Some(undone) => place = self.next[self.call[undone]],
                None => {
                    let unexplained = unexplained.unwrap_or(stuck);
                    return Verdict::Violation { ordered, unexplained };
                }
            }
        }
        Verdict::Linearizable
    }

    /// Makes an operation, if the model takes it and this leads to a situation that was not met before.
    fn make(&mut self, index: usize) -> bool {
        let Some(state) = self.model.step(&self.state, &self.history[index].operation) else {
            return false;
        };
        self.made[index / 64] ^= 1 << (index % 64);
        if !self.tried.insert((self.made.clone(), state.clone())) {
            self.made[index / 64] ^= 1 << (index % 64);
            return false;
        }
        self.path.push((index, std::mem::replace(&mut self.state, state)));
        self.take_out(self.call[index]);
        match self.answer[index] {
            Some(place) => self.take_out(place),
            None => self.unanswered_made += 1,
        }
        true
    }

    fn undo(&mut self) -> Option<usize> {
        let (index, state) = self.path.pop()?;
        self.state = state;
        self.made[index / 64] ^= 1 << (index % 64);
        // In the opposite order of taking out, so that each finds its neighbours.
        match self.answer[index] {
            Some(place) => self.put_back(place),
            None => self.unanswered_made -= 1,
        }
        self.put_back(self.call[index]);
        Some(index)
    }

    fn take_out(&mut self, place: usize) {
        let (before, after) = (self.previous[place], self.next[place]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn put_back(&mut self, place: usize) {
        let (before, after) = (self.previous[place], self.next[place]);
        self.next[before] = place;
        self.previous[after] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is written, read, and exchanged where it is as expected.
    struct Number;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Asked {
        Write(u8),
        Read(u8),
        /// From, to, and whether it was done; `None` where that is not known.
        Exchange(u8, u8, Option<bool>),
    }
    use Asked::{Exchange, Read, Write};

    impl Model for Number {
        type State = u8;
        type Operation = Asked;

        fn step(&self, state: &u8, operation: &Asked) -> Option<u8> {
            match *operation {
                Write(value) => Some(value),
                Read(value) => (value == *state).then_some(value),
                Exchange(from, to, Some(true)) => (from == *state).then_some(to),
                Exchange(from, _, Some(false)) => (from != *state).then_some(*state),
                Exchange(from, to, None) => (from == *state).then_some(to),
            }
        }
    }

    fn timed(called: u64, answered: u64, operation: Asked) -> Timed<Asked> {
        Timed { called, answered: Some(answered), operation }
    }

    fn lost(called: u64, operation: Asked) -> Timed<Asked> {
        Timed { called, answered: None, operation }
    }

    fn verdict(history: &[Timed<Asked>]) -> Verdict {
        check(&Number, 0, history, 1_000_000)
    }

    #[test]
    fn what_overlaps_may_be_ordered_either_way() {
        let history = [timed(0, 9, Write(1)), timed(1, 2, Read(1)), timed(3, 10, Write(2))];
        assert_eq!(verdict(&history), Verdict::Linearizable);
        let reversed = [
            timed(0, 9, Write(1)),
            timed(0, 9, Write(2)),
            timed(1, 2, Read(2)),
            timed(3, 4, Read(1)),
        ];
        assert_eq!(verdict(&reversed), Verdict::Linearizable);
    }

    #[test]
    fn a_read_of_what_was_before_is_found_and_named() {
        let history = [timed(0, 1, Write(1)), timed(2, 3, Read(1)), timed(4, 5, Read(0))];
        assert_eq!(verdict(&history), Verdict::Violation { ordered: 2, unexplained: 2 });
    }

    #[test]
    fn a_read_that_goes_back_while_a_write_is_under_way_is_found() {
        let history = [timed(0, 9, Write(1)), timed(1, 2, Read(1)), timed(3, 4, Read(0))];
        assert!(matches!(verdict(&history), Verdict::Violation { .. }));
    }

    #[test]
    fn a_write_that_was_overwritten_by_an_older_one_is_found() {
        let history = [
            timed(0, 1, Exchange(0, 1, Some(true))),
            timed(2, 3, Exchange(1, 2, Some(true))),
            timed(4, 5, Read(1)),
        ];
        assert!(matches!(verdict(&history), Verdict::Violation { .. }));
    }

    #[test]
    fn two_exchanges_of_the_same_value_cannot_both_succeed() {
        let both =
            [timed(0, 5, Exchange(0, 1, Some(true))), timed(0, 5, Exchange(0, 2, Some(true)))];
        assert!(matches!(verdict(&both), Verdict::Violation { .. }));
        let one =
            [timed(0, 5, Exchange(0, 1, Some(true))), timed(0, 5, Exchange(0, 2, Some(false)))];
        assert_eq!(verdict(&one), Verdict::Linearizable);
    }

    #[test]
    fn what_was_never_answered_may_be_done_late_or_never_but_not_before_it_was_asked_or_twice() {
        let never = [lost(0, Write(1)), timed(1, 2, Read(0)), timed(3, 4, Read(0))];
        assert_eq!(verdict(&never), Verdict::Linearizable);
        let late = [lost(0, Write(1)), timed(1, 2, Read(0)), timed(3, 4, Read(1))];
        assert_eq!(verdict(&late), Verdict::Linearizable);
        let early = [timed(0, 1, Read(1)), lost(2, Write(1))];
        assert!(matches!(verdict(&early), Verdict::Violation { .. }));
        let twice = [
            lost(0, Exchange(0, 1, None)),
            timed(1, 2, Read(1)),
            timed(3, 4, Write(0)),
            timed(5, 6, Read(1)),
        ];
        assert!(matches!(verdict(&twice), Verdict::Violation { .. }));
    }

    #[test]
    fn a_search_that_is_given_up_is_no_verdict() {
        let history: Vec<_> = (0..8).map(|value| timed(0, 9, Write(value))).collect();
        assert_eq!(check(&Number, 0, &history, 2), Verdict::Undecided);
    }

    /// The definition, word for word: every choice of what may come next is followed.
    fn by_definition(state: u8, left: &[Timed<Asked>]) -> bool {
        if left.iter().all(|timed| timed.answered.is_none()) {
            return true;
        }
        let first_answer = left.iter().filter_map(|timed| timed.answered).min().unwrap_or(u64::MAX);
        left.iter().enumerate().filter(|(_, timed)| timed.called <= first_answer).any(
            |(index, timed)| {
                let mut rest = left.to_vec();
                rest.remove(index);
                Number
                    .step(&state, &timed.operation)
                    .is_some_and(|state| by_definition(state, &rest))
            },
        )
    }

    #[test]
    fn the_search_agrees_with_the_definition_on_random_histories() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..20_000 {
            let history: Vec<_> = (0..random.usize(1..=7))
                .map(|_| {
                    let called = random.u64(0..12);
                    let answered = random.u8(0..5) > 0;
                    let (from, to) = (random.u8(0..3), random.u8(0..3));
                    let operation = match random.u8(0..3) {
                        0 => Write(to),
                        1 if answered => Read(from),
                        _ => Exchange(from, to, answered.then(|| random.bool())),
                    };
                    let answered = answered.then(|| called + random.u64(0..6));
                    Timed { called, answered, operation }
                })
                .collect();
            let found = verdict(&history) == Verdict::Linearizable;
            assert_eq!(found, by_definition(0, &history), "{history:?}");
            if found { good += 1 } else { bad += 1 }
        }
        assert!(good > 1_000 && bad > 1_000, "both kinds were met: {good} and {bad}");
    }
}
