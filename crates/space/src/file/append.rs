//! From what changed to the bytes of the new file.
//!
//! 1. The segments that come are chosen, and with them the size of the program header table.
//! 2. Trampolines and data come behind the program, ascending in address, each at the next page of the file.
//! 3. A *payload* segment takes the table, which has no room to grow in its old place, and everything that
//!    runs before the program. It is the first in memory and the last in the file; see [`place_payload`].
//! 4. The section header table is copied with the new sections behind the old ones, so that no index changes.
//! 5. The record says which bytes of the original differ now.

use incise_isa::Addr;
use incise_isa::native::{TRAP, is_illegal};
use sha2::{Digest, Sha256};

use super::PAGE;
use super::code::{Code, Run, pool};
use super::counts;
use super::data::Data;
use super::dynamic;
use super::elf::{
    Headers, PF_R, PF_W, PF_X, PHDR, PT_LOAD, PT_PHDR, SHDR, SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_NOBITS,
    SHT_PROGBITS, Section, Sections, Segment, slice,
};
use super::error::FileError;
use super::record::{self, Record};
use super::start::{Config, ENTRY, handler_image};
use crate::Landing;
use crate::trap::{TrapHeader, table_bytes};

/// Alignment of every part, in bytes.
const ALIGN: u64 = 8;

/// One page in so many of the original may be spent on having fewer segments.
const SPARE: u64 = 50;

/// How far behind its lowest address the payload may lie, besides a quarter of the file: part of the room that is
/// kept for it.
const SLIDE: u64 = 4 << 20;

/// Everything the new file is made from.
pub(super) struct Change<'a> {
    pub original: &'a [u8],
    /// The same with the edits of code.
    pub edited: &'a [u8],
    pub headers: &'a Headers,
    pub code: &'a [Code],
    pub data: &'a [Data],
    pub landings: &'a [Landing],
    /// What the record shall hold beside the original.
    pub record: Record,
    /// Where the counters are that are kept in a file, and their size in bytes.
    pub counters: Option<(Addr, u64)>,
}

/// The lowest address at which the payload can come to lie: behind the program, with a page between.
pub(super) fn payload_address(headers: &Headers, file_len: u64) -> u64 {
    behind(headers).max(same_place(headers, file_len.next_multiple_of(PAGE) + into_page(headers)))
}

/// Where the payload lies in memory and in the file, if `end` bytes of the file are taken.
///
/// Its address shall be that at which the file, mapped as a whole from the first segment on, would have it. Kernels
/// before 5.18 take the program header table to be there, and so does patchelf, which moves the table back behind the
/// file header and takes the difference of the old place for that of the new: `PT_PHDR` is wrong then, and the
/// dynamic linker believes it. A large `.bss` stands against that, for it takes addresses but no bytes of the file. So
/// the payload comes behind all else in the file, and a few zeros are put before it.
///
/// And it begins at the offset in its page at which the program's last segment ends in the file: tools that
/// write the file anew (GNU strip) put the table right behind that, and lower the address of the payload if they do
/// not fit together.
fn place_payload(headers: &Headers, file_len: u64, end: u64) -> (u64, u64) {
    let into = into_page(headers);
    let offset = end + (PAGE + into - end % PAGE) % PAGE;
    let (behind, wanted) = (behind(headers), same_place(headers, offset));
    // Trampolines may lie behind the room that is kept.
    let most = payload_address(headers, file_len) + SLIDE + file_len / 4;
    if wanted >= behind && wanted <= most {
        return (wanted, offset);
    }
    let missing = behind.saturating_sub(wanted);
    let padded = wanted > 0 && wanted < behind && missing <= padding_max(file_len);
    (behind, if padded { offset + missing } else { offset })
}

/// The first address behind the program at which a payload may begin.
fn behind(headers: &Headers) -> u64 {
    headers.end().next_multiple_of(PAGE) + PAGE + into_page(headers)
}

/// The payload's offset in its page.
fn into_page(headers: &Headers) -> u64 {
    let end = headers.loads().last().map_or(0, |last| last.offset + last.filesz);
    end.next_multiple_of(ALIGN) % PAGE
}

/// The address at which the byte at file offset `offset` would be if the file were mapped as a whole; 0 for
/// libraries that do not tell where their table is, where nobody asks.
fn same_place(headers: &Headers, offset: u64) -> u64 {
    match headers.loads().next() {
        Some(first) if headers.program || headers.first(PT_PHDR).is_some() => {
            first.vaddr.wrapping_sub(first.offset).saturating_add(offset)
        }
        _ => 0,
    }
}

