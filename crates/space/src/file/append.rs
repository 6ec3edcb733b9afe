//! From what changed to the bytes of the new file.
//!
//! 1. The segments that come are chosen, and with them the size of the program header table.
//! 2. Trampolines and data come behind the program, ascending in address, each at the next page of the file.
//! 3. A *payload* segment takes the table, which has no room to grow in its old place, and everything that
//!    runs before the program. It is the first in memory and the last in the file; see `payload.rs`.
//! 4. The section header table is copied with the new sections behind the old ones, so that no index changes.
//! 5. The record says which bytes of the original differ now.

use incise_isa::Addr;
use sha2::{Digest, Sha256};

use super::PAGE;
use super::code::{Code, Pool, pool};
use super::data::Data;
use super::dynamic;
use super::elf::{
    Headers, PF_R, PF_W, PF_X, PHDR, PT_DYNAMIC, PT_GNU_EH_FRAME, PT_LOAD, PT_PHDR, SHF_ALLOC, SHF_EXECINSTR,
    SHF_WRITE, SHT_NOBITS, Segment,
};
use super::error::FileError;
use super::frames::{Frames, frames};
use super::packed;
use super::payload::{Payload, cavity, is_found, payload_address, place_payload, start, tables};
use super::record::Record;
use super::sections::{Layout, Part, Place, reserve_sections, write_sections};
use crate::Landing;
use crate::trap::TrapHeader;
use crate::view::Trampolines;

/// Alignment of every part, in bytes.
pub(super) const ALIGN: u64 = 8;

/// One page in so many of the original may be taken by trampolines before neighbours are taken apart to share pages.
const MOST: u64 = 10;

/// So many of a hundred pages of the original may be taken by trampolines if that makes segments fewer.
const ROOM: u64 = 15;

/// As many pages as one in so many of the original may be mapped only because they lie between trampolines.
const BETWEEN: u64 = 4;

/// Everything the new file is made from.
pub(super) struct Change<'a> {
    pub original: &'a [u8],
    /// The same with the edits of code.
    pub edited: &'a [u8],
    pub headers: &'a Headers,
    pub code: &'a [Code],
    pub data: &'a [Data],
    pub landings: &'a [Landing],
    /// What lies where in trampolines.
    pub displaced: &'a Trampolines,
    /// What the record shall hold beside the original.
    pub record: Record,
    /// Where the counters are that are kept in a file, and their size in bytes.
    pub counters: Option<(Addr, u64)>,
}

/// Memory that is zero but for its beginning.
struct Writable {
    at: u64,
    len: u64,
    contents: Vec<u8>,
}

/// The new file, and how many segments were added.
///
/// # Errors
/// [`FileError::Unsupported`]: the file cannot be extended so.
pub(super) fn build(change: &Change) -> Result<(Vec<u8>, usize), FileError> {
    let mut out = change.edited.to_vec();
    let mut layout = Layout::default();
    let mut added = 0;
    let pages = change.original.len() as u64 / PAGE;
    let data: Vec<_> = change.data.iter().map(|data| data.at.0..data.at.0 + data.len).collect();
    let pool = pool(change.code, &data, [pages * ROOM / 100, pages / MOST, pages / BETWEEN]);
    let writable = writable(change, &pool)?;
    if writable.starts(change) && dynamic::is_linker(change.headers, change.original) {
        let why =
            "a dynamic linker runs before its counters could be mapped; count it in processes (incise count)";
        return Err(FileError::Unsupported(why));
    }
    if writable.starts(change) || !pool.segments.is_empty() || !writable.memory.is_empty() {
        added = 1 + pool.segments.len() + writable.memory.len();
        append(change, &mut out, &mut layout, &pool, &writable)?;
    }
    let sections = change.headers.sections.as_ref().filter(|_| !layout.parts.is_empty());
    let table = sections.map(|sections| reserve_sections(&mut out, change.original, sections, &layout));
    let record = finished(change, &out).to_bytes();
    if let (Some(sections), Some(table)) = (sections, table) {
        let at = out.len() as u64;
        write_sections(&mut out, change.original, sections, &layout, &table, (at, record.len() as u64));
    }
    out.extend(record);
    Ok((out, added))
}

