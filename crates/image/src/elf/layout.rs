//! Program and section headers: what lies where, in the file and in memory.

use std::ops::Range;

use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::{LittleEndian, pod};

use crate::addr::{find_range, normalize};
use crate::elf::bytes::{Bytes, LE};
use crate::{FileOffset, ImageError, LinkAddr, Permissions};

/// A part of the file that is loaded: a `PT_LOAD` program header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Address of the first byte.
    pub link: LinkAddr,
    /// Where its bytes begin in the file.
    pub file_offset: FileOffset,
    /// Bytes taken from the file.
    pub file_size: u64,
    /// Bytes in memory; those beyond `file_size` are zero.
    pub mem_size: u64,
    /// What the loader maps it with.
    pub permissions: Permissions,
}

impl Segment {
    /// The addresses in memory.
    pub fn range(&self) -> Range<LinkAddr> {
        self.link.span(self.mem_size)
    }
}

/// A named part of the file that is in memory at run time (`SHF_ALLOC`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// The name, such as `.text`.
    pub name: Box<str>,
    /// Address of the first byte.
    pub link: LinkAddr,
    /// Size in bytes.
    pub size: u64,
    /// Where its bytes begin in the file; `None` if it has none (`SHT_NOBITS`).
    pub file_offset: Option<FileOffset>,
    /// It holds instructions (`SHF_EXECINSTR`).
    pub executable: bool,
    /// It can be written (`SHF_WRITE`).
    pub writable: bool,
}

impl Section {
    /// The addresses in memory.
    pub fn range(&self) -> Range<LinkAddr> {
        self.link.span(self.size)
    }
}

/// A section header as read, also of sections that are not in memory.
pub(crate) struct RawSection<'a> {
    pub name: &'a [u8],
    pub kind: u32,
    pub flags: u64,
    pub addr: u64,
    pub size: u64,
    pub link: u32,
    /// The contents; empty for `SHT_NOBITS` and for headers that point out of the file.
    pub bytes: Bytes<'a>,
    pub offset: u64,
}

impl RawSection<'_> {
    pub(crate) fn is(&self, flag: elf::SectionFlags) -> bool {
        self.flags & flag.0 != 0
    }
}

/// Everything the headers say.
pub(crate) struct Layout<'a> {
    pub file: Bytes<'a>,
    pub segments: Vec<Segment>,
    pub sections: Vec<RawSection<'a>>,
    /// Executable ranges: of the sections where there are headers, else of the segments. Ascending.
    pub text: Vec<Range<LinkAddr>>,
    /// Procedure linkage tables. Ascending.
    pub plt: Vec<Range<LinkAddr>>,
    pub dynamic: Option<Range<LinkAddr>>,
    pub interpreter: Option<String>,
    pub notes: Vec<Bytes<'a>>,
    pub eh_frame_hdr: Option<LinkAddr>,
}

/// Longest section name kept, in bytes.
const SECTION_NAME_LIMIT: usize = 256;

/// Checks the file header: ELF, 64 bits, x86-64, a program or a library.
pub(crate) fn header(file: Bytes<'_>) -> Result<&FileHeader64<LittleEndian>, ImageError> {
    let data = file.data();
    if !data.starts_with(&elf::ELFMAG) {
        return Err(ImageError::NotElf);
    }
    let (class, encoding) = match data.get(4..6) {
        Some(&[class, encoding]) => (class, encoding),
        _ => return Err(file.error("file header cut short", 0)),
    };
    if class != elf::ELFCLASS64.0 {
        return Err(ImageError::Not64);
    }
    let header: &FileHeader64<LittleEndian> =
        file.read(0).ok_or_else(|| file.error("file header cut short", 0))?;
    let machine = header.e_machine.get(LE).0;
    if encoding != elf::ELFDATA2LSB.0 {
        return Err(ImageError::WrongMachine { machine: machine.swap_bytes() });
    }
    if machine != elf::EM_X86_64.0 {
        return Err(ImageError::WrongMachine { machine });
    }
    let file_type = header.e_type.get(LE);
    if file_type != elf::ET_EXEC && file_type != elf::ET_DYN {
        return Err(ImageError::NotExecutable { file_type: file_type.0 });
    }
    Ok(header)
}

impl<'a> Layout<'a> {
    pub(crate) fn parse(file: Bytes<'a>) -> Result<Layout<'a>, ImageError> {
        let header = header(file)?;
        let mut layout = Layout::with_text(file, sections(file, header), Vec::new(), Vec::new());
        layout.read_segments(header)?;
        layout.find_text();
        Ok(layout)
    }

    /// A layout without segments, of code that is known: a debug file has the sections of its program.
    pub(crate) fn with_text(
        file: Bytes<'a>,
        sections: Vec<RawSection<'a>>,
        text: Vec<Range<LinkAddr>>,
        plt: Vec<Range<LinkAddr>>,
    ) -> Layout<'a> {
        Layout {
            file,
            segments: Vec::new(),
            sections,
            text,
            plt,
            dynamic: None,
            interpreter: None,
            notes: Vec::new(),
            eh_frame_hdr: None,
        }
    }