/// The most zeros put before the payload so that address and offset agree.
fn padding_max(file_len: u64) -> u64 {
    (file_len / 16).max(64 << 10)
}

/// A part that was appended, for the section header table.
struct Part {
    name: &'static str,
    kind: u32,
    flags: u64,
    addr: u64,
    offset: u64,
    size: u64,
    align: u64,
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
/// [`FileError::Unsupported`], [`FileError::NoFreeEntry`]: the file cannot be extended so.
pub(super) fn build(change: &Change) -> Result<(Vec<u8>, usize), FileError> {
    let mut out = change.edited.to_vec();
    let mut parts = Vec::new();
    let mut added = 0;
    let (runs, pool) = pool(change.code, change.original.len() as u64 / PAGE / SPARE);
    let (data, trap_header) = writable(change, &runs)?;
    let starts = trap_header.is_some() || change.counters.is_some_and(|(_, len)| len > 0);
    if starts || !runs.is_empty() || !data.is_empty() {
        added = 1 + runs.len() + data.len();
        append(change, &mut out, &mut parts, (&runs, &pool), &data, trap_header)?;
    }
    let sections = change.headers.sections.as_ref().filter(|_| !parts.is_empty());
    let table = sections.map(|sections| reserve_sections(&mut out, change.original, sections, &parts));
    let record = finished(change, &out).to_bytes();
    if let (Some(sections), Some(table)) = (sections, table) {
        let at = out.len() as u64;
        write_sections(&mut out, sections, &parts, &table, (at, record.len() as u64));
    }
    out.extend(record);
    Ok((out, added))
}

/// The writable memory, ascending, and in it the place of the trap header if there are landings.
fn writable(change: &Change, runs: &[Run]) -> Result<(Vec<Writable>, Option<u64>), FileError> {
    let mut data = Vec::new();
    for reserved in change.data {
        let counted = change.counters.filter(|(at, _)| *at == reserved.at);
        let len = counted.map_or(reserved.len, |(_, len)| len.next_multiple_of(PAGE)).min(reserved.len);
        if len > 0 {
            data.push(Writable { at: reserved.at.0, len, contents: reserved.contents(len)? });
        }
    }
    data.sort_by_key(|data| data.at);
    if change.landings.is_empty() {
        return Ok((data, None));
    }
    // Not among the counters: those are shared with forked children.
    let behind = data.last().map_or(0, |data| data.at + data.len);
    let last = runs.last().map_or(0, |run| (run.at + run.len).next_multiple_of(PAGE));
    let taken = payload_address(change.headers, change.edited.len() as u64);
    let len = (TrapHeader::SIZE as u64).next_multiple_of(PAGE);
    match data.last_mut() {
        Some(data) if behind > last => data.len += len,
        // No data: room is kept behind the program, but trampolines lie behind that.
        _ if last > taken => data.push(Writable { at: last, len, contents: Vec::new() }),
        _ => return Err(FileError::Unsupported("landings without trampolines")),
    }
    Ok((data, Some(behind.max(last))))
}

/// Steps 1 to 3.
fn append(
    change: &Change,
    out: &mut Vec<u8>,
    parts: &mut Vec<Part>,
    (runs, pool): (&[Run], &[u8]),
    data: &[Writable],
    trap_header: Option<u64>,
) -> Result<(), FileError> {
    let headers = change.headers;
    let count = headers.segments.len() + 1 + runs.len() + data.len();
    let count = u16::try_from(count).ok().filter(|&count| count < 0xFFFF);
    let count = count.ok_or(FileError::Unsupported("too many program headers"))?;
    let table_len = usize::from(count) * PHDR;

    let file_len = out.len() as u64;
    let mut end = file_len;
    let mut added = Vec::new();
    let mut behind = Vec::new();
    let mut contents: Vec<(u64, &[u8])> = Vec::new();
    if !pool.is_empty() {
        let base = end.next_multiple_of(PAGE);
        for run in runs {
            let offset = base + run.offset;
            added.push(Segment::load(PF_R | PF_X, offset, run.at, run.len, run.len));
            behind.push(Part::new(".incise.text", SHF_ALLOC | SHF_EXECINSTR, run.at, offset, run.len));
        }
        contents.push((base, pool));
        end = base + pool.len() as u64;
    }
    for data in data {
        // Loaders and tools know few segments without any bytes in the file.
        let filled = (data.contents.len() as u64).max(ALIGN);
        let offset = end.next_multiple_of(PAGE);
        added.push(Segment::load(PF_R | PF_W, offset, data.at, filled, data.len));
        let part = Part::new(".incise.data", SHF_ALLOC | SHF_WRITE, data.at, offset, filled);
        let (addr, size) = (data.at + filled, data.len - filled);
        let rest =
            Part { name: ".incise.bss", kind: SHT_NOBITS, addr, size, offset: offset + filled, ..part };
        behind.push(part);
        behind.extend((size > 0).then_some(rest));
        contents.push((offset, &data.contents));
        end = offset + filled;
    }

    let (address, offset) = place_payload(headers, file_len, end);
    let mut payload = Payload { address, bytes: vec![0; table_len] };
    payload.align();
    let config = tables(change, &mut payload, trap_header);
    payload.align();
    let tables_len = payload.bytes.len() as u64;
    let entry = match config {
        Some(config) => Some(start(change, &mut payload, config, trap_header)?),
        None => None,
    };
    let len = payload.bytes.len() as u64;
    added.push(Segment::load(PF_R | PF_X, offset, address, len, len));
    // Tools that move sections expect the program header table before them, not in one.
    let table_end = table_len as u64;
    if tables_len > table_end {
        let (at, from) = (address + table_end, offset + table_end);
        parts.push(Part::new(".incise.tables", SHF_ALLOC, at, from, tables_len - table_end));
    }
    if entry.is_some() {
        let (at, from) = (address + tables_len, offset + tables_len);
        parts.push(Part::new(".incise.start", SHF_ALLOC | SHF_EXECINSTR, at, from, len - tables_len));
    }
    parts.append(&mut behind);
    let added = ascending(headers, added)?;

    let mut table = Vec::with_capacity(table_len);
    segments(headers, &added, address, offset, table_len as u64).iter().for_each(|s| s.write(&mut table));
    payload.bytes[..table_len].copy_from_slice(&table);
    contents.push((offset, &payload.bytes));
    contents.sort_by_key(|(offset, _)| *offset);
    for (offset, bytes) in contents {
        out.resize(offset as usize, 0);
        out.extend_from_slice(bytes);
    }
    out[32..40].copy_from_slice(&offset.to_le_bytes());
    out[56..58].copy_from_slice(&count.to_le_bytes());
    match entry {
        Some(entry) if headers.program => out[24..32].copy_from_slice(&entry.to_le_bytes()),
        Some(entry) => dynamic::set_init(headers, out, entry, trap_header.is_some())?,
        None => {}
    }
    Ok(())
}

/// Bytes of the payload so far.
struct Payload {
    address: u64,
    bytes: Vec<u8>,
}

impl Payload {
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN as usize), 0);
    }

    /// Appends `bytes` and tells their address.
    fn push(&mut self, bytes: &[u8]) -> u64 {
        let at = self.here();
        self.bytes.extend_from_slice(bytes);
        at
    }

    fn here(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
}

