//! Free memory in a memory map: where trampolines, and data near them, may lie. Pure.

use std::ops::Range;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_isa::native::{Placement, Springboard};

use crate::memory::arena::PAGE;

/// Stretches of text closer than this share an arena.
const CLUSTER: u64 = 256 << 20;
/// Memory below this address is not to be had (vm.mmap_min_addr is 65,536 by default).
pub(crate) const LOWEST: Addr = Addr(0x1_0000);
/// User addresses end here with four-level page tables.
pub(crate) const HIGHEST: Addr = Addr(0x7FFF_FFFF_F000);
/// The least arena worth having.
const ARENA_MIN: u64 = 1 << 20;

/// The stretches of `sites` that one arena can serve.
pub(crate) fn clusters(sites: &[Addr]) -> Vec<Range<Addr>> {
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
pub(crate) fn serves(arena: &Range<Addr>, cluster: &Range<Addr>) -> bool {
    let inside = |window: Range<Addr>| arena.start <= window.start && window.end <= arena.end;
    Springboard::new(cluster.start, 1 << 4)
        .placements()
        .any(|place| inside(window(&place, cluster.start, cluster)))
}

/// Free memory for the trampolines of `cluster`: the first window that is wholly free, else the largest
/// free piece of any window, else any free piece in reach.
pub(crate) fn choose_arena(
    map: &MemoryMap,
    cluster: &Range<Addr>,
    taken: &[Range<Addr>],
) -> Option<Range<Addr>> {
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
pub(crate) fn far_arena(
    map: &MemoryMap,
    cluster: &Range<Addr>,
    taken: &[Range<Addr>],
) -> Option<Range<Addr>> {
    const SIZE: u64 = 2 * ARENA_MIN;
    let holes = free(map, LOWEST.align_up(PAGE), HIGHEST.align_down(PAGE), taken);
    let holes = holes.into_iter().filter(|hole| len(hole) >= SIZE);
    let nearest = holes.map(|hole| cluster.start.max(hole.start).min(hole.end - SIZE).align_down(PAGE));
    nearest.min_by_key(|at| at.offset_from(cluster.start).unsigned_abs()).map(|at| at.span(SIZE))
}

/// The free `len` bytes nearest to `near`, in reach of a displacement from around it.
pub(crate) fn nearest_hole(map: &MemoryMap, near: Addr, size: u64, taken: &[Range<Addr>]) -> Option<Addr> {
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

pub(crate) fn overlap(a: &Range<Addr>, b: &Range<Addr>) -> bool {
    a.start < b.end && b.start < a.end
}

pub(crate) fn len(range: &Range<Addr>) -> u64 {
    range.end.offset_from(range.start).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_in_reach_is_free_traps_have_memory_far_away() {
        let map = MemoryMap::parse(
            "7e0000000000-7effffff0000 rw-p 0 00:00 0\n7efffffff000-7f0000001000 r-xp 0 00:00 1 /a\n7f0000001000-7fffffff0000 rw-p 0 00:00 0\n",
        );
        let taken = [Addr(0x7eff_ffff_0000)..Addr(0x7eff_ffff_f000)];
        let cluster = Addr(0x7f00_0000_0100)..Addr(0x7f00_0000_0101);
        assert_eq!(choose_arena(&map, &cluster, &taken), None);
        let far = far_arena(&map, &cluster, &taken).expect("there is more");
        assert_eq!(far.end, Addr(0x7e00_0000_0000));
        assert!(map.is_free(&far));
    }
}
