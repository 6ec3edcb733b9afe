//! Which code bytes of the target differ from the original, and what those were.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use incise_isa::Addr;

use crate::{Bytes, Edit};

/// The original of every byte that is changed now.
#[derive(Clone, Default)]
pub(super) struct Journal {
    changed: BTreeMap<Addr, Change>,
}

#[derive(Clone, Copy)]
struct Change {
    original: u8,
    ours: u8,
}

impl Journal {
    /// Takes an edit that was made into account.
    pub(super) fn record(&mut self, edit: &Edit) {
        for (at, (&old, &new)) in (edit.at.0..).map(Addr).zip(edit.old.iter().zip(edit.new.iter())) {
            match self.changed.entry(at) {
                Entry::Vacant(entry) if old != new => {
                    entry.insert(Change { original: old, ours: new });
                }
                Entry::Occupied(entry) if entry.get().original == new => {
                    entry.remove();
                }
                Entry::Occupied(mut entry) => entry.get_mut().ours = new,
                Entry::Vacant(_) => {}
            }
        }
    }

    /// Forgets what was changed in `range`: it was unmapped.
    pub(super) fn forget(&mut self, range: &Range<Addr>) {
        self.changed.retain(|at, _| !range.contains(at));
    }

    /// Whether every byte is the original.
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// The edits that put every original byte back. `is_head` tells whether a thread may begin an
    /// instruction at an address.
    pub(super) fn restoring(&self, is_head: impl Fn(Addr) -> bool) -> Vec<Edit> {
        let mut edits: Vec<Edit> = Vec::new();
        let mut run: Vec<(Addr, Change)> = Vec::new();
        let mut finish = |run: &mut Vec<(Addr, Change)>| {
            let Some(&(at, _)) = run.first() else { return };
            let old: Vec<u8> = run.iter().map(|(_, change)| change.ours).collect();
            let new: Vec<u8> = run.iter().map(|(_, change)| change.original).collect();
            let heads = run
                .iter()
                .enumerate()
                .fold(1, |heads, (index, &(at, _))| heads | u16::from(is_head(at)) << index);
            edits.push(Edit { at, old: Bytes::new(&old), new: Bytes::new(&new), heads });
            run.clear();
        };
        for (&at, &change) in &self.changed {
            let adjacent = run.last().is_some_and(|&(last, _)| last + 1 == at);
            if !adjacent || run.len() == Bytes::MAX {
                finish(&mut run);
            }
            run.push((at, change));
        }
        finish(&mut run);
        edits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(at: u64, old: &[u8], new: &[u8]) -> Edit {
        Edit { at: Addr(at), old: Bytes::new(old), new: Bytes::new(new), heads: 1 }
    }

    #[test]
    fn what_is_restored_is_the_first_original() {
        let mut journal = Journal::default();
        journal.record(&edit(100, &[0x55], &[0xcc]));
        journal.record(&edit(100, &[0xcc, 0x48, 0x89, 0xe5, 0x90], &[0xe9, 1, 2, 0xcc, 3]));
        let edits = journal.restoring(|at| at.0 == 103);
        assert_eq!(edits.len(), 1);
        assert_eq!(*edits[0].old, [0xe9, 1, 2, 0xcc, 3]);
        assert_eq!(*edits[0].new, [0x55, 0x48, 0x89, 0xe5, 0x90]);
        assert_eq!(edits[0].heads, 0b1001);
        journal.record(&edits[0]);
        assert!(journal.is_empty());
    }
}
