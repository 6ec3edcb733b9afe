//! Which pages a swap replaces: as few runs of pages as the budget of mappings allows.

use std::ops::Range;

use incise_image::{Mapping, MemoryMap};
use incise_isa::Addr;

use super::PAGE;
use super::fragments::{Fragments, Owner};
use crate::{Edit, SpaceError};

/// Runs closer than this are made one: copying a page costs less than a mapping.
const GAP: u64 = 8 * PAGE;

/// How many runs one swap may have.
pub(super) const MOST_RUNS: usize = 16;

/// How many mappings of their own replaced pages may have altogether; each costs the process two. More only if
/// they belong to so many files.
pub(super) const MOST_FRAGMENTS: usize = 24;

/// Pages to be replaced at once, and the edits in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Whole pages.
    pub(super) pages: Range<Addr>,
    /// Indices of the edits; none in pages that are replaced to save mappings only.
    pub(super) edits: Range<usize>,
    /// What the pages belong to.
    pub(super) owner: Owner,
    /// How many mappings the process has more, once the run is replaced by one mapping.
    pub(super) gained: isize,
}

impl Run {
    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.pages.end.0 - self.pages.start.0
    }
}

/// Plans the runs for `edits`, which are sorted and do not overlap. `fragments` are those in `map`.
///
/// A gap between two edits is only bridged if it is code of the same owner: never a hole, never somebody
/// else's mapping.
pub(super) fn plan(edits: &[Edit], map: &MemoryMap, fragments: &Fragments) -> Result<Vec<Run>, SpaceError> {
    let planner = Planner { map, fragments };
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, edit) in edits.iter().enumerate() {
        let end = edit.at + edit.old.len() as u64;
        let pages = edit.at.align_down(PAGE)..end.align_up(PAGE);
        let owner = planner.check(&pages, edit)?;
        match pieces.last_mut() {
            Some(last) if pages.start <= last.pages.end || planner.is_near(last, &pages) => {
                last.pages.end = last.pages.end.max(pages.end);
                last.edits.end = index + 1;
            }
            _ => pieces.push(Piece { pages, edits: index..index + 1, owner, replaced: true }),
        }
    }
    let pieces = planner.bridge(pieces);
    let mut pieces = with_fragments(pieces, fragments);
    planner.join(&mut pieces);
    let run = |piece: Piece| {
        let gained = gained(&piece.pages, map);
        Run { pages: piece.pages, edits: piece.edits, owner: piece.owner, gained }
    };
    Ok(pieces.into_iter().filter(|piece| piece.replaced).map(run).collect())
}

/// A run in the making, or a part of a fragment.
struct Piece {
    pages: Range<Addr>,
    edits: Range<usize>,
    owner: Owner,
    /// It is to be replaced.
    replaced: bool,
}

impl Piece {
    fn len(&self) -> u64 {
        self.pages.end.0 - self.pages.start.0
    }

    /// Replaces everything up to and with the next piece.
    fn absorb(&mut self, behind: Piece) {
        self.pages.end = behind.pages.end;
        self.edits.end = behind.edits.end;
        self.replaced = true;
    }
}

/// The pieces and what they leave of the fragments, sorted.
fn with_fragments(pieces: Vec<Piece>, fragments: &Fragments) -> Vec<Piece> {
    let mut left = Fragments::default();
    for fragment in fragments.iter() {
        left.replaced(fragment.pages.clone(), fragment.owner.clone());
    }
    for piece in &pieces {
        left.replaced(piece.pages.clone(), piece.owner.clone());
    }
    let mut pieces = pieces.into_iter().peekable();
    let mut edit = 0;
    left.iter()
        .map(|part| match pieces.next_if(|piece| piece.pages == part.pages) {
            Some(piece) => {
                edit = piece.edits.end;
                piece
            }
            None => Piece {
                pages: part.pages.clone(),
                edits: edit..edit,
                owner: part.owner.clone(),
                replaced: false,
            },
        })
        .collect()
}

struct Planner<'a> {
    map: &'a MemoryMap,
    fragments: &'a Fragments,
}

