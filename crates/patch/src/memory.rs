//! Where trampolines and counters lie: arenas and data memory near the code they serve.

use std::ops::Range;
use std::sync::Arc;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_isa::native::{Placement, Springboard};
use incise_space::{AddressSpace, DataMapping, SpaceError};

use crate::arena::{Arena, PAGE};

/// Bytes reserved for counters at a time.
const DATA_LEN: u64 = 4 << 20;
/// Stretches of text closer than this share an arena.
const CLUSTER: u64 = 256 << 20;
/// Memory below this address is not to be had (vm.mmap_min_addr is 65,536 by default).
const LOWEST: Addr = Addr(0x1_0000);
/// User addresses end here with four-level page tables.
const HIGHEST: Addr = Addr(0x7FFF_FFFF_F000);
/// Scattered windows are joined to arenas of up to this many bytes; unused pages of an arena cost nothing.
const JOIN: i64 = 1 << 30;
/// Bytes behind a window that a trampoline beginning inside may need.
const TRAMPOLINE_ROOM: u64 = 512;
/// The most arenas there may be: each is a mapping.
const ARENAS_MAX: usize = 48;
/// The least arena worth having.
const ARENA_MIN: u64 = 1 << 20;
/// An arena where the size of the address space is bounded, and the least one that will do.
const BOUNDED_CODE: u64 = 1 << 18;
const LEAST_CODE: u64 = 1 << 16;

/// The memory an engine holds in the target.
#[derive(Default)]
pub(crate) struct Memory {
    pub arenas: Vec<Arena>,
    data: Vec<Data>,
    /// Stretches of sites that have the best arena there was.
    served: Vec<Range<Addr>>,
}

struct Data {
    range: Range<Addr>,
    /// Nothing where memory is only planned.
    mapping: Option<Arc<DataMapping>>,
    used: u64,
}

impl Data {
    fn len(&self) -> u64 {
        len(&self.range)
    }
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
            let room = self.data.iter().any(|data| {
                data.range.start.in_rel32_of(near) && data.used + counters as u64 * 8 <= data.len()
            });
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
        let ours =
            || self.arenas.iter().map(Arena::range).chain(self.data.iter().map(|data| data.range.clone()));
        let is_free = |range: &Range<Addr>| map.is_free(range) && !ours().any(|held| overlap(&held, range));
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

    /// The same on as few pages as can be: any trap byte will do, and a page that is in use comes first.
    pub(crate) fn allocate_packed(&mut self, board: &Springboard, len: u64) -> Option<Addr> {
        let used = self.arenas.iter_mut().find_map(|arena| arena.allocate_on_used(board, len));
        used.or_else(|| self.arenas.iter_mut().find_map(|arena| arena.allocate_on_fresh(board, len)))
    }

    /// An arena for so many bytes of trampolines without constraints, near `near`.
    pub(crate) fn bulk(&self, map: &MemoryMap, near: Addr, bytes: u64) -> Option<Range<Addr>> {
        let taken: Vec<Range<Addr>> = self.held().collect();
        let len = Addr(bytes).align_up(PAGE).0;
        nearest_hole(map, near, len, &taken).map(|at| at.span(len))
    }

    /// All memory that is ours.
    fn held(&self) -> impl Iterator<Item = Range<Addr>> + '_ {
        self.arenas.iter().map(Arena::range).chain(self.data.iter().map(|data| data.range.clone()))
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
        let full =
            |data: &Data| Data { range: data.range.clone(), mapping: data.mapping.clone(), used: data.len() };
        Memory {
            arenas: self.arenas.clone(),
            data: self.data.iter().map(full).collect(),
            served: self.served.clone(),
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
        mappings.into_iter().for_each(|mapping| self.add_data(mapping));
        Ok(done.len())
    }

    /// Notes what is wanted as if it had been reserved. Returns the number of mappings.
    pub(crate) fn assume(&mut self, wanted: &Reservations) -> usize {
        self.add_arenas(wanted);
        let planned = |range: &Range<Addr>| Data { range: range.clone(), mapping: None, used: 0 };
        self.data.extend(wanted.data.iter().map(planned));
        wanted.code.len() + wanted.data.len()
    }

    /// Takes over arenas that were reserved.
    fn add_arenas(&mut self, reservations: &Reservations) {
        self.arenas.extend(reservations.code.iter().cloned().map(Arena::new));
        self.served.extend(reservations.clusters.iter().cloned());
    }

