//! The snippets of the probed heads that a plan comes by, which are looked up often and mostly in order.

use std::ops::Range;
use std::sync::Arc;

use incise_isa::Addr;
use rustc_hash::FxHashMap;

use crate::trampoline::sequences::Snippets;

/// So many addresses make a block.
const BLOCK: u64 = 256;
/// Heads further apart than so many blocks are of two runs.
const APART: u64 = 64;
/// So many heads are kept together.
pub(crate) const PART: usize = 4096;

/// Snippets by head.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    /// What was known from the start.
    known: Arc<Known>,
    late: FxHashMap<Addr, Snippets>,
}

/// Heads in order, each with its snippets.
pub(crate) type Part = Vec<(Addr, Snippets)>;

#[derive(Default)]
struct Known {
    /// All parts but the last have [`PART`] heads.
    parts: Vec<Part>,
    /// Ascending.
    runs: Vec<Run>,
}

/// Blocks in a row.
struct Run {
    /// Number of the first block.
    first: u64,
    blocks: Vec<Block>,
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
    /// The snippets of heads, which ascend, in parts of [`PART`]; heads without snippets are left out.
    pub(crate) fn of(mut parts: Vec<Part>) -> Wanted {
        let some = |(_, snippets): &(Addr, Snippets)| !snippets.is_empty();
        let last = parts.len().saturating_sub(1);
        let is_full = |(index, part): (usize, &Part)| {
            (part.len() == PART || index == last && part.len() < PART) && part.iter().all(some)
        };
        if !parts.iter().enumerate().all(is_full) {
            let all: Part = parts.into_iter().flatten().filter(some).collect();
            let mut all = all.into_iter();
            parts = std::iter::from_fn(|| {
                let part: Part = all.by_ref().take(PART).collect();
                (!part.is_empty()).then_some(part)
            })
            .collect();
        }
        let mut known = Known::default();
        for (before, (head, _)) in (0..).zip(parts.iter().flatten()) {
            known.note(*head, before);
        }
        known.parts = parts;
        Wanted { known: Arc::new(known), late: FxHashMap::default() }
    }

    /// The snippets of a head, if it has any.
    pub(crate) fn get(&self, head: Addr) -> Option<&Snippets> {
        match self.known.index_of(head) {
            Some(index) => Some(&self.known.parts[index / PART][index % PART].1),
            None if self.late.is_empty() => None,
            None => self.late.get(&head),
        }
    }

    /// Whether a head has snippets.
    pub(crate) fn contains(&self, head: Addr) -> bool {
        self.known.word(head) & bit(head) != 0 || !self.late.is_empty() && self.late.contains_key(&head)
    }