/// All writable memory, and what is in it besides counters and data.
#[derive(Default)]
struct AllWritable {
    /// Ascending.
    memory: Vec<Writable>,
    /// Address of the trap header, if there are landings.
    trap_header: Option<u64>,
    /// Address of the dynamic table, if it has to move.
    dynamic: Option<u64>,
}

impl AllWritable {
    /// Whether anything has to run before the program.
    fn starts(&self, change: &Change) -> bool {
        self.trap_header.is_some() || counts(change)
    }
}

fn counts(change: &Change) -> bool {
    change.counters.is_some_and(|(_, len)| len > 0)
}

fn writable(change: &Change, pool: &Pool) -> Result<AllWritable, FileError> {
    let mut all = AllWritable::default();
    for reserved in change.data {
        let counted = change.counters.filter(|(at, _)| *at == reserved.at);
        let len = counted.map_or(reserved.len, |(_, len)| len.next_multiple_of(PAGE)).min(reserved.len);
        if len > 0 {
            all.memory.push(Writable { at: reserved.at.0, len, contents: reserved.contents(len)? });
        }
    }
    all.memory.sort_by_key(|data| data.at);
    let last = pool.segments.last().map_or(0, |run| (run.at + run.len).next_multiple_of(PAGE));
    if !change.landings.is_empty() {
        // Not among the counters: those are shared with forked children.
        let behind = all.memory.last().map_or(0, |data| data.at + data.len);
        let taken = payload_address(change.headers, change.edited.len() as u64);
        let len = (TrapHeader::SIZE as u64).next_multiple_of(PAGE);
        match all.memory.last_mut() {
            Some(data) if behind > last => data.len += len,
            // No data: room is kept behind the program, but trampolines lie behind that.
            _ if last > taken => all.memory.push(Writable { at: last, len, contents: Vec::new() }),
            _ => return Err(FileError::Unsupported("landings without trampolines")),
        }
        all.trap_header = Some(behind.max(last));
    }
    if all.starts(change) && !change.headers.program {
        let stays = all.trap_header.is_some();
        if let Some(contents) = dynamic::with_room(change.headers, change.edited, stays) {
            let at = all.memory.last().map_or(0, |data| data.at + data.len).max(last);
            let len = (contents.len() as u64).next_multiple_of(PAGE);
            all.memory.push(Writable { at, len, contents });
            all.dynamic = Some(at);
        }
    }
    Ok(all)
}

