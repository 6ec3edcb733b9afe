//! Executable memory that is reserved in a file: only what is written gets into it.

use std::collections::BTreeMap;
use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::TRAP;

use super::PAGE;

const SIZE: usize = PAGE as usize;

/// A reservation, and the pages of it that were written.
pub(super) struct Code {
    pub at: Addr,
    pub len: u64,
    pages: BTreeMap<u64, Box<Page>>,
}

/// The bytes of a page, and the range of those that were written.
#[derive(Clone)]
struct Page {
    bytes: [u8; SIZE],
    used: Range<usize>,
}

impl Page {
    fn new() -> Page {
        Page { bytes: [TRAP; SIZE], used: Range { start: SIZE, end: 0 } }
    }

    fn set(&mut self, at: usize, byte: u8) {
        self.bytes[at] = byte;
        self.used = self.used.start.min(at)..self.used.end.max(at + 1);
    }
}

impl Code {
    pub(super) fn new(at: Addr, len: u64) -> Code {
        Code { at, len, pages: BTreeMap::new() }
    }

    /// Whether all `len` bytes at `at` are in this reservation.
    pub(super) fn holds(&self, at: Addr, len: u64) -> bool {
        at.0.checked_sub(self.at.0).and_then(|into| into.checked_add(len)).is_some_and(|end| end <= self.len)
    }

    /// Writes bytes that are in this reservation.
    pub(super) fn write(&mut self, at: Addr, bytes: &[u8]) {
        for (n, &byte) in bytes.iter().enumerate() {
            let at = at.0 + n as u64;
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Box::new(Page::new()));
            page.set((at % PAGE) as usize, byte);
        }
    }

    /// Reads bytes that are in this reservation.
    pub(super) fn read(&self, at: Addr, into: &mut [u8]) {
        for (n, byte) in into.iter_mut().enumerate() {
            let at = at.0 + n as u64;
            *byte = self.pages.get(&(at / PAGE)).map_or(TRAP, |page| page.bytes[(at % PAGE) as usize]);
        }
    }
}

/// A stretch of memory that shows a stretch of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Its address.
    pub at: u64,
    /// Where in the pool it begins: on the same offset in a page.
    pub offset: u64,
    pub len: u64,
}

/// A page of the pool, and the ranges of it that are taken.
struct Shared {
    bytes: [u8; SIZE],
    taken: Vec<Range<usize>>,
}

impl Shared {
    fn fits(&self, used: &Range<usize>) -> bool {
        !self.taken.iter().any(|taken| taken.start < used.end && used.start < taken.end)
    }

    fn take(&mut self, page: &Page, used: Range<usize>) {
        self.bytes[used.clone()].copy_from_slice(&page.bytes[used.clone()]);
        self.taken.push(used);
    }
}

/// All written pages of `reservations`, as runs over a pool of pages, ascending by address.
///
/// A page on its own often has a few bytes only, where just one address would do: such pages share one page of the
/// pool, each with its bytes at their place and those of others before and behind them. No byte of the pool is in two
/// runs, so tools that look at the file find no overlap.
///
/// Up to `spare` pages are spent on joining runs that lie close together: each run is a mapping to be made when the
/// program starts. But if more than `most` pages would be needed, neighbours that hold little are taken apart, so that
/// they can share.
pub(super) fn pool(reservations: &[Code], spare: u64, most: u64) -> (Vec<Run>, Vec<u8>) {
    let mut pages: Vec<(u64, &Page)> = reservations
        .iter()
        .flat_map(|code| code.pages.iter().map(|(number, page)| (*number, &**page)))
        .collect();
    pages.sort_by_key(|(number, _)| *number);
    let blank = Page::new();
    let filled = fill_gaps(&pages, &blank, spare);
    let mut best = pack(&filled, 0);
    // Pages that hold up to so many bytes stand alone.
    for little in [SIZE / 16, SIZE / 4, SIZE / 2] {
        if best.1.len().div_ceil(SIZE) as u64 <= most {
            break;
        }
        let apart = pack(&pages, little);
        if apart.1.len() < best.1.len() {
            best = apart;
        }
    }
    best
}

