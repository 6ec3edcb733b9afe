//! Memory of the target for trampolines and data: what is reserved, near the code it serves, and what of it is free.

pub(crate) mod arena;
pub(crate) mod data;
mod holes;
mod pool;
mod windows;

use std::ops::Range;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_isa::native::{Placement, Springboard, TRAP};
use incise_space::{AddressSpace, SpaceError};

use crate::memory::arena::{Arena, PAGE};
use crate::memory::holes::{
    HIGHEST, LOWEST, choose_arena, clusters, far_arena, len, nearest_hole, overlap, serves,
};
use crate::memory::pool::Pool;
use crate::memory::windows::{Window, windows};

/// Bytes reserved for counters at a time.
const DATA_LEN: u64 = 4 << 20;
/// Scattered windows are joined to arenas of up to this many bytes; unused pages of an arena cost nothing.
const JOIN: i64 = 1 << 30;
/// Bytes behind a window that a trampoline beginning inside may need.
const TRAMPOLINE_ROOM: u64 = 512;
/// The most arenas there may be: each is a mapping.
const ARENAS_MAX: usize = 48;
/// An arena where the size of the address space is bounded, and the least one that will do.
const BOUNDED_CODE: u64 = 1 << 18;
const LEAST_CODE: u64 = 1 << 16;

/// The memory an engine holds in the target.
#[derive(Default)]
pub(crate) struct Memory {
    pub arenas: Vec<Arena>,
    pub data: Pool,
    /// Stretches of sites that have the best arena there was.
    served: Vec<Range<Addr>>,
    /// Where packed trampolines lie before others.
    windows: Vec<Window>,
}

/// New reservations that a plan needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reservations {
    /// Arenas.
    pub code: Vec<Range<Addr>>,
    /// Stretches of sites they are for.
    pub clusters: Vec<Range<Addr>>,
    /// Data memory.
    pub data: Vec<Range<Addr>>,
    /// Bytes of it that are needed.
    pub data_needed: u64,
}

impl Memory {
    /// What has to be reserved so that every one of `sites` (ascending) has an arena and, for `counters`
    /// further quadwords, data in reach. Pure: reads the map only.
    pub(crate) fn missing(&self, map: &MemoryMap, sites: &[Addr], counters: usize) -> Reservations {
        let mut wanted = Reservations {
            data_needed: Addr(counters as u64 * 8).align_up(PAGE).0,
            ..Reservations::default()
        };
        let mut taken: Vec<Range<Addr>> = Vec::new();
        for cluster in clusters(sites) {
            let arenas = self.arenas.iter().map(Arena::range).chain(wanted.code.iter().cloned());
            let served = self.served.iter().any(|s| s.start <= cluster.start && cluster.end <= s.end);
            let serving = arenas.clone().find(|arena| serves(arena, &cluster));
            let arena = if serving.is_some() || served {
                serving.or_else(|| arenas.clone().find(|arena| arena.start.in_rel32_of(cluster.start)))
            } else {
                let arena = choose_arena(map, &cluster, &taken).or_else(|| far_arena(map, &cluster, &taken));
                taken.extend(arena.clone());
                wanted.code.extend(arena.clone());
                wanted.clusters.push(cluster.clone());
                arena
            };
            let near = arena.map_or(cluster.start, |arena| arena.end);
            let room = self.data.has_room(near, counters as u64 * 8);
            if counters > 0 && !room && !wanted.data.iter().any(|data| data.start.in_rel32_of(near)) {
                let len = DATA_LEN.max(wanted.data_needed);
                if let Some(at) = nearest_hole(map, near, len, &taken) {
                    taken.push(at.span(len));
                    wanted.data.push(at.span(len));
                }
            }
        }
        wanted
    }

