//! The live bytes a plan changes: old springboards back to the original, new ones in.

use std::collections::BTreeMap;

use incise_isa::Addr;
use incise_isa::native::SPRINGBOARD_LEN;
use incise_space::{Bytes, Edit};
use smallvec::SmallVec;

use crate::arena::PAGE;
use crate::code::Code;
use crate::group::Group;

/// The edits that take `removed` groups out and put `added` ones in, ascending.
pub(crate) fn edits(
    code: &Code,
    groups: &BTreeMap<Addr, Group>,
    removed: &[Addr],
    added: &[Group],
) -> Vec<Edit> {
    let old = || removed.iter().filter_map(|start| groups.get(start)).flat_map(|group| &group.edits);
    let new = || added.iter().flat_map(|group| &group.edits);
    let mut pieces: Vec<(Edit, bool)> = Vec::with_capacity(old().count() + new().count());
    pieces.extend(old().map(|edit| (*edit, false)));
    pieces.extend(new().map(|edit| (*edit, true)));
    if !pieces.is_sorted_by_key(|(edit, _)| edit.at) {
        pieces.sort_by_key(|(edit, _)| edit.at);
    }
    let mut edits = Vec::with_capacity(pieces.len());
    let mut rest = &pieces[..];
    while let Some((first, added)) = rest.first() {
        let mut end = end(first);
        let overlapping = rest[1..].iter().take_while(|(edit, _)| {
            let overlaps = edit.at < end;
            end = end.max(self::end(edit));
            overlaps
        });
        let count = 1 + overlapping.count();
        match alone(code, first, *added) {
            Some(edit) if count == 1 => edits.push(edit),
            _ => merge(code, &rest[..count], &mut edits),
        }
        rest = &rest[count..];
    }
    edits
}

fn end(edit: &Edit) -> Addr {
    edit.at + edit.old.len() as u64
}

/// The edit for a piece that no other overlaps, if the bytes in place are those it starts from.
fn alone(code: &Code, edit: &Edit, added: bool) -> Option<Edit> {
    let edit = if added { *edit } else { edit.inverse() };
    code.is_current(edit.at, &edit.old).then_some(edit)
}

/// The edits for a contiguous stretch of pieces.
fn merge(code: &Code, pieces: &[(Edit, bool)], edits: &mut Vec<Edit>) {
    let Some(start) = pieces.first().map(|(edit, _)| edit.at) else { return };
    let stop = pieces.iter().map(|(edit, _)| end(edit)).max().unwrap_or(start);
    let len = stop.offset_from(start) as usize;
    let Some(old) = code.current(start, len) else { return };
    let mut new = code.original(start)[..len].to_vec();
    let mut heads = vec![false; len];
    for (edit, added) in pieces {
        let at = edit.at.offset_from(start) as usize;
        if *added {
            new[at..at + edit.new.len()].copy_from_slice(&edit.new);
        }
        edit.head_offsets().for_each(|head| heads[at + head] = true);
    }
    edits.extend(cut(start, &old, &new, &heads));
}

/// The edits that make `new` of the bytes `old` at `at`.
///
/// Instructions may be cut in two, but not where a page ends: edits on one page are made at once.
pub(crate) fn cut(at: Addr, old: &[u8], new: &[u8], heads: &[bool]) -> SmallVec<[Edit; 1]> {
    /// The longest springboard, padding before the site included, less one byte.
    const ACROSS: usize = 6;
    let counts = significant(old, new, heads);
    let mut edits = SmallVec::new();
    let mut from = 0;
    while let Some(skip) = counts[from..].iter().position(|counts| *counts) {
        from += skip;
        let place = at + from as u64;
        let page_end = (place.align_down(PAGE) + PAGE).offset_from(at) as usize;
        let mut to = (from + Bytes::MAX).min(old.len());
        if from + ACROSS >= page_end {
            // Already close to the end: everything that lies across is in this edit.
        } else if to + ACROSS > page_end {
            // The next edit begins before what lies across, and may be as long as it takes.
            to = page_end - ACROSS;
        }
        let mut end = to;
        while !counts[end - 1] {
            end -= 1;
        }
        let mask = (from..end).filter(|&i| heads[i]).fold(0, |mask, i| mask | 1 << (i - from));
        let (old, new) = (Bytes::new(&old[from..end]), Bytes::new(&new[from..end]));
        edits.push(Edit { at: place, old, new, heads: mask });
        from = to;
    }
    edits
}

/// The bytes that have to be in an edit: those that change, and the head in front of them, which may stay the same.
fn significant(old: &[u8], new: &[u8], heads: &[bool]) -> Vec<bool> {
    let mut changed = false;
    let mut counts: Vec<bool> = (0..old.len())
        .rev()
        .map(|i| {
            changed |= old[i] != new[i];
            if heads[i] { std::mem::take(&mut changed) } else { old[i] != new[i] }
        })
        .collect();
    counts.reverse();
    // A jump may reach into a head that changes: it has to be seen that it does.
    for i in (0..old.len()).rev() {
        let reaches = |byte: u8| matches!(byte, 0xE8 | 0xE9);
        if heads[i] && !counts[i] && (reaches(old[i]) || reaches(new[i])) {
            counts[i] = counts[i + 1..].iter().take(SPRINGBOARD_LEN - 1).any(|counts| *counts);
        }
    }
    counts
}
