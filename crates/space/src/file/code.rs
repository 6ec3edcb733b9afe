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

/// What was written into reservations, as pages of a file.
#[derive(Default)]
pub(super) struct Pool {
    /// Where the written bytes are, ascending by address. No byte of the pool is in two runs, so tools that look at the
    /// sections of the file find no overlap.
    pub runs: Vec<Run>,
    /// What is to be mapped, ascending: each from the start of a run to the end of another. Pages between those show
    /// whatever the pool has there.
    pub segments: Vec<Run>,
    pub bytes: Vec<u8>,
}

/// A page of the pool, and the ranges of it that are taken.
struct Shared {
    bytes: [u8; SIZE],
    taken: Vec<Range<usize>>,
}

impl Shared {
    fn new() -> Shared {
        Shared { bytes: [TRAP; SIZE], taken: Vec::new() }
    }

    fn fits(&self, used: &Range<usize>) -> bool {
        !self.taken.iter().any(|taken| taken.start < used.end && used.start < taken.end)
    }

    fn take(&mut self, page: &Page, used: Range<usize>) {
        self.bytes[used.clone()].copy_from_slice(&page.bytes[used.clone()]);
        self.taken.push(used);
    }
}

/// Neighbouring pages that are one run.
type Stretch<'p> = &'p [(u64, &'p Page)];

/// All written pages of `reservations`, as runs and segments over a pool of pages. No segment covers any of `others`.
///
/// A page on its own often has a few bytes only, where just one address would do: such pages share one page of the
/// pool, each with its bytes at their place and those of others before and behind them. If more than `most` pages would
/// be needed, neighbours that hold little are taken apart, so that they can share.
///
/// Each segment is a mapping to be made when the program starts, so runs that lie close together become one segment, whose
/// pages between them show those of other runs. Where there are not enough others the pool grows, but not beyond `room`
/// pages. The pages between runs, all together, are at most `between`: tools that write the file anew (strip) give each
/// segment pages of its own.
pub(super) fn pool(reservations: &[Code], others: &[Range<u64>], [room, most, between]: [u64; 3]) -> Pool {
    let mut pages: Vec<(u64, &Page)> = reservations
        .iter()
        .flat_map(|code| code.pages.iter().map(|(number, page)| (*number, &**page)))
        .collect();
    pages.sort_by_key(|(number, _)| *number);
    let stretches = |little| -> Vec<Stretch<'_>> {
        let full = |page: &Page| little == 0 || page.used.len() > little;
        pages.chunk_by(|a, b| a.0 + 1 == b.0 && full(a.1) && full(b.1)).collect()
    };
    let mut best = (stretches(0), u64::MAX);
    // Pages that hold up to so many bytes stand alone.
    for little in [0, SIZE / 16, SIZE / 4, SIZE / 2] {
        let apart = stretches(little);
        let len = pack(&join(&apart, others, None)).bytes.len().div_ceil(SIZE) as u64;
        if len < best.1 {
            best = (apart, len);
        }
        if best.1 <= most {
            break;
        }
    }
    let (runs, len) = best;
    let pages = |pool: &Pool| pool.bytes.len().div_ceil(SIZE) as u64;
    let joined = (0..=8).map(|eighths| pack(&join(&runs, others, Some(between * eighths / 8))));
    let fitting = joined.filter(|joined| pages(joined) <= len.max(room));
    fitting
        .min_by_key(|joined| (joined.segments.len(), pages(joined)))
        .unwrap_or_else(|| pack(&join(&runs, others, None)))
}

/// Parts `runs` into those of each segment: gaps are closed from the smallest on, until they have `between` pages; without
/// that, none is.
fn join<'r, 'p>(
    runs: &'r [Stretch<'p>],
    others: &[Range<u64>],
    between: Option<u64>,
) -> Vec<&'r [Stretch<'p>]> {
    let last = |run: Stretch<'_>| run[run.len() - 1].0;
    let gap = |a: Stretch<'_>, b: Stretch<'_>| b[0].0 - last(a) - 1;
    let is_free = |a: Stretch<'_>, b: Stretch<'_>| {
        let gap = (last(a) + 1) * PAGE..b[0].0 * PAGE;
        !others.iter().any(|other| other.start < gap.end && gap.start < other.end)
    };
    let mut gaps: Vec<u64> = runs.windows(2).map(|two| gap(two[0], two[1])).collect();
    gaps.sort_unstable();
    let mut left = between;
    // All gaps of one size, or none.
    let affordable = gaps.chunk_by(|a, b| a == b).take_while(|same| {
        left = left.and_then(|left| left.checked_sub(same.iter().sum()));
        left.is_some()
    });
    let widest = affordable.last().map(|same| same[0]);
    runs.chunk_by(|a, b| widest.is_some_and(|widest| gap(a, b) <= widest) && is_free(a, b)).collect()
}

/// A segment in its place in the pool, and where in the pool its runs begin.
struct Placed {
    whole: Run,
    begins: Vec<u64>,
}

