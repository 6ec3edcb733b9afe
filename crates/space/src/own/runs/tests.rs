use super::*;
use crate::Bytes;

const TEXT: u64 = 0x7000_0000_0000;

fn map(lines: &[(u64, u64, &str, u64)]) -> MemoryMap {
    let line = |&(start, end, flags, inode): &(u64, u64, &str, u64)| {
        let name = if inode == 0 { "" } else { "/lib/file" };
        format!("{:x}-{:x} {flags} 00000000 08:01 {inode} {name}\n", TEXT + start * PAGE, TEXT + end * PAGE)
    };
    MemoryMap::parse(&lines.iter().map(line).collect::<String>())
}

/// One edit on each page.
fn edits(pages: impl IntoIterator<Item = u64>) -> Vec<Edit> {
    let edit = |page| {
        let at = Addr(TEXT + page * PAGE + 16);
        Edit { at, old: Bytes::new(&[0]), new: Bytes::new(&[1]), heads: 1 }
    };
    pages.into_iter().map(edit).collect()
}

fn pages(runs: &[Run]) -> Vec<(u64, u64, usize)> {
    let page = |at: Addr| (at.0 - TEXT) / PAGE;
    runs.iter().map(|run| (page(run.pages.start), page(run.pages.end), run.edits.len())).collect()
}

#[test]
fn near_pages_are_one_run_and_far_pages_are_not() {
    let map = map(&[(0, 1000, "r-xp", 7)]);
    let runs = plan(&edits([3, 4, 9, 300]), &map, &Fragments::default()).expect("a plan");
    assert_eq!(pages(&runs), [(3, 10, 3), (300, 301, 1)]);
    assert_eq!(runs.iter().map(|run| run.gained).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn there_are_never_more_runs_than_allowed_and_every_edit_is_in_one() {
    let map = map(&[(0, 100_000, "r-xp", 7)]);
    let edits = edits((0..500).map(|n| n * 20 + n * n % 11));
    let runs = plan(&edits, &map, &Fragments::default()).expect("a plan");
    assert_eq!(runs.len(), MOST_RUNS);
    assert_eq!(runs.iter().map(|run| run.edits.len()).sum::<usize>(), 500);
    for run in &runs {
        assert!(edits[run.edits.clone()].iter().all(|edit| run.pages.contains(&edit.at)));
    }
}

#[test]
fn neither_holes_nor_other_mappings_are_bridged() {
    let map = map(&[
        (0, 10, "r-xp", 7),
        (11, 20, "r-xp", 7),
        (20, 22, "r--p", 7),
        (22, 30, "r-xp", 7),
        (30, 31, "r-xp", 8),
        (31, 40, "r-xp", 7),
    ]);
    let runs = plan(&edits([9, 12, 19, 23, 29, 32]), &map, &Fragments::default()).expect("a plan");
    assert_eq!(pages(&runs), [(9, 10, 1), (12, 20, 2), (23, 30, 2), (32, 33, 1)]);
}

#[test]
fn memory_that_a_copy_cannot_stand_for_is_refused() {
    for flags in ["r-xs", "rwxp", "r--p", "--xp"] {
        let map = map(&[(0, 10, flags, 7)]);
        let result = plan(&edits([5]), &map, &Fragments::default());
        assert!(matches!(result, Err(SpaceError::Unsuitable { .. })), "{flags}: {result:?}");
    }
    let result = plan(&edits([50]), &map(&[(0, 10, "r-xp", 7)]), &Fragments::default());
    assert!(matches!(result, Err(SpaceError::Unreadable { .. })), "{result:?}");
}

/// The map of one file with its fragments.
fn fragmented(fragments: &Fragments) -> MemoryMap {
    let mut lines = Vec::new();
    let mut at = 0;
    for fragment in fragments.iter() {
        let (start, end) = ((fragment.pages.start.0 - TEXT) / PAGE, (fragment.pages.end.0 - TEXT) / PAGE);
        if at < start {
            lines.push((at, start, "r-xp", 7));
        }
        lines.push((start, end, "r-xp", 0));
        at = end;
    }
    lines.push((at, 100_000, "r-xp", 7));
    map(&lines)
}

#[test]
fn the_number_of_mappings_stays_bounded_over_many_swaps() {
    let mut fragments = Fragments::default();
    let mut n = 1u64;
    for step in 0..300 {
        let mut sites: Vec<u64> = (0..1 + step % 5)
            .map(|_| {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (n >> 33) % 20_000
            })
            .collect();
        sites.sort();
        sites.dedup();
        let map = fragmented(&fragments);
        let present = fragments.present(&map);
        assert_eq!(present.iter().count(), fragments.iter().count());
        let before = map.iter().count() as isize;
        let runs = plan(&edits(sites), &map, &present).expect("a plan");
        for run in &runs {
            fragments.replaced(run.pages.clone(), run.owner.clone());
        }
        let after = fragmented(&fragments).iter().count() as isize;
        assert!(fragments.iter().count() <= MOST_FRAGMENTS, "step {step}");
        assert!(after <= 2 * MOST_FRAGMENTS as isize + 1);
        if let [run] = &runs[..] {
            assert_eq!(after - before, run.gained, "step {step}");
        }
    }
}

#[test]
fn a_fragment_that_was_unmapped_is_forgotten() {
    let mut fragments = Fragments::default();
    let pages = Addr(TEXT + 5 * PAGE)..Addr(TEXT + 7 * PAGE);
    fragments.replaced(pages, Owner::File((8, 1), 7));
    assert_eq!(fragments.present(&map(&[(0, 100, "r-xp", 7)])).iter().count(), 0);
    assert_eq!(fragments.present(&map(&[(0, 5, "r-xp", 7), (5, 7, "r-xp", 0)])).iter().count(), 1);
    assert_eq!(fragments.present(&map(&[(0, 5, "r-xp", 7), (5, 6, "r-xp", 0)])).iter().count(), 0);
}