    /// Whether any head in `range`, which is short, has snippets.
    pub(crate) fn any_in(&self, range: Range<Addr>) -> bool {
        self.first_in(range).is_some()
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

fn bit(head: Addr) -> u64 {
    1 << (head.0 % 64)
}

impl Known {
    fn first_in(&self, range: &Range<Addr>) -> Option<Addr> {
        let mut at = range.start.0;
        while at < range.end.0 {
            let heads = self.word(Addr(at)) & u64::MAX << (at % 64);
            if heads != 0 {
                let first = at & !63 | u64::from(heads.trailing_zeros());
                return (first < range.end.0).then_some(Addr(first));
            }
            at = (at | 63).checked_add(1)?;
        }
        None
    }

    /// Notes a head behind all others, `before` of them.
    fn note(&mut self, head: Addr, before: u32) {
        let number = head.0 / BLOCK;
        let near = |run: &&mut Run| number - run.first < run.blocks.len() as u64 + APART;
        let run = match self.runs.last_mut().filter(near) {
            Some(run) => run,
            None => {
                self.runs.push(Run { first: number, blocks: Vec::new() });
                let last = self.runs.len() - 1;
                &mut self.runs[last]
            }
        };
        let index = (number - run.first) as usize;
        if index >= run.blocks.len() {
            run.blocks.resize(index + 1, Block { before, ..Block::default() });
        }
        run.blocks[index].heads[(head.0 % BLOCK / 64) as usize] |= bit(head);
    }

    #[inline]
    fn block(&self, head: Addr) -> Option<&Block> {
        let number = head.0 / BLOCK;
        let run = match &self.runs[..] {
            [only] => only,
            runs => &runs[runs.partition_point(|run| run.first <= number).checked_sub(1)?],
        };
        run.blocks.get(usize::try_from(number.checked_sub(run.first)?).ok()?)
    }

    /// The heads around one, a bit for each of 64 addresses.
    #[inline]
    fn word(&self, head: Addr) -> u64 {
        self.block(head).map_or(0, |block| block.heads[(head.0 % BLOCK / 64) as usize])
    }

    fn index_of(&self, head: Addr) -> Option<usize> {
        let block = self.block(head)?;
        let word = (head.0 % BLOCK / 64) as usize;
        if block.heads[word] & bit(head) == 0 {
            return None;
        }
        let before: u32 = block.heads[..word].iter().map(|word| word.count_ones()).sum();
        let here = (block.heads[word] & (bit(head) - 1)).count_ones();
        Some((block.before + before + here) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snippet::placement::Placement;
    use crate::trampoline::lower::Ready;

    #[test]
    fn every_head_is_found_and_nothing_else() {
        let snippets = |at: u64| {
            let mut snippets = Snippets::default();
            snippets.push(Placement::Before, Ready::Counter(Addr(at)));
            snippets
        };
        let heads = [0x10FF, 0x1100, 0x1101, 0x11FF, 0x2_0000, 0x7000_0000];
        let part: Part = heads.iter().map(|&at| (Addr(at), snippets(at))).collect();
        let mut wanted = Wanted::of(vec![part, vec![(Addr(0x7000_1000), Snippets::default())]]);
        wanted.insert(Addr(0x1102), snippets(0x1102));
        for at in (0x1000..0x1300).chain([0, 0x2_0000, 0x3_0000, 0x7000_0000, 0x7000_1000, u64::MAX]) {
            let expected = heads.contains(&at) || at == 0x1102;
            assert_eq!(wanted.contains(Addr(at)), expected, "{at:#x}");
            let found = wanted.get(Addr(at)).and_then(|snippets| snippets.iter().next());
            assert_eq!(found, expected.then_some(&Ready::Counter(Addr(at))), "{at:#x}");
            for end in at..at.saturating_add(80) {
                let first = heads.into_iter().chain([0x1102]).filter(|head| (at..end).contains(head)).min();
                assert_eq!(wanted.first_in(Addr(at)..Addr(end)), first.map(Addr), "{at:#x} {end:#x}");
            }
        }
    }

    #[test]
    fn a_range_has_a_head_if_one_of_its_addresses_is_one() {
        let one = |at: u64| {
            let mut snippets = Snippets::default();
            snippets.push(Placement::Before, Ready::Counter(Addr(at)));
            (Addr(at), snippets)
        };
        let heads: Vec<u64> = (0..2 * PART as u64 + 7).map(|n| 0x1000 + n * 3 + n / 100 * 70).collect();
        let parts = heads.chunks(PART).map(|part| part.iter().map(|&at| one(at)).collect()).collect();
        let mut wanted = Wanted::of(parts);
        wanted.insert(Addr(0x900), one(0x900).1);
        for from in (0x8F0..0x910).chain(0xFF0..0x1400) {
            for len in 0..20 {
                let inside = |at: &u64| (from..from + len).contains(at);
                let expected = heads.iter().any(inside) || inside(&0x900);
                assert_eq!(wanted.any_in(Addr(from)..Addr(from + len)), expected, "{from:#x}, {len}");
            }
        }
        for &at in &heads {
            assert_eq!(wanted.get(Addr(at)).and_then(|it| it.iter().next()), Some(&Ready::Counter(Addr(at))));
        }
    }
}
