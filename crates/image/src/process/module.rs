//! Modules: the files a process has mapped to run, and where.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use incise_isa::Addr;

use crate::addr::{find_range, normalize};
use crate::names::find::{MAIN, nameless};
use crate::names::module_glob::ModuleGlob;
use crate::{Function, Image, LinkAddr, Mapping, MemoryMap, MemoryReader, Segment, main_of_entry};

/// A program or library in a process.
#[derive(Clone, Debug)]
pub struct Module {
    /// File name for display, such as `libc.so.6`.
    pub name: String,
    /// Path of the file as the memory map prints it, or a name in brackets.
    pub path: String,
    /// The file was deleted or replaced since it was mapped.
    pub deleted: bool,
    /// Run-time address minus link address, wrapping.
    pub bias: u64,
    /// What the file says.
    pub image: Arc<Image>,
    /// From the first page of the first segment to behind the last page of the last one.
    pub range: Range<Addr>,
    /// Executable mappings inside, ascending; also where other memory was put over the file's.
    pub text: Vec<Range<Addr>>,
    /// It is the program itself.
    pub main: bool,
    /// Where `main` begins, if no symbol tells so but the entry code does: see [`find_main`](Self::find_main).
    pub unnamed_main: Option<LinkAddr>,
}

impl Module {
    /// The run-time address of a link address.
    pub fn to_addr(&self, at: LinkAddr) -> Addr {
        Addr(at.0.wrapping_add(self.bias))
    }

    /// The link address of a run-time address, if that is inside the module.
    pub fn to_link(&self, at: Addr) -> Option<LinkAddr> {
        self.range.contains(&at).then(|| LinkAddr(at.0.wrapping_sub(self.bias)))
    }

    /// The function that covers `at`, and how many bytes `at` is behind its start.
    pub fn function_at(&self, at: Addr) -> Option<(&Function, u64)> {
        let link = self.to_link(at)?;
        let function = self.image.function_at(link)?;
        Some((function, link.0 - function.addr.0))
    }

    /// Where the next function behind `at` begins.
    pub fn next_function_start(&self, at: Addr) -> Option<Addr> {
        let next = self.image.next_function_start(self.to_link(at)?)?;
        Some(self.to_addr(next))
    }

    /// Whether `at` is in executable memory of this module.
    pub fn is_text(&self, at: Addr) -> bool {
        find_range(&self.text, at).is_some()
    }

    /// Looks in the entry code of a stripped program for where `main` begins. `memory`: that of the process, or the
    /// file's as it is linked.
    pub fn find_main(&mut self, memory: &dyn MemoryReader) {
        if self.main && !self.image.has_symtab() {
            self.unnamed_main = main_of_entry(&self.image, self.bias, memory).ok();
        }
    }

    /// The name of the function at `start`, which has no symbol: `main` or `sub_…`.
    pub fn nameless(&self, start: LinkAddr) -> String {
        if self.unnamed_main == Some(start) { MAIN.to_owned() } else { nameless(start) }
    }

    /// Whether `text` names it, as in `MODULE!NAME`: its file name, with or without versions, a pattern, a path.
    pub fn is_called(&self, text: &str) -> bool {
        ModuleGlob::new(text).matches(self)
    }

    /// Where its first page would be, also if nothing is mapped there.
    pub fn base(&self) -> Addr {
        let first = self.image.segments().first().map_or(0, |segment| segment.link.0);
        self.to_addr(LinkAddr(first)).align_down(PAGE)
    }

    /// The kernel's own library.
    pub fn is_vdso(&self) -> bool {
        self.path == "[vdso]"
    }
}

/// Size of a page in bytes, the unit in which segments are mapped on x86-64.
const PAGE: u64 = 4096;

