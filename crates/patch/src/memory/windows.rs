//! Windows: the few stretches of memory in which all trampolines find places that lie together, where each stretch has a cost.
//!
//! The two upper bytes of a springboard's displacement tell in which 64 KiB its trampoline lies. Where they are bound (a trap
//! byte at a head, or a byte that is kept), the lowest places of one springboard are seldom places of the next: python3 with a
//! counter at every function had 245 mappings so. But of the many places that each has, some are those of others.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Bound, Springboard, TRAP, is_illegal};
use rustc_hash::FxHashMap;

use crate::memory::arena::Arena;
use crate::memory::holes::overlap;

/// As many addresses as the two lower bytes of a displacement tell apart.
const BLOCK: u64 = 1 << 16;
/// What a displacement's upper bytes choose begins anywhere in a block, so that a window has two of them.
const WINDOW: u64 = 2 * BLOCK;
/// So many bytes of a window are counted on: what is bound below the upper bytes leaves gaps.
const ROOM: u64 = WINDOW * 3 / 4;
/// Blocks on either side that a displacement reaches.
const REACH: i64 = 1 << 15;
/// Sites further apart than so many blocks are left alone.
const SPAN_MAX: i64 = 1 << 16;
/// The most windows there may be.
const WINDOWS_MAX: usize = 256;

/// A stretch in which trampolines lie together.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub range: Range<Addr>,
    /// There is no place for so many bytes that may lie anywhere.
    full: u64,
}

impl Window {
    fn new(range: Range<Addr>) -> Window {
        Window { range, full: u64::MAX }
    }

    /// Takes `len` bytes for a trampoline of `board` in one of `arenas`, on pages in use unless `fresh`.
    pub(crate) fn allocate(
        &mut self,
        arenas: &mut [Arena],
        board: &Springboard,
        len: u64,
        fresh: bool,
    ) -> Option<Addr> {
        if len >= self.full {
            return None;
        }
        let mut arenas = arenas.iter_mut().filter(|arena| overlap(&arena.range(), &self.range));
        let at = arenas.find_map(|arena| match fresh {
            true => arena.allocate_within(board, len, &self.range),
            false => arena.allocate_on_used(board, len, &self.range),
        });
        if fresh && at.is_none() && board.freedom() == 32 {
            self.full = len;
        }
        at
    }
}

/// Springboards that have the same windows.
struct Class {
    /// The block from which displacements are counted.
    block: i64,
    /// The two upper bytes.
    bounds: [Bound; 2],
    /// How many they are, and the bytes their trampolines take.
    boards: u32,
    bytes: u64,
}

impl Class {
    /// The windows that have all places of one displacement's upper bytes, by their first block.
    fn windows(&self) -> impl Iterator<Item = i64> + '_ {
        values(self.bounds[1]).flat_map(move |high| {
            values(self.bounds[0]).map(move |low| self.block + i64::from(i16::from_le_bytes([low, high])))
        })
    }

    fn admits(&self, window: i64) -> bool {
        let Ok(upper) = i16::try_from(window - self.block) else { return false };
        upper.to_le_bytes().into_iter().zip(self.bounds).all(|(byte, bound)| is_allowed(bound, byte))
    }

    /// In how many of 65,536 blocks it may lie.
    fn freedom(&self) -> usize {
        self.bounds.into_iter().map(|bound| values(bound).count()).product()
    }

    /// Whether it leaves bytes of the program where they are: its own memory may be no more than its one window.
    fn is_kept(&self) -> bool {
        self.bounds.into_iter().any(|bound| matches!(bound, Bound::Is(_)))
    }
}

fn is_allowed(bound: Bound, byte: u8) -> bool {
    match bound {
        Bound::Free => true,
        Bound::Trap => byte == TRAP || is_illegal(byte),
        Bound::Is(value) => byte == value,
    }
}

fn values(bound: Bound) -> impl Iterator<Item = u8> {
    (0..=u8::MAX).filter(move |&byte| is_allowed(bound, byte))
}

/// Windows in `arenas` for springboards, each with the length of its trampoline: again and again the one in which most have
/// places that have none in those before it, as long as it has room.
pub(crate) fn windows(boards: impl Iterator<Item = (Springboard, u64)>, arenas: &[Arena]) -> Vec<Window> {
    let mut classes = classes(boards);
    let blocks = || classes.iter().map(|class| class.block);
    let (Some(first), Some(last)) = (blocks().min(), blocks().max()) else { return Vec::new() };
    if last - first > SPAN_MAX {
        return Vec::new();
    }
    let lowest = first - REACH;
    let mut scores = vec![0u32; (last + REACH - lowest) as usize];
    let (inside, touched) = usable(arenas, lowest, scores.len());
    let weigh = |scores: &mut [u32], class: &Class, taken: bool| {
        let usable = if class.is_kept() { &touched } else { &inside };
        for index in class.windows().map(|window| (window - lowest) as usize).filter(|&index| usable[index]) {
            scores[index] = if taken { scores[index] - class.boards } else { scores[index] + class.boards };
        }
    };
    classes.iter().for_each(|class| weigh(&mut scores, class, false));
    let mut found = Vec::new();
    while found.len() < WINDOWS_MAX {
        let best = scores.iter().enumerate().max_by_key(|&(index, &score)| (score, std::cmp::Reverse(index)));
        let Some((index, 2..)) = best else { break };
        let window = lowest + index as i64;
        let mut room = ROOM;
        classes.retain(|class| {
            let usable = if class.is_kept() { &touched } else { &inside };
            let covered = room > 0 && usable[index] && class.admits(window);
            if covered {
                room = room.saturating_sub(class.bytes);
                weigh(&mut scores, class, true);
            }
            !covered
        });
        let start = Addr(window as u64 * BLOCK);
        found.push(Window::new(start..start + WINDOW));
    }
    found
}

