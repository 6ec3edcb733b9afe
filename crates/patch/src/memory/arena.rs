//! Executable memory for trampolines: few, large, sparse mappings, and who uses which byte of them.
//!
//! A springboard with trap bytes inside its displacement admits trampolines only at certain addresses
//! ([`Placement`]). So an arena is a wide reservation that costs nothing but the pages written, and an
//! allocation asks for the lowest free admitted address, starting where neighbours are likely to share
//! a page.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Placement, Springboard};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// Sites of one stretch of text of this many bytes begin their search at the same address.
const ANCHOR: u64 = 4 << 20;

/// A page with less room than this is full.
const FULL: u64 = 12;

/// One reservation.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    range: Range<Addr>,
    pages: FxHashMap<u64, Box<Page>>,
    cursors: FxHashMap<(u32, u32), Addr>,
    /// Numbers of the pages that packed allocations may share, in the order they came into use.
    open: Vec<u64>,
}

/// Which bytes of a page are in use.
#[derive(Debug, Clone)]
struct Page {
    bits: [u64; PAGE as usize / 64],
    used: u32,
    /// The most bytes in a row that are not in use; `UNKNOWN` if bytes were taken or freed since that was found.
    longest_free: u32,
}

const UNKNOWN: u32 = u32::MAX;

impl Arena {
    /// An empty arena over `range`, which begins and ends on page boundaries.
    pub(crate) fn new(range: Range<Addr>) -> Arena {
        Arena { range, pages: FxHashMap::default(), cursors: FxHashMap::default(), open: Vec::new() }
    }

    pub(crate) fn range(&self) -> Range<Addr> {
        self.range.clone()
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.pages.values().map(|page| u64::from(page.used)).sum()
    }

    /// Takes `len` bytes at the lowest suitable address that `place` admits.
    pub(crate) fn allocate(&mut self, place: &Placement, len: u64) -> Option<Addr> {
        let window = place.next(self.range.start, self.range.end)?;
        let key = cursor_key(place);
        let cursor = self.cursors.get(&key).copied().unwrap_or(self.range.start);
        let anchor = if place.mask == 0 { self.range.start } else { window.align_up(ANCHOR) };
        let at = self
            .search(place, len, anchor.max(window).max(cursor))
            .or_else(|| self.search(place, len, window))?;
        self.mark(at.span(len), true);
        self.cursors.insert(key, at + len);
        Some(at)
    }

    fn search(&self, place: &Placement, len: u64, from: Addr) -> Option<Addr> {
        let mut from = from;
        loop {
            let at = place.next(from, self.range.end)?;
            if at + len > self.range.end {
                return None;
            }
            match self.last_used(at.span(len)) {
                None => return Some(at),
                Some(used) => from = self.first_free(used + 1),
            }
        }
    }

    /// Takes `len` bytes on a page in `range` that is in use by packed trampolines.
    pub(crate) fn allocate_on_used(
        &mut self,
        board: &Springboard,
        len: u64,
        range: &Range<Addr>,
    ) -> Option<Addr> {
        let in_range = |page: &u64| range.start.0 / PAGE <= *page && page * PAGE < range.end.0;
        let all = &mut self.pages;
        let mut room = |page: &u64| all.get_mut(page).map_or(PAGE, |page| page.longest_free());
        let open: SmallVec<[u64; 32]> =
            self.open.iter().copied().filter(|page| in_range(page) && len <= room(page)).collect();
        let pages = open.iter();
        let at = pages.map(|page| Addr(page * PAGE)).find_map(|page| {
            let end = page + (PAGE - len + 1);
            let mut at = board.next(page, end)?;
            while let Some(used) = self.last_used(at.span(len)) {
                at = board.next(self.first_free(used + 1), end)?;
            }
            Some(at)
        })?;
        self.mark(at.span(len), true);
        let page = at.0 / PAGE;
        if self.pages.get(&page).is_some_and(|page| u64::from(page.used) > PAGE - FULL) {
            self.open.retain(|open| *open != page);
        }
        Some(at)
    }

    /// Takes `len` bytes at the lowest suitable address from the first page in use on.
    pub(crate) fn allocate_on_fresh(&mut self, board: &Springboard, len: u64) -> Option<Addr> {
        let home = self.open.iter().min().map_or(self.range.start, |page| Addr(page * PAGE));
        let end = self.range.end - len;
        let from = if board.next(home, end).is_some() { home } else { self.range.start };
        self.allocate_within(board, len, &(from..self.range.end))
    }

