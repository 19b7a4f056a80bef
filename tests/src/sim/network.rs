//! Who reaches whom, how late, and what is lost on the way.

use std::collections::BTreeSet;

/// A machine on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A host, by number.
    Host(usize),
    /// A replica, by number.
    Replica(usize),
}

/// Cuts, delays and losses.
#[derive(Debug, Default)]
pub struct Network {
    /// From the first nothing reaches the second.
    cuts: BTreeSet<(Place, Place)>,
    /// Machines that reach nobody and that nobody reaches.
    isolated: BTreeSet<Place>,
    /// Hosts whose agents reach no replica, not even one on the same machine.
    pub agents_cut: BTreeSet<usize>,
    /// Where each replica lives: two of one machine always reach each other.
    pub homes: Vec<Option<usize>>,
    /// Milliseconds, least and most.
    pub delay: (u64, u64),
    /// Milliseconds more on the way to a machine.
    pub slow_to: Option<(Place, u64)>,
    /// Messages lost in a thousand.
    pub loss_permille: u64,
    /// Messages that come twice in a thousand.
    pub twice_permille: u64,
}

impl Network {
    /// One that is as it should be.
    pub fn quick() -> Self {
        Self { delay: (1, 5), ..Self::default() }
    }

    fn machine(&self, place: Place) -> Place {
        match place {
            Place::Replica(id) => match self.homes.get(id).copied().flatten() {
                Some(host) => Place::Host(host),
                None => place,
            },
            host => host,
        }
    }

    /// Whether a message from the one reaches the other.
    pub fn reaches(&self, from: Place, to: Place) -> bool {
        if let (Place::Host(host), Place::Replica(_)) | (Place::Replica(_), Place::Host(host)) =
            (from, to)
            && self.agents_cut.contains(&host)
        {
            return false;
        }
        let (from, to) = (self.machine(from), self.machine(to));
        from == to
            || !(self.cuts.contains(&(from, to))
                || self.isolated.contains(&from)
                || self.isolated.contains(&to))
    }

    /// Whether both reach each other.
    pub fn connected(&self, one: Place, other: Place) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }

    /// Cuts one direction, or mends it.
    pub fn cut(&mut self, from: Place, to: Place, cut: bool) {
        let pair = (self.machine(from), self.machine(to));
        if cut {
            self.cuts.insert(pair);
        } else {
            self.cuts.remove(&pair);
        }
    }

    /// Cuts a machine from all others, or connects it.
    pub fn isolate(&mut self, place: Place, isolated: bool) {
        let place = self.machine(place);
        if isolated {
            self.isolated.insert(place);
        } else {
            self.isolated.remove(&place);
        }
    }

    /// Whether the machine is cut from all others.
    pub fn is_isolated(&self, place: Place) -> bool {
        self.isolated.contains(&self.machine(place))
    }

    /// All is well.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.isolated.clear();
        self.agents_cut.clear();
        (self.loss_permille, self.twice_permille) = (0, 0);
    }
}