/// Those whose upper bytes are bound, the most constrained first.
fn classes(boards: impl Iterator<Item = (Springboard, u64)>) -> Vec<Class> {
    let mut classes: FxHashMap<(i64, [Bound; 2]), Class> = FxHashMap::default();
    for (board, len) in boards {
        let bounds = [board.bound_at(2), board.bound_at(3)];
        if bounds != [Bound::Free; 2] {
            let block = (board.base().0 / BLOCK) as i64;
            let class =
                classes.entry((block, bounds)).or_insert(Class { block, bounds, boards: 0, bytes: 0 });
            class.boards += 1;
            class.bytes += len;
        }
    }
    let mut classes: Vec<Class> = classes.into_values().collect();
    classes.sort_by_cached_key(|class| (class.freedom(), class.block, class.bytes));
    classes
}

/// Which of `len` windows from block `lowest` on lie in an arena, and which have some of one.
fn usable(arenas: &[Arena], lowest: i64, len: usize) -> (Vec<bool>, Vec<bool>) {
    let (mut inside, mut touched) = (vec![false; len], vec![false; len]);
    for arena in arenas.iter().map(Arena::range) {
        let mark = |usable: &mut [bool], from: u64, to: u64| {
            let index = |block: u64| (block as i64 - lowest).clamp(0, len as i64) as usize;
            let (from, to) = (index(from), index(to));
            usable[from..to.max(from)].fill(true);
        };
        let (start, end) = (arena.start.0, arena.end.0);
        mark(&mut inside, start.div_ceil(BLOCK), (end / BLOCK).saturating_sub(1));
        mark(&mut touched, (start / BLOCK).saturating_sub(1), end.div_ceil(BLOCK));
    }
    (inside, touched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(boards: impl Iterator<Item = (Springboard, u64)>, arenas: &[Arena]) -> Vec<Range<Addr>> {
        windows(boards, arenas).into_iter().map(|window| window.range).collect()
    }

    #[test]
    fn sites_with_trap_bytes_share_few_windows() {
        let text = Addr(0x40_0000);
        let arenas = [Arena::new(Addr(0x6040_0000)..Addr(0x6200_0000))];
        let boards = (0..4000u64).map(|n| {
            let heads = [0b0_1000, 0b1_0000, 0b1_1000, 0b1_0100, 0b0_1100][n as usize % 5];
            (Springboard::new(text + n * 640, heads), 40)
        });
        let windows = ranges(boards.clone(), &arenas);
        assert!((1..=16).contains(&windows.len()), "{} windows", windows.len());
        for (board, _) in boards {
            let place = windows.iter().find_map(|window| board.next(window.start, window.end));
            assert!(place.is_some(), "{board:?} has no place");
        }
    }

    #[test]
    fn trampolines_of_a_window_lie_close_together() {
        let mut arenas = [Arena::new(Addr(0x0600_0000)..Addr(0x0700_0000))];
        let board = |n: u64| Springboard::new(Addr(0x40_0000 + n * 16), [0b1_0000, 0b1_0010][n as usize % 2]);
        let mut windows = windows((0..400).map(|n| (board(n), 40)), &arenas);
        let mut taken: Vec<Range<Addr>> = Vec::new();
        for n in 0..400 {
            let at = windows[0].allocate(&mut arenas, &board(n), 40, true).expect("room");
            assert!(board(n).encode(at).is_some());
            // The last eight bytes were not needed.
            arenas[0].shrink(at, 40, 32);
            taken.push(at.span(32));
        }
        taken.sort_unstable_by_key(|range| range.start);
        assert!(taken.windows(2).all(|two| two[0].end <= two[1].start));
        let all = taken[399].end.offset_from(taken[0].start);
        assert!(all < 400 * 40, "{all} bytes for 400 times 32");
    }

    #[test]
    fn windows_lie_where_memory_is() {
        let board = |n: u64| (Springboard::new(Addr(0x40_0000 + n * 16), 0b1_1000), 40);
        assert_eq!(ranges((0..9).map(board), &[]), []);
        let arena = 0x0646_0000..0x0649_0000;
        let arenas = [Arena::new(Addr(arena.start)..Addr(arena.end))];
        let found = ranges((0..9).map(board), &arenas);
        assert_eq!(found, [Addr(0x0646_0000)..Addr(0x0648_0000)], "both upper bytes are 06");
        let free = |n: u64| (Springboard::new(Addr(0x40_0000 + n * 16), 0b0_0110), 40);
        assert_eq!(ranges((0..9).map(free), &arenas), [], "they have places everywhere");
    }

    #[test]
    fn what_one_window_has_no_room_for_gets_another() {
        let arenas = [Arena::new(Addr(0x0600_0000)..Addr(0x0700_0000))];
        let board = |n: u64| (Springboard::new(Addr(0x40_0000 + n * 16), 0b1_0000), 100);
        assert_eq!(ranges((0..100).map(board), &arenas).len(), 1);
        let board = |n: u64| (Springboard::new(Addr(0x40_0000 + n * 160), 0b1_0000), 100);
        assert!(ranges((0..4000).map(board), &arenas).len() > 3, "400,000 bytes");
    }
}