    fn read_segments(&mut self, header: &FileHeader64<LittleEndian>) -> Result<(), ImageError> {
        let table = header.e_phoff.get(LE);
        // With 0xffff or more program headers the count is in section 0 (gABI, e_phnum).
        let count = match header.e_phnum.get(LE) {
            elf::PN_XNUM => {
                let first = self.file.read::<SectionHeader64<LittleEndian>>(header.e_shoff.get(LE));
                first.map_or(0, |s| u64::from(s.sh_info.get(LE)))
            }
            count => u64::from(count),
        };
        if usize::from(header.e_phentsize.get(LE)) != size_of::<ProgramHeader64<LittleEndian>>() {
            return Err(self.file.error("program header size", 54));
        }
        let bytes = self.file.need(table, count * 56, "program headers")?;
        for (index, segment) in bytes.all::<ProgramHeader64<LittleEndian>>().iter().enumerate() {
            let at = table + index as u64 * 56;
            self.read_segment(segment, at)?;
        }
        if self.segments.is_empty() {
            return Err(self.file.error("no loadable segment", table));
        }
        self.segments.sort_by_key(|s| s.link);
        Ok(())
    }

    fn read_segment(&mut self, header: &ProgramHeader64<LittleEndian>, at: u64) -> Result<(), ImageError> {
        let (offset, link) = (header.p_offset.get(LE), header.p_vaddr.get(LE));
        let (file_size, mem_size) = (header.p_filesz.get(LE), header.p_memsz.get(LE));
        match header.p_type.get(LE) {
            elf::PT_LOAD => {
                if file_size > mem_size || link.checked_add(mem_size).is_none() {
                    return Err(self.file.error("segment size", at));
                }
                self.file.need(offset, file_size, "segment beyond the end of the file")?;
                let flags = header.p_flags.get(LE).0;
                self.segments.push(Segment {
                    link: LinkAddr(link),
                    file_offset: FileOffset(offset),
                    file_size,
                    mem_size,
                    permissions: Permissions {
                        read: flags & elf::PF_R.0 != 0,
                        write: flags & elf::PF_W.0 != 0,
                        execute: flags & elf::PF_X.0 != 0,
                        shared: false,
                    },
                });
            }
            elf::PT_DYNAMIC => self.dynamic = Some(LinkAddr(link).span(file_size)),
            elf::PT_INTERP => {
                let bytes = self.file.need(offset, file_size, "interpreter")?;
                self.interpreter = Some(bytes.text(0).ok_or_else(|| self.file.error("interpreter", offset))?);
            }
            elf::PT_NOTE => self.notes.extend(self.file.get(offset, file_size)),
            elf::PT_GNU_EH_FRAME => self.eh_frame_hdr = Some(LinkAddr(link)),
            _ => {}
        }
        Ok(())
    }

    fn find_text(&mut self) {
        let loaded =
            normalize(self.segments.iter().filter(|s| s.permissions.execute).map(Segment::range).collect());
        let executable = |s: &&RawSection<'_>| s.is(elf::SHF_ALLOC) && s.is(elf::SHF_EXECINSTR);
        let clip = |s: &RawSection<'_>| {
            let range = LinkAddr(s.addr).span(s.size);
            let hull = find_range(&loaded, range.start)?;
            Some(range.start..range.end.min(hull.end))
        };
        let plt = |s: &&RawSection<'_>| s.name.starts_with(b".plt") || s.name == b".iplt";
        self.plt = normalize(self.sections.iter().filter(executable).filter(plt).filter_map(clip).collect());
        self.text = disjoint(self.sections.iter().filter(executable).filter_map(clip).collect());
        if self.text.is_empty() {
            self.text = loaded;
        }
    }

    /// The file's bytes of the `len` bytes at `at`, if all of them come from the file.
    pub(crate) fn at(&self, at: LinkAddr, len: u64) -> Option<Bytes<'a>> {
        link_to_file(&self.segments, at, len).and_then(|offset| self.file.get(offset.0, len))
    }

    /// The file's bytes from `at` to the end of its segment.
    pub(crate) fn from(&self, at: LinkAddr) -> Option<Bytes<'a>> {
        let offset = link_to_file(&self.segments, at, 1)?;
        let segment = segment_of(&self.segments, at)?;
        let len = segment.file_size - (at.0 - segment.link.0);
        self.file.get(offset.0, len)
    }

    /// The section of that name.
    pub(crate) fn section(&self, name: &str) -> Option<&RawSection<'a>> {
        self.sections.iter().find(|s| s.name == name.as_bytes())
    }

    /// The sections that are in memory, as callers see them.
    pub(crate) fn public_sections(&self) -> Vec<Section> {
        let in_memory = self.sections.iter().filter(|s| s.is(elf::SHF_ALLOC));
        let mut sections: Vec<Section> = in_memory
            .map(|s| Section {
                name: String::from_utf8_lossy(s.name).into(),
                link: LinkAddr(s.addr),
                size: s.size,
                file_offset: (s.kind != elf::SHT_NOBITS.0).then_some(FileOffset(s.offset)),
                executable: s.is(elf::SHF_EXECINSTR),
                writable: s.is(elf::SHF_WRITE),
            })
            .collect();
        sections.sort_by_key(|s| s.link);
        sections
    }
}

