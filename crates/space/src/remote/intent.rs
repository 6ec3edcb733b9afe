//! What is about to be mapped or freed, told in the target before it is done.
//!
//! A tracer that is killed leaves what it had mapped. Whoever comes next finds our pages by the code in them
//! (`runtime.rs`), and in them these notes: the memory that was mapped last, and the table that was in force before the
//! last one. Before there are pages, a note in the slack where their first call is made from tells where they come to lie.
//! A note may be older than what is there: whoever follows it looks at the memory first.

use std::ops::Range;

use incise_image::{Mapping, MemoryMap};
use incise_isa::Addr;

use super::inject::Caller;
use super::memory::{Memory, PAGE};
use super::runtime::Runtime;
use super::tracees::{MemoryId, Tracees};
use super::x86_64::BLOB_LEN;
use crate::SpaceError;

/// Offset in the code page of the note of what was mapped last.
const MAPPED: u64 = 112;
/// Offset in the code page of the note of the table that was in force before.
const RETIRED: u64 = 120;
/// Offset of the note in the slack, behind the code.
const IN_SLACK: u64 = 112;
const _: () = assert!(BLOB_LEN as u64 <= IN_SLACK);
/// What the note in the slack begins with; behind it is the address of our pages.
const MAGIC: [u8; 8] = *b"incise@ ";
/// Bytes of slack that are used.
pub(super) const SLACK_LEN: usize = IN_SLACK as usize + 16;

/// A range of less than 4,096 pages in one word, 0 for none or a larger one.
fn word(range: Option<&Range<Addr>>) -> u64 {
    let pages = range.map_or(0, |range| range.end.offset_from(range.start) as u64 / PAGE);
    range.filter(|_| pages < PAGE).map_or(0, |range| range.start.0 | pages)
}

fn range(word: u64) -> Option<Range<Addr>> {
    let (at, pages) = (word & !(PAGE - 1), word % PAGE);
    (pages != 0).then(|| Addr(at).span(pages * PAGE))
}

/// Whether all of `range` is private memory without a file that only `fits`.
fn is_anonymous(map: &MemoryMap, range: &Range<Addr>, fits: impl Fn(&Mapping) -> bool) -> bool {
    let mut at = range.start;
    while at < range.end {
        match map.find(at).filter(|m| m.inode == 0 && m.name.is_empty() && !m.permissions.shared && fits(m)) {
            Some(mapping) => at = mapping.range.end,
            None => return false,
        }
    }
    true
}

fn is_code(mapping: &Mapping) -> bool {
    mapping.permissions.execute && !mapping.permissions.write
}

fn is_blank(memory: &Memory, range: &Range<Addr>) -> bool {
    let len = range.end.offset_from(range.start) as usize;
    memory.read_vec(range.start, len).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

impl Caller<'_> {
    /// Notes what is going to be mapped.
    pub(super) fn announce(&self, runtime: &Runtime, range: Option<&Range<Addr>>) -> Result<(), SpaceError> {
        self.memory().write(runtime.blob() + MAPPED, &word(range).to_le_bytes(), Some(self.thread()))
    }

    /// Notes, in the slack where the code of this is, that our pages are going to be at `base`.
    pub(super) fn announce_pages(&self, base: Addr) -> Result<(), SpaceError> {
        let note = [MAGIC, base.0.to_le_bytes()].concat();
        self.memory().write(self.blob() + IN_SLACK, &note, Some(self.thread()))
    }

    /// The pages that a tracer had mapped and was killed before it had put its code into them, by the note in the slack.
    pub(super) fn blank_pages(&self, map: &MemoryMap) -> Option<Range<Addr>> {
        let memory = self.memory();
        let magic = memory.read_u64(self.blob() + IN_SLACK).ok()?;
        if magic.to_le_bytes() != MAGIC {
            return None;
        }
        let base = Addr(memory.read_u64(self.blob() + IN_SLACK + 8).ok()?);
        let (code, data) = (base.span(PAGE), (base + PAGE).span(PAGE));
        if !is_anonymous(map, &code, is_code) || !is_blank(memory, &code) {
            return None;
        }
        let writable = |mapping: &Mapping| mapping.permissions.write && !mapping.permissions.execute;
        let both = is_anonymous(map, &data, writable) && is_blank(memory, &data);
        Some(if both { base.span(2 * PAGE) } else { code })
    }
}

/// Takes the note out of what was in the slack.
pub(super) fn without_note(mut slack: Vec<u8>) -> Vec<u8> {
    if slack[IN_SLACK as usize..].starts_with(&MAGIC) {
        slack[IN_SLACK as usize..].fill(0);
    }
    slack
}

impl Tracees {
    /// Notes the table that is in force no more.
    pub(super) fn announce_retired(&self, memory: MemoryId) -> Result<(), SpaceError> {
        let stopped = self.live_thread(memory)?;
        let target = self.target(memory)?;
        let Some(runtime) = &target.runtime else { return Ok(()) };
        let retired = runtime.retired.last().or(runtime.table.as_ref());
        target.memory.write(runtime.blob() + RETIRED, &word(retired).to_le_bytes(), Some(stopped))
    }

    /// The tables that the pages `runtime` of an earlier tracer tell of and that are not in force.
    pub(super) fn left_tables(
        &self,
        memory: MemoryId,
        runtime: &Runtime,
    ) -> Result<Vec<Range<Addr>>, SpaceError> {
        let map = self.memory_map(memory)?;
        let target = self.target(memory)?;
        let in_force = runtime.table.as_ref().map(|table| table.start);
        let readable = |m: &Mapping| m.permissions.read && !m.permissions.write && !m.permissions.execute;
        let mut found: Vec<Range<Addr>> = Vec::new();
        for note in [MAPPED, RETIRED] {
            let Some(range) = range(target.memory.read_u64(runtime.blob() + note)?) else { continue };
            let other = Some(range.start) != in_force && !found.contains(&range);
            if other && is_anonymous(&map, &range, readable) {
                found.push(range);
            }
        }
        Ok(found)
    }

    /// The memory for code that an earlier tracer mapped last, if nothing was written to it.
    pub(super) fn left_blank(&self, memory: MemoryId) -> Result<Option<Range<Addr>>, SpaceError> {
        let target = self.target(memory)?;
        let Some(runtime) = &target.runtime else { return Ok(None) };
        let range = range(target.memory.read_u64(runtime.blob() + MAPPED)?);
        let map = self.memory_map(memory)?;
        Ok(range.filter(|range| is_anonymous(&map, range, is_code) && is_blank(&target.memory, range)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_words() {
        let small = Addr(0x7000_0000_0000).span(3 * PAGE);
        assert_eq!(range(word(Some(&small))), Some(small));
        assert_eq!(range(word(Some(&Addr(PAGE).span(PAGE * PAGE)))), None);
        assert_eq!(range(word(None)), None);
    }
}
