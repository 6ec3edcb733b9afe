//! [`Image`]: what an ELF file says about the program or library in it.

pub(crate) mod bytes;
pub(crate) mod debug_files;
pub(crate) mod dynamic;
pub(crate) mod frames;
pub(crate) mod layout;
pub(crate) mod main_function;
pub(crate) mod objects;
pub(crate) mod outline;
mod patchable;
mod relocations;
pub(crate) mod rseq;
pub(crate) mod symbols;
mod symtab;
pub(crate) mod tables;
pub(crate) mod unwind;
pub(crate) mod usdt;
mod versions;

use std::fmt;
use std::ops::Range;

use incise_isa::Addr;
use object::elf;

use crate::addr::find_range;
use crate::elf::bytes::{Bytes, LE};
use crate::elf::debug_files::{DebugLink, debug_link};
use crate::elf::dynamic::Dynamic;
use crate::elf::layout::{Layout, Section, Segment};
use crate::elf::objects::DataObject;
use crate::elf::rseq::CriticalSection;
use crate::elf::symbols::{Dropped, Function, Name};
use crate::elf::tables::{Contents, Lazy, Part};
use crate::elf::unwind::Unwind;
use crate::linkage::Linkage;
use crate::process::ifunc::{Slot, SlotTarget};
use crate::{FileOffset, ImageError, LinkAddr};

/// What kind of program a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A program at fixed addresses (`ET_EXEC`), static or not.
    Executable,
    /// A program that runs at any address and is dynamically linked.
    PositionIndependent,
    /// A program that runs at any address and needs no dynamic linker.
    StaticPie,
    /// A library; also the dynamic linker and the vdso.
    SharedObject,
}

/// A parsed ELF file. It owns what it keeps and does not borrow the file.
pub struct Image {
    kind: Kind,
    entry: Option<LinkAddr>,
    interpreter: Option<String>,
    build_id: Option<Box<[u8]>>,
    debug_link: Option<DebugLink>,
    soname: Option<String>,
    needed: Vec<String>,
    debug_pointer: Option<LinkAddr>,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    text: Vec<Range<LinkAddr>>,
    plt: Vec<Range<LinkAddr>>,
    tables: Lazy,
    has_symtab: bool,
    critical_sections: Vec<CriticalSection>,
    text_relocations: Vec<Range<LinkAddr>>,
    unwind: Unwind,
}

impl Image {
    /// Reads the contents of an ELF file.
    ///
    /// # Errors
    /// What is not a 64-bit x86-64 program or library, and what the loader could not use either. Tables
    /// that only tools read (sections, static symbols, versions) may be damaged: then they count as empty.
    pub fn parse(file: &[u8]) -> Result<Image, ImageError> {
        let layout = Layout::parse(Bytes::file(file))?;
        let dynamic = Dynamic::parse(&layout)?;
        let tables = Lazy::now(&layout, dynamic.as_ref())?;
        Image::new(layout, dynamic, tables, &|bytes| Part::copied(bytes.data()))
    }

    /// As [`parse`](Self::parse), but keeps the file, and reads tables in it when they are first asked for: symbols, slots
    /// of imports, unwind tables. Of a symbol table that may be damaged, what comes before the damage counts.
    ///
    /// # Errors
    /// As of [`parse`](Self::parse), but for those of symbols.
    pub fn open(file: Contents) -> Result<Image, ImageError> {
        let layout = Layout::parse(Bytes::file(file.as_ref().as_ref()))?;
        let dynamic = Dynamic::parse(&layout)?;
        let tables = Lazy::later(&file, &layout, dynamic.as_ref());
        Image::new(layout, dynamic, tables, &|bytes| Part::of(&file, bytes))
    }

