//! Reading ELF symbol tables: which symbols are functions.

use std::collections::HashMap;

use object::LittleEndian;
use object::elf::{self, Sym64};

use crate::addr::find_range;
use crate::elf::bytes::{Bytes, LE};
use crate::elf::dynamic::Dynamic;
use crate::elf::layout::{Layout, RawSection};
use crate::elf::objects::Objects;
use crate::elf::symbols::{EXPORTED, Entry, IFUNC, Import, LOCAL, OLD_VERSION, Symbols, TYPED};
use crate::elf::versions::Versions;
use crate::{ImageError, LinkAddr};

/// Longest symbol name accepted, in bytes. Templates make names of some 100,000 bytes.
const NAME_LIMIT: usize = 1 << 20;

/// Collects functions from symbol tables.
pub(crate) struct Reader<'l, 'a> {
    layout: &'l Layout<'a>,
    symbols: Symbols,
    entries: Vec<Entry>,
    /// Indices into the version names, plus one.
    version_ids: HashMap<Box<str>, u16>,
    objects: Objects,
    /// Address of the data symbol `_r_debug`.
    r_debug: Option<LinkAddr>,
    /// Address of the data symbol `__rseq_offset`.
    rseq_offset: Option<LinkAddr>,
    /// Import index plus one of each dynamic symbol, 0 for those that are none.
    import_of: Vec<u32>,
    /// Bytes of names that may still be copied. Many symbols that name one long string would otherwise
    /// make a small file cost any amount of memory.
    budget: usize,
}

/// What reading symbols gives.
pub(crate) struct Collected {
    pub symbols: Symbols,
    pub objects: Objects,
    pub r_debug: Option<LinkAddr>,
    pub rseq_offset: Option<LinkAddr>,
    pub import_of: Vec<u32>,
}

/// What becomes of a symbol.
enum Verdict {
    Function { flags: u8 },
    Import,
    Other,
    Outside,
    Stub,
}

impl<'l, 'a> Reader<'l, 'a> {
    /// A reader for the tables of `layout`, continuing with what `symbols` holds.
    pub(crate) fn new(layout: &'l Layout<'a>) -> Reader<'l, 'a> {
        Reader {
            layout,
            symbols: Symbols::default(),
            entries: Vec::new(),
            version_ids: HashMap::new(),
            objects: Objects::default(),
            r_debug: None,
            rseq_offset: None,
            import_of: Vec::new(),
            budget: (layout.file.data().len().saturating_mul(4)).clamp(1 << 16, u32::MAX as usize / 2),
        }
    }

