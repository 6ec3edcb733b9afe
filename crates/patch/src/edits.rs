//! The live bytes a plan changes: old springboards back to the original, new ones in.

use std::collections::BTreeMap;
use std::ops::Range;

use incise_isa::Addr;
use incise_space::{Bytes, Edit};

use crate::code::Code;
use crate::group::Group;

/// The edits that take `removed` groups out and put `added` ones in, ascending.
pub(crate) fn edits(
    code: &Code,
    groups: &BTreeMap<Addr, Group>,
    removed: &[Addr],
    added: &[Group],
) -> Vec<Edit> {
    let mut pieces: Vec<(Edit, bool)> = Vec::with_capacity(removed.len() + added.len());
    pieces.extend(removed.iter().filter_map(|start| groups.get(start)).map(|group| (group.edit(), false)));
    pieces.extend(added.iter().map(|group| (group.edit(), true)));
    pieces.sort_by_key(|(edit, _)| edit.at);
    let mut edits = Vec::with_capacity(pieces.len());
    for cluster in pieces.chunk_by(|a, b| b.0.at < a.0.at + Bytes::MAX as u64) {
        if let [(edit, added)] = cluster
            && let Some(alone) = alone(code, edit, *added)
        {
            edits.push(alone);
            continue;
        }
        for span in spans(cluster) {
            edits.extend(merge(code, &span, cluster));
        }
    }
    edits
}

/// The edit for a piece with no other near it, if the bytes in place are those it starts from.
fn alone(code: &Code, edit: &Edit, added: bool) -> Option<Edit> {
    let edit = if added { *edit } else { edit.inverse() };
    code.is_current(edit.at, &edit.old).then_some(edit)
}

/// The contiguous stretches that the pieces cover.
fn spans(pieces: &[(Edit, bool)]) -> Vec<Range<Addr>> {
    let mut spans: Vec<Range<Addr>> = Vec::new();
    for (edit, _) in pieces {
        let end = edit.at + edit.old.len() as u64;
        match spans.last_mut() {
            Some(last) if edit.at < last.end => last.end = last.end.max(end),
            _ => spans.push(edit.at..end),
        }
    }
    spans
}

/// One edit for a stretch (or several, where it is longer than an edit may be).
fn merge(code: &Code, span: &Range<Addr>, pieces: &[(Edit, bool)]) -> Vec<Edit> {
    let len = span.end.offset_from(span.start) as usize;
    let Some(old) = code.current(span.start, len) else { return Vec::new() };
    let mut new = code.original(span.start)[..len].to_vec();
    let mut heads = vec![false; len];
    for (edit, added) in pieces {
        for i in 0..edit.old.len() {
            let offset = (edit.at + i as u64).offset_from(span.start);
            let Some(offset) = usize::try_from(offset).ok().filter(|&o| o < len) else { continue };
            if *added {
                new[offset] = edit.new[i];
            }
            heads[offset] |= edit.heads & (1 << i) != 0;
        }
    }
    (0..len)
        .step_by(Bytes::MAX)
        .map(|from| {
            let to = (from + Bytes::MAX).min(len);
            let mask = (from..to).filter(|&i| heads[i]).fold(0, |mask, i| mask | 1 << (i - from));
            let at = span.start + from as u64;
            Edit { at, old: Bytes::new(&old[from..to]), new: Bytes::new(&new[from..to]), heads: mask }
        })
        .filter(|edit| edit.old != edit.new)
        .collect()
}