/// Runs of neighbours that hold more than `little` each, or of one page, and the pool they show.
fn pack(pages: &[(u64, &Page)], little: usize) -> (Vec<Run>, Vec<u8>) {
    let full = |page: &Page| little == 0 || page.used.len() > little;
    let mut stretches: Vec<&[(u64, &Page)]> =
        pages.chunk_by(|a, b| a.0 + 1 == b.0 && full(a.1) && full(b.1)).collect();
    // Long ones first, then full ones: small ones find their place between.
    stretches.sort_by_key(|stretch| {
        let (number, first) = &stretch[0];
        std::cmp::Reverse((stretch.len(), first.used.len(), *number))
    });
    let mut pool: Vec<Shared> = Vec::new();
    let mut runs = Vec::new();
    for stretch in stretches {
        let len = stretch.len();
        // The bytes of each page that belong to the run: all but before its first and behind its last.
        let used = |n: usize| {
            let own = &stretch[n].1.used;
            (if n == 0 { own.start } else { 0 })..(if n + 1 == len { own.end } else { SIZE })
        };
        let fits =
            |from: usize| pool[from..].iter().take(len).enumerate().all(|(n, page)| page.fits(&used(n)));
        let from = (0..pool.len().saturating_sub(len - 1)).find(|&from| fits(from)).unwrap_or(pool.len());
        for (n, (_, page)) in stretch.iter().enumerate() {
            if from + n == pool.len() {
                pool.push(Shared { bytes: [TRAP; SIZE], taken: Vec::new() });
            }
            pool[from + n].take(page, used(n));
        }
        let begin = used(0).start as u64;
        let end = (len as u64 - 1) * PAGE + used(len - 1).end as u64;
        runs.push(Run {
            at: stretch[0].0 * PAGE + begin,
            offset: from as u64 * PAGE + begin,
            len: end - begin,
        });
    }
    runs.sort_by_key(|run| run.at);
    let mut bytes: Vec<u8> = pool.iter().flat_map(|page| page.bytes).collect();
    bytes.truncate(runs.iter().map(|run| (run.offset + run.len) as usize).max().unwrap_or(0));
    (runs, bytes)
}

/// Puts `blank` pages into the smallest gaps between `pages`, at most `spare` in all.
fn fill_gaps<'p>(pages: &[(u64, &'p Page)], blank: &'p Page, mut spare: u64) -> Vec<(u64, &'p Page)> {
    let mut gaps: Vec<(u64, u64)> =
        pages.windows(2).map(|two| (two[1].0 - two[0].0 - 1, two[0].0 + 1)).collect();
    gaps.retain(|(len, _)| *len > 0);
    gaps.sort_unstable();
    let mut filled = pages.to_vec();
    for (len, start) in gaps {
        let Some(left) = spare.checked_sub(len) else { break };
        spare = left;
        filled.extend((start..start + len).map(|number| (number, blank)));
    }
    filled.sort_by_key(|(number, _)| *number);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_with_bytes_at_different_places_share_one() {
        let mut code = Code::new(Addr(0x10_0000), 0x10_0000);
        code.write(Addr(0x10_0010), &[1, 2]);
        code.write(Addr(0x10_3020), &[3, TRAP, 4]);
        code.write(Addr(0x10_5011), &[5]);
        code.write(Addr(0x10_7FFF), &[6, 7]);
        let (joined, _) = pool(std::slice::from_ref(&code), 3, u64::MAX);
        assert_eq!(joined.len(), 2, "the two smallest gaps, of a page each, take two of three");
        let (runs, bytes) = pool(&[code], 0, u64::MAX);
        for (at, expected) in
            [(0x10_0010, &[1, 2][..]), (0x10_3020, &[3, TRAP, 4]), (0x10_5011, &[5]), (0x10_7FFF, &[6, 7])]
        {
            let run = runs.iter().find(|run| run.at == at).expect("a run");
            assert_eq!(run.offset % PAGE, at % PAGE);
            assert_eq!(&bytes[run.offset as usize..][..run.len as usize], expected);
        }
        // The long run takes two pages; one of the two that are in each other's way goes on either.
        assert_eq!(bytes.len().div_ceil(SIZE), 2);
        for (run, next) in runs.iter().flat_map(|a| runs.iter().map(move |b| (a, b))).filter(|(a, b)| a != b)
        {
            assert!(run.offset + run.len <= next.offset || next.offset + next.len <= run.offset);
        }
    }

    #[test]
    fn neighbours_that_hold_little_are_taken_apart_where_pages_are_short() {
        let mut code = Code::new(Addr(0x10_0000), 0x10_0000);
        for page in 0..8 {
            code.write(Addr(0x10_0000 + page * PAGE + page * 100), &[page as u8 + 1; 20]);
        }
        let (runs, bytes) = pool(std::slice::from_ref(&code), 0, 8);
        assert_eq!((runs.len(), bytes.len().div_ceil(SIZE)), (1, 8));
        let (runs, bytes) = pool(&[code], 0, 4);
        assert_eq!((runs.len(), bytes.len().div_ceil(SIZE)), (8, 1));
        for (page, run) in (0..8).zip(&runs) {
            assert_eq!(run.at, 0x10_0000 + page * PAGE + page * 100);
            assert_eq!(&bytes[run.offset as usize..][..run.len as usize], [page as u8 + 1; 20]);
        }
    }
}
