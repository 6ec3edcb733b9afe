//! The dynamic table: what the program tells the dynamic linker.

use object::LittleEndian;
use object::elf::{self, Dyn64};

use crate::elf::bytes::{Bytes, LE};
use crate::elf::layout::Layout;
use crate::{ImageError, LinkAddr};

/// A table named by an address tag and a size tag.
#[derive(Clone, Copy, Default)]
struct Table {
    at: Option<u64>,
    size: u64,
}

impl Table {
    fn bytes<'a>(self, layout: &Layout<'a>, what: &'static str) -> Result<Bytes<'a>, ImageError> {
        let Some(at) = self.at else { return Ok(Bytes::empty()) };
        let bytes = layout.at(LinkAddr(at), self.size);
        bytes.or((self.size == 0).then(Bytes::empty)).ok_or_else(|| layout.file.error(what, at))
    }
}

/// What the dynamic table names, as views of the file.
pub(crate) struct Dynamic<'a> {
    pub soname: Option<String>,
    pub needed: Vec<String>,
    /// `DF_1_PIE`: a program, not a library.
    pub pie: bool,
    /// Relocations may write to code.
    pub text_relocations: bool,
    /// Address of the value of `DT_DEBUG`.
    pub debug: Option<LinkAddr>,
    pub strings: Bytes<'a>,
    /// `DT_SYMTAB` and all that follows it; see [`symbol_count`](Dynamic::symbol_count).
    symbols: Bytes<'a>,
    symbols_at: u64,
    strings_at: u64,
    hash: Option<Bytes<'a>>,
    gnu_hash: Option<Bytes<'a>>,
    versions: Option<u64>,
    pub definitions: Option<(Bytes<'a>, u64)>,
    pub requirements: Option<(Bytes<'a>, u64)>,
    /// `DT_RELA` and `DT_JMPREL`.
    pub rela: [Bytes<'a>; 2],
}

impl<'a> Dynamic<'a> {
    /// Reads the table; `None` if the program has none (it is not dynamically linked).
    pub(crate) fn parse(layout: &Layout<'a>) -> Result<Option<Dynamic<'a>>, ImageError> {
        let Some(range) = layout.dynamic.clone() else { return Ok(None) };
        let start = range.start;
        let bytes = layout
            .at(start, range.end.0 - start.0)
            .ok_or_else(|| layout.file.error("dynamic table", start.0))?;
        let (mut soname, mut needed) = (None, Vec::new());
        let (mut strings, mut rela, mut plt) = (Table::default(), Table::default(), Table::default());
        let (mut symbols, mut hash, mut gnu_hash, mut versions) = (None, None, None, None);
        let (mut definitions, mut requirements) = ((None, 0), (None, 0));
        let (mut pie, mut debug, mut text_relocations) = (false, None, false);
        for (index, entry) in bytes.all::<Dyn64<LittleEndian>>().iter().enumerate() {
            let value = entry.d_val.get(LE);
            match entry.d_tag.get(LE) {
                elf::DT_NULL => break,
                elf::DT_NEEDED => needed.push(value),
                elf::DT_SONAME => soname = Some(value),
                elf::DT_STRTAB => strings.at = Some(value),
                elf::DT_STRSZ => strings.size = value,
                elf::DT_SYMTAB => symbols = Some(value),
                elf::DT_HASH => hash = Some(value),
                elf::DT_GNU_HASH => gnu_hash = Some(value),
                elf::DT_VERSYM => versions = Some(value),
                elf::DT_VERDEF => definitions.0 = Some(value),
                elf::DT_VERDEFNUM => definitions.1 = value,
                elf::DT_VERNEED => requirements.0 = Some(value),
                elf::DT_VERNEEDNUM => requirements.1 = value,
                elf::DT_RELA => rela.at = Some(value),
                elf::DT_RELASZ => rela.size = value,
                elf::DT_JMPREL => plt.at = Some(value),
                elf::DT_PLTRELSZ => plt.size = value,
                elf::DT_FLAGS_1 => pie = value & elf::DF_1_PIE.0 != 0,
                elf::DT_TEXTREL => text_relocations = true,
                elf::DT_FLAGS => text_relocations |= value & elf::DF_TEXTREL.0 != 0,
                elf::DT_DEBUG => debug = Some(start + (index as u64 * 16 + 8)),
                _ => {}
            }
        }
        let string_bytes = strings.bytes(layout, "dynamic string table")?;
        let text = |offset: u64| {
            string_bytes.text(offset).ok_or_else(|| string_bytes.error("name in the dynamic table", offset))
        };
        let follow = |at: Option<u64>| at.and_then(|at| layout.from(LinkAddr(at)));
        Ok(Some(Dynamic {
            soname: soname.map(text).transpose()?,
            needed: library_names(needed, text)?,
            pie,
            text_relocations,
            debug,
            strings: string_bytes,
            symbols: follow(symbols).unwrap_or(Bytes::empty()),
            symbols_at: symbols.unwrap_or(0),
            strings_at: strings.at.unwrap_or(0),
            hash: follow(hash),
            gnu_hash: follow(gnu_hash),
            versions,
            definitions: follow(definitions.0).map(|bytes| (bytes, definitions.1)),
            requirements: follow(requirements.0).map(|bytes| (bytes, requirements.1)),
            rela: [rela.bytes(layout, "relocations")?, plt.bytes(layout, "procedure linkage relocations")?],
        }))
    }

    /// The dynamic symbols.
    pub(crate) fn symbols(&self, layout: &Layout<'a>) -> Bytes<'a> {
        let count = self.symbol_count(layout).min(self.symbols.len() / 24);
        self.symbols.get(0, count * 24).unwrap_or(Bytes::empty())
    }

    /// The version index of each of the `count` dynamic symbols; empty if there are no versions.
    pub(crate) fn version_indices(&self, layout: &Layout<'a>, count: u64) -> Bytes<'a> {
        let bytes = self.versions.and_then(|at| layout.at(LinkAddr(at), count.checked_mul(2)?));
        bytes.unwrap_or(Bytes::empty())
    }

    /// How many dynamic symbols there are. No tag says so: the section header does, or the hash table,
    /// or the string table that linkers put behind the symbols.
    fn symbol_count(&self, layout: &Layout<'a>) -> u64 {
        let table = layout
            .sections
            .iter()
            .find(|s| s.kind == elf::SHT_DYNSYM.0 && s.addr == self.symbols_at && s.bytes.len() > 0);
        table
            .map(|s| s.bytes.len() / 24)
            .or_else(|| {
                Some(u64::from(self.hash?.read::<elf::HashHeader<LittleEndian>>(0)?.chain_count.get(LE)))
            })
            .or_else(|| gnu_hash_count(self.gnu_hash?))
            .or_else(|| Some(self.strings_at.checked_sub(self.symbols_at)? / 24))
            .unwrap_or(0)
    }
}

/// The names at `offsets`. A table that names the same long string again and again is refused.
fn library_names(
    offsets: Vec<u64>,
    text: impl Fn(u64) -> Result<String, ImageError>,
) -> Result<Vec<String>, ImageError> {
    /// Most libraries a program may name.
    const LIMIT: usize = 10_000;
    if offsets.len() > LIMIT {
        return Err(ImageError::malformed("number of needed libraries", 0));
    }
    offsets.into_iter().map(text).collect()
}

/// The number of symbols a GNU hash table covers: the index after the last one of the last chain.
fn gnu_hash_count(table: Bytes<'_>) -> Option<u64> {
    let header = table.read::<elf::GnuHashHeader<LittleEndian>>(0)?;
    let base = u64::from(header.symbol_base.get(LE));
    let buckets_at = 16 + u64::from(header.bloom_count.get(LE)) * 8;
    let buckets_len = u64::from(header.bucket_count.get(LE)) * 4;
    let buckets = table.get(buckets_at, buckets_len)?.all::<object::U32<LittleEndian>>();
    let chains_at = buckets_at + buckets_len;
    let last = buckets.iter().map(|b| u64::from(b.get(LE))).max().unwrap_or(0);
    if last < base {
        return Some(base);
    }
    let chain = table.get(chains_at, table.len().checked_sub(chains_at)?)?.all::<object::U32<LittleEndian>>();
    let rest = chain.get(usize::try_from(last - base).ok()?..)?;
    let tail = rest.iter().position(|hash| hash.get(LE) & 1 != 0)?;
    Some(last + tail as u64 + 1)
}