    /// Reads the dynamic symbols.
    pub(crate) fn dynamic(&mut self, dynamic: &Dynamic<'a>) -> Result<(), ImageError> {
        let versions = Versions::parse(dynamic);
        let table = dynamic.symbols(self.layout);
        let symbols = table.all::<Sym64<LittleEndian>>();
        let indices = dynamic.version_indices(self.layout, symbols.len() as u64);
        let indices = indices.all::<object::U16<LittleEndian>>();
        self.import_of = vec![0; symbols.len()];
        for (index, symbol) in symbols.iter().enumerate() {
            let version = indices.get(index).map_or(0, |v| v.get(LE));
            match self.judge(symbol, true) {
                Verdict::Import => {
                    if let Some((start, len)) = self.copy_name(dynamic.strings, symbol)? {
                        self.import(index, Import { start, len });
                    }
                }
                verdict => {
                    // An indirect function of this file is bound by name as well: it can be interposed.
                    let ifunc = matches!(verdict, Verdict::Function { flags } if flags & IFUNC != 0);
                    let old = version & elf::VERSYM_HIDDEN.0 != 0;
                    let before = self.entries.len();
                    self.take(verdict, symbol, dynamic.strings, versions.name(version), old)?;
                    if let Some(&Entry { start, len, .. }) = self.entries.get(before).filter(|_| ifunc) {
                        self.import(index, Import { start, len });
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes that relocations against the dynamic symbol `index` bind this name.
    fn import(&mut self, index: usize, import: Import) {
        self.symbols.imports.push(import);
        if let Some(slot) = self.import_of.get_mut(index) {
            *slot = self.symbols.imports.len() as u32;
        }
    }

    /// Reads the static symbols, if there are any.
    pub(crate) fn static_table(&mut self) -> Result<(), ImageError> {
        let Some(table) = static_table(self.layout) else { return Ok(()) };
        let strings = self.layout.sections.get(table.link as usize).map_or(Bytes::empty(), |s| s.bytes);
        for symbol in table.bytes.all::<Sym64<LittleEndian>>() {
            let verdict = self.judge(symbol, false);
            self.take(verdict, symbol, strings, None, false)?;
        }
        Ok(())
    }

    /// The functions read.
    pub(crate) fn finish(mut self) -> Collected {
        self.symbols.order_imports();
        self.symbols.build(self.entries, &self.layout.text);
        self.objects.order();
        let Reader { symbols, objects, r_debug, rseq_offset, import_of, .. } = self;
        Collected { symbols, objects, r_debug, rseq_offset, import_of }
    }

    /// Adds what was read before, as when a debug file is merged into an image.
    pub(crate) fn resume(&mut self, symbols: &Symbols, objects: &Objects) {
        self.objects = objects.clone();
        self.entries = symbols.names.clone();
        let ids = symbols.versions.iter().zip(1..);
        self.version_ids = ids.map(|(name, id)| (name.clone(), id)).collect();
        self.symbols = symbols.clone();
    }

    fn judge(&self, symbol: &Sym64<LittleEndian>, dynamic: bool) -> Verdict {
        let (kind, bind) = (symbol.st_type(), symbol.st_bind());
        let typed = kind == elf::STT_FUNC || kind == elf::STT_GNU_IFUNC;
        let untyped = kind == elf::STT_NOTYPE;
        let section = symbol.st_shndx.get(LE);
        if section == elf::SHN_UNDEF {
            let import = dynamic && bind != elf::STB_LOCAL && (typed || untyped);
            return if import { Verdict::Import } else { Verdict::Other };
        }
        if !(typed || untyped) || section == elf::SHN_ABS || section == elf::SHN_COMMON {
            return Verdict::Other;
        }
        let addr = LinkAddr(symbol.st_value.get(LE));
        if find_range(&self.layout.text, addr).is_none() {
            // Untyped symbols outside of code are the data of the linker and of assembly.
            return if typed { Verdict::Outside } else { Verdict::Other };
        }
        // `etext` and its like name the end of a section, which may be the start of another one.
        if untyped && !self.in_own_section(section, addr) {
            return Verdict::Outside;
        }
        if find_range(&self.layout.plt, addr).is_some() {
            return Verdict::Stub;
        }
        let mut flags = if typed { TYPED } else { 0 };
        flags |= if kind == elf::STT_GNU_IFUNC { IFUNC } else { 0 };
        flags |= if bind == elf::STB_LOCAL { LOCAL } else { 0 };
        let visible = matches!(symbol.st_visibility(), elf::STV_DEFAULT | elf::STV_PROTECTED);
        flags |= if dynamic && bind != elf::STB_LOCAL && visible { EXPORTED } else { 0 };
        Verdict::Function { flags }
    }

    fn in_own_section(&self, section: elf::SymbolSection, addr: LinkAddr) -> bool {
        let own = self.layout.sections.get(usize::from(section.0));
        own.is_none_or(|s| s.is(elf::SHF_EXECINSTR) && addr.0.wrapping_sub(s.addr) < s.size)
    }

    fn take(
        &mut self,
        verdict: Verdict,
        symbol: &Sym64<LittleEndian>,
        strings: Bytes<'a>,
        version: Option<&str>,
        old_version: bool,
    ) -> Result<(), ImageError> {
        let mut flags = match verdict {
            Verdict::Function { flags } => flags,
            Verdict::Outside => {
                self.symbols.dropped.outside_text += 1;
                return Ok(());
            }
            Verdict::Stub => {
                self.symbols.dropped.linkage_stubs += 1;
                return Ok(());
            }
            Verdict::Import => return Ok(()),
            Verdict::Other => {
                return self.note_data(symbol, strings);
            }
        };
        let Some((start, len)) = self.copy_name(strings, symbol)? else {
            self.symbols.dropped.unnamed += 1;
            return Ok(());
        };
        let text = self.symbols.text(start, len);
        if flags & LOCAL != 0 && is_local_label(text, flags & TYPED != 0) {
            self.symbols.arena.truncate(start as usize);
            self.symbols.dropped.labels += 1;
            return Ok(());
        }
        // Static tables spell versions into the name: `memcpy@@GLIBC_2.14`, `memcpy@GLIBC_2.2.5`.
        let spelled = text.split_once('@').filter(|(name, _)| !name.is_empty());
        let (len, version, old_version) = match (version, spelled) {
            (None, Some((name, version))) => {
                let old = !version.starts_with('@');
                (name.len() as u32, Some(version.trim_start_matches('@').to_owned()), old)
            }
            (version, _) => (len, version.map(str::to_owned), old_version),
        };
        let version = version.filter(|v| !v.is_empty()).map_or(0, |v| self.version_id(&v));
        if version != 0 && old_version {
            flags |= OLD_VERSION;
        }
        self.entries.push(Entry {
            addr: symbol.st_value.get(LE),
            size: symbol.st_size.get(LE),
            start,
            len,
            version,
            flags,
        });
        Ok(())
    }

    /// Keeps variables.
    fn note_data(&mut self, symbol: &Sym64<LittleEndian>, strings: Bytes<'a>) -> Result<(), ImageError> {
        let section = symbol.st_shndx.get(LE);
        let defined = section != elf::SHN_UNDEF && section != elf::SHN_ABS && section != elf::SHN_COMMON;
        if !defined || symbol.st_type() != elf::STT_OBJECT {
            return Ok(());
        }
        let offset = u64::from(symbol.st_name.get(LE));
        let name = strings.string(offset, NAME_LIMIT);
        let scanned =
            name.map_or(strings.len().saturating_sub(offset).min(NAME_LIMIT as u64) as usize, <[u8]>::len);
        self.spend(scanned + 1, strings, offset)?;
        let Some(name) = name.map(String::from_utf8_lossy).filter(|name| !name.is_empty()) else {
            return Ok(());
        };
        // Static tables spell versions into the name.
        let name = name.split_once('@').map_or(&*name, |(name, _)| name);
        let addr = LinkAddr(symbol.st_value.get(LE));
        match name {
            "_r_debug" => self.r_debug = Some(addr),
            "__rseq_offset" => self.rseq_offset = Some(addr),
            _ => {}
        }
        if !is_local_label(name, true) {
            self.objects.push(addr, symbol.st_size.get(LE), name);
        }
        Ok(())
    }

    fn spend(&mut self, bytes: usize, strings: Bytes<'a>, offset: u64) -> Result<(), ImageError> {
        let rest = self.budget.checked_sub(bytes);
        self.budget = rest.ok_or_else(|| strings.error("symbol names that overlap", offset))?;
        Ok(())
    }

    /// The index of a version name plus one; 0 for no version.
    fn version_id(&mut self, name: &str) -> u16 {
        if let Some(&id) = self.version_ids.get(name) {
            return id;
        }
        let Ok(id) = u16::try_from(self.symbols.versions.len() + 1) else { return 0 };
        self.symbols.versions.push(name.into());
        self.version_ids.insert(name.into(), id);
        id
    }

    /// Copies a symbol's name into the arena; `None` if it has none.
    fn copy_name(
        &mut self,
        strings: Bytes<'a>,
        symbol: &Sym64<LittleEndian>,
    ) -> Result<Option<(u32, u32)>, ImageError> {
        let offset = u64::from(symbol.st_name.get(LE));
        let Some(bytes) = strings.string(offset, NAME_LIMIT) else {
            let scanned = strings.len().saturating_sub(offset).min(NAME_LIMIT as u64);
            self.spend(scanned as usize, strings, offset)?;
            return Ok(None);
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let start = self.symbols.arena.len();
        self.symbols.arena.push_str(&String::from_utf8_lossy(bytes));
        let len = self.symbols.arena.len() - start;
        self.spend(len + 1, strings, offset)?;
        match (u32::try_from(start), u32::try_from(len), u32::try_from(start + len)) {
            (Ok(start), Ok(len), Ok(_)) => Ok(Some((start, len))),
            _ => Err(strings.error("symbol names of more than 4 GiB", offset)),
        }
    }
}

/// The table of static symbols, which strip takes out.
pub(crate) fn static_table<'l, 'a>(layout: &'l Layout<'a>) -> Option<&'l RawSection<'a>> {
    layout.sections.iter().find(|s| s.kind == elf::SHT_SYMTAB.0 && s.bytes.len() > 0)
}

/// Labels that assemblers keep for themselves: `.L…`, and mapping symbols `$x`, `$d.1`, ….
fn is_local_label(name: &str, typed: bool) -> bool {
    let mapping = || {
        let mut chars = name.chars();
        chars.next() == Some('$')
            && chars.next().is_some_and(|c| matches!(c, 'a' | 'd' | 't' | 'x'))
            && matches!(chars.next(), None | Some('.'))
    };
    name.starts_with(".L") || (!typed && mapping())
}
