//! The functions of a file: one entry per address, with all its names.
//!
//! Names lie in one arena, so a table of 200,000 functions costs a handful of allocations.

use std::ops::Range;

use crate::LinkAddr;
use crate::addr::find_range;

/// What calling a function's address does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FunctionKind {
    /// It runs the function.
    Plain,
    /// It runs a resolver that returns the function's address (`STT_GNU_IFUNC`).
    Ifunc,
}

/// A function: an address that symbols name. Its names are with the [`Image`](crate::Image).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Address of the first byte; of the resolver for an [`Ifunc`](FunctionKind::Ifunc).
    pub addr: LinkAddr,
    /// Size in bytes: what the symbols say, else up to the next function or the end of the section.
    pub size: u64,
    /// Plain or indirect.
    pub kind: FunctionKind,
    /// Other modules can refer to it: some name is a defined, global or weak, visible dynamic symbol.
    pub exported: bool,
    /// All there is is a local label without a type: hand-written assembly, where it may as well mark a
    /// table of constants among the code. Wildcards do not match it.
    pub label: bool,
    /// Index of the innermost earlier function that covers `addr`, or `NONE`.
    outer: u32,
    /// Its names in [`Symbols::names`].
    first_name: u32,
    name_count: u32,
}

/// One name of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'a> {
    /// The symbol, as in the file (mangled), without a version.
    pub text: &'a str,
    /// The symbol version, if it has one.
    pub version: Option<&'a str>,
    /// Binding without a version takes this one (`NAME@@VERSION`). True for names without a version.
    pub default_version: bool,
    /// It is in the dynamic symbol table for others to bind to.
    pub exported: bool,
}

/// Symbols that were left out of the functions, counted by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    /// Their address is not in executable memory, or not in the section they name.
    pub outside_text: usize,
    /// They name an entry of a procedure linkage table.
    pub linkage_stubs: usize,
    /// Local labels and mapping symbols (`.L…`, `$x`), and untyped local symbols inside a function.
    pub labels: usize,
    /// Their name does not lie in the string table, or is empty.
    pub unnamed: usize,
}

const NONE: u32 = u32::MAX;

pub(crate) const EXPORTED: u8 = 1;
pub(crate) const OLD_VERSION: u8 = 2;
pub(crate) const IFUNC: u8 = 4;
pub(crate) const TYPED: u8 = 8;
pub(crate) const LOCAL: u8 = 16;

/// A symbol on its way into the table: one name at one address.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub addr: u64,
    pub size: u64,
    pub start: u32,
    pub len: u32,
    /// Index into [`Symbols::versions`] plus one, or 0.
    pub version: u16,
    pub flags: u8,
}

/// A name the file refers to and does not define.
#[derive(Clone, Copy)]
pub(crate) struct Import {
    pub start: u32,
    pub len: u32,
}

/// The functions and their names.
#[derive(Clone, Default)]
pub(crate) struct Symbols {
    pub arena: String,
    pub versions: Vec<Box<str>>,
    pub names: Vec<Entry>,
    pub functions: Vec<Function>,
    pub imports: Vec<Import>,
    /// Indices of the imports, by name.
    import_order: Vec<u32>,
    pub dropped: Dropped,
}

impl Symbols {
    pub(crate) fn text(&self, start: u32, len: u32) -> &str {
        self.arena.get(start as usize..start as usize + len as usize).unwrap_or("")
    }

