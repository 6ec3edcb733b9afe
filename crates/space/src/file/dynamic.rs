//! The dynamic table of a library, as far as it has to tell of the start code.

use super::elf::{ET_EXEC, Headers, PT_DYNAMIC, PT_INTERP, slice, u64_at};
use super::error::FileError;

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_INIT: u64 = 12;
const DT_SONAME: u64 = 14;
const DT_FLAGS_1: u64 = 0x6FFF_FFFB;
/// The library is never unmapped (gABI, `DT_FLAGS_1`).
const DF_1_NODELETE: u64 = 8;
/// It is a program, not a library.
const DF_1_PIE: u64 = 0x0800_0000;

/// Bytes of an entry: tag and value.
const ENTRY: usize = 16;

/// Where the table is in the file.
struct Table {
    at: usize,
    /// Entries before the first `DT_NULL`.
    used: usize,
    /// Further entries that can be used; one `DT_NULL` stays behind them.
    free: usize,
}

impl Table {
    fn find(headers: &Headers, file: &[u8]) -> Option<Table> {
        let segment = headers.first(PT_DYNAMIC)?;
        Table::at(file, segment.offset, segment.filesz)
    }

    fn at(file: &[u8], offset: u64, len: u64) -> Option<Table> {
        let bytes = slice(file, offset, len)?;
        let tags: Vec<u64> = bytes.chunks_exact(ENTRY).filter_map(|entry| u64_at(entry, 0)).collect();
        let used = tags.iter().position(|&tag| tag == DT_NULL)?;
        let free = tags[used..].iter().take_while(|&&tag| tag == DT_NULL).count() - 1;
        Some(Table { at: offset as usize, used, free })
    }

    /// The value of an entry that is there.
    fn value(&self, file: &[u8], tag: u64) -> Option<(usize, u64)> {
        (0..self.used).map(|n| self.at + n * ENTRY).find_map(|at| {
            (u64_at(file, at)? == tag).then_some(())?;
            Some((at + 8, u64_at(file, at + 8)?))
        })
    }

    /// Changes an entry, or takes a free one.
    fn set(&mut self, file: &mut [u8], tag: u64, value: u64) -> Result<(), FileError> {
        let place = match self.value(file, tag) {
            Some((place, _)) => place,
            None if self.free == 0 => return Err(FileError::Unsupported("its dynamic table is full")),
            None => {
                let at = self.at + self.used * ENTRY;
                file[at..at + 8].copy_from_slice(&tag.to_le_bytes());
                self.used += 1;
                self.free -= 1;
                at + 8
            }
        };
        file[place..place + 8].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

/// Whether the file is a program. One of the dynamic linker's own libraries may have an interpreter too, for running
/// it by hand, but also a name; programs of linkers before `DF_1_PIE` have an interpreter and no name.
pub(super) fn is_program(headers: &Headers, file: &[u8]) -> bool {
    let table = Table::find(headers, file);
    let value = |tag| table.as_ref().and_then(|table| Some(table.value(file, tag)?.1));
    let marked = value(DT_FLAGS_1).is_some_and(|flags| flags & DF_1_PIE != 0);
    let named = value(DT_SONAME).is_some();
    headers.file_type == ET_EXEC || marked || headers.first(PT_INTERP).is_some() && !named
}

/// Whether the file is a dynamic linker (of musl, also its C library): it is entered before anything could run its start code,
/// and its own dynamic table is none to add to (glibc's refuses to start then). It needs no library, and names the list of loaded modules
/// as debuggers look for it.
pub(super) fn is_linker(headers: &Headers, file: &[u8]) -> bool {
    const LISTS: [&[u8]; 2] = [b"\0_r_debug\0", b"\0_dl_debug_addr\0"];
    let Some(table) = Table::find(headers, file) else { return false };
    let value = |tag| Some(table.value(file, tag)?.1);
    let names = || {
        let (at, len) = (value(DT_STRTAB)?, value(DT_STRSZ)?);
        slice(file, headers.offset_of(at, len)?, len)
    };
    !headers.program
        && headers.entry != 0
        && value(DT_NEEDED).is_none()
        && names()
            .is_some_and(|names| LISTS.iter().any(|list| names.windows(list.len()).any(|part| part == *list)))
}

/// The function that the dynamic linker calls first, if there is one.
pub(super) fn init(headers: &Headers, file: &[u8]) -> Option<u64> {
    let (_, value) = Table::find(headers, file)?.value(file, DT_INIT)?;
    Some(value)
}

/// The table with room behind it, if what [`set_init`] adds does not fit where it is: linkers leave free entries, or none.
/// It is to lie elsewhere then, in memory that can be written, for a dynamic linker may do so.
pub(super) fn with_room(headers: &Headers, file: &[u8], stays: bool) -> Option<Vec<u8>> {
    let table = Table::find(headers, file)?;
    let tags: &[u64] = if stays { &[DT_INIT, DT_FLAGS_1] } else { &[DT_INIT] };
    let missing = tags.iter().filter(|tag| table.value(file, **tag).is_none()).count();
    if missing <= table.free {
        return None;
    }
    let mut bytes = slice(file, table.at as u64, (table.used * ENTRY) as u64)?.to_vec();
    bytes.resize(bytes.len() + (missing + 1) * ENTRY, 0);
    Some(bytes)
}

/// Makes `init` the first function called, in the table of `len` bytes at file offset `at`. `stays`: a signal handler
/// lies in the library, which must not be unmapped then.
///
/// # Errors
/// [`FileError::Unsupported`] without a table there, or room in it.
pub(super) fn set_init(
    file: &mut [u8],
    (at, len): (u64, u64),
    init: u64,
    stays: bool,
) -> Result<(), FileError> {
    let missing = FileError::Unsupported("a library without a dynamic table");
    let mut table = Table::at(file, at, len).ok_or(missing)?;
    table.set(file, DT_INIT, init)?;
    if stays {
        let flags = table.value(file, DT_FLAGS_1).map_or(0, |(_, value)| value);
        table.set(file, DT_FLAGS_1, flags | DF_1_NODELETE)?;
    }
    Ok(())
}