    /// Takes `len` bytes at the lowest suitable address in `range`, as far as that is of this arena.
    pub(crate) fn allocate_within(
        &mut self,
        board: &Springboard,
        len: u64,
        range: &Range<Addr>,
    ) -> Option<Addr> {
        let end = Addr(range.end.min(self.range.end).0.checked_sub(len)?);
        let mut at = board.next(range.start.max(self.range.start), end)?;
        loop {
            let page = self.pages.get_mut(&(at.0 / PAGE));
            let next = if page.is_some_and(|page| page.longest_free() < len.min(PAGE)) {
                (at + 1).align_up(PAGE)
            } else if let Some(used) = self.last_used(at.span(len)) {
                self.first_free(used + 1)
            } else {
                break;
            };
            at = board.next(next, end)?;
        }
        self.mark(at.span(len), true);
        for page in at.0 / PAGE..=(at.0 + len - 1) / PAGE {
            if !self.open.contains(&page) {
                self.open.push(page);
            }
        }
        Some(at)
    }

    /// Takes `len` bytes at the lowest address that `board` reaches, if it is found soon.
    pub(crate) fn allocate_any(&mut self, board: &Springboard, len: u64) -> Option<Addr> {
        const TRIES: usize = 64;
        let end = Addr(self.range.end.0.saturating_sub(len));
        let mut at = board.next(self.range.start, end)?;
        for _ in 0..TRIES {
            match self.last_used(at.span(len)) {
                Some(used) => at = board.next(self.first_free(used + 1), end)?,
                None => {
                    self.mark(at.span(len), true);
                    return Some(at);
                }
            }
        }
        None
    }

    /// Gives bytes back.
    pub(crate) fn free(&mut self, range: Range<Addr>) {
        if range.is_empty() {
            return;
        }
        self.mark(range.clone(), false);
        self.cursors.values_mut().for_each(|cursor| *cursor = (*cursor).min(range.start));
    }

    /// Gives back what of the `len` bytes at `at`, which were taken last, is behind the first `used`.
    pub(crate) fn shrink(&mut self, at: Addr, len: u64, used: u64) {
        if used < len {
            self.mark(at + used..at + len, false);
            let from_here = self.cursors.values_mut().filter(|cursor| **cursor == at + len);
            from_here.for_each(|cursor| *cursor = at + used);
        }
    }

    /// Bytes in use of the page at `page`.
    pub(crate) fn used_in(&self, page: Addr) -> u64 {
        self.pages.get(&(page.0 / PAGE)).map_or(0, |page| u64::from(page.used))
    }

    /// The first byte from `at` on that is not in use.
    fn first_free(&self, at: Addr) -> Addr {
        let mut at = at.0;
        while let Some(page) = self.pages.get(&(at / PAGE)) {
            match page.first_free(at % PAGE) {
                Some(free) => return Addr(at - at % PAGE + free),
                None => at = at - at % PAGE + PAGE,
            }
        }
        Addr(at)
    }

    /// The last byte of `range` that is in use.
    fn last_used(&self, range: Range<Addr>) -> Option<Addr> {
        let mut end = range.end.0;
        while end > range.start.0 {
            let start = range.start.0.max((end - 1) & !(PAGE - 1));
            if let Some(page) = self.pages.get(&(start / PAGE))
                && let Some(last) = page.last_used(start % PAGE, (end - 1) % PAGE + 1)
            {
                return Some(Addr(start - start % PAGE + last));
            }
            end = start;
        }
        None
    }

    fn mark(&mut self, range: Range<Addr>, used: bool) {
        let mut start = range.start.0;
        while start < range.end.0 {
            let end = range.end.0.min((start | (PAGE - 1)) + 1);
            let page = self.pages.entry(start / PAGE).or_insert_with(|| Box::new(Page::default()));
            page.mark(start % PAGE, end - start, used);
            if page.used == 0 {
                self.pages.remove(&(start / PAGE));
            }
            start = end;
        }
    }
}

impl Default for Page {
    fn default() -> Page {
        Page { bits: [0; PAGE as usize / 64], used: 0, longest_free: UNKNOWN }
    }
}

impl Page {
    /// The most bytes in a row that are not in use.
    fn longest_free(&mut self) -> u64 {
        if self.longest_free == UNKNOWN {
            let (mut longest, mut run) = (0, 0);
            for mut word in self.bits {
                let mut left = 64;
                while left > 0 {
                    let free = word.trailing_zeros().min(left);
                    run += free;
                    longest = longest.max(run);
                    (word, left) = (word.checked_shr(free).unwrap_or(0), left - free);
                    let used = word.trailing_ones().min(left);
                    if used > 0 {
                        run = 0;
                    }
                    (word, left) = (word.checked_shr(used).unwrap_or(0), left - used);
                }
            }
            self.longest_free = longest;
        }
        u64::from(self.longest_free)
    }

