//! The payload: the segment that takes the program header table, and what the program needs before it runs.

use incise_isa::Addr;
use incise_isa::native::{TRAP, is_illegal};

use super::PAGE;
use super::append::{ALIGN, Change};
use super::counts;
use super::dynamic;
use super::elf::{Headers, PF_W, PT_LOAD, PT_PHDR, SHT_NOBITS, Segment, slice};
use super::error::FileError;
use super::sections::Place;
use super::start::{Config, ENTRY, handler_image};
use crate::Landing;
use crate::trap::table_bytes;

/// How far behind its lowest address the payload may lie, besides a quarter of the file: part of the room that is
/// kept for it.
const SLIDE: u64 = 4 << 20;

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
/// the payload comes behind all else in the file, and a few zeros are put before it. Where too many would be needed, the
/// table goes into a [`cavity`] if there is one.
///
/// And it begins at the offset in its page at which the program's last segment ends in the file: tools that
/// write the file anew (GNU strip) put the table right behind that, and lower the address of the payload if they do
/// not fit together.
pub(super) fn place_payload(headers: &Headers, file_len: u64, end: u64) -> (u64, u64) {
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

/// Whether a payload at this place has the program header table where some look for it: see [`place_payload`].
pub(super) fn is_found(headers: &Headers, address: u64, offset: u64) -> bool {
    let expected = same_place(headers, offset);
    expected == 0 || expected == address
}

/// Room for a program header table of `len` bytes where the file, mapped as a whole, would have it: behind the end of a
/// segment in the last page of it, which is mapped to its end. It shall be a segment of its own there: GNU strip lays a table that
/// another segment holds over the sections behind the file header. Returns the index of the segment before it, too.
pub(super) fn cavity(headers: &Headers, file: &[u8], len: u64) -> Option<(usize, Place)> {
    let first = headers.loads().next()?;
    let taken = |from: u64, to: u64| {
        let overlaps = |start: u64, size: u64| size > 0 && start < to && from < start.saturating_add(size);
        let sections = headers.sections.iter().flat_map(|sections| &sections.headers);
        headers.segments.iter().any(|segment| overlaps(segment.offset, segment.filesz))
            || sections.into_iter().any(|part| part.kind != SHT_NOBITS && overlaps(part.offset, part.size))
    };
    let fits = |segment: &Segment| {
        let whole = segment.filesz == segment.memsz && segment.flags & PF_W == 0;
        let (address, offset) = (segment.vaddr + segment.filesz, segment.offset + segment.filesz);
        let moved = address.wrapping_sub(offset) != first.vaddr.wrapping_sub(first.offset);
        let end = address.next_multiple_of(PAGE);
        let next = headers.loads().map(|load| load.vaddr & !(PAGE - 1)).find(|&next| next >= address);
        if !whole || moved || address + len > end || next.is_some_and(|next| next < end) {
            return None;
        }
        let free = !taken(offset, offset + len) && slice(file, offset, len)?.iter().all(|&byte| byte == 0);
        free.then_some(Place { address, offset, len })
    };
    let loads = headers.segments.iter().enumerate().filter(|(_, segment)| segment.kind == PT_LOAD);
    loads.filter_map(|(index, segment)| Some((index, fits(segment)?))).next()
}

/// The first address behind the program at which a payload may begin.
fn behind(headers: &Headers) -> u64 {
    // eu-elflint takes a relocation to reach as far as its symbol is long.
    let apart = if asks(headers) { PAGE } else { 256 * PAGE };
    headers.end().next_multiple_of(PAGE) + apart + into_page(headers)
}

/// The payload's offset in its page.
fn into_page(headers: &Headers) -> u64 {
    // GNU strip puts a program header table right behind the segment before it, at an odd address too, and complains of sections
    // that would overlap it.
    headers.loads().last().map_or(0, |last| last.offset + last.filesz) % PAGE
}

/// Whether anybody looks for the program header table: not that of libraries which do not tell where it is.
fn asks(headers: &Headers) -> bool {
    headers.program || headers.first(PT_PHDR).is_some()
}

/// The address at which the byte at file offset `offset` would be if the file were mapped as a whole; 0 where nobody
/// asks.
fn same_place(headers: &Headers, offset: u64) -> u64 {
    match headers.loads().next() {
        Some(first) if asks(headers) => first.vaddr.wrapping_sub(first.offset).saturating_add(offset),
        _ => 0,
    }
}

/// The most zeros put before the payload so that address and offset agree.
fn padding_max(file_len: u64) -> u64 {
    (file_len / 16).max(64 << 10)
}

/// Bytes of the payload so far.
pub(super) struct Payload {
    pub address: u64,
    pub bytes: Vec<u8>,
}

impl Payload {
    pub(super) fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN as usize), 0);
    }

    /// Appends `bytes` and tells their address.
    pub(super) fn push(&mut self, bytes: &[u8]) -> u64 {
        let at = self.here();
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// Appends `bytes` and tells where they are; the payload begins at file offset `start`.
    pub(super) fn place(&mut self, bytes: &[u8], start: u64) -> Place {
        let offset = start + self.bytes.len() as u64;
        Place { address: self.push(bytes), offset, len: bytes.len() as u64 }
    }

    pub(super) fn here(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
}

/// Appends what the start code reads; nothing if there is no need of it.
pub(super) fn tables(change: &Change, payload: &mut Payload, trap_header: Option<u64>) -> Option<Config> {
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
pub(super) fn start(
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
