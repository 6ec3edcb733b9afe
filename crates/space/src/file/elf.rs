//! The headers of an ELF file, as numbers that can be changed and written back.
//!
//! The layout is that of the System V gABI, chapters 4 and 5, for `ELFCLASS64` and little-endian data. The
//! input is hostile: nothing is read or allocated before it was checked to lie in the file.

use incise_image::{FileOffset, ImageError};

/// Size of the file header, in bytes.
pub(super) const EHDR: usize = 64;
/// Size of a program header.
pub(super) const PHDR: usize = 56;
/// Size of a section header.
pub(super) const SHDR: usize = 64;

pub(super) const ET_EXEC: u16 = 2;
pub(super) const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PN_XNUM: u16 = 0xFFFF;
const SHN_LORESERVE: u16 = 0xFF00;

pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_DYNAMIC: u32 = 2;
pub(super) const PT_INTERP: u32 = 3;
pub(super) const PT_PHDR: u32 = 6;
pub(super) const PT_GNU_EH_FRAME: u32 = 0x6474_E550;

pub(super) const PF_X: u32 = 1;
pub(super) const PF_W: u32 = 2;
pub(super) const PF_R: u32 = 4;

pub(super) const SHT_PROGBITS: u32 = 1;
pub(super) const SHT_NOBITS: u32 = 8;
pub(super) const SHF_WRITE: u64 = 1;
pub(super) const SHF_ALLOC: u64 = 2;
pub(super) const SHF_EXECINSTR: u64 = 4;

/// A field at a fixed place, little-endian.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A field at a fixed place, little-endian.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A field at a fixed place, little-endian.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The `len` bytes at file offset `at`.
pub(super) fn slice(bytes: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

/// A program header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub paddr: u64,
    pub filesz: u64,
    pub memsz: u64,
    pub align: u64,
}

impl Segment {
    fn read(bytes: &[u8]) -> Option<Segment> {
        Some(Segment {
            kind: u32_at(bytes, 0)?,
            flags: u32_at(bytes, 4)?,
            offset: u64_at(bytes, 8)?,
            vaddr: u64_at(bytes, 16)?,
            paddr: u64_at(bytes, 24)?,
            filesz: u64_at(bytes, 32)?,
            memsz: u64_at(bytes, 40)?,
            align: u64_at(bytes, 48)?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.kind.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        for word in [self.offset, self.vaddr, self.paddr, self.filesz, self.memsz, self.align] {
            out.extend(word.to_le_bytes());
        }
    }

    /// A loaded segment on a page boundary.
    pub(super) fn load(flags: u32, offset: u64, vaddr: u64, filesz: u64, memsz: u64) -> Segment {
        Segment { kind: PT_LOAD, flags, offset, vaddr, paddr: vaddr, filesz, memsz, align: super::PAGE }
    }
}

/// A section header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Section {
    pub name: u32,
    pub kind: u32,
    pub flags: u64,
    pub addr: u64,
    pub offset: u64,
    pub size: u64,
    pub link: u32,
    pub info: u32,
    pub align: u64,
    pub entsize: u64,
}

impl Section {
    fn read(bytes: &[u8]) -> Option<Section> {
        Some(Section {
            name: u32_at(bytes, 0)?,
            kind: u32_at(bytes, 4)?,
            flags: u64_at(bytes, 8)?,
            addr: u64_at(bytes, 16)?,
            offset: u64_at(bytes, 24)?,
            size: u64_at(bytes, 32)?,
            link: u32_at(bytes, 40)?,
            info: u32_at(bytes, 44)?,
            align: u64_at(bytes, 48)?,
            entsize: u64_at(bytes, 56)?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.name.to_le_bytes());
        out.extend(self.kind.to_le_bytes());
        for word in [self.flags, self.addr, self.offset, self.size] {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.link.to_le_bytes());
        out.extend(self.info.to_le_bytes());
        out.extend(self.align.to_le_bytes());
        out.extend(self.entsize.to_le_bytes());
    }
}

/// The section header table and the names in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sections {
    pub headers: Vec<Section>,
    /// Index of the section that holds the names.
    pub names: usize,
}

impl Sections {
    /// The name of a section, as far as there is one.
    pub(super) fn name<'f>(&self, file: &'f [u8], section: &Section) -> &'f [u8] {
        let table = self.headers.get(self.names).and_then(|names| slice(file, names.offset, names.size));
        let tail = table.and_then(|table| table.get(section.name as usize..)).unwrap_or(&[]);
        tail.split(|&byte| byte == 0).next().unwrap_or(&[])
    }
}

/// What the headers of a program or library say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Headers {
    pub file_type: u16,
    pub entry: u64,
    /// It begins to run at its entry point; of a library, a dynamic linker calls the initialization.
    pub program: bool,
    pub segments: Vec<Segment>,
    /// `None` if there are no section headers, or none that make sense.
    pub sections: Option<Sections>,
}