    fn new<'a>(
        layout: Layout<'a>,
        dynamic: Option<Dynamic<'a>>,
        tables: Lazy,
        part: &dyn Fn(Bytes<'a>) -> Part,
    ) -> Result<Image, ImageError> {
        let header = layout::header(layout.file)?;
        let rela = relocations::rela_tables(&layout, dynamic.as_ref());
        let entry = LinkAddr(header.e_entry.get(LE));
        Ok(Image {
            kind: kind(header.e_type.get(LE), &layout, dynamic.as_ref()),
            entry: Some(entry).filter(|&at| find_range(&layout.text, at).is_some()),
            build_id: layout::note(&layout.notes, b"GNU", elf::NT_GNU_BUILD_ID.0).map(Box::from),
            debug_link: debug_link(&layout),
            debug_pointer: dynamic.as_ref().and_then(|d| d.debug),
            sections: layout.public_sections(),
            has_symtab: symtab::static_table(&layout).is_some(),
            tables,
            critical_sections: rseq::critical_sections(&layout, &rela),
            text_relocations: relocations::in_text(&layout, dynamic.as_ref(), &rela),
            unwind: Unwind::find(&layout, part),
            soname: dynamic.as_ref().and_then(|d| d.soname.clone()),
            needed: dynamic.map(|d| d.needed).unwrap_or_default(),
            interpreter: layout.interpreter,
            segments: layout.segments,
            text: layout.text,
            plt: layout.plt,
        })
    }

    /// Adds the symbols of a separate debug file (`debug`: its contents).
    ///
    /// # Errors
    /// [`ImageError::OtherBuild`] if the build-ids differ or one is missing; the reasons of
    /// [`parse`](Self::parse) if the file is no ELF file. The image is unchanged then.
    pub fn merge_debug(&mut self, debug: &[u8]) -> Result<(), ImageError> {
        let file = Bytes::file(debug);
        let sections = layout::sections(file, layout::header(file)?);
        let notes: Vec<Bytes<'_>> =
            sections.iter().filter(|s| s.kind == elf::SHT_NOTE.0).map(|s| s.bytes).collect();
        let build_id = layout::note(&notes, b"GNU", elf::NT_GNU_BUILD_ID.0);
        if build_id.is_none() || build_id != self.build_id.as_deref() {
            return Err(ImageError::OtherBuild);
        }
        let layout = Layout::with_text(file, sections, self.text.clone(), self.plt.clone());
        let mut reader = symtab::Reader::new(&layout);
        let known = self.tables.get();
        reader.resume(&known.symbols, &known.objects);
        reader.static_table()?;
        self.has_symtab |= symtab::static_table(&layout).is_some();
        if let Some(tables) = self.tables.get_mut() {
            let collected = reader.finish();
            (tables.symbols, tables.objects) = (collected.symbols, collected.objects);
        }
        Ok(())
    }

    /// What kind of program it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// It is a program, not a library.
    pub fn is_program(&self) -> bool {
        self.kind != Kind::SharedObject
    }

    /// It is a program that no dynamic linker loads.
    pub fn is_static(&self) -> bool {
        self.is_program() && self.interpreter.is_none() && self.needed.is_empty()
    }

    /// Where it begins to run, if that is in its code.
    pub fn entry(&self) -> Option<LinkAddr> {
        self.entry
    }

    /// Path of the dynamic linker it asks for.
    pub fn interpreter(&self) -> Option<&str> {
        self.interpreter.as_deref()
    }

    /// The note that names the build.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Name and checksum of its debug file.
    pub fn debug_link(&self) -> Option<&DebugLink> {
        self.debug_link.as_ref()
    }

    /// The name other modules ask for (`DT_SONAME`).
    pub fn soname(&self) -> Option<&str> {
        self.soname.as_deref()
    }

    /// The libraries it asks for (`DT_NEEDED`).
    pub fn needed(&self) -> &[String] {
        &self.needed
    }

    /// Address of the value of `DT_DEBUG`, where the dynamic linker puts the address of its `r_debug`.
    pub fn debug_pointer(&self) -> Option<LinkAddr> {
        self.debug_pointer
    }

    /// In the dynamic linker (or a static program that holds it): the `r_debug` structure.
    pub fn r_debug(&self) -> Option<LinkAddr> {
        self.tables.if_named("_r_debug")?.r_debug
    }

    /// In glibc's dynamic linker: the quadword that says how far from the thread pointer each thread has its area for restartable
    /// sequences (since 2.35; linux/rseq.h).
    pub fn rseq_offset(&self) -> Option<LinkAddr> {
        self.tables.if_named("__rseq_offset")?.rseq_offset
    }