    fn name_of(&self, entry: &Entry) -> Name<'_> {
        let version = usize::from(entry.version).checked_sub(1).and_then(|i| self.versions.get(i));
        Name {
            text: self.text(entry.start, entry.len),
            version: version.map(|v| &**v),
            default_version: entry.flags & OLD_VERSION == 0,
            exported: entry.flags & EXPORTED != 0,
        }
    }

    pub(crate) fn names(&self, function: &Function) -> impl ExactSizeIterator<Item = Name<'_>> {
        let start = function.first_name as usize;
        let entries = self.names.get(start..start + function.name_count as usize).unwrap_or(&[]);
        entries.iter().map(|entry| self.name_of(entry))
    }

    pub(crate) fn first_name(&self, function: &Function) -> Option<Name<'_>> {
        self.names(function).next()
    }

    /// Sorts the imports' indices by name, for [`import_indices`](Self::import_indices).
    pub(crate) fn order_imports(&mut self) {
        let mut order: Vec<u32> = (0..self.imports.len() as u32).collect();
        order.sort_by_key(|&index| self.import(index));
        self.import_order = order;
    }

    fn import(&self, index: u32) -> &str {
        self.imports.get(index as usize).map_or("", |import| self.text(import.start, import.len))
    }

    pub(crate) fn import_indices(&self, name: &str) -> impl Iterator<Item = u32> {
        let start = self.import_order.partition_point(|&index| self.import(index) < name);
        let rest = self.import_order.get(start..).unwrap_or(&[]);
        let len = rest.partition_point(|&index| self.import(index) == name);
        rest[..len].iter().copied()
    }

    pub(crate) fn imports(&self) -> impl ExactSizeIterator<Item = &str> {
        self.imports.iter().map(|import| self.text(import.start, import.len))
    }

    /// Makes the functions from `entries`: joins what is one name, orders the names of each address, and
    /// derives missing sizes from what follows. `text` ascends.
    pub(crate) fn build(&mut self, mut entries: Vec<Entry>, text: &[Range<LinkAddr>]) {
        self.sort_and_join(&mut entries);
        self.drop_covered_labels(&mut entries);
        self.functions.clear();
        let mut first = 0;
        for group in entries.chunk_by_mut(|a, b| a.addr == b.addr) {
            order_names(&self.arena, group);
            let any = |flag: u8| group.iter().any(|e| e.flags & flag != 0);
            self.functions.push(Function {
                addr: LinkAddr(group.first().map_or(0, |e| e.addr)),
                size: group.iter().map(|e| e.size).max().unwrap_or(0),
                kind: if any(IFUNC) { FunctionKind::Ifunc } else { FunctionKind::Plain },
                exported: any(EXPORTED),
                label: group.iter().all(is_label),
                outer: NONE,
                first_name: first,
                name_count: group.len() as u32,
            });
            first += group.len() as u32;
        }
        self.names = entries;
        self.derive_sizes(text);
        self.link_outer();
    }

    /// Sorts by address and name, and joins entries that are the same name: the same text, and the same
    /// version or none (a static symbol table has no versions).
    fn sort_and_join(&self, entries: &mut Vec<Entry>) {
        let text = |e: &Entry| self.text(e.start, e.len);
        // The version in descending order: a name without one comes behind its versioned twins.
        entries.sort_unstable_by(|a, b| {
            (a.addr, text(a)).cmp(&(b.addr, text(b))).then(b.version.cmp(&a.version))
        });
        entries.dedup_by(|next, kept| {
            let same = next.addr == kept.addr
                && text(next) == text(kept)
                && (next.version == kept.version || next.version == 0);
            if same {
                kept.size = kept.size.max(next.size);
                // Local only if both are; old if the one with the version is.
                let kept_bits = (kept.flags & next.flags & LOCAL) | (kept.flags & OLD_VERSION);
                kept.flags = ((kept.flags | next.flags) & !(LOCAL | OLD_VERSION)) | kept_bits;
            }
            same
        });
    }

    /// Drops local symbols without a type that lie in a function or name the same address as one.
    fn drop_covered_labels(&mut self, entries: &mut Vec<Entry>) {
        let mut covered_to = 0;
        let before = entries.len();
        let mut kept = Vec::with_capacity(before);
        for group in entries.chunk_by(|a, b| a.addr == b.addr) {
            let named = group.iter().any(|e| !is_label(e));
            let addr = group.first().map_or(0, |e| e.addr);
            kept.extend(group.iter().filter(|e| !is_label(e) || (!named && addr >= covered_to)));
            let ends = group.iter().filter(|e| e.flags & TYPED != 0).map(|e| e.addr.saturating_add(e.size));
            covered_to = ends.fold(covered_to, u64::max);
        }
        *entries = kept;
        self.dropped.labels += before - entries.len();
    }

    fn derive_sizes(&mut self, text: &[Range<LinkAddr>]) {
        let mut next = LinkAddr(u64::MAX);
        for function in self.functions.iter_mut().rev() {
            let end = find_range(text, function.addr).map_or(next, |r| r.end);
            let room = end.0.saturating_sub(function.addr.0);
            function.size = match function.size {
                0 => room.min(next.0 - function.addr.0),
                size => size.min(room),
            };
            next = function.addr;
        }
    }

    /// Notes for each function the innermost earlier one that covers its address.
    fn link_outer(&mut self) {
        let mut open: Vec<(u32, u64)> = Vec::new();
        for (index, function) in self.functions.iter_mut().enumerate() {
            while open.last().is_some_and(|&(_, end)| end <= function.addr.0) {
                open.pop();
            }
            function.outer = open.last().map_or(NONE, |&(outer, _)| outer);
            open.push((index as u32, function.addr.0 + function.size));
        }
    }

    /// The innermost function that covers `at`.
    pub(crate) fn function_at(&self, at: LinkAddr) -> Option<&Function> {
        /// Deepest nesting followed; compilers make one level at most.
        const DEPTH: usize = 64;
        let index = self.functions.partition_point(|f| f.addr <= at).checked_sub(1)?;
        let first = self.functions.get(index);
        let mut chain = std::iter::successors(first, |f| self.functions.get(f.outer as usize)).take(DEPTH);
        chain.find(|f| at.0 - f.addr.0 < f.size)
    }

    /// The first function that begins behind `at`.
    pub(crate) fn next_start(&self, at: LinkAddr) -> Option<LinkAddr> {
        let index = self.functions.partition_point(|f| f.addr <= at);
        self.functions.get(index).map(|f| f.addr)
    }
}

/// A local symbol that has no type.
fn is_label(entry: &Entry) -> bool {
    entry.flags & (TYPED | LOCAL) == LOCAL
}

/// Puts the name people know first: exported, current version, global, without leading underscores, short.
fn order_names(arena: &str, group: &mut [Entry]) {
    group.sort_by_cached_key(|e| {
        let text = arena.get(e.start as usize..(e.start + e.len) as usize).unwrap_or("");
        let underscores = text.bytes().take_while(|&b| b == b'_').count();
        let mangled = text.starts_with("_Z") || text.starts_with("_R");
        (
            e.flags & EXPORTED == 0,
            e.flags & OLD_VERSION != 0,
            e.flags & LOCAL != 0,
            if mangled { 0 } else { underscores },
            e.len,
            e.start,
        )
    });
}
