//! The live bytes a plan changes: old springboards back to the original, new ones in.

use std::collections::BTreeMap;

use incise_isa::Addr;
use incise_isa::native::SPRINGBOARD_LEN;
use incise_space::{Bytes, Edit};
use smallvec::SmallVec;

use crate::code::Code;
use crate::group::Group;
use crate::memory::arena::PAGE;
use crate::parallel::each;

/// An edit of a group, and whether the group comes, not goes.
type Piece<'e> = (&'e Edit, bool);

/// So many pieces make a part, which a thread works on.
const PART: usize = 2048;
/// No edit, with the jumps that begin in it, is as long.
const FAR: u64 = 64;

/// The edits that take `removed` groups out and put `added` ones in, ascending. Up to so many threads find them.
pub(crate) fn edits(
    code: &Code,
    groups: &BTreeMap<Addr, Box<Group>>,
    (removed, added): (&[Addr], &[Box<Group>]),
    threads: usize,
) -> Vec<Edit> {
    let old = || removed.iter().filter_map(|start| groups.get(start)).flat_map(|group| &group.edits);
    let new = || added.iter().flat_map(|group| &group.edits);
    let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(old().count() + new().count());
    pieces.extend(old().map(|edit| (edit, false)));
    pieces.extend(new().map(|edit| (edit, true)));
    if !pieces.is_sorted_by_key(|(edit, _)| edit.at) {
        pieces.sort_by_key(|(edit, _)| edit.at);
    }
    let edits = each(parts(&pieces), threads, |part| join(code, part));
    match <[Vec<Edit>; 1]>::try_from(edits) {
        Ok([edits]) => edits,
        Err(edits) => edits.concat(),
    }
}

/// Pieces in parts of which none reaches into the next.
fn parts<'p, 'e>(pieces: &'p [Piece<'e>]) -> Vec<&'p [Piece<'e>]> {
    let (mut parts, mut rest) = (Vec::new(), pieces);
    let is_apart = |rest: &[Piece], index: usize| {
        let at = rest[index].0.at;
        let before = rest[..index].iter().rev().take_while(|(edit, _)| edit.at + FAR > at);
        before.clone().all(|(edit, _)| reach(edit) <= at)
    };
    while let Some(index) = (PART..rest.len()).find(|index| is_apart(rest, *index)) {
        let (part, behind) = rest.split_at(index);
        parts.push(part);
        rest = behind;
    }
    parts.push(rest);
    parts
}

/// The edits of pieces in order.
fn join(code: &Code, pieces: &[Piece<'_>]) -> Vec<Edit> {
    let mut edits = Vec::with_capacity(pieces.len());
    let mut rest = pieces;
    while let Some((first, added)) = rest.first() {
        let mut reach = reach(first);
        let entangled = rest[1..].iter().take_while(|(edit, _)| {
            let is_reached = edit.at < reach;
            reach = reach.max(self::reach(edit));
            is_reached
        });
        let count = 1 + entangled.count();
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

/// The end of the edit and of all jumps that begin in it. The rest of a jump may be in the next edit, or nowhere if it is as it
/// was; a change of it concerns the head all the same.
fn reach(edit: &Edit) -> Addr {
    let jumps = edit.head_offsets().filter(|&head| is_jump(edit.old[head]) || is_jump(edit.new[head]));
    let jump = jumps.last().map_or(edit.at, |head| edit.at + (head + SPRINGBOARD_LEN) as u64);
    jump.max(end(edit))
}

/// Whether an instruction that begins so has a displacement of four bytes right behind.
fn is_jump(byte: u8) -> bool {
    matches!(byte, 0xE8 | 0xE9)
}

/// The edit for a piece that no other reaches, if the bytes in place are those it starts from.
fn alone(code: &Code, edit: &Edit, added: bool) -> Option<Edit> {
    let edit = if added { *edit } else { edit.inverse() };
    code.is_current(edit.at, &edit.old).then_some(edit)
}

/// The edits for pieces that reach one into the other.
fn merge(code: &Code, pieces: &[Piece<'_>], edits: &mut Vec<Edit>) {
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
        if heads[i] && !counts[i] && (is_jump(old[i]) || is_jump(new[i])) {
            counts[i] = counts[i + 1..].iter().take(SPRINGBOARD_LEN - 1).any(|counts| *counts);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use incise_image::MemoryMap;

    use super::*;
    use crate::code::NoFacts;

    const START: Addr = Addr(0x10_0000);
    const LEN: usize = 0x30;

    /// A group that has put `new` in place of `old` at [`START`].
    fn group(old: &[u8], new: &[u8], heads: &[bool]) -> Box<Group> {
        Box::new(Group {
            start: START,
            extent: START.span(LEN as u64),
            heads: SmallVec::new(),
            faults: Vec::new(),
            switches: SmallVec::new(),
            trampoline: Addr(0),
            len: 0,
            stubs: SmallVec::new(),
            slots: SmallVec::new(),
            marks: SmallVec::new(),
            entrance: None,
            calls: Box::default(),
            edits: cut(START, old, new, heads),
        })
    }

    /// Wherever the pieces are cut in two: a byte of a jump only changes with the head of the jump, and the heads of
    /// all jumps that have that head among their bytes.
    #[test]
    fn heads_of_all_jumps_that_change_are_there() {
        let original = [0x11; LEN];
        for start in 0..20 {
            for unchanged in 0..4 {
                let mut before = original;
                let mut heads = [false; LEN];
                before[0] = 0xE9;
                heads[0] = true;
                // Three jumps, each in the displacement of the one before it.
                for (head, bytes) in
                    [(start, [0xE9, 0xCC]), (start + 2, [0xE9, 0x22]), (start + 5, [0xE9, 0x33])]
                {
                    heads[head..head + 2].copy_from_slice(&[true, false]);
                    before[head..head + 2].copy_from_slice(&bytes);
                }
                before[start + 6..start + 10].copy_from_slice(&[0x44, 0x55, 0x66, 0x77]);
                // One byte of the displacement of the last is what was there originally.
                before[start + 6 + unchanged] = 0x11;
                let mut after = before;
                after[start + 3] += 1;
                after[start + 9] += 1;
                let (old, new) = (group(&original, &before, &heads), group(&original, &after, &heads));
                let groups = BTreeMap::from([(START, old)]);
                let map = MemoryMap::parse("00100000-00101000 r-xp 00000000 00:00 0\n");
                let read = |at: Addr, into: &mut [u8]| {
                    let memory: Vec<u8> = before.into_iter().chain([0x11; PAGE as usize - LEN]).collect();
                    into.copy_from_slice(&memory[at.offset_from(START) as usize..][..into.len()]);
                    true
                };
                let code = Code::read(&read, &map, &[START], &groups, (&NoFacts, 1), false).expect("code");
                let edits = edits(&code, &groups, (&[START], &[new]), 1);
                let present: Vec<u64> = edits
                    .iter()
                    .flat_map(|edit| edit.head_offsets().map(|head| (edit.at + head as u64).0 - START.0))
                    .collect();
                for head in [start, start + 2, start + 5] {
                    assert!(present.contains(&(head as u64)), "{start} {unchanged}: {edits:?}");
                }
            }
        }
    }
}