/// Finds the modules of a memory map: the program first, then by address.
///
/// `open` is called with the first mapping of each file that may be a module and returns its image, or
/// `None` to leave it out. The same image may be returned for several files.
///
/// A file is a module where its mappings lie as its segments say and executable memory is where its
/// executable segments are. That memory need not be the file's any more: text that was patched by mapping
/// other pages over it still belongs to the module. Files that are mapped only to be read are no modules.
pub fn modules(map: &MemoryMap, open: &mut dyn FnMut(&Mapping) -> Option<Arc<Image>>) -> Vec<Module> {
    let mut order: Vec<Vec<&Mapping>> = Vec::new();
    let mut index_of: HashMap<((u32, u32), u64, &str), usize> = HashMap::new();
    for mapping in map.iter().filter(|m| m.inode != 0 || *m.name == *"[vdso]") {
        let key = (mapping.device, mapping.inode, &*mapping.name);
        let index = *index_of.entry(key).or_insert_with(|| {
            order.push(Vec::new());
            order.len() - 1
        });
        if let Some(group) = order.get_mut(index) {
            group.push(mapping);
        }
    }
    let mut found: Vec<Module> = Vec::new();
    for group in order {
        // One mapping that is not executable is data: a locale, an archive, a file being read.
        if group.len() < 2 && !group.iter().any(|m| m.permissions.execute) {
            continue;
        }
        if let Some(image) = whole(&group).and_then(|mapping| open(&mapping)) {
            place(map, &group, &image, &mut found);
        }
    }
    found.sort_by_key(|m| m.range.start);
    mark_main(&mut found);
    found
}

/// The mapping to open: the first of a file; of the vdso, which is read from memory, all pieces as one.
fn whole<'a>(group: &[&'a Mapping]) -> Option<Cow<'a, Mapping>> {
    let (first, last) = (*group.first()?, *group.last()?);
    if first.inode != 0 || group.len() == 1 {
        return Some(Cow::Borrowed(first));
    }
    Some(Cow::Owned(Mapping { range: first.range.start..last.range.end, ..first.clone() }))
}

/// Finds where `group`, the mappings of one file, makes modules of `image`.
fn place(map: &MemoryMap, group: &[&Mapping], image: &Arc<Image>, found: &mut Vec<Module>) {
    let mut votes: HashMap<u64, usize> = HashMap::new();
    for bias in group.iter().flat_map(|m| biases(group, m, image)) {
        *votes.entry(bias).or_default() += 1;
    }
    let mut biases: Vec<(u64, usize)> = votes.into_iter().collect();
    biases.sort_by_key(|&(bias, votes)| (std::cmp::Reverse(votes), bias));
    let mut taken: Vec<Range<Addr>> = Vec::new();
    for (bias, _) in biases.into_iter().take(MOST_BIASES) {
        let Some(module) = module_at(map, group, image, bias) else { continue };
        // A page that two segments share gives a second, wrong bias, close to the right one.
        let overlaps = |r: &Range<Addr>| r.start < module.range.end && module.range.start < r.end;
        if !taken.iter().any(overlaps) {
            taken.push(module.range.clone());
            found.push(module);
        }
        if taken.len() == MOST_COPIES {
            return;
        }
    }
}

/// Most places that are tried for one file.
const MOST_BIASES: usize = 1024;

/// Most copies of one file that are taken for modules of their own.
const MOST_COPIES: usize = 256;

/// Offset in the file (or in the vdso, whose mappings do not tell) of the first byte of `mapping`.
fn file_offset(group: &[&Mapping], mapping: &Mapping) -> u64 {
    match group.first() {
        Some(first) if mapping.inode == 0 => mapping.range.start.0 - first.range.start.0,
        _ => mapping.file_offset,
    }
}

/// The biases at which `mapping` would be part of one of the segments.
fn biases(group: &[&Mapping], mapping: &Mapping, image: &Image) -> Vec<u64> {
    let offset = file_offset(group, mapping);
    let candidates = image.segments().iter().filter(|s| pages_in_file(s).contains(&offset)).map(|s| {
        let link = s.link.0.wrapping_sub(s.file_offset.0).wrapping_add(offset);
        mapping.range.start.0.wrapping_sub(link)
    });
    let fixed = image.kind() == crate::Kind::Executable;
    candidates.filter(|bias| bias % PAGE == 0 && (!fixed || *bias == 0)).collect()
}

