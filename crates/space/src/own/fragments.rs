//! The parts of the program's code that swaps have replaced.
//!
//! Each is a mapping of its own amid the code of a file. To keep them few, a later swap may have to replace
//! some of them again, together with what lies between; so it must be known what they stand for.

use std::ops::Range;

use incise_image::{Mapping, MemoryMap};
use incise_isa::Addr;

/// What code belongs to: only code of one owner is joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A file: device and inode.
    File((u32, u32), u64),
    /// Memory without a file, that begins there.
    Memory(Addr),
}

/// Code that was replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fragment {
    pub(super) pages: Range<Addr>,
    pub(super) owner: Owner,
}

/// All of them, sorted by address.
#[derive(Clone, Default, Debug)]
pub(super) struct Fragments(Vec<Fragment>);

impl Fragments {
    /// Those that are still there according to `map`; others were unmapped or mapped over.
    pub(super) fn present(&self, map: &MemoryMap) -> Fragments {
        let is_ours = |fragment: &&Fragment| {
            let mut at = fragment.pages.start;
            while at < fragment.pages.end {
                match map.find(at).filter(|mapping| can_be_ours(mapping)) {
                    Some(mapping) => at = mapping.range.end,
                    None => return false,
                }
            }
            true
        };
        Fragments(self.0.iter().filter(is_ours).cloned().collect())
    }

    /// Those, ascending.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Fragment> {
        self.0.iter()
    }

    /// Whom the code at `at`, which lies in `mapping`, belongs to.
    pub(super) fn owner(&self, at: Addr, mapping: &Mapping) -> Owner {
        let index = self.0.partition_point(|fragment| fragment.pages.end <= at);
        match self.0.get(index).filter(|fragment| fragment.pages.contains(&at)) {
            Some(fragment) if can_be_ours(mapping) => fragment.owner.clone(),
            _ if mapping.inode != 0 => Owner::File(mapping.device, mapping.inode),
            _ => Owner::Memory(mapping.range.start),
        }
    }

    /// Notes that `pages`, which belong to `owner`, were replaced by one mapping.
    pub(super) fn replaced(&mut self, pages: Range<Addr>, owner: Owner) {
        let mut next = Vec::with_capacity(self.0.len() + 2);
        for fragment in self.0.drain(..) {
            let before = fragment.pages.start..fragment.pages.end.min(pages.start);
            let behind = fragment.pages.start.max(pages.end)..fragment.pages.end;
            for part in [before, behind] {
                if part.start < part.end {
                    next.push(Fragment { pages: part, owner: fragment.owner.clone() });
                }
            }
        }
        next.push(Fragment { pages, owner });
        next.sort_by_key(|fragment| fragment.pages.start);
        self.0 = next;
    }
}

/// Whether a mapping can be one that a swap has made.
fn can_be_ours(mapping: &Mapping) -> bool {
    let permissions = mapping.permissions;
    let code = permissions.read && permissions.execute && !permissions.write && !permissions.shared;
    code && (mapping.inode == 0 || mapping.name.starts_with("/memfd:incise"))
}