    /// In the dynamic linker: the function it calls when the list of loaded modules changes.
    pub fn debug_state(&self) -> Option<LinkAddr> {
        self.function("_dl_debug_state")
    }

    /// The function of this name, without version, as it is linked.
    pub fn function(&self, name: &str) -> Option<LinkAddr> {
        if !self.may_name(name) {
            return None;
        }
        let named = |f: &&Function| self.names(f).any(|n| n.text == name);
        self.functions().iter().find(named).map(|f| f.addr)
    }

    /// What the loader maps, ascending.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The named parts in memory, ascending; empty if the file has no section headers.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Addresses of the executable segments, ascending.
    pub fn text_segments(&self) -> impl Iterator<Item = Range<LinkAddr>> + '_ {
        self.segments.iter().filter(|s| s.permissions.execute).map(Segment::range)
    }

    /// Where instructions are, ascending: the executable sections if there are headers, else the
    /// executable segments. Linkage stubs are part of it.
    pub fn text(&self) -> &[Range<LinkAddr>] {
        &self.text
    }

    /// Procedure linkage tables, ascending.
    pub fn plt(&self) -> &[Range<LinkAddr>] {
        &self.plt
    }

    /// Whether there may be a symbol with `part` in its name; by the bytes of the string tables, so it is asked quickly.
    pub fn may_name(&self, part: &str) -> bool {
        self.tables.may_name(part)
    }

    /// The functions that symbols name, ascending, one per address.
    pub fn functions(&self) -> &[Function] {
        &self.tables.get().symbols.functions
    }

    /// The best known name of one of [`functions`](Self::functions).
    pub fn name(&self, function: &Function) -> &str {
        let name = self.tables.get().symbols.first_name(function);
        name.map_or("", |name| name.text)
    }

    /// All names of one of [`functions`](Self::functions), the best known first.
    pub fn names(&self, function: &Function) -> impl ExactSizeIterator<Item = Name<'_>> {
        self.tables.get().symbols.names(function)
    }

    /// The variables that symbols call `name`.
    pub fn objects_named(&self, name: &str) -> impl Iterator<Item = DataObject<'_>> {
        let tables = self.tables.if_named(name);
        tables.into_iter().flat_map(|tables| tables.objects.all()).filter(move |object| object.name == name)
    }

    /// The variable that covers `at`, as far as symbols tell.
    pub fn object_at(&self, at: LinkAddr) -> Option<DataObject<'_>> {
        self.tables.get().objects.at(at)
    }

    /// The innermost function that covers `at`.
    pub fn function_at(&self, at: LinkAddr) -> Option<&Function> {
        self.tables.get().symbols.function_at(at)
    }

    /// The function that begins at `at`.
    pub fn function_starting_at(&self, at: LinkAddr) -> Option<&Function> {
        let index = self.functions().binary_search_by_key(&at, |f| f.addr).ok()?;
        self.functions().get(index)
    }

    /// The first function that begins behind `at`.
    pub fn next_function_start(&self, at: LinkAddr) -> Option<LinkAddr> {
        self.tables.get().symbols.next_start(at)
    }

    /// The canonical frame address of the function at `pc`, what its stack pointer was before it was called, from what
    /// the registers hold there; `None` where the unwind tables do not tell.
    pub fn frame_address(&self, pc: LinkAddr) -> Option<crate::dwarf::Value> {
        self.unwind.frame_address(pc)
    }

    /// How to find the caller of the code at `pc`, by the unwind tables.
    pub fn caller(&self, pc: LinkAddr) -> Option<crate::CallerRule> {
        self.unwind.caller(pc)
    }

    /// The unwind tables as plain rows, ascending; see [`FrameRow`](crate::FrameRow).
    pub fn frame_rows(&self) -> Vec<crate::FrameRow> {
        frames::rows(&self.unwind)
    }

    /// Ranges of code the unwind tables describe, ascending by start: functions, and parts of functions
    /// that compilers put elsewhere. For stripped files; read on the first call.
    pub fn unwind_functions(&self) -> &[Range<LinkAddr>] {
        self.unwind.ranges()
    }

    /// The file has a static symbol table (or got one by [`merge_debug`](Self::merge_debug)).
    pub fn has_symtab(&self) -> bool {
        self.has_symtab
    }

    /// Symbols that are not among the functions, by reason.
    pub fn dropped(&self) -> Dropped {
        self.tables.get().symbols.dropped
    }

    /// Names the dynamic linker binds: functions that are not defined here, and indirect functions of the
    /// file itself.
    pub fn imports(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tables.get().symbols.imports()
    }

    /// Indices of [`imports`](Self::imports) with that name (one per version).
    pub fn import_indices(&self, name: &str) -> impl Iterator<Item = u32> {
        let known = self.may_name(name).then(|| self.tables.get().symbols.import_indices(name));
        known.into_iter().flatten()
    }

    /// Slots that the loader fills with what `target` stands for.
    pub fn slots_of(&self, target: SlotTarget) -> &[Slot] {
        let slots = self.slots();
        let start = slots.partition_point(|s| s.target < target);
        let len = slots[start..].partition_point(|s| s.target == target);
        &slots[start..start + len]
    }

    /// All slots of imported and indirect functions, sorted by target.
    pub fn slots(&self) -> &[Slot] {
        &self.tables.get().slots
    }

    /// What the linkage stub at `stub` leads to, if that is a function of this file unless another module has one of that name.
    pub fn linkage_of(&self, stub: LinkAddr) -> Option<&Linkage> {
        self.tables.get().linkages.of(stub)
    }

    /// The linkage stub by which this file calls its function at `function`.
    pub fn linkage_to(&self, function: LinkAddr) -> Option<&Linkage> {
        self.tables.get().linkages.to(function)
    }

    /// Restartable sequences, ascending. Nothing may be moved out of them.
    pub fn critical_sections(&self) -> &[CriticalSection] {
        &self.critical_sections
    }

    /// Bytes of code that the loader writes to, ascending: programs that were not compiled for any place (`DT_TEXTREL`).
    pub fn text_relocations(&self) -> &[Range<LinkAddr>] {
        &self.text_relocations
    }

    /// Addresses of nop runs that the compiler left for patching, ascending.
    pub fn patchable_entries(&self) -> &[LinkAddr] {
        &self.tables.get().patchable_entries
    }

    /// Where in the file the byte at `at` is; `None` if it does not come from the file.
    pub fn link_to_file(&self, at: LinkAddr) -> Option<FileOffset> {
        layout::link_to_file(&self.segments, at, 1)
    }

    /// The `len` bytes at `at` in `file`, which must be the contents this image was parsed from.
    pub fn bytes_at<'a>(&self, file: &'a [u8], at: LinkAddr, len: u64) -> Option<&'a [u8]> {
        let offset = layout::link_to_file(&self.segments, at, len)?;
        Bytes::file(file).get(offset.0, len).map(Bytes::data)
    }

    /// Reads `file`, which must be the contents this image was parsed from, as if it were mapped where it is linked:
    /// `false` if any of the bytes is not in it.
    pub fn read_file(&self, file: &[u8], at: Addr, into: &mut [u8]) -> bool {
        let stored = self.bytes_at(file, LinkAddr(at.0), into.len() as u64);
        stored.map(|stored| into.copy_from_slice(stored)).is_some()
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("kind", &self.kind).finish_non_exhaustive()
    }
}

fn kind(file_type: elf::FileType, layout: &Layout<'_>, dynamic: Option<&Dynamic<'_>>) -> Kind {
    if file_type == elf::ET_EXEC {
        return Kind::Executable;
    }
    // libc.so.6 has an interpreter as well, for running it by hand. Programs of linkers before DF_1_PIE
    // have an interpreter and no name.
    let named = dynamic.is_some_and(|d| d.soname.is_some());
    match (dynamic.is_some_and(|d| d.pie), layout.interpreter.is_some()) {
        (true, false) => Kind::StaticPie,
        (true, true) => Kind::PositionIndependent,
        (false, true) if !named => Kind::PositionIndependent,
        (false, _) => Kind::SharedObject,
    }
}