fn pages_in_file(segment: &Segment) -> Range<u64> {
    let end = segment.file_offset.0.saturating_add(segment.file_size);
    segment.file_offset.0 & !(PAGE - 1)..end.saturating_add(PAGE - 1) & !(PAGE - 1)
}

fn pages_in_memory(segment: &Segment, bias: u64) -> Range<Addr> {
    let range = segment.range();
    let start = Addr(range.start.0.wrapping_add(bias)).align_down(PAGE);
    start..Addr(range.end.0.wrapping_add(bias)).align_up(PAGE)
}

/// The module at `bias`, if the map agrees that there is one.
fn module_at(map: &MemoryMap, group: &[&Mapping], image: &Arc<Image>, bias: u64) -> Option<Module> {
    let first = *group.first()?;
    let ranges: Vec<Range<Addr>> = image.segments().iter().map(|s| pages_in_memory(s, bias)).collect();
    let range = ranges.first()?.start..ranges.iter().map(|r| r.end).max()?;
    if range.start >= range.end {
        return None;
    }
    let (mut text, mut has_own) = (Vec::new(), false);
    let executable_segments = image.segments().iter().zip(&ranges).filter(|(s, _)| s.permissions.execute);
    for (_, pages) in executable_segments {
        for mapping in map.overlapping(pages).filter(|m| m.permissions.execute) {
            has_own |= same_file(first, mapping);
            text.push(mapping.range.start.max(pages.start)..mapping.range.end.min(pages.end));
        }
    }
    // Where no executable page is the file's own, other memory may have replaced all of them, or the file
    // may only be read by someone; then the rest of it is not mapped as its segments say.
    let others =
        || image.segments().iter().zip(&ranges).filter(|(s, _)| !s.permissions.execute && s.file_size != 0);
    let as_linked =
        || others().count() > 0 && others().all(|(s, pages)| begins_in_file(map, group, s, pages.start));
    if text.is_empty() || !(has_own || as_linked()) {
        return None;
    }
    let path = first.name.to_string();
    let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
    let (deleted, image, text) = (first.deleted, Arc::clone(image), normalize(text));
    Some(Module { name, path, deleted, bias, image, range, text, main: false, unnamed_main: None })
}

/// Whether the first page of `segment`, at `at`, is the file's.
fn begins_in_file(map: &MemoryMap, group: &[&Mapping], segment: &Segment, at: Addr) -> bool {
    let Some(first) = group.first() else { return false };
    let offset = pages_in_file(segment).start;
    let fits = |m: &Mapping| file_offset(group, m).wrapping_add(at.0 - m.range.start.0) == offset;
    map.find(at).is_some_and(|m| same_file(first, m) && fits(m))
}

fn same_file(a: &Mapping, b: &Mapping) -> bool {
    a.inode == b.inode && a.device == b.device && a.name == b.name
}

/// Marks the program among `modules` and puts it first: the first that is no library, or else, in a
/// process that runs a library (such as the dynamic linker by hand), the first at all.
fn mark_main(modules: &mut [Module]) {
    let program = modules.iter().position(|m| m.image.is_program());
    let main = program.or_else(|| modules.iter().position(|m| !m.is_vdso()));
    set_main(modules, main);
}

/// Marks as the program the module whose entry point is `entry` (`AT_ENTRY` of the process), and puts it
/// first. For processes whose program is a shared object; nothing changes if no module fits.
pub fn mark_main_by_entry(modules: &mut [Module], entry: Addr) {
    let fits = |m: &Module| m.image.entry().is_some_and(|at| m.to_addr(at) == entry);
    if let Some(index) = modules.iter().position(fits) {
        set_main(modules, Some(index));
    }
}

fn set_main(modules: &mut [Module], main: Option<usize>) {
    modules.iter_mut().enumerate().for_each(|(index, m)| m.main = Some(index) == main);
    modules.sort_by_key(|m| (!m.main, m.range.start));
}