    /// The topmost byte of the displacements that lead from around `site` into most of an arena.
    pub(crate) fn topmost(&self, site: Addr) -> Option<u8> {
        const WINDOW: i64 = 1 << 24;
        let window = |arena: &Arena| {
            let (start, end) = (arena.range().start.offset_from(site), arena.range().end.offset_from(site));
            // Arenas that are made for trampolines hold one window at least, but seldom begin with it.
            let first = start.div_euclid(WINDOW);
            let windows = [first, first + 1].into_iter().filter(|top| i8::try_from(*top).is_ok());
            windows
                .map(|top| ((end.min((top + 1) * WINDOW) - start.max(top * WINDOW)).max(0), top as u8))
                .max()
        };
        let best = self.arenas.iter().filter_map(window).max_by_key(|(room, _)| *room)?;
        (best.0 > 0).then_some(best.1)
    }

    /// Where the trampoline of `board` has to lie, if no arena is there.
    pub(crate) fn unserved(&self, board: &Springboard) -> Option<Range<Addr>> {
        let place = board.placements().next()?;
        let first = place.next(LOWEST, HIGHEST)?;
        // The free bits are the low ones: the window is one stretch.
        let window = first..(first + (1 << place.mask.trailing_zeros().min(31))).min(HIGHEST);
        let served = self.arenas.iter().any(|arena| overlap(&arena.range(), &window));
        (!served).then(|| window.start.align_down(PAGE)..(window.end + TRAMPOLINE_ROOM).align_up(PAGE))
    }

    /// Arenas for scattered `windows`: joined where the memory between them is free, so that there are few.
    pub(crate) fn scattered(&self, map: &MemoryMap, mut windows: Vec<Range<Addr>>) -> Vec<Range<Addr>> {
        windows.sort_by_key(|window| window.start);
        // Nor what was reserved since the map was read.
        let is_free =
            |range: &Range<Addr>| map.is_free(range) && !self.held().any(|held| overlap(&held, range));
        let mut joined: Vec<Range<Addr>> = Vec::new();
        for window in windows {
            if !is_free(&window) {
                continue;
            }
            match joined.last_mut() {
                Some(last)
                    if is_free(&(last.start..window.end)) && window.end.offset_from(last.start) < JOIN =>
                {
                    last.end = last.end.max(window.end);
                }
                _ => joined.push(window),
            }
        }
        joined.truncate(ARENAS_MAX.saturating_sub(self.arenas.len()));
        joined
    }

    /// Takes `len` bytes for a trampoline of a springboard that admits `places`, best first. What may lie anywhere lies in the
    /// nearest arena: others are left to what is bound, and what is in reach of the code is in reach of all of them.
    pub(crate) fn allocate(&mut self, places: impl Iterator<Item = Placement>, len: u64) -> Option<Addr> {
        for place in places {
            let nearest = if place.mask == 0 { self.nearest(place.base) } else { None };
            if let Some(at) = nearest.and_then(|arena| arena.allocate(&place, len)) {
                return Some(at);
            }
            for arena in &mut self.arenas {
                if let Some(at) = arena.allocate(&place, len) {
                    return Some(at);
                }
            }
        }
        None
    }

    fn nearest(&mut self, to: Addr) -> Option<&mut Arena> {
        let distance = |arena: &Arena| {
            let Range { start, end } = arena.range();
            start.offset_from(to).unsigned_abs().min(end.offset_from(to).unsigned_abs())
        };
        self.arenas.iter_mut().min_by_key(|arena| distance(arena))
    }

    /// Takes `len` bytes at a place of `board` from which a jump leads to `target`.
    pub(crate) fn allocate_stub(&mut self, board: &Springboard, len: u64, target: Addr) -> Option<Addr> {
        let leads = |arena: &&mut Arena| {
            let Range { start, end } = arena.range();
            start.in_rel32_of(target) && end.in_rel32_of(target)
        };
        for place in board.placements() {
            let mut arenas = self.arenas.iter_mut().filter(leads);
            if let Some(at) = arenas.find_map(|arena| arena.allocate(&place, len)) {
                return Some(at);
            }
        }
        // Any trap bytes, if that does not take long.
        self.arenas.iter_mut().filter(leads).find_map(|arena| arena.allocate_any(board, len))
    }

