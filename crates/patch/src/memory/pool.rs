//! Data memory in the target, near the code that uses it: handed out in order, and given back as a whole.

use std::ops::Range;
use std::sync::Arc;

use incise_isa::Addr;
use incise_space::DataMapping;

use crate::memory::holes::len;

/// All data memory of an engine.
#[derive(Default)]
pub(crate) struct Pool {
    stretches: Vec<Stretch>,
}

/// One mapping.
struct Stretch {
    range: Range<Addr>,
    /// Nothing where memory is only planned.
    mapping: Option<Arc<DataMapping>>,
    used: u64,
}

impl Stretch {
    fn len(&self) -> u64 {
        len(&self.range)
    }
}

impl Pool {
    /// Where it is.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<Addr>> + Clone + '_ {
        self.stretches.iter().map(|stretch| stretch.range.clone())
    }

    /// Whether one mapping in reach of `near` has `len` bytes left.
    pub(crate) fn has_room(&self, near: Addr, len: u64) -> bool {
        self.stretches.iter().any(|one| one.range.start.in_rel32_of(near) && one.used + len <= one.len())
    }

    /// Takes over a mapping.
    pub(crate) fn add(&mut self, mapping: DataMapping) {
        let range = mapping.addr().span(mapping.len());
        self.stretches.push(Stretch { range, mapping: Some(Arc::new(mapping)), used: 0 });
    }

    /// Notes `range` as if it had been mapped.
    pub(crate) fn assume(&mut self, range: Range<Addr>) {
        self.stretches.push(Stretch { range, mapping: None, used: 0 });
    }

    /// A fresh quadword, in reach of `near` if there is one.
    pub(crate) fn quadword(&mut self, near: Addr) -> Option<Addr> {
        let fits = |one: &Stretch| one.used + 8 <= one.len();
        let in_reach = self.stretches.iter().position(|one| fits(one) && one.range.start.in_rel32_of(near));
        let index = in_reach.or_else(|| self.stretches.iter().position(fits))?;
        let stretch = &mut self.stretches[index];
        let at = stretch.range.start + stretch.used;
        stretch.used += 8;
        Some(at)
    }

    /// `len` fresh bytes at a multiple of `align`, in reach of `near`.
    pub(crate) fn room(&mut self, near: Addr, len: u64, align: u64) -> Option<Addr> {
        let fits = |one: &&mut Stretch| {
            let from = one.used.next_multiple_of(align);
            one.mapping.is_some() && one.range.start.in_rel32_of(near) && from + len <= one.len()
        };
        let stretch = self.stretches.iter_mut().find(fits)?;
        let offset = stretch.used.next_multiple_of(align);
        stretch.used = offset + len;
        Some(stretch.range.start + offset)
    }

    /// The mapping that holds `at`.
    pub(crate) fn mapping_of(&self, at: Addr) -> Option<&Arc<DataMapping>> {
        self.stretches.iter().find(|one| one.range.contains(&at))?.mapping.as_ref()
    }

    /// The same for a forked child, which shares it: it counts as full.
    pub(crate) fn for_child(&self) -> Pool {
        let full = |one: &Stretch| Stretch {
            range: one.range.clone(),
            mapping: one.mapping.clone(),
            used: one.len(),
        };
        Pool { stretches: self.stretches.iter().map(full).collect() }
    }

    /// Gives all of it back by `unmap`; what cannot be unmapped stays.
    pub(crate) fn release<E>(
        &mut self,
        mut unmap: impl FnMut(Range<Addr>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(last) = self.stretches.last() {
            unmap(last.range.clone())?;
            self.stretches.pop();
        }
        Ok(())
    }
}