/// Addresses of programs end here (psABI x86-64, 3.3.2: 47 bits).
const ADDRESS_END: u64 = 1 << 47;

impl Headers {
    /// Reads and checks the headers of an x86-64 program or library.
    ///
    /// # Errors
    /// What the kernel or the dynamic linker would not load either, and segments out of order.
    pub(super) fn parse(file: &[u8]) -> Result<Headers, ImageError> {
        let broken = |what, offset: usize| ImageError::Malformed { what, offset: FileOffset(offset as u64) };
        if !file.starts_with(b"\x7FELF") {
            return Err(ImageError::NotElf);
        }
        let header = file.get(..EHDR).ok_or(broken("file header cut short", 0))?;
        if header[4] != 2 {
            return Err(ImageError::Not64);
        }
        let half = |at| u16_at(header, at).ok_or(broken("file header cut short", at));
        let quad = |at| u64_at(header, at).ok_or(broken("file header cut short", at));
        let machine = if header[5] == 1 { half(18)? } else { half(18)?.swap_bytes() };
        if header[5] != 1 || machine != EM_X86_64 {
            return Err(ImageError::WrongMachine { machine });
        }
        let file_type = half(16)?;
        if file_type != ET_EXEC && file_type != ET_DYN {
            return Err(ImageError::NotExecutable { file_type });
        }
        let (phoff, count) = (quad(32)?, half(56)?);
        if usize::from(half(54)?) != PHDR || count == PN_XNUM {
            return Err(broken("program header size or count", 54));
        }
        let table = slice(file, phoff, u64::from(count) * PHDR as u64);
        let table = table.ok_or(broken("program headers beyond the end of the file", 32))?;
        let segments: Vec<Segment> = table.chunks_exact(PHDR).filter_map(Segment::read).collect();
        check(file, &segments)?;
        let sections = sections(file, header);
        let entry = quad(24)?;
        let mut headers = Headers { file_type, entry, program: false, segments, sections };
        headers.program = super::dynamic::is_program(&headers, file);
        Ok(headers)
    }

    /// The loaded segments, ascending.
    pub(super) fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD)
    }

    /// The first segment of a kind.
    pub(super) fn first(&self, kind: u32) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.kind == kind)
    }

    /// Where in the file the `len` bytes at link address `at` are.
    pub(super) fn offset_of(&self, at: u64, len: u64) -> Option<u64> {
        self.loads().find_map(|load| {
            let into = at.checked_sub(load.vaddr)?;
            (into.checked_add(len)? <= load.filesz).then(|| load.offset + into)
        })
    }

    /// Behind the last byte in memory.
    pub(super) fn end(&self) -> u64 {
        self.loads().map(|load| load.vaddr + load.memsz).max().unwrap_or(0)
    }
}

/// Every loaded segment lies in the file and in user addresses, ascends, and is where pages can be mapped.
fn check(file: &[u8], segments: &[Segment]) -> Result<(), ImageError> {
    let broken = |what, offset| Err(ImageError::Malformed { what, offset: FileOffset(offset) });
    let mut end = 0;
    for load in segments.iter().filter(|segment| segment.kind == PT_LOAD) {
        if load.filesz > load.memsz || slice(file, load.offset, load.filesz).is_none() {
            return broken("segment size", load.offset);
        }
        if load.vaddr.checked_add(load.memsz).is_none_or(|end| end > ADDRESS_END) {
            return broken("segment beyond the user addresses", load.offset);
        }
        if load.vaddr % super::PAGE != load.offset % super::PAGE {
            return broken("segment that cannot be mapped by pages", load.offset);
        }
        if load.vaddr < end {
            return broken("segments that overlap or descend", load.offset);
        }
        end = load.vaddr + load.memsz;
    }
    if end == 0 { broken("no loadable segment", 0) } else { Ok(()) }
}

/// The section headers, if the table is one that can be copied with additions.
fn sections(file: &[u8], header: &[u8]) -> Option<Sections> {
    let (table, size, count, names) =
        (u64_at(header, 40)?, u16_at(header, 58)?, u16_at(header, 60)?, u16_at(header, 62)?);
    // Larger counts are kept in section 0 (gABI, e_shnum): no program has so many.
    if table == 0 || usize::from(size) != SHDR || count == 0 || count >= SHN_LORESERVE - 16 || names >= count
    {
        return None;
    }
    let bytes = slice(file, table, u64::from(count) * SHDR as u64)?;
    let headers: Vec<Section> = bytes.chunks_exact(SHDR).filter_map(Section::read).collect();
    let strings = headers.get(usize::from(names))?;
    slice(file, strings.offset, strings.size)?;
    Some(Sections { headers, names: usize::from(names) })
}