impl Planner<'_> {
    /// Joins pieces over the shortest gaps until at most [`MOST_RUNS`] are left, or no gap can be bridged.
    fn bridge(&self, pieces: Vec<Piece>) -> Vec<Piece> {
        let excess = pieces.len().saturating_sub(MOST_RUNS);
        if excess == 0 {
            return pieces;
        }
        let gap = |pair: &[Piece]| pair[1].pages.start.0 - pair[0].pages.end.0;
        let bridgeable = |pair: &[Piece]| self.is_bridgeable(&pair[0], &pair[1].pages);
        let mut gaps: Vec<(u64, usize)> = pieces
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| bridgeable(pair))
            .map(|(index, pair)| (gap(pair), index + 1))
            .collect();
        gaps.sort();
        let mut joined = vec![false; pieces.len()];
        gaps.iter().take(excess).for_each(|gap| joined[gap.1] = true);
        let mut result: Vec<Piece> = Vec::new();
        for (piece, joined) in pieces.into_iter().zip(joined) {
            match result.last_mut() {
                Some(last) if joined => last.absorb(piece),
                _ => result.push(piece),
            }
        }
        result
    }

    /// Joins neighbours until at most [`MOST_FRAGMENTS`] pieces are left, or no two can be joined; first those
    /// that cost the fewest pages which are not replaced anyway.
    fn join(&self, pieces: &mut Vec<Piece>) {
        let cost = |pair: &[Piece]| {
            let gap = pair[1].pages.start.0 - pair[0].pages.end.0;
            gap + pair.iter().filter(|piece| !piece.replaced).map(Piece::len).sum::<u64>()
        };
        while pieces.len() > MOST_FRAGMENTS {
            let bridgeable = |pair: &[Piece]| self.is_bridgeable(&pair[0], &pair[1].pages);
            let pairs = pieces.windows(2).enumerate().filter(|(_, pair)| bridgeable(pair));
            let Some((index, _)) = pairs.min_by_key(|(_, pair)| cost(pair)) else { return };
            let behind = pieces.remove(index + 1);
            pieces[index].absorb(behind);
        }
    }

    fn is_near(&self, last: &Piece, pages: &Range<Addr>) -> bool {
        pages.start.0 - last.pages.end.0 <= GAP && self.is_bridgeable(last, pages)
    }

    /// Whether everything from the end of `before` to and with `behind` is code of the owner of `before`.
    fn is_bridgeable(&self, before: &Piece, behind: &Range<Addr>) -> bool {
        let mut at = before.pages.end;
        while at <= behind.start {
            let Some(mapping) = self.map.find(at) else { return false };
            // A mapping may hold several fragments, or only part of one; its owner is asked for once.
            if unsuitable(mapping).is_some() || self.fragments.owner(at, mapping) != before.owner {
                return false;
            }
            at = mapping.range.end;
        }
        true
    }

    /// Checks that pages of code can be replaced by a private copy. Returns whom they belong to.
    fn check(&self, pages: &Range<Addr>, edit: &Edit) -> Result<Owner, SpaceError> {
        let mut owner = None;
        let mut at = pages.start;
        while at < pages.end {
            let Some(mapping) = self.map.find(at).filter(|m| m.permissions.read || m.permissions.execute)
            else {
                return Err(SpaceError::Unreadable { at: edit.at, len: edit.old.len() });
            };
            if let Some(reason) = unsuitable(mapping) {
                return Err(SpaceError::Unsuitable { at: edit.at, reason });
            }
            owner = owner.or_else(|| Some(self.fragments.owner(at, mapping)));
            at = mapping.range.end;
        }
        owner.ok_or(SpaceError::Unreadable { at: edit.at, len: edit.old.len() })
    }
}

/// Why a mapping cannot be replaced by a private copy that is readable and executable.
fn unsuitable(mapping: &Mapping) -> Option<&'static str> {
    match mapping.permissions {
        p if p.shared => Some("the memory is shared: a copy would miss what others write to it"),
        p if p.write => {
            Some("the memory is writable: a copy that is not would change what the program can do")
        }
        p if !p.execute => Some("the memory is not executable"),
        p if !p.read => Some("the memory is not readable"),
        _ => None,
    }
}

/// How many mappings there are more after `pages` became one mapping of its own.
fn gained(pages: &Range<Addr>, map: &MemoryMap) -> isize {
    let (mut before, mut after) = (0, 1);
    let mut at = pages.start;
    while at < pages.end
        && let Some(mapping) = map.find(at)
    {
        before += 1;
        after += isize::from(mapping.range.start < pages.start);
        after += isize::from(mapping.range.end > pages.end);
        at = mapping.range.end;
    }
    after - before
}

#[cfg(test)]
mod tests;