/// Steps 1 to 3.
fn append(
    change: &Change,
    out: &mut Vec<u8>,
    layout: &mut Layout,
    pool: &Pool,
    writable: &AllWritable,
) -> Result<(), FileError> {
    let headers = change.headers;
    let trap_header = writable.trap_header;
    let framed = usize::from(headers.first(PT_GNU_EH_FRAME).is_none());
    let count = headers.segments.len() + 1 + pool.segments.len() + writable.memory.len() + framed;
    if count >= 0xFFFF {
        return Err(FileError::Unsupported("too many program headers"));
    }
    let table_len = count * PHDR;

    let file_len = out.len() as u64;
    let mut end = file_len;
    let mut added = Vec::new();
    let mut behind = Vec::new();
    let mut contents: Vec<(u64, &[u8])> = Vec::new();
    if !pool.bytes.is_empty() {
        let base = end.next_multiple_of(PAGE);
        for segment in &pool.segments {
            added.push(Segment::load(
                PF_R | PF_X,
                base + segment.offset,
                segment.at,
                segment.len,
                segment.len,
            ));
        }
        for run in &pool.runs {
            let offset = base + run.offset;
            behind.push(Part::new(".incise.text", SHF_ALLOC | SHF_EXECINSTR, run.at, offset, run.len));
        }
        contents.push((base, &pool.bytes));
        end = base + pool.bytes.len() as u64;
    }
    for data in &writable.memory {
        // Loaders and tools know few segments without any bytes in the file.
        let filled = (data.contents.len() as u64).max(ALIGN);
        let offset = end.next_multiple_of(PAGE);
        added.push(Segment::load(PF_R | PF_W, offset, data.at, filled, data.len));
        let part = Part::new(".incise.data", SHF_ALLOC | SHF_WRITE, data.at, offset, filled);
        let (addr, size) = (data.at + filled, data.len - filled);
        let rest =
            Part { name: ".incise.bss", kind: SHT_NOBITS, addr, size, offset: offset + filled, ..part };
        if writable.dynamic == Some(data.at) {
            // It has a section already.
            layout.dynamic = Some(Place { address: data.at, offset, len: filled });
        } else {
            behind.push(part);
        }
        behind.extend((size > 0).then_some(rest));
        contents.push((offset, &data.contents));
        end = offset + filled;
    }

    let (address, offset) = place_payload(headers, file_len, end);
    // In a cavity the table has a segment of its own.
    let in_cavity = (table_len + PHDR) as u64;
    let cavity = if is_found(headers, address, offset) { None } else { cavity(headers, out, in_cavity) };
    let table_end = if cavity.is_some() { 0 } else { table_len as u64 };
    let mut payload = Payload { address, bytes: vec![0; table_end as usize] };
    payload.align();
    let config = tables(change, &mut payload, trap_header);
    payload.align();
    let frames = frames(change, payload.here());
    if let Some(frames) = &frames {
        payload.push(&frames.lists);
    }
    let tables_len = payload.bytes.len() as u64;
    if let Some(Frames { table, header, debug, .. }) = frames {
        layout.frames = Some(payload.place(&table, offset));
        layout.frames_header = Some(payload.place(&header, offset));
        let small = packed::section(&debug);
        layout.compressed = small.is_some();
        layout.debug_frames = small.unwrap_or(debug);
        payload.align();
    }
    let code_at = payload.bytes.len() as u64;
    let entry = match config {
        Some(config) => Some(start(change, &mut payload, config, trap_header)?),
        None => None,
    };
    let len = payload.bytes.len() as u64;
    if len > 0 {
        added.push(Segment::load(PF_R | PF_X, offset, address, len, len));
    }
    // Tools that move sections expect the program header table before them, not in one.
    if tables_len > table_end {
        let (at, from) = (address + table_end, offset + table_end);
        layout.parts.push(Part::new(".incise.tables", SHF_ALLOC, at, from, tables_len - table_end));
    }
    if let Some(Place { address, offset, len }) = layout.frames {
        layout.parts.push(Part::new(".incise.eh_frame", SHF_ALLOC, address, offset, len));
    }
    if let Some(Place { address, offset, len }) = layout.frames_header
        && headers.first(PT_GNU_EH_FRAME).is_none()
    {
        layout.parts.push(Part::new(".eh_frame_hdr", SHF_ALLOC, address, offset, len));
    }
    if entry.is_some() {
        let (at, from) = (address + code_at, offset + code_at);
        layout.parts.push(Part::new(".incise.start", SHF_ALLOC | SHF_EXECINSTR, at, from, len - code_at));
    }
    layout.parts.append(&mut behind);
    let added = ascending(headers, added)?;

    let at_start = Place { address, offset, len: table_len as u64 };
    let place = cavity.map_or(at_start, |(_, place)| place);
    let mut segments = segments(headers, &added, &place, layout);
    if let Some((index, _)) = cavity {
        segments.insert(index + 1, Segment::load(segments[index].flags, place.offset, place.address, 0, 0));
    }
    let table_len = segments.len() * PHDR;
    for table in segments.iter_mut().filter(|segment| segment.kind == PT_PHDR) {
        (table.filesz, table.memsz) = (table_len as u64, table_len as u64);
    }
    if let Some((index, _)) = cavity {
        let table = &mut segments[index + 1];
        (table.filesz, table.memsz) = (table_len as u64, table_len as u64);
    }
    contents.push((offset, &payload.bytes));
    contents.sort_by_key(|(offset, _)| *offset);
    for (offset, bytes) in contents {
        out.resize(offset as usize, 0);
        out.extend_from_slice(bytes);
    }
    let mut table = Vec::with_capacity(table_len);
    segments.iter().for_each(|segment| segment.write(&mut table));
    let at = place.offset as usize;
    out[at..at + table.len()].copy_from_slice(&table);
    out[32..40].copy_from_slice(&place.offset.to_le_bytes());
    out[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
    match entry {
        Some(entry) if headers.program => out[24..32].copy_from_slice(&entry.to_le_bytes()),
        Some(entry) => {
            let old = headers.first(PT_DYNAMIC).map_or((0, 0), |dynamic| (dynamic.offset, dynamic.filesz));
            let place = layout.dynamic.map_or(old, |moved| (moved.offset, moved.len));
            dynamic::set_init(out, place, entry, trap_header.is_some())?;
        }
        None => {}
    }
    Ok(())
}

/// The new loaded segments, which must lie behind the old ones.
fn ascending(headers: &Headers, mut added: Vec<Segment>) -> Result<Vec<Segment>, FileError> {
    added.sort_by_key(|segment| segment.vaddr);
    let mut end = headers.end().next_multiple_of(PAGE);
    for segment in &added {
        if segment.vaddr & !(PAGE - 1) < end {
            return Err(FileError::Unsupported("there is no room behind the program"));
        }
        end = (segment.vaddr + segment.memsz).next_multiple_of(PAGE);
    }
    Ok(added)
}

/// The program header table: the new segments behind the last loaded one, and what moved where it is now.
fn segments(headers: &Headers, added: &[Segment], table: &Place, layout: &Layout) -> Vec<Segment> {
    let mut segments = headers.segments.clone();
    let moved =
        [(PT_PHDR, Some(*table)), (PT_DYNAMIC, layout.dynamic), (PT_GNU_EH_FRAME, layout.frames_header)];
    for (kind, place) in moved {
        let Some(Place { address, offset, len }) = place else { continue };
        for segment in segments.iter_mut().filter(|segment| segment.kind == kind) {
            let (vaddr, paddr, filesz, memsz) = (address, address, len, len);
            *segment = Segment { offset, vaddr, paddr, filesz, memsz, ..*segment };
        }
    }
    let behind = segments.iter().rposition(|segment| segment.kind == PT_LOAD).map_or(0, |last| last + 1);
    segments.splice(behind..behind, added.iter().copied());
    if let Some(Place { address, offset, len }) = layout.frames_header
        && headers.first(PT_GNU_EH_FRAME).is_none()
    {
        let frames = Segment::load(PF_R, offset, address, len, len);
        segments.push(Segment { kind: PT_GNU_EH_FRAME, align: 4, ..frames });
    }
    segments
}

/// Step 5.
fn finished(change: &Change, out: &[u8]) -> Record {
    Record {
        original_len: change.original.len() as u64,
        original_sha256: Sha256::digest(change.original).into(),
        overwritten: differences(change.original, out),
        ..change.record.clone()
    }
}

/// The stretches in which `now` differs from `before`, with what was there. Close ones are told as one.
fn differences(before: &[u8], now: &[u8]) -> Vec<(incise_image::FileOffset, Vec<u8>)> {
    const CLOSE: usize = 4;
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (page, (old, new)) in before.chunks(PAGE as usize).zip(now.chunks(PAGE as usize)).enumerate() {
        if old == &new[..old.len().min(new.len())] {
            continue;
        }
        let start = page * PAGE as usize;
        for at in old.iter().zip(new).enumerate().filter(|(_, (a, b))| a != b).map(|(n, _)| start + n) {
            match found.last_mut() {
                Some((_, end)) if at - *end < CLOSE => *end = at + 1,
                _ => found.push((at, at + 1)),
            }
        }
    }
    let old = |(start, end)| (incise_image::FileOffset(start as u64), before[start..end].to_vec());
    found.into_iter().map(old).collect()
}