    /// Takes `len` bytes for a trampoline that only a trap leads to.
    pub(crate) fn allocate_far(&mut self, len: u64) -> Option<Addr> {
        self.arenas.iter_mut().find_map(|arena| {
            let near = Springboard::new(arena.range().start, 0);
            near.placements().find_map(|place| arena.allocate(&place, len))
        })
    }

    /// Finds windows for packed trampolines of `boards`, each with its likely length.
    pub(crate) fn prepare_packed(&mut self, boards: impl Iterator<Item = (Springboard, u64)>) {
        self.windows = windows(boards, &self.arenas);
    }

    /// The same on as few pages as can be: any trap byte will do. A window comes first, then a page that is in use.
    pub(crate) fn allocate_packed(&mut self, board: &Springboard, len: u64) -> Option<Addr> {
        let arenas = &mut self.arenas;
        for fresh in [false, true] {
            let windows = self.windows.iter_mut();
            let at = windows.filter_map(|window| window.allocate(arenas, board, len, fresh)).next();
            if at.is_some() {
                return at;
            }
        }
        let everywhere = LOWEST..HIGHEST;
        let used = self.arenas.iter_mut().find_map(|arena| arena.allocate_on_used(board, len, &everywhere));
        used.or_else(|| self.arenas.iter_mut().find_map(|arena| arena.allocate_on_fresh(board, len)))
    }

    /// An arena for so many bytes of trampolines without constraints, near `near`. If `trapping`, most jumps there from `near` and behind it
    /// have a trap byte at the top of their displacement, where that can be had: they may cover an instruction that begins four bytes behind them.
    pub(crate) fn bulk(
        &self,
        map: &MemoryMap,
        near: Addr,
        bytes: u64,
        trapping: bool,
    ) -> Option<Range<Addr>> {
        /// Displacements with a trap byte at the top begin here. The longer the trampolines are than the code, the more is added.
        const FIRST: i64 = ((TRAP as i8) as i64) << 24;
        const SLACK: i64 = 1 << 20;
        let taken: Vec<Range<Addr>> = self.held().collect();
        let len = Addr(bytes).align_up(PAGE).0;
        let window = near.0.checked_add_signed(FIRST + SLACK / 2).filter(|_| trapping);
        let apart = window.and_then(|at| {
            let close = |found: &Addr| found.0.abs_diff(at) < SLACK as u64 / 2;
            nearest_hole(map, Addr(at), len, &taken).filter(close)
        });
        apart.or_else(|| nearest_hole(map, near, len, &taken)).map(|at| at.span(len))
    }