    /// Takes over a data mapping.
    fn add_data(&mut self, mapping: DataMapping) {
        let range = mapping.addr().span(mapping.len());
        self.data.push(Data { range, mapping: Some(Arc::new(mapping)), used: 0 });
    }

    /// A fresh quadword, in reach of `near` if there is one.
    pub(crate) fn quadword(&mut self, near: Addr) -> Option<Addr> {
        let fits = |data: &Data| data.used + 8 <= data.len();
        let index = self
            .data
            .iter()
            .position(|data| fits(data) && data.range.start.in_rel32_of(near))
            .or_else(|| self.data.iter().position(fits))?;
        let data = &mut self.data[index];
        let at = data.range.start + data.used;
        data.used += 8;
        Some(at)
    }

    /// `len` fresh bytes at a multiple of `align`, in reach of `near`.
    pub(crate) fn room(&mut self, near: Addr, len: u64, align: u64) -> Option<Addr> {
        let fits = |data: &&mut Data| {
            let from = data.used.next_multiple_of(align);
            data.mapping.is_some() && data.range.start.in_rel32_of(near) && from + len <= data.len()
        };
        let data = self.data.iter_mut().find(fits)?;
        let offset = data.used.next_multiple_of(align);
        data.used = offset + len;
        Some(data.range.start + offset)
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
        self.add_data(mapping);
        Ok(())
    }

    /// The data mapping that holds `at`.
    pub(crate) fn mapping_of(&self, at: Addr) -> Option<&Arc<DataMapping>> {
        self.data.iter().find(|data| data.range.contains(&at))?.mapping.as_ref()
    }

