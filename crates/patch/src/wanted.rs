//! The snippets of the probed heads that a plan comes by, which are looked up often and mostly in order.

use std::ops::Range;
use std::sync::Arc;

use incise_isa::Addr;
use rustc_hash::FxHashMap;

use crate::lower::Snippets;

/// So many addresses make a block.
const BLOCK: u64 = 256;

/// Snippets by head.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    /// What was known from the start.
    known: Arc<Known>,
    late: FxHashMap<Addr, Snippets>,
}

#[derive(Default)]
struct Known {
    /// Those of each head, ascending.
    snippets: Vec<Snippets>,
    /// By the number of a block.
    blocks: FxHashMap<u64, Block>,
}

/// The heads of a block.
#[derive(Clone, Copy, Default)]
struct Block {
    /// How many heads come before it.
    before: u32,
    /// Bit `n` is set if there is one at its `n`-th address.
    heads: [u64; BLOCK as usize / 64],
}

impl Wanted {
    /// The snippets of heads, which ascend; heads without snippets are left out.
    pub(crate) fn of(heads: impl Iterator<Item = (Addr, Snippets)>) -> Wanted {
        let mut known = Known::default();
        for (head, snippets) in heads.filter(|(_, snippets)| !snippets.is_empty()) {
            let before = known.snippets.len() as u32;
            let block = known.blocks.entry(head.0 / BLOCK).or_insert(Block { before, ..Block::default() });
            block.heads[(head.0 % BLOCK / 64) as usize] |= 1 << (head.0 % 64);
            known.snippets.push(snippets);
        }
        Wanted { known: Arc::new(known), late: FxHashMap::default() }
    }

    /// The snippets of a head, if it has any.
    pub(crate) fn get(&self, head: Addr) -> Option<&Snippets> {
        match self.known.index_of(head) {
            Some(index) => Some(&self.known.snippets[index]),
            None if self.late.is_empty() => None,
            None => self.late.get(&head),
        }
    }

    /// Whether a head has snippets.
    pub(crate) fn contains(&self, head: Addr) -> bool {
        self.known.index_of(head).is_some() || !self.late.is_empty() && self.late.contains_key(&head)
    }

    /// The first head with snippets in `range`, which is short.
    pub(crate) fn first_in(&self, range: Range<Addr>) -> Option<Addr> {
        let known = self.known.first_in(&range);
        if self.late.is_empty() {
            return known;
        }
        let before = range.start.0..known.unwrap_or(range.end).0;
        before.map(Addr).find(|at| self.late.contains_key(at)).or(known)
    }

    /// Adds a head that was not known from the start.
    pub(crate) fn insert(&mut self, head: Addr, snippets: Snippets) {
        self.late.insert(head, snippets);
    }
}

impl Known {
    fn first_in(&self, range: &Range<Addr>) -> Option<Addr> {
        let mut at = range.start.0;
        while at < range.end.0 {
            let word =
                self.blocks.get(&(at / BLOCK)).map_or(0, |block| block.heads[(at % BLOCK / 64) as usize]);
            let heads = word & u64::MAX << (at % 64);
            if heads != 0 {
                let first = at & !63 | u64::from(heads.trailing_zeros());
                return (first < range.end.0).then_some(Addr(first));
            }
            at = (at | 63).checked_add(1)?;
        }
        None
    }

    fn index_of(&self, head: Addr) -> Option<usize> {
        let block = self.blocks.get(&(head.0 / BLOCK))?;
        let (word, bit) = ((head.0 % BLOCK / 64) as usize, 1 << (head.0 % 64));
        if block.heads[word] & bit == 0 {
            return None;
        }
        let before: u32 = block.heads[..word].iter().map(|word| word.count_ones()).sum();
        let here = (block.heads[word] & (bit - 1)).count_ones();
        Some((block.before + before + here) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::Ready;
    use crate::placement::Placement;

    #[test]
    fn every_head_is_found_and_nothing_else() {
        let snippets = |at: u64| {
            let mut snippets = Snippets::default();
            snippets.push(Placement::Before, Ready::Counter(Addr(at)));
            snippets
        };
        let heads = [0x10FF, 0x1100, 0x1101, 0x11FF, 0x2_0000];
        let known = heads.iter().map(|&at| (Addr(at), snippets(at)));
        let mut wanted = Wanted::of(known.chain([(Addr(0x3_0000), Snippets::default())]));
        wanted.insert(Addr(0x1102), snippets(0x1102));
        for at in (0x1000..0x1300).chain([0x2_0000, 0x3_0000]) {
            let expected = heads.contains(&at) || at == 0x1102;
            assert_eq!(wanted.contains(Addr(at)), expected, "{at:#x}");
            let found = wanted.get(Addr(at)).and_then(|snippets| snippets.iter().next());
            assert_eq!(found, expected.then_some(&Ready::Counter(Addr(at))), "{at:#x}");
            for end in at..at + 80 {
                let first = heads.into_iter().chain([0x1102]).filter(|head| (at..end).contains(head)).min();
                assert_eq!(wanted.first_in(Addr(at)..Addr(end)), first.map(Addr), "{at:#x} {end:#x}");
            }
        }
    }
}
