//! The bytes of a file as the parser sees them: code by offset, data as the loader leaves it.

use std::ops::Range;
use std::sync::OnceLock;

use incise_image::{Image, LinkAddr};
use incise_isa::Addr;
use incise_isa::native::{Insn, decode};

use crate::ParseError;

/// Distance of an address from the first byte of the program's code, in bytes.
pub(crate) type Off = u32;

/// No offset, no index.
pub(crate) const NONE: u32 = u32::MAX;

/// An executable range that lies in the file.
struct Text<'a> {
    range: Range<Off>,
    bytes: &'a [u8],
}

/// A program's bytes.
pub(crate) struct Code<'a> {
    pub image: &'a Image,
    file: &'a [u8],
    base: u64,
    text: Vec<Text<'a>>,
    /// Relative relocations with an addend: place and value, sorted.
    relative: OnceLock<Vec<(u64, u64)>>,
}

impl<'a> Code<'a> {
    pub(crate) fn new(image: &'a Image, file: &'a [u8]) -> Result<Code<'a>, ParseError> {
        let base = image.text().iter().map(|r| r.start.0).min().unwrap_or(0);
        let end = image.text().iter().map(|r| r.end.0).max().unwrap_or(0);
        if end - base >= u64::from(u32::MAX) {
            return Err(ParseError::TooFarApart { start: LinkAddr(base), end: LinkAddr(end) });
        }
        let mut text = Vec::new();
        for range in image.text() {
            // What lies beyond the file's bytes is zero at run time: no code.
            let len = range.end.0 - range.start.0;
            let Some(bytes) = image.bytes_at(file, range.start, len) else { continue };
            text.push(Text { range: (range.start.0 - base) as Off..(range.end.0 - base) as Off, bytes });
        }
        Ok(Code { image, file, base, text, relative: OnceLock::new() })
    }

    /// The link address of an offset.
    pub(crate) fn link(&self, at: Off) -> LinkAddr {
        LinkAddr(self.base.wrapping_add(u64::from(at)))
    }

    pub(crate) fn base(&self) -> LinkAddr {
        LinkAddr(self.base)
    }

    /// The offset of a link address, if code is there.
    pub(crate) fn offset(&self, at: u64) -> Option<Off> {
        let off = u32::try_from(at.wrapping_sub(self.base)).ok()?;
        self.section(off).map(|_| off)
    }

    fn section(&self, at: Off) -> Option<&Text<'a>> {
        let index = self.text.partition_point(|t| t.range.end <= at);
        self.text.get(index).filter(|t| t.range.contains(&at))
    }

    /// The executable ranges, ascending.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<Off>> + '_ {
        self.text.iter().map(|t| t.range.clone())
    }

    /// The code from `at` to the end of its section.
    pub(crate) fn bytes(&self, at: Off) -> &'a [u8] {
        self.section(at).and_then(|t| t.bytes.get((at - t.range.start) as usize..)).unwrap_or(&[])
    }

    /// Decodes the instruction at `at`.
    pub(crate) fn insn(&self, at: Off) -> Option<Insn> {
        decode(self.bytes(at), Addr(self.link(at).0)).ok()
    }

    /// The instructions of `range`, which begins at one.
    pub(crate) fn insns(&self, range: Range<Off>) -> impl Iterator<Item = Insn> + use<'a> {
        let bytes = self.bytes(range.start);
        let bytes = bytes.get(..range.len()).unwrap_or(bytes);
        let (mut rest, mut at) = (bytes, Addr(self.link(range.start).0));
        std::iter::from_fn(move || {
            let insn = decode(rest, at).ok()?;
            (rest, at) = (rest.get(insn.len()..)?, insn.end());
            Some(insn)
        })
    }

    /// Data at a link address, if it comes from the file.
    pub(crate) fn data(&self, at: u64, len: u64) -> Option<&'a [u8]> {
        self.image.bytes_at(self.file, LinkAddr(at), len)
    }

    /// Data from a link address to the end of its section or, failing that, at most `most` bytes.
    pub(crate) fn data_from(&self, at: u64, most: u64) -> &'a [u8] {
        let section = self.image.sections().iter().rev().find(|s| s.range().contains(&LinkAddr(at)));
        let segment = self.image.segments().iter().rev().find(|s| s.range().contains(&LinkAddr(at)));
        let segment_end = segment.map(|s| s.link.0.saturating_add(s.file_size));
        let end = section.map(|s| s.range().end.0).or(segment_end).unwrap_or(at);
        let end = end.min(segment_end.unwrap_or(end));
        self.data(at, end.saturating_sub(at).min(most)).unwrap_or(&[])
    }

    /// Relative relocations with an addend: place and value, sorted by place.
    pub(crate) fn relative(&self) -> &[(u64, u64)] {
        self.relative.get_or_init(|| {
            /// `R_X86_64_RELATIVE` (psABI, table 4.9).
            const RELATIVE: u32 = 8;
            let tables = self.image.sections().iter().filter(|s| s.name.starts_with(".rela."));
            let bytes = tables.filter_map(|s| self.data(s.link.0, s.size));
            let mut found: Vec<(u64, u64)> = bytes
                .flat_map(|bytes| bytes.as_chunks::<24>().0)
                .filter(|entry| word(&entry[8..]) as u32 == RELATIVE)
                .map(|entry| (word(entry), word(&entry[16..])))
                .collect();
            found.sort_unstable();
            found
        })
    }

    /// The pointer the loader leaves at `at`, as a link address; 0 where nothing is known.
    pub(crate) fn pointer(&self, at: u64) -> Option<u64> {
        let relative = self.relative();
        match relative.binary_search_by_key(&at, |r| r.0) {
            Ok(index) => relative.get(index).map(|r| r.1),
            Err(_) => self.data(at, 8).map(word),
        }
    }

    /// Whether the data at `at` cannot change while the program runs (after relocation).
    pub(crate) fn is_constant(&self, at: u64) -> bool {
        if let Some(section) = self.image.sections().iter().find(|s| s.range().contains(&LinkAddr(at))) {
            return !section.writable || matches!(&*section.name, ".data.rel.ro" | ".got");
        }
        let segment = self.image.segments().iter().find(|s| s.range().contains(&LinkAddr(at)));
        segment.is_some_and(|s| !s.permissions.write)
    }
}

/// The little-endian quadword at the start of `bytes`; 0 if they are fewer.
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}