    /// Gives all reservations back. What cannot be unmapped stays.
    pub(crate) fn release(&mut self, space: &mut dyn AddressSpace) -> Result<(), SpaceError> {
        self.served.clear();
        while let Some(range) = self.arenas.last().map(Arena::range) {
            space.unmap(range.start, len(&range))?;
            self.arenas.pop();
        }
        while let Some(data) = self.data.last() {
            space.unmap(data.range.start, data.len())?;
            self.data.pop();
        }
        Ok(())
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

/// The stretches of `sites` that one arena can serve.
fn clusters(sites: &[Addr]) -> Vec<Range<Addr>> {
    let mut clusters: Vec<Range<Addr>> = Vec::new();
    for &site in sites {
        match clusters.last_mut() {
            Some(last) if site.offset_from(last.end) <= CLUSTER as i64 => last.end = last.end.max(site + 1),
            _ => clusters.push(site..site + 1),
        }
    }
    clusters
}

/// The addresses a trampoline may have for any site of `cluster` when only the topmost displacement byte is
/// a trap: the window every constrained placement lies in.
fn window(place: &Placement, first: Addr, cluster: &Range<Addr>) -> Range<Addr> {
    let displacement = i64::from(place.value as i32 & !0x00FF_FFFF);
    let low = place.base.offset(displacement);
    let high = low + (1 << 24) + cluster.end.offset_from(first) as u64;
    low.align_down(PAGE)..high.align_up(PAGE)
}

/// Whether some top byte's window for `cluster` lies in `arena`, or (for what little memory there is) any
/// address in reach does.
fn serves(arena: &Range<Addr>, cluster: &Range<Addr>) -> bool {
    let inside = |window: Range<Addr>| arena.start <= window.start && window.end <= arena.end;
    Springboard::new(cluster.start, 1 << 4)
        .placements()
        .any(|place| inside(window(&place, cluster.start, cluster)))
}

/// Free memory for the trampolines of `cluster`: the first window that is wholly free, else the largest
/// free piece of any window, else any free piece in reach.
fn choose_arena(map: &MemoryMap, cluster: &Range<Addr>, taken: &[Range<Addr>]) -> Option<Range<Addr>> {
    let mut best: Option<Range<Addr>> = None;
    for place in Springboard::new(cluster.start, 1 << 4).placements() {
        let window = window(&place, cluster.start, cluster);
        if window.start < LOWEST || window.end > HIGHEST || window.start >= window.end {
            continue;
        }
        if map.is_free(&window) && !taken.iter().any(|t| overlap(t, &window)) {
            return Some(window);
        }
        for hole in free(map, window.start, window.end, taken) {
            if best.as_ref().is_none_or(|b| len(b) < len(&hole)) {
                best = Some(hole);
            }
        }
    }
    if let Some(best) = best.filter(|b| len(b) >= ARENA_MIN) {
        return Some(best);
    }
    let reach = (1 << 31) - (len(cluster) + PAGE);
    let low = Addr(cluster.start.0.saturating_sub(reach)).max(LOWEST);
    let high = (cluster.end + reach).min(HIGHEST);
    let hole = free(map, low.align_up(PAGE), high.align_down(PAGE), taken).into_iter().max_by_key(len)?;
    let at = if len(&hole) > 2 * ARENA_MIN { hole.end - 2 * ARENA_MIN } else { hole.start };
    (len(&hole) >= PAGE).then_some(at..hole.end)
}

/// Free memory for what traps lead to, which need not be in reach.
fn far_arena(map: &MemoryMap, cluster: &Range<Addr>, taken: &[Range<Addr>]) -> Option<Range<Addr>> {
    const SIZE: u64 = 2 * ARENA_MIN;
    let holes = free(map, LOWEST.align_up(PAGE), HIGHEST.align_down(PAGE), taken);
    let holes = holes.into_iter().filter(|hole| len(hole) >= SIZE);
    let nearest = holes.map(|hole| cluster.start.max(hole.start).min(hole.end - SIZE).align_down(PAGE));
    nearest.min_by_key(|at| at.offset_from(cluster.start).unsigned_abs()).map(|at| at.span(SIZE))
}

/// The free `len` bytes nearest to `near`, in reach of a displacement from around it.
fn nearest_hole(map: &MemoryMap, near: Addr, size: u64, taken: &[Range<Addr>]) -> Option<Addr> {
    let reach = (1u64 << 31) - (256 << 20);
    let low = Addr(near.0.saturating_sub(reach)).max(LOWEST).align_up(PAGE);
    let high = (near + reach).min(HIGHEST).align_down(PAGE);
    free(map, low, high, taken)
        .into_iter()
        .filter(|hole| len(hole) >= size)
        .map(|hole| near.max(hole.start).min(hole.end - size).align_down(PAGE).max(hole.start))
        .min_by_key(|at| at.offset_from(near).unsigned_abs())
}

/// The free ranges between `low` and `high`.
fn free(map: &MemoryMap, low: Addr, high: Addr, taken: &[Range<Addr>]) -> Vec<Range<Addr>> {
    let mut holes: Vec<Range<Addr>> = map.holes(low, high).collect();
    for used in taken {
        holes = holes
            .into_iter()
            .flat_map(|hole| [hole.start..hole.end.min(used.start), hole.start.max(used.end)..hole.end])
            .filter(|hole| hole.start < hole.end)
            .collect();
    }
    holes
}

fn overlap(a: &Range<Addr>, b: &Range<Addr>) -> bool {
    a.start < b.end && b.start < a.end
}

fn len(range: &Range<Addr>) -> u64 {
    range.end.offset_from(range.start).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> MemoryMap {
        MemoryMap::parse(text)
    }

    #[test]
    fn libraries_share_one_arena_below_them() {
        let map =
            map("7f0000000000-7f0000200000 r-xp 0 00:00 1 /a\n7f0000400000-7f0000600000 r-xp 0 00:00 2 /b\n");
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
        let map = map("00400000-00600000 r-xp 0 00:00 1 /a\n00600000-30000000 rw-p 0 00:00 0 [heap]\n");
        let wanted = Memory::default().missing(&map, &[Addr(0x40_1000)], 0);
        assert_eq!(wanted.code.len(), 1);
        assert!(map.is_free(&wanted.code[0]) && wanted.code[0].start >= LOWEST);
        assert!(serves(&wanted.code[0], &(Addr(0x40_1000)..Addr(0x40_1001))));
    }

    #[test]
    fn where_nothing_in_reach_is_free_traps_have_memory_far_away() {
        let map = map(
            "7e0000000000-7effffff0000 rw-p 0 00:00 0\n7efffffff000-7f0000001000 r-xp 0 00:00 1 /a\n7f0000001000-7fffffff0000 rw-p 0 00:00 0\n",
        );
        let taken = [Addr(0x7eff_ffff_0000)..Addr(0x7eff_ffff_f000)];
        let cluster = Addr(0x7f00_0000_0100)..Addr(0x7f00_0000_0101);
        assert_eq!(choose_arena(&map, &cluster, &taken), None);
        let far = far_arena(&map, &cluster, &taken).expect("there is more");
        assert_eq!(far.end, Addr(0x7e00_0000_0000));
        assert!(map.is_free(&far));
    }

    #[test]
    fn a_crowded_neighbourhood_still_gives_what_it_has() {
        let map = map(
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