/// Tools (eu-elflint) take a section for one of the first segment that shows where it begins, and miss sections in segments
/// that have none. So of each segment the beginning of one run at least is shown by no segment before it.
fn all_have_sections(placed: &[Placed], new: &Placed) -> bool {
    let shows = |segment: &Run, at: u64| (segment.offset..segment.offset + segment.len).contains(&at);
    let before = |a: &Run, b: &Run| a.at < b.at;
    let hidden = |by: &Placed, of: &Placed, at: u64| before(&by.whole, &of.whole) && shows(&by.whole, at);
    let keeps = |one: &Placed| {
        let stays = |at: &u64| !hidden(new, one, *at) && !placed.iter().any(|other| hidden(other, one, *at));
        one.begins.iter().any(stays)
    };
    // Only those that it hides something of may lose their last one.
    let touched = |one: &&Placed| one.begins.iter().any(|at| hidden(new, one, *at));
    keeps(new) && placed.iter().filter(touched).all(keeps)
}

/// Finds places in a pool for all runs of each segment.
fn pack(segments: &[&[Stretch<'_>]]) -> Pool {
    let mut order: Vec<&[Stretch<'_>]> = segments.to_vec();
    let pages = |segment: &[Stretch<'_>]| segment.iter().map(|run| run.len()).sum::<usize>();
    // Long ones first, then full ones: small ones find their place between.
    order.sort_by_key(|segment| {
        let (number, first) = &segment[0][0];
        std::cmp::Reverse((pages(segment), first.used.len(), *number))
    });
    let mut shared: Vec<Shared> = Vec::new();
    let mut pool = Pool::default();
    let mut known: Vec<Placed> = Vec::new();
    for segment in order {
        let first = segment[0][0].0;
        // Where each page lies in the segment, and which of its bytes belong to its run: all but before the first and
        // behind the last.
        let places: Vec<(usize, &Page, Range<usize>)> = segment
            .iter()
            .flat_map(|run| {
                run.iter().enumerate().map(move |(n, (number, page))| {
                    let from = if n == 0 { page.used.start } else { 0 };
                    let to = if n + 1 == run.len() { page.used.end } else { SIZE };
                    ((number - first) as usize, *page, from..to)
                })
            })
            .collect();
        let (begin, last) = (first * PAGE + segment[0][0].1.used.start as u64, segment[segment.len() - 1]);
        let end = last[last.len() - 1].0 * PAGE + last[last.len() - 1].1.used.end as u64;
        let whole = |from: usize| Run {
            at: begin,
            offset: begin + from as u64 * PAGE - first * PAGE,
            len: end - begin,
        };
        let place = |from: usize| {
            let begin = |run: &Stretch<'_>| {
                let at = run[0].0 * PAGE + run[0].1.used.start as u64;
                at + from as u64 * PAGE - first * PAGE
            };
            Placed { whole: whole(from), begins: segment.iter().map(begin).collect() }
        };
        let fits = |from: usize| {
            places.iter().all(|(n, _, used)| shared.get(from + n).is_none_or(|page| page.fits(used)))
                && all_have_sections(&known, &place(from))
        };
        let from = (0..shared.len()).find(|&from| fits(from)).unwrap_or(shared.len());
        known.push(place(from));
        for (n, page, used) in places {
            if from + n >= shared.len() {
                shared.resize_with(from + n + 1, Shared::new);
            }
            shared[from + n].take(page, used);
        }
        let placed = segment.iter().map(|run| {
            let ((start, head), (end, tail)) = (run[0], run[run.len() - 1]);
            let (at, end) = (start * PAGE + head.used.start as u64, end * PAGE + tail.used.end as u64);
            Run { at, offset: at + from as u64 * PAGE - first * PAGE, len: end - at }
        });
        pool.runs.extend(placed);
        pool.segments.push(whole(from));
    }
    pool.runs.sort_by_key(|run| run.at);
    pool.segments.sort_by_key(|segment| segment.at);
    pool.bytes = shared.iter().flat_map(|page| page.bytes).collect();
    pool.bytes.truncate(pool.runs.iter().map(|run| (run.offset + run.len) as usize).max().unwrap_or(0));
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Run {
        fn end(&self) -> u64 {
            self.at + self.len
        }
    }

    fn apart(reservations: &[Code], most: u64) -> Pool {
        pool(reservations, &[], [0, most, 0])
    }

    fn shows(pool: &Pool, run: &Run) -> Vec<u8> {
        assert_eq!(run.offset % PAGE, run.at % PAGE);
        pool.bytes[run.offset as usize..][..run.len as usize].to_vec()
    }

    fn scattered() -> Code {
        let mut code = Code::new(Addr(0x10_0000), 0x10_0000);
        code.write(Addr(0x10_0010), &[1, 2]);
        code.write(Addr(0x10_3020), &[3, TRAP, 4]);
        code.write(Addr(0x10_5011), &[5]);
        code.write(Addr(0x10_7FFF), &[6, 7]);
        code
    }

    #[test]
    fn pages_with_bytes_at_different_places_share_one() {
        let pool = apart(&[scattered()], u64::MAX);
        assert_eq!(pool.segments, pool.runs);
        for (at, expected) in
            [(0x10_0010, &[1, 2][..]), (0x10_3020, &[3, TRAP, 4]), (0x10_5011, &[5]), (0x10_7FFF, &[6, 7])]
        {
            assert_eq!(shows(&pool, pool.runs.iter().find(|run| run.at == at).expect("a run")), expected);
        }
        // The long run takes two pages; one of the two that are in each other's way goes on either.
        assert_eq!(pool.bytes.len().div_ceil(SIZE), 2);
        let pairs = pool.runs.iter().flat_map(|a| pool.runs.iter().map(move |b| (a, b)));
        for (run, next) in pairs.filter(|(a, b)| a != b) {
            assert!(run.offset + run.len <= next.offset || next.offset + next.len <= run.offset);
        }
    }

    #[test]
    fn runs_that_lie_close_together_are_one_segment() {
        let code = [scattered()];
        let joined = pool(&code, &[], [6, u64::MAX, 2]);
        let places: Vec<_> = joined.segments.iter().map(|segment| (segment.at, segment.len)).collect();
        assert_eq!(places, [(0x10_0010, 2), (0x10_3020, 0x4FE1)], "the two gaps of a page each");
        for run in &joined.runs {
            let segment = joined.segments.iter().find(|s| s.at <= run.at && run.end() <= s.end());
            let segment = segment.expect("a segment shows it");
            assert_eq!(run.offset - segment.offset, run.at - segment.at);
        }
        assert_eq!(
            joined.bytes.len().div_ceil(SIZE),
            6,
            "without others to share, the pages between are spent"
        );
        let spared = pool(&code, &[], [5, u64::MAX, 2]);
        assert_eq!(spared.segments.len(), 4, "they would take more than there are to spare");
        let data = 0x10_4000..0x10_5000;
        let around = pool(&code, &[data], [4, u64::MAX, 2]);
        assert!(around.segments.iter().all(|segment| segment.end() <= 0x10_4000 || segment.at >= 0x10_5000));
        assert_eq!(around.segments.len(), 3);
    }

    #[test]
    fn pages_between_runs_show_those_of_others() {
        let mut code = Code::new(Addr(0x10_0000), 0x100_0000);
        for page in 0..8 {
            code.write(Addr(0x10_0000 + page * 2 * PAGE), &[page as u8; SIZE]);
            code.write(Addr(0x80_0000 + page * 2 * PAGE), &[page as u8 + 8; SIZE]);
        }
        let pool = pool(&[code], &[], [16, u64::MAX, 14]);
        assert_eq!((pool.runs.len(), pool.segments.len()), (16, 2));
        assert_eq!(pool.bytes.len().div_ceil(SIZE), 16);
        let [low, high] = [pool.segments[0], pool.segments[1]];
        assert!(high.offset < low.offset, "the second segment begins where the first shows nothing");
        for run in &pool.runs {
            let expected = (run.at >> 13 & 7) as u8 + if run.at < 0x80_0000 { 0 } else { 8 };
            assert_eq!(shows(&pool, run), [expected; SIZE]);
        }
    }

    /// Whatever is joined and shared, tools find a section for each segment.
    #[test]
    fn each_segment_has_a_run_that_none_before_it_shows() {
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        let mut code = Code::new(Addr(0x10_0000), 0x1000_0000);
        for _ in 0..300 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = 0x10_0000 + (random >> 33) % 1200 * PAGE + (random >> 20) % 3000;
            code.write(Addr(at), &[1; 30]);
        }
        let pool = pool(&[code], &[], [400, u64::MAX, 200]);
        let shows = |segment: &Run, at: u64| (segment.offset..segment.offset + segment.len).contains(&at);
        assert!(pool.segments.len() < pool.runs.len(), "{}", pool.segments.len());
        for (n, segment) in pool.segments.iter().enumerate() {
            let within = pool.runs.iter().filter(|run| segment.at <= run.at && run.end() <= segment.end());
            let own = |run: &Run| !pool.segments[..n].iter().any(|before| shows(before, run.offset));
            assert!(within.into_iter().any(own), "{segment:?}");
        }
    }

    #[test]
    fn neighbours_that_hold_little_are_taken_apart_where_pages_are_short() {
        let mut code = Code::new(Addr(0x10_0000), 0x10_0000);
        for page in 0..8 {
            code.write(Addr(0x10_0000 + page * PAGE + page * 100), &[page as u8 + 1; 20]);
        }
        let code = [code];
        let pool = apart(&code, 8);
        assert_eq!((pool.runs.len(), pool.bytes.len().div_ceil(SIZE)), (1, 8));
        let pool = apart(&code, 4);
        assert_eq!((pool.runs.len(), pool.bytes.len().div_ceil(SIZE)), (8, 1));
        for (page, run) in (0..8).zip(&pool.runs) {
            assert_eq!(run.at, 0x10_0000 + page * PAGE + page * 100);
            assert_eq!(shows(&pool, run), [page as u8 + 1; 20]);
        }
    }
}