/// Appends what the start code reads; nothing if there is no need of it.
fn tables(change: &Change, payload: &mut Payload, trap_header: Option<u64>) -> Option<Config> {
    let mut config = Config::default();
    let counters = change.counters.filter(|(_, len)| *len > 0);
    if let (Some((at, len)), Some(counting)) = (counters, &change.record.counting) {
        config.counters = at.0;
        config.counters_len = len.next_multiple_of(PAGE);
        let ended = |text: &[u8]| [text, &[0]].concat();
        config.folder = payload.push(&ended(&counting.folder));
        config.name = payload.push(&ended(&counting.name));
        payload.align();
        let header = counts::header(counting);
        config.header_len = header.len() as u64;
        config.header = payload.push(&header);
    }
    if let Some(header) = trap_header {
        payload.align();
        config.table = payload.push(&table_bytes(&trapping(change)));
        config.trap_header = header;
        config.faults = change.landings.iter().any(Landing::is_fault).into();
    }
    (trap_header.is_some() || config.counters_len > 0).then_some(config)
}

/// The landings of faults and of bytes that are traps now: nothing changes while the program runs, so no other is needed.
fn trapping(change: &Change) -> Vec<Landing> {
    let traps = |at: Addr| {
        let offset = change.headers.offset_of(at.0, 1);
        let byte = offset.and_then(|offset| change.edited.get(usize::try_from(offset).ok()?));
        byte.is_some_and(|&byte| byte == TRAP || is_illegal(byte))
    };
    change.landings.iter().filter(|landing| landing.is_fault() || traps(landing.trap)).copied().collect()
}

