//! Bounds-checked views of a file's bytes.

use std::ops::Range;

use object::LittleEndian;
use object::pod::{self, Pod};

use crate::ImageError;

/// Byte order of every file accepted here.
pub(crate) const LE: LittleEndian = LittleEndian;

/// A file's bytes, or a part of them that knows where it lies in the file.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    data: &'a [u8],
    /// File offset of the first byte, for error messages.
    base: u64,
}

impl<'a> Bytes<'a> {
    pub(crate) fn file(data: &'a [u8]) -> Bytes<'a> {
        Bytes { data, base: 0 }
    }

    pub(crate) fn empty() -> Bytes<'static> {
        Bytes { data: &[], base: 0 }
    }

    pub(crate) fn data(self) -> &'a [u8] {
        self.data
    }

    /// Where it lies in the file.
    pub(crate) fn place(self) -> Range<usize> {
        let base = usize::try_from(self.base).unwrap_or(usize::MAX);
        base..base.saturating_add(self.data.len())
    }

    pub(crate) fn len(self) -> u64 {
        self.data.len() as u64
    }

    /// An error about the byte at `offset` of this view.
    pub(crate) fn error(self, what: &'static str, offset: u64) -> ImageError {
        ImageError::malformed(what, self.base.saturating_add(offset))
    }

    /// The `len` bytes at `offset`.
    pub(crate) fn get(self, offset: u64, len: u64) -> Option<Bytes<'a>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        Some(Bytes { data: self.data.get(start..end)?, base: self.base.checked_add(offset)? })
    }

    /// As [`get`](Self::get), for parts that must be there.
    pub(crate) fn need(self, offset: u64, len: u64, what: &'static str) -> Result<Bytes<'a>, ImageError> {
        self.get(offset, len).ok_or_else(|| self.error(what, offset))
    }

    /// The structure at `offset`.
    pub(crate) fn read<T: Pod>(self, offset: u64) -> Option<&'a T> {
        let start = usize::try_from(offset).ok()?;
        pod::from_bytes(self.data.get(start..)?).ok().map(|(value, _)| value)
    }

    /// All whole structures of this view; a rest that is no whole one is left out. `T` must have an
    /// alignment of one, as ELF structures of [`object`] have.
    pub(crate) fn all<T: Pod>(self) -> &'a [T] {
        let count = self.data.len() / size_of::<T>().max(1);
        pod::slice_from_bytes(self.data, count).map_or(&[], |(slice, _)| slice)
    }

    /// The bytes from `offset` up to the next zero, which must follow within `limit` bytes.
    pub(crate) fn string(self, offset: u64, limit: usize) -> Option<&'a [u8]> {
        let tail = self.data.get(usize::try_from(offset).ok()?..)?;
        let tail = &tail[..tail.len().min(limit)];
        memchr::memchr(0, tail).map(|end| &tail[..end])
    }

    /// A string as UTF-8 text, with what is not UTF-8 replaced.
    pub(crate) fn text(self, offset: u64) -> Option<String> {
        /// Longest name accepted for a library, an interpreter or a version.
        const LIMIT: usize = 4096;
        self.string(offset, LIMIT + 1).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}
