//! What takes time to read: symbols, and the slots that refer to them. Read when first asked for, where the file is kept.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::elf::bytes::Bytes;
use crate::elf::dynamic::Dynamic;
use crate::elf::layout::Layout;
use crate::elf::objects::Objects;
use crate::elf::patchable;
use crate::elf::relocations;
use crate::elf::symbols::Symbols;
use crate::elf::symtab;
use crate::linkage::Linkages;
use crate::process::ifunc::Slot;
use crate::{ImageError, LinkAddr};

/// The contents of a file, shared by those who read in it.
pub type Contents = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The tables of one file.
#[derive(Default)]
pub(crate) struct Tables {
    pub symbols: Symbols,
    pub objects: Objects,
    pub r_debug: Option<LinkAddr>,
    pub rseq_offset: Option<LinkAddr>,
    pub slots: Vec<Slot>,
    pub linkages: Linkages,
    pub patchable_entries: Vec<LinkAddr>,
}

impl Tables {
    /// Reads the tables, up to what makes no sense in them.
    fn read(layout: &Layout<'_>, dynamic: Option<&Dynamic<'_>>) -> (Tables, Result<(), ImageError>) {
        let mut reader = symtab::Reader::new(layout);
        let whole = dynamic.map_or(Ok(()), |dynamic| reader.dynamic(dynamic));
        let whole = whole.and_then(|()| reader.static_table());
        let collected = reader.finish();
        let rela = relocations::rela_tables(layout, dynamic);
        let tables = Tables {
            symbols: collected.symbols,
            objects: collected.objects,
            r_debug: collected.r_debug,
            rseq_offset: collected.rseq_offset,
            slots: relocations::slots(layout, &rela, &collected.import_of),
            linkages: Linkages::read(layout, dynamic, &rela),
            patchable_entries: patchable::entries(layout, &rela),
        };
        (tables, whole)
    }
}

/// Tables that are there, or are read when first asked for.
pub(crate) struct Lazy {
    file: Option<Contents>,
    /// Where in the file the names of symbols are.
    names: Vec<Range<usize>>,
    read: OnceLock<Tables>,
}

impl Lazy {
    /// Reads all at once; keeps nothing of the file.
    pub(crate) fn now(layout: &Layout<'_>, dynamic: Option<&Dynamic<'_>>) -> Result<Lazy, ImageError> {
        let (tables, whole) = Tables::read(layout, dynamic);
        whole.map(|()| Lazy { file: None, names: Vec::new(), read: tables.into() })
    }

    /// Reads nothing yet. `file` is what `layout` was read from.
    pub(crate) fn later(file: &Contents, layout: &Layout<'_>, dynamic: Option<&Dynamic<'_>>) -> Lazy {
        let fixed = symtab::static_table(layout).and_then(|table| layout.sections.get(table.link as usize));
        let fixed = fixed.map(|strings| strings.bytes.place());
        let names = dynamic.map(|dynamic| dynamic.strings.place()).into_iter().chain(fixed).collect();
        Lazy { file: Some(Arc::clone(file)), names, read: OnceLock::new() }
    }

    /// The tables.
    pub(crate) fn get(&self) -> &Tables {
        self.read.get_or_init(|| self.read().unwrap_or_default())
    }

    /// The tables, unless it takes reading them to know that no symbol is called `name`.
    pub(crate) fn if_named(&self, name: &str) -> Option<&Tables> {
        self.read.get().or_else(|| self.may_name(name).then(|| self.get()))
    }

    /// The tables, to be changed.
    pub(crate) fn get_mut(&mut self) -> Option<&mut Tables> {
        self.get();
        self.read.get_mut()
    }

    fn read(&self) -> Option<Tables> {
        let file = Bytes::file(self.file.as_ref()?.as_ref().as_ref());
        // It was read once, when the file was opened.
        let layout = Layout::parse(file).ok()?;
        let dynamic = Dynamic::parse(&layout).ok()?;
        Some(Tables::read(&layout, dynamic.as_ref()).0)
    }

    /// Whether a symbol may have `part` in its name. Reads no table for that.
    pub(crate) fn may_name(&self, part: &str) -> bool {
        // What is no text in the file became this.
        if part.is_empty() || part.contains(char::REPLACEMENT_CHARACTER) {
            return true;
        }
        let finder = memchr::memmem::Finder::new(part);
        if let Some(tables) = self.read.get() {
            let names = [&*tables.symbols.arena, tables.objects.names()];
            return names.iter().any(|names| finder.find(names.as_bytes()).is_some());
        }
        let file = self.file.as_ref().map_or(&[][..], |file| file.as_ref().as_ref());
        self.names
            .iter()
            .any(|range| file.get(range.clone()).is_some_and(|names| finder.find(names).is_some()))
    }
}

/// A part of a file.
#[derive(Clone)]
pub(crate) struct Part {
    file: Contents,
    place: Range<usize>,
}

impl Part {
    /// The bytes at `bytes` in `file`.
    pub(crate) fn of(file: &Contents, bytes: Bytes<'_>) -> Part {
        Part { file: Arc::clone(file), place: bytes.place() }
    }

    /// A copy.
    pub(crate) fn copied(bytes: &[u8]) -> Part {
        Part { file: Arc::new(bytes.to_vec()), place: 0..bytes.len() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.file.as_ref().as_ref().get(self.place.clone()).unwrap_or(&[])
    }
}

impl Default for Part {
    fn default() -> Part {
        Part::copied(&[])
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}