/// Appends the code that runs first, and tells where it is entered.
fn start(
    change: &Change,
    payload: &mut Payload,
    mut config: Config,
    trap_header: Option<u64>,
) -> Result<u64, FileError> {
    let far = FileError::Unsupported("its parts lie too far apart");
    if let Some(header) = trap_header {
        let Some(image) = handler_image(payload.here(), header) else { return Err(far) };
        config.handler = payload.push(&image);
        payload.align();
    }
    config.itself = payload.here();
    let headers = change.headers;
    let next = if headers.program {
        Some(headers.entry)
    } else {
        dynamic::init(headers, change.edited).filter(|&init| init != 0)
    };
    let image = config.image(next).ok_or(far)?;
    payload.push(&image);
    Ok(config.itself + ENTRY as u64)
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

/// The program header table: the new segments behind the last loaded one, and the table where it is now.
fn segments(headers: &Headers, added: &[Segment], address: u64, offset: u64, len: u64) -> Vec<Segment> {
    let mut segments = headers.segments.clone();
    for table in segments.iter_mut().filter(|segment| segment.kind == PT_PHDR) {
        let (vaddr, paddr, filesz, memsz) = (address, address, len, len);
        *table = Segment { offset, vaddr, paddr, filesz, memsz, ..*table };
    }
    let behind = segments.iter().rposition(|segment| segment.kind == PT_LOAD).map_or(0, |last| last + 1);
    segments.splice(behind..behind, added.iter().copied());
    segments
}

impl Part {
    fn new(name: &'static str, flags: u64, addr: u64, offset: u64, size: u64) -> Part {
        let align = if addr.is_multiple_of(ALIGN) { ALIGN } else { 1 };
        Part { name, kind: SHT_PROGBITS, flags, addr, offset, size, align }
    }
}

/// Room for the section header table, and the names of sections before it.
struct SectionTable {
    at: usize,
    names_at: u64,
    names_len: u64,
    /// Where the names of the parts begin among the names, then that of the record.
    name_of: Vec<u32>,
}

/// Step 4, as far as the file header depends on it.
fn reserve_sections(out: &mut Vec<u8>, original: &[u8], sections: &Sections, parts: &[Part]) -> SectionTable {
    let old =
        sections.headers.get(sections.names).and_then(|names| slice(original, names.offset, names.size));
    let mut names = old.unwrap_or(&[]).to_vec();
    let mut name_of = Vec::new();
    for name in parts.iter().map(|part| part.name.as_bytes()).chain([record::SECTION]) {
        name_of.push(names.len() as u32);
        names.extend_from_slice(name);
        names.push(0);
    }
    let names_at = out.len() as u64;
    let names_len = names.len() as u64;
    out.extend(names);
    out.resize(out.len().next_multiple_of(8), 0);
    let at = out.len();
    let count = sections.headers.len() + parts.len() + 1;
    out.resize(at + count * SHDR, 0);
    out[40..48].copy_from_slice(&(at as u64).to_le_bytes());
    out[60..62].copy_from_slice(&(count as u16).to_le_bytes());
    SectionTable { at, names_at, names_len, name_of }
}

/// The rest of step 4: the record follows at a place that is known now.
fn write_sections(
    out: &mut [u8],
    sections: &Sections,
    parts: &[Part],
    table: &SectionTable,
    record: (u64, u64),
) {
    let mut headers = sections.headers.clone();
    if let Some(names) = headers.get_mut(sections.names) {
        (names.offset, names.size) = (table.names_at, table.names_len);
    }
    for (part, &name) in parts.iter().zip(&table.name_of) {
        let Part { kind, flags, addr, offset, size, align, .. } = *part;
        headers.push(Section { name, kind, flags, addr, offset, size, align, ..Section::default() });
    }
    let name = table.name_of.last().copied().unwrap_or(0);
    let (offset, size) = record;
    headers.push(Section { name, kind: SHT_PROGBITS, offset, size, align: 1, ..Section::default() });
    let mut bytes = Vec::with_capacity(headers.len() * SHDR);
    headers.iter().for_each(|header| header.write(&mut bytes));
    out[table.at..table.at + bytes.len()].copy_from_slice(&bytes);
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
