//! Which landings are in force: those published last, and those taken back that a thread may still need.
//!
//! A thread that ran a trap byte needs its landing a little later, when the handler looks it up. So a
//! landing that is taken back stays in the table until [`super::quiescence`] has shown that no thread is
//! on its way there.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use incise_isa::Addr;

use crate::Landing;

/// The landings of a space.
#[derive(Default)]
pub(super) struct Landings {
    /// Published last; sorted by trap.
    current: Vec<Landing>,
    /// Taken back; sorted by trap, none of a trap in `current`.
    retiring: Vec<Landing>,
    /// Traps that are illegal bytes, not `int3`.
    illegal: HashSet<Addr>,
    /// `current` and `retiring`, sorted by landing; made when first asked for.
    by_landing: OnceCell<[Vec<Landing>; 2]>,
}

impl Landings {
    /// The state after `new` was published; sorts it if it is not sorted.
    pub(super) fn with_published(&self, new: &[Landing]) -> Landings {
        let mut current = new.to_vec();
        if !current.is_sorted_by(|a, b| a.trap < b.trap) {
            current.sort();
            current.dedup_by_key(|landing| landing.trap);
        }
        let all = merge(&self.current, &self.retiring);
        let mut kept = current.iter().peekable();
        let retiring = all
            .into_iter()
            .filter(|old| {
                while kept.next_if(|new| new.trap < old.trap).is_some() {}
                kept.peek().is_none_or(|new| new.trap != old.trap)
            })
            .collect();
        Landings { current, retiring, illegal: self.illegal.clone(), by_landing: OnceCell::new() }
    }

    /// Notes that the trap at `at` is an illegal byte.
    pub(super) fn note_illegal(&mut self, at: Addr) {
        self.illegal.insert(at);
    }

    /// What the table must hold.
    pub(super) fn table(&self) -> Vec<Landing> {
        merge(&self.current, &self.retiring)
    }

    /// Whether the table must hold nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty() && self.retiring.is_empty()
    }

    /// Whether a published landing leads into `range` (that of a fault leads from inside).
    pub(super) fn leads_into(&self, range: &Range<Addr>) -> bool {
        within(&self.by_landing()[0], range).iter().any(|landing| !landing.is_fault())
    }

    /// The instruction pointers of threads on their way to a landing in `range` that was taken back: behind an
    /// `int3`; for an illegal byte, which a poke may have made an `int3` for a while, also on it.
    pub(super) fn on_the_way(&self, range: &Range<Addr>) -> impl Iterator<Item = Range<Addr>> + use<'_> {
        // At a fault landing's instruction a thread is in a trampoline anyway.
        within(&self.by_landing()[1], range).iter().filter(|landing| !landing.is_fault()).map(|landing| {
            let behind = landing.trap + 1;
            let first = if self.illegal.contains(&landing.trap) { landing.trap } else { behind };
            first..behind + 1
        })
    }

    fn by_landing(&self) -> &[Vec<Landing>; 2] {
        self.by_landing.get_or_init(|| {
            [&self.current, &self.retiring].map(|list| {
                let mut sorted = list.clone();
                sorted.sort_unstable_by_key(|landing| landing.landing);
                sorted
            })
        })
    }

    /// The state without the landings in `idle` (ascending, disjoint), which no thread needs; nothing if there are none.
    pub(super) fn without(&self, idle: &[&Range<Addr>]) -> Option<Landings> {
        let keep = |landing: &&Landing| {
            let index = idle.partition_point(|range| range.end <= landing.landing);
            idle.get(index).is_none_or(|range| !range.contains(&landing.landing))
        };
        let retiring: Vec<Landing> = self.retiring.iter().filter(keep).copied().collect();
        if retiring.len() == self.retiring.len() {
            return None;
        }
        let mut next = Landings { current: self.current.clone(), retiring, ..Landings::default() };
        next.illegal =
            next.table().iter().map(|l| l.trap).filter(|trap| self.illegal.contains(trap)).collect();
        Some(next)
    }
}

/// Those of `sorted` (by landing) that lead into `range`.
fn within<'l>(sorted: &'l [Landing], range: &Range<Addr>) -> &'l [Landing] {
    let from = sorted.partition_point(|landing| landing.landing < range.start);
    let to = sorted.partition_point(|landing| landing.landing < range.end);
    &sorted[from..to.max(from)]
}

/// The two lists, which share no trap, as one.
fn merge(a: &[Landing], b: &[Landing]) -> Vec<Landing> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    loop {
        let first = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.trap.cmp(&y.trap) == Ordering::Greater => b.next(),
            (Some(_), _) => a.next(),
            (None, _) => b.next(),
        };
        match first {
            Some(landing) => merged.push(landing),
            None => return merged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(u64, u64)]) -> Vec<Landing> {
        pairs.iter().map(|&(trap, landing)| Landing { trap: Addr(trap), landing: Addr(landing) }).collect()
    }

    #[test]
    fn a_landing_taken_back_stays_until_its_range_is_idle() {
        let first = Landings::default().with_published(&list(&[(1, 100), (5, 200), (9, 300)]));
        let second = first.with_published(&list(&[(5, 250)]));
        assert_eq!(second.table(), list(&[(1, 100), (5, 250), (9, 300)]));
        assert_eq!(second.on_the_way(&(Addr(90)..Addr(110))).collect::<Vec<_>>(), [Addr(2)..Addr(3)]);
        assert!(second.leads_into(&(Addr(250)..Addr(251))) && !second.leads_into(&(Addr(100)..Addr(101))));
        let third = second.without(&[&(Addr(90)..Addr(110))]).expect("one landing less");
        assert_eq!(third.table(), list(&[(5, 250), (9, 300)]));
        assert!(third.without(&[&(Addr(90)..Addr(110))]).is_none());
    }

    #[test]
    fn a_trap_published_again_is_not_retiring() {
        let first = Landings::default().with_published(&list(&[(1, 100), (2, 110)]));
        let second = first.with_published(&[]).with_published(&list(&[(2, 220)]));
        assert_eq!(second.table(), list(&[(1, 100), (2, 220)]));
    }

    #[test]
    fn a_thread_on_an_illegal_byte_stands_on_it() {
        let mut landings = Landings::default().with_published(&list(&[(1, 100)]));
        landings.note_illegal(Addr(1));
        let landings = landings.with_published(&[]);
        assert_eq!(landings.on_the_way(&(Addr(100)..Addr(101))).collect::<Vec<_>>(), [Addr(1)..Addr(3)]);
    }

    #[test]
    fn unsorted_landings_are_sorted() {
        let landings = Landings::default().with_published(&list(&[(3, 1), (1, 2), (3, 1)]));
        assert_eq!(landings.table(), list(&[(1, 2), (3, 1)]));
    }
}
