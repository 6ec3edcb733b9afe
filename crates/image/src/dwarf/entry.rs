//! Attributes of entries, also those that an entry has by way of another.

use std::ops::Range;

use gimli::{AttributeValue, DwAt, constants as dw};

use super::{Entry, Located, Slice, Unit, View};

/// How many entries may lead to one another.
const CHAIN: usize = 16;

/// Longest name, in bytes; longer ones count as none.
const NAME: usize = 4096;

impl<'d> View<'d> {
    /// The entry an attribute refers to.
    pub(super) fn reference(&self, index: usize, value: AttributeValue<Slice<'d>>) -> Option<u64> {
        match value {
            AttributeValue::UnitRef(offset) => {
                self.info.units.get(index)?.range.start.checked_add(offset.0 as u64)
            }
            AttributeValue::DebugInfoRef(offset) => Some(offset.0 as u64),
            AttributeValue::DebugTypesRef(signature) => self.info.signatures.get(&signature.0).copied(),
            _ => None,
        }
    }

    /// The entry that `entry` completes: its declaration, or its form before it was inlined or cloned.
    pub(super) fn origin(&self, index: usize, entry: &Entry<'d>) -> Option<u64> {
        let value = entry
            .attr_value(dw::DW_AT_abstract_origin)
            .or_else(|| entry.attr_value(dw::DW_AT_specification))?;
        self.reference(index, value)
    }

    /// What `get` finds in an entry, or else in one that it completes.
    pub(super) fn inherited<T>(
        &self,
        located: &Located<'d>,
        get: impl Fn(usize, &Unit<'d>, &Entry<'d>) -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = get(located.index, &located.unit, &located.entry) {
            return Some(found);
        }
        let mut next = self.origin(located.index, &located.entry);
        for _ in 0..CHAIN {
            let here = self.entry(next?)?;
            if let Some(found) = get(here.index, &here.unit, &here.entry) {
                return Some(found);
            }
            next = self.origin(here.index, &here.entry);
        }
        None
    }

    /// The name of an entry itself.
    pub(super) fn own_name(&self, unit: &Unit<'d>, entry: &Entry<'d>) -> Option<String> {
        let value = entry.attr_value(dw::DW_AT_name)?;
        let name = self.dwarf.attr_string(unit, value).ok()?;
        (name.len() <= NAME).then(|| String::from_utf8_lossy(name.slice()).into_owned())
    }

    /// The name of an entry, also by what it completes.
    pub(super) fn name(&self, located: &Located<'d>) -> Option<String> {
        self.inherited(located, |_, unit, entry| self.own_name(unit, entry))
    }

    /// The entry of its type, also by what it completes.
    pub(super) fn type_of(&self, located: &Located<'d>) -> Option<u64> {
        self.inherited(located, |index, _, entry| self.reference(index, entry.attr_value(dw::DW_AT_type)?))
    }

    /// The ranges of an entry; none of one that would end behind all addresses, which gimli adds up unchecked.
    pub(super) fn ranges(&self, unit: &Unit<'d>, entry: &Entry<'d>) -> Option<gimli::RangeIter<Slice<'d>>> {
        let low = entry.attr_value(dw::DW_AT_low_pc);
        let low = low.and_then(|value| self.dwarf.attr_address(unit, value).ok().flatten());
        if let (Some(low), Some(AttributeValue::Udata(size))) = (low, entry.attr_value(dw::DW_AT_high_pc)) {
            low.checked_add(size)?;
        }
        self.dwarf.die_ranges(unit, entry).ok()
    }

    /// Where the code of an entry is.
    pub(super) fn code(&self, unit: &Unit<'d>, entry: &Entry<'d>) -> Vec<Range<u64>> {
        /// Most ranges of one function.
        const RANGES: usize = 1024;
        let mut found = Vec::new();
        let Some(mut ranges) = self.ranges(unit, entry) else { return found };
        while let Ok(Some(range)) = ranges.next() {
            if range.begin != 0 && range.begin < range.end && found.len() < RANGES {
                found.push(range.begin..range.end);
            }
        }
        found
    }
}

/// An unsigned constant.
pub(super) fn unsigned(entry: &Entry<'_>, name: DwAt) -> Option<u64> {
    entry.attr(name)?.udata_value()
}

/// A constant of either sign: forms of a fixed size are for what is not negative.
pub(super) fn signed(entry: &Entry<'_>, name: DwAt) -> Option<i64> {
    match entry.attr(name)?.raw_value() {
        AttributeValue::Sdata(value) => Some(value),
        AttributeValue::Udata(value) | AttributeValue::Data8(value) => Some(value as i64),
        AttributeValue::Data1(value) => Some(value.into()),
        AttributeValue::Data2(value) => Some(value.into()),
        AttributeValue::Data4(value) => Some(value.into()),
        _ => None,
    }
}

/// Whether a flag is set.
pub(super) fn flag(entry: &Entry<'_>, name: DwAt) -> bool {
    matches!(entry.attr_value(name), Some(AttributeValue::Flag(true)))
}