/// The file-backed segment that holds `at`. `segments` ascend.
fn segment_of(segments: &[Segment], at: LinkAddr) -> Option<&Segment> {
    let index = segments.partition_point(|s| s.link <= at).checked_sub(1)?;
    segments.get(index).filter(|s| at.0 - s.link.0 < s.file_size)
}

/// Where in the file the `len` bytes at `at` are.
pub(crate) fn link_to_file(segments: &[Segment], at: LinkAddr, len: u64) -> Option<FileOffset> {
    let segment = segment_of(segments, at)?;
    let into = at.0 - segment.link.0;
    (len <= segment.file_size - into).then_some(FileOffset(segment.file_offset.0 + into))
}

/// The section headers. The loader does not need them, so a table that makes no sense counts as none.
pub(crate) fn sections<'a>(file: Bytes<'a>, header: &FileHeader64<LittleEndian>) -> Vec<RawSection<'a>> {
    let table = header.e_shoff.get(LE);
    let Some(first) = file.read::<SectionHeader64<LittleEndian>>(table).filter(|_| table != 0) else {
        return Vec::new();
    };
    // Counts that do not fit their fields are in section 0 (gABI, e_shnum and e_shstrndx).
    let count = match header.e_shnum.get(LE) {
        0 => first.sh_size.get(LE),
        count => u64::from(count),
    };
    let names = match header.e_shstrndx.get(LE) {
        elf::SHN_XINDEX => first.sh_link.get(LE),
        index => u32::from(index.0),
    };
    let bytes = count.checked_mul(64).and_then(|len| file.get(table, len));
    let Some(headers) = bytes.map(Bytes::all::<SectionHeader64<LittleEndian>>) else {
        return Vec::new();
    };
    let contents = |s: &SectionHeader64<LittleEndian>| {
        let bytes = file.get(s.sh_offset.get(LE), s.sh_size.get(LE));
        bytes.filter(|_| s.sh_type.get(LE) != elf::SHT_NOBITS).unwrap_or(Bytes::empty())
    };
    let names = headers.get(names as usize).map_or(Bytes::empty(), contents);
    let section = |s: &SectionHeader64<LittleEndian>| RawSection {
        name: names.string(u64::from(s.sh_name.get(LE)), SECTION_NAME_LIMIT).unwrap_or(b""),
        kind: s.sh_type.get(LE).0,
        flags: s.sh_flags.get(LE).0,
        addr: s.sh_addr.get(LE),
        size: s.sh_size.get(LE),
        link: s.sh_link.get(LE),
        bytes: contents(s),
        offset: s.sh_offset.get(LE),
    };
    headers.iter().map(section).collect()
}

/// Sorts `ranges` and cuts off what overlaps the one before; ranges that only touch stay apart.
fn disjoint(mut ranges: Vec<Range<LinkAddr>>) -> Vec<Range<LinkAddr>> {
    ranges.sort_by_key(|r| r.start);
    let mut end = LinkAddr(0);
    for range in &mut ranges {
        range.start = range.start.max(end);
        end = end.max(range.end);
    }
    ranges.retain(|r| r.start < r.end);
    ranges
}

/// The first note of that owner and type.
pub(crate) fn note<'a>(notes: &[Bytes<'a>], owner: &[u8], kind: u32) -> Option<&'a [u8]> {
    notes.iter().find_map(|notes| find_note(notes.data(), owner, kind))
}

fn find_note<'a>(mut data: &'a [u8], owner: &[u8], kind: u32) -> Option<&'a [u8]> {
    // Name and description are padded to 4 bytes; 8 is only used by .note.gnu.property, whose name and
    // header fill 16 bytes, so a description ends at the same place either way or is the last.
    let padded = |len: u32| (len as usize).checked_next_multiple_of(4);
    while let Ok((header, rest)) = pod::from_bytes::<elf::NoteHeader64<LittleEndian>>(data) {
        let (name_len, desc_len) = (header.n_namesz.get(LE), header.n_descsz.get(LE));
        let name = rest.get(..name_len as usize)?;
        let rest = rest.get(padded(name_len)?..)?;
        let desc = rest.get(..desc_len as usize)?;
        if header.n_type.get(LE).0 == kind && name.strip_suffix(b"\0") == Some(owner) {
            return Some(desc);
        }
        data = rest.get(padded(desc_len)?..).unwrap_or(&[]);
    }
    None
}
