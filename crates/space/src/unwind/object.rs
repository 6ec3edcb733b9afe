//! Trampolines as an ELF file for debuggers: names and unwind information, no code (System V ABI, Object Files).
//!
//! For gdb's interface for just-in-time compilers, and for `add-symbol-file FILE -o 0`.

use std::ops::Range;

use incise_isa::Addr;

const HEADER: usize = 64;
const SECTION: usize = 64;
const SYMBOL: usize = 24;

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const NOBITS: u32 = 8;

const ALLOC: u64 = 2;
const EXECINSTR: u64 = 4;

/// One row of the section header table.
#[derive(Default)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    at: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    align: u64,
    entry: u64,
}

/// The file. `code` is the memory the trampolines lie in, ascending; `names` are the trampolines, each in one of `code`;
/// `eh_frame` is the table of them, with absolute addresses. Returns where that begins in the file, too.
pub fn object(code: &[Range<Addr>], names: &[(Range<Addr>, &str)], eh_frame: &[u8]) -> (Vec<u8>, usize) {
    let mut sections = vec![Section::default()];
    let mut section_names = b"\0".to_vec();
    let mut name = |text: &str| {
        let at = section_names.len() as u32;
        section_names.extend(text.as_bytes());
        section_names.push(0);
        at
    };
    let (text, frame, symtab, strtab, shstrtab) =
        (name(".text"), name(".eh_frame"), name(".symtab"), name(".strtab"), name(".shstrtab"));
    let len = |range: &Range<Addr>| range.end.offset_from(range.start) as u64;
    let flags = ALLOC | EXECINSTR;
    sections.extend(code.iter().map(|range| Section {
        name: text,
        kind: NOBITS,
        flags,
        at: range.start.0,
        offset: HEADER as u64,
        size: len(range),
        align: 1,
        ..Section::default()
    }));
    let (mut strings, mut symbols) = (b"\0".to_vec(), vec![0; SYMBOL]);
    for (range, text) in names {
        let index = code.partition_point(|section| section.end <= range.start) as u16 + 1;
        symbols.extend((strings.len() as u32).to_le_bytes());
        // st_info: a local function.
        symbols.extend([2, 0]);
        symbols.extend(index.to_le_bytes());
        symbols.extend(range.start.0.to_le_bytes());
        symbols.extend(len(range).to_le_bytes());
        strings.extend(text.bytes().filter(|byte| *byte != 0));
        strings.push(0);
    }
    let count = (symbols.len() / SYMBOL) as u32;
    let link = sections.len() as u32 + 2;
    let mut file = vec![0; HEADER];
    let mut add = |file: &mut Vec<u8>, bytes: &[u8], section: Section| {
        file.resize(file.len().next_multiple_of(8), 0);
        let (offset, size) = (file.len() as u64, bytes.len() as u64);
        sections.push(Section { offset, size, ..section });
        file.extend(bytes);
    };
    add(
        &mut file,
        eh_frame,
        Section { name: frame, kind: PROGBITS, flags: ALLOC, align: 8, ..Section::default() },
    );
    let table = Section {
        name: symtab,
        kind: SYMTAB,
        link,
        info: count,
        align: 8,
        entry: SYMBOL as u64,
        ..Section::default()
    };
    add(&mut file, &symbols, table);
    add(&mut file, &strings, Section { name: strtab, kind: STRTAB, align: 1, ..Section::default() });
    add(&mut file, &section_names, Section { name: shstrtab, kind: STRTAB, align: 1, ..Section::default() });
    file.resize(file.len().next_multiple_of(8), 0);
    let table = file.len() as u64;
    let count = sections.len() as u16;
    for section in sections {
        section.write(&mut file);
    }
    let header = header(table, count);
    file[..HEADER].copy_from_slice(&header);
    // The first that was added.
    (file, HEADER)
}

impl Section {
    fn write(&self, file: &mut Vec<u8>) {
        file.extend(self.name.to_le_bytes());
        file.extend(self.kind.to_le_bytes());
        for word in [self.flags, self.at, self.offset, self.size] {
            file.extend(word.to_le_bytes());
        }
        file.extend(self.link.to_le_bytes());
        file.extend(self.info.to_le_bytes());
        file.extend(self.align.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
    }
}

/// The file header, with a section header table of `count` rows at `table` whose last row holds the names.
fn header(table: u64, count: u16) -> [u8; HEADER] {
    const EXECUTABLE: u16 = 2;
    const X86_64: u16 = 62;
    let mut header = [0; HEADER];
    header[..7].copy_from_slice(&[0x7F, b'E', b'L', b'F', 2, 1, 1]);
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &EXECUTABLE.to_le_bytes());
    put(18, &X86_64.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(40, &table.to_le_bytes());
    put(52, &(HEADER as u16).to_le_bytes());
    put(58, &(SECTION as u16).to_le_bytes());
    put(60, &count.to_le_bytes());
    put(62, &(count - 1).to_le_bytes());
    header
}