    fn first_free(&self, start: u64) -> Option<u64> {
        if u64::from(self.used) == PAGE {
            return None;
        }
        let first = start / 64;
        (first..PAGE / 64).find_map(|word| {
            let low = if word == first { start % 64 } else { 0 };
            let free = !self.bits[word as usize] & (u64::MAX << low);
            (free != 0).then(|| word * 64 + u64::from(free.trailing_zeros()))
        })
    }

    fn last_used(&self, start: u64, end: u64) -> Option<u64> {
        for word in (start / 64..=(end - 1) / 64).rev() {
            let low = start.max(word * 64) - word * 64;
            let high = end.min(word * 64 + 64) - word * 64;
            let bits = self.bits[word as usize] & mask(low, high);
            if bits != 0 {
                return Some(word * 64 + 63 - u64::from(bits.leading_zeros()));
            }
        }
        None
    }

    fn mark(&mut self, start: u64, len: u64, used: bool) {
        let end = start + len;
        for word in start / 64..=(end - 1) / 64 {
            let low = start.max(word * 64) - word * 64;
            let high = end.min(word * 64 + 64) - word * 64;
            let bits = &mut self.bits[word as usize];
            *bits = if used { *bits | mask(low, high) } else { *bits & !mask(low, high) };
        }
        self.longest_free = UNKNOWN;
        self.used = if used { self.used + len as u32 } else { self.used - len as u32 };
    }
}

/// Bits `low..high` of a word.
fn mask(low: u64, high: u64) -> u64 {
    (u64::MAX >> (64 - (high - low))) << low
}

/// Placements with the same key admit the same addresses, up to their window, or else windows that move along with
/// the sites: the search for one goes on where that for another ended.
fn cursor_key(place: &Placement) -> (u32, u32) {
    match place.mask & 0x00FF_FFFF {
        0 => (place.mask, 0),
        0xFF => (place.mask, (place.base.0 as u32).wrapping_add(place.value) & 0xFF),
        _ => (place.mask, place.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_never_overlap_and_keep_their_constraint() {
        let mut arena = Arena::new(Addr(0x7000_0000_0000)..Addr(0x7000_1800_0000));
        let mut taken: Vec<Range<Addr>> = Vec::new();
        for n in 0..4000u64 {
            let heads = (n.wrapping_mul(0x9E37_79B9) >> 7) as u8 & 0b1_1110;
            let site = Addr(0x7000_3380_0000 + n * 48);
            let place = Springboard::new(site, heads).placements().next().expect("a placement");
            let len = 17 + n % 40;
            if let Some(at) = arena.allocate(&place, len) {
                assert!(place.admits(at));
                taken.push(at.span(len));
            }
        }
        assert!(taken.len() > 3500, "only {} of 4000 fit", taken.len());
        taken.sort_by_key(|r| r.start);
        assert!(taken.windows(2).all(|w| w[0].end <= w[1].start));
        let total: u64 = taken.iter().map(|r| r.end.0 - r.start.0).sum();
        assert_eq!(arena.used(), total);
        for range in taken {
            arena.free(range);
        }
        assert_eq!(arena.used(), 0);
        assert!(arena.pages.is_empty());
    }

    #[test]
    fn the_longest_free_run_crosses_words() {
        let mut page = Page::default();
        assert_eq!(page.longest_free(), PAGE);
        page.mark(0, 60, true);
        page.mark(200, PAGE - 200, true);
        assert_eq!(page.longest_free(), 140);
        page.mark(100, 1, true);
        assert_eq!(page.longest_free(), 99);
        page.mark(60, 40, true);
        page.mark(101, 99, true);
        assert_eq!(page.longest_free(), 0);
    }

    #[test]
    fn freed_bytes_are_used_again() {
        let mut arena = Arena::new(Addr(0x10_0000)..Addr(0x10_2000));
        let place = Placement { base: Addr(0x20_0000), mask: 0, value: 0 };
        let first = arena.allocate(&place, 5000).expect("room");
        assert_eq!(arena.allocate(&place, 5000), None);
        arena.free(first.span(5000));
        assert_eq!(arena.allocate(&place, 8192), Some(Addr(0x10_0000)));
    }
}
