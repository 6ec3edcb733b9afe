//! The snippets at one head, by the way in or out of the instruction on which they run.

use std::slice;

use smallvec::SmallVec;

use crate::snippet::placement::Placement;
use crate::trampoline::lower::Ready;

/// Snippets that run one after the other.
type Sequence = SmallVec<[Ready; 1]>;

/// The snippets at one head.
#[derive(Clone, Default, Debug)]
pub(crate) struct Snippets(Kept);

/// There may be millions of heads, and mostly each has one snippet: that takes no memory of its own.
#[derive(Clone, Default, Debug)]
enum Kept {
    #[default]
    None,
    One(Placement, Ready),
    Many(Box<Many>),
}

#[derive(Clone, Default, Debug)]
struct Many {
    /// Those before the instruction, in order.
    before: Sequence,
    /// Those on other ways in or out of it, in order for each.
    ways: Vec<(Placement, Sequence)>,
}

impl Many {
    fn push(&mut self, placement: Placement, snippet: Ready) {
        if placement == Placement::Before {
            return self.before.push(snippet);
        }
        match self.ways.iter_mut().find(|(way, _)| *way == placement) {
            Some((_, sequence)) => sequence.push(snippet),
            None => self.ways.push((placement, Sequence::from_iter([snippet]))),
        }
    }
}

impl Snippets {
    /// Adds one that runs behind those that are there.
    pub(crate) fn push(&mut self, placement: Placement, snippet: Ready) {
        match &mut self.0 {
            Kept::None => self.0 = Kept::One(placement, snippet),
            Kept::Many(many) => many.push(placement, snippet),
            Kept::One(..) => {
                let mut many = Many::default();
                if let Kept::One(way, first) = std::mem::take(&mut self.0) {
                    many.push(way, first);
                }
                many.push(placement, snippet);
                self.0 = Kept::Many(Box::new(many));
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0, Kept::None)
    }

    /// Those before the instruction, in order.
    pub(crate) fn before(&self) -> &[Ready] {
        match &self.0 {
            Kept::One(Placement::Before, ready) => slice::from_ref(ready),
            Kept::Many(many) => &many.before,
            Kept::None | Kept::One(..) => &[],
        }
    }

    /// Those on other ways in or out of it, in order for each.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (Placement, &[Ready])> {
        let (one, many) = match &self.0 {
            Kept::None | Kept::One(Placement::Before, _) => (None, &[][..]),
            Kept::One(way, ready) => (Some((*way, slice::from_ref(ready))), &[][..]),
            Kept::Many(many) => (None, &many.ways[..]),
        };
        one.into_iter().chain(many.iter().map(|(way, sequence)| (*way, &**sequence)))
    }

    /// Those on one way other than before the instruction, if there are any.
    pub(crate) fn along(&self, way: Placement) -> Option<&[Ready]> {
        self.ways().find(|(placement, _)| *placement == way).map(|(_, sequence)| sequence)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Ready> {
        self.before().iter().chain(self.ways().flat_map(|(_, sequence)| sequence))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match &self.0 {
            Kept::None => 0,
            Kept::One(..) => 1,
            Kept::Many(_) => self.iter().count(),
        }
    }

    /// Whether a tracer is to see the thread come by.
    pub(crate) fn is_gate(&self) -> bool {
        self.before().contains(&Ready::Gate)
    }
}

#[cfg(test)]
mod tests {
    use incise_isa::Addr;

    use super::*;

    #[test]
    fn each_way_keeps_its_order() {
        let counter = |n| Ready::Counter(Addr(n));
        let mut snippets = Snippets::default();
        assert!(snippets.is_empty() && snippets.count() == 0);
        snippets.push(Placement::Entered, counter(1));
        assert_eq!(
            (snippets.before(), snippets.along(Placement::Entered)),
            (&[][..], Some(&[counter(1)][..]))
        );
        for (way, n) in [(Placement::Before, 2), (Placement::After, 3), (Placement::Entered, 4)] {
            snippets.push(way, counter(n));
        }
        snippets.push(Placement::Before, counter(5));
        assert_eq!(snippets.before(), [counter(2), counter(5)]);
        assert_eq!(snippets.along(Placement::Entered), Some(&[counter(1), counter(4)][..]));
        assert_eq!(snippets.along(Placement::After), Some(&[counter(3)][..]));
        assert_eq!((snippets.along(Placement::Taken), snippets.count()), (None, 5));
    }
}