    /// All memory that is ours.
    fn held(&self) -> impl Iterator<Item = Range<Addr>> + '_ {
        self.arenas.iter().map(Arena::range).chain(self.data.ranges())
    }

    /// Gives trampoline bytes back.
    pub(crate) fn free(&mut self, range: Range<Addr>) {
        if let Some(arena) = self.arenas.iter_mut().find(|arena| arena.range().contains(&range.start)) {
            arena.free(range);
        }
    }

    /// Bytes of trampolines in use.
    pub(crate) fn used(&self) -> u64 {
        self.arenas.iter().map(Arena::used).sum()
    }

    /// The same for a forked child: trampolines are its own copies, data is shared and counts as full.
    pub(crate) fn for_child(&self) -> Memory {
        Memory {
            arenas: self.arenas.clone(),
            data: self.data.for_child(),
            served: self.served.clone(),
            windows: Vec::new(),
        }
    }

    /// Whether the bytes from the first to the last of `range` are of one arena.
    pub(crate) fn in_one_arena(&self, range: Range<Addr>) -> bool {
        let arena = self.arenas.iter().map(Arena::range).find(|arena| arena.contains(&range.start));
        arena.is_some_and(|arena| arena.contains(&range.end))
    }

    /// Bytes of trampolines in use of the page at `page`.
    pub(crate) fn used_in(&self, page: Addr) -> u64 {
        self.arenas.iter().map(|arena| arena.used_in(page)).sum()
    }

    /// Gives back what of the `len` bytes at `at`, which were taken last, is behind the first `used`.
    pub(crate) fn shrink(&mut self, at: Addr, len: u64, used: u64) {
        if let Some(arena) = self.arenas.iter_mut().find(|arena| arena.range().contains(&at)) {
            arena.shrink(at, len, used);
        }
    }

    /// Reserves what is wanted, all or nothing; less of each where the size of the address space is bounded. Returns the
    /// number of mappings.
    pub(crate) fn reserve(
        &mut self,
        space: &mut dyn AddressSpace,
        wanted: &Reservations,
    ) -> Result<usize, SpaceError> {
        let mut done: Vec<Range<Addr>> = Vec::new();
        let (mut code, mut mappings) = (Vec::new(), Vec::new());
        // Scattered and bulk memory: no stretch of sites waits for it.
        let optional = wanted.clusters.is_empty();
        let bounded = !(wanted.code.is_empty() && wanted.data.is_empty()) && space.features().bounded;
        let small = |range: &Range<Addr>, most: u64| match bounded {
            true => range.start.span(len(range).min(most)),
            false => range.clone(),
        };
        let mut failed = None;
        for range in &wanted.code {
            let range = if optional { range.clone() } else { small(range, BOUNDED_CODE) };
            match map_some(&range, LEAST_CODE, |at, len| space.map_code(at, len)) {
                Ok((range, ())) => {
                    done.push(range.clone());
                    code.push(range);
                }
                // It would only have spared traps.
                Err(_) if optional => {}
                Err(error) => failed = Some(error),
            }
        }
        for range in wanted.data.iter().filter(|_| failed.is_none()) {
            let needed = wanted.data_needed.max(PAGE);
            match map_some(&small(range, needed), needed, |at, len| space.map_data(at, len)) {
                Ok((range, mapping)) => {
                    done.push(range);
                    mappings.push(mapping);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            for range in done {
                space.unmap(range.start, range.end.offset_from(range.start) as u64)?;
            }
            return Err(error);
        }
        self.add_arenas(&Reservations { code, clusters: wanted.clusters.clone(), ..Reservations::default() });
        mappings.into_iter().for_each(|mapping| self.data.add(mapping));
        Ok(done.len())
    }

    /// Notes what is wanted as if it had been reserved. Returns the number of mappings.
    pub(crate) fn assume(&mut self, wanted: &Reservations) -> usize {
        self.add_arenas(wanted);
        wanted.data.iter().for_each(|range| self.data.assume(range.clone()));
        wanted.code.len() + wanted.data.len()
    }

    /// Takes over arenas that were reserved.
    fn add_arenas(&mut self, reservations: &Reservations) {
        self.arenas.extend(reservations.code.iter().cloned().map(Arena::new));
        self.served.extend(reservations.clusters.iter().cloned());
    }

    /// Reserves data memory with room for `len` bytes, as near to `near` as can be.
    pub(crate) fn reserve_data(
        &mut self,
        space: &mut dyn AddressSpace,
        map: &MemoryMap,
        near: Addr,
        len: u64,
    ) -> Result<(), SpaceError> {
        let needed = Addr(len).align_up(PAGE).0;
        let len = DATA_LEN.max(needed);
        let at = nearest_hole(map, near, len, &[]).ok_or(SpaceError::Occupied { at: near, len })?;
        let (_, mapping) = map_some(&at.span(len), needed, |at, len| space.map_data(at, len))?;
        self.data.add(mapping);
        Ok(())
    }

    /// Gives all reservations back. What cannot be unmapped stays.
    pub(crate) fn release(&mut self, space: &mut dyn AddressSpace) -> Result<(), SpaceError> {
        self.served.clear();
        while let Some(range) = self.arenas.last().map(Arena::range) {
            space.unmap(range.start, len(&range))?;
            self.arenas.pop();
        }
        self.data.release(|range| space.unmap(range.start, len(&range)))
    }
}

/// Maps a range, or as much of its beginning as can be had: half, a quarter, not less than `least` bytes.
fn map_some<T>(
    range: &Range<Addr>,
    least: u64,
    mut map: impl FnMut(Addr, u64) -> Result<T, SpaceError>,
) -> Result<(Range<Addr>, T), SpaceError> {
    let mut size = len(range);
    loop {
        match map(range.start, size) {
            Err(error) if error.is_out_of_memory() && size / 2 >= least => {
                size = Addr(size / 2).align_up(PAGE).0;
            }
            made => return made.map(|made| (range.start.span(size), made)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_share_one_arena_below_them() {
        let map = MemoryMap::parse(
            "7f0000000000-7f0000200000 r-xp 0 00:00 1 /a\n7f0000400000-7f0000600000 r-xp 0 00:00 2 /b\n",
        );
        let memory = Memory::default();
        let sites = [Addr(0x7f00_0000_1000), Addr(0x7f00_0050_0000)];
        let wanted = memory.missing(&map, &sites, 2);
        assert_eq!(wanted.code.len(), 1);
        assert_eq!(wanted.data.len(), 1);
        for site in sites {
            let place = Springboard::new(site, 1 << 4).placements().next().expect("int3");
            let at = place.next(wanted.code[0].start, wanted.code[0].end).expect("a place");
            assert!(at + (15 << 20) < wanted.code[0].end, "the whole window is there");
            assert!(wanted.data[0].start.in_rel32_of(at));
        }
    }

    #[test]
    fn a_fixed_program_at_the_bottom_gets_memory_above() {
        let map = MemoryMap::parse(
            "00400000-00600000 r-xp 0 00:00 1 /a\n00600000-30000000 rw-p 0 00:00 0 [heap]\n",
        );
        let wanted = Memory::default().missing(&map, &[Addr(0x40_1000)], 0);
        assert_eq!(wanted.code.len(), 1);
        assert!(map.is_free(&wanted.code[0]) && wanted.code[0].start >= LOWEST);
        assert!(serves(&wanted.code[0], &(Addr(0x40_1000)..Addr(0x40_1001))));
    }

    #[test]
    fn a_crowded_neighbourhood_still_gives_what_it_has() {
        let map = MemoryMap::parse(
            "00010000-7effffff0000 rw-p 0 00:00 0\n7efffffff000-7f0000001000 r-xp 0 00:00 1 /a\n7f0000001000-7fffffff0000 rw-p 0 00:00 0\n",
        );
        let wanted = Memory::default().missing(&map, &[Addr(0x7f00_0000_0100)], 0);
        assert_eq!(wanted.code, [Addr(0x7eff_ffff_0000)..Addr(0x7eff_ffff_f000)]);
    }

    #[test]
    fn stubs_lie_where_their_target_is_in_reach() {
        let text = Addr(0x7f00_0000_0000);
        let far = text + 0x6000_0000..text + 0x6100_0000;
        let (low, bulk) = (text - 0x3400_0000..text - 0x3300_0000, text + 0x10_0000..text + 0x20_0000);
        let mut memory = Memory::default();
        let code = vec![far, low.clone(), bulk.clone()];
        memory.assume(&Reservations { code, ..Reservations::default() });
        let anywhere = memory.allocate(Springboard::new(text, 0).placements(), 100).expect("room");
        assert!(bulk.contains(&anywhere), "{anywhere} is not in the nearest arena");
        let board = Springboard::new(text, 1 << 3);
        assert!(memory.allocate(board.placements(), 5).is_some_and(|at| !low.contains(&at)));
        let stub = memory.allocate_stub(&board, 5, low.start).expect("room");
        assert!(low.contains(&stub), "from {stub} no jump leads to {}", low.start);
    }
}
