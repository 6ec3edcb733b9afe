//! Damaged and hostile files: an error or a partial answer, never a panic, never unbounded work.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use incise_image::{Contents, Image, ImageError, LinkAddr, Pattern, demangle};
use support::{Scratch, libc_path};

/// A small generator (xorshift64*), so that every run makes the same files.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Asks an image everything; returns something that depends on all answers.
fn use_up(image: &Image, file: &[u8]) -> usize {
    let mut sum = image.sections().len() + image.needed().len() + image.slots().len() + image.imports().len();
    sum += image.critical_sections().iter().map(|s| s.signature().end.0 as usize & 1).sum::<usize>();
    sum += image.patchable_entries().len() + image.unwind_functions().len();
    for function in image.functions() {
        assert!(image.text().iter().any(|r| r.contains(&function.addr)), "{function:?}");
        sum += image.names(function).map(|name| name.text.len()).sum::<usize>();
        sum += image.bytes_at(file, function.addr, function.size).map_or(0, <[u8]>::len);
        assert!(image.function_at(function.addr).is_some() || function.size == 0);
    }
    sum + image.next_function_start(LinkAddr(0)).map_or(0, |at| at.0 as usize & 1)
}

/// Parses `rounds` damaged versions of `file`; returns how many were accepted.
fn damage(file: &[u8], rounds: usize, seed: u64) -> usize {
    let mut random = Random(seed);
    let mut accepted = 0;
    let slowest = (0..rounds)
        .map(|round| {
            let mut copy = file.to_vec();
            // Where the tables are, damage tells more: half of it goes to the headers.
            let flips = 1 + random.below(8);
            for _ in 0..flips {
                let tables = if random.below(2) == 0 { 1024 } else { copy.len() };
                let at = random.below(tables.min(copy.len()));
                copy[at] = match random.below(3) {
                    0 => 0xff,
                    1 => 0,
                    _ => random.next() as u8,
                };
            }
            if round % 4 == 0 {
                copy.truncate(random.below(copy.len()));
            }
            let start = Instant::now();
            if let Ok(image) = Image::parse(&copy) {
                use_up(&image, &copy);
                accepted += 1;
            }
            let shared = Arc::new(copy);
            if let Ok(image) = Image::open(Arc::clone(&shared) as Contents) {
                use_up(&image, &shared);
            }
            start.elapsed()
        })
        .max();
    println!("{accepted} of {rounds} accepted, the slowest took {slowest:?}");
    assert!(slowest.is_some_and(|t| t < Duration::from_secs(5)));
    accepted
}

#[test]
fn damaged_programs_do_no_harm() {
    let small = std::fs::read("/bin/true").expect("/bin/true");
    let accepted = damage(&small, 4000, 1);
    assert!(accepted > 400 && accepted < 4000, "{accepted}");
    let me = std::fs::read(std::env::current_exe().expect("own path")).expect("own file");
    damage(&me, 40, 2);
    damage(&std::fs::read(libc_path()).expect("libc"), 300, 3);
}

#[test]
fn damaged_static_programs_do_no_harm() {
    let scratch = Scratch::new("hostile");
    let Some(path) = scratch.compile("static", "int main(void) { return 0; }", &["-static"]) else { return };
    damage(&std::fs::read(path).expect("the program"), 200, 4);
}

#[test]
fn every_truncation_of_the_headers_is_an_error() {
    let file = std::fs::read("/bin/true").expect("/bin/true");
    for len in 0..1024 {
        assert!(Image::parse(&file[..len]).is_err(), "{len}");
    }
}

#[test]
fn what_is_no_program_is_refused_by_its_reason() {
    let file = std::fs::read("/bin/true").expect("/bin/true");
    let changed = |at: usize, value: u8| {
        let mut copy = file.clone();
        copy[at] = value;
        Image::parse(&copy).err()
    };
    assert_eq!(Image::parse(b"#!/bin/sh\n").err(), Some(ImageError::NotElf));
    assert_eq!(Image::parse(b"").err(), Some(ImageError::NotElf));
    assert_eq!(changed(4, 1), Some(ImageError::Not64));
    assert_eq!(changed(18, 183), Some(ImageError::WrongMachine { machine: 183 }));
    assert_eq!(changed(16, 1), Some(ImageError::NotExecutable { file_type: 1 }));
    assert_eq!(changed(16, 4), Some(ImageError::NotExecutable { file_type: 4 }));
    assert!(matches!(changed(54, 1), Some(ImageError::Malformed { .. })));
    // The size in the file of the one segment, at offset 32 of its header, is more than that in memory.
    let mut file = program(4096, b"\0", &[]);
    assert!(Image::parse(&file).is_ok());
    file[64 + 40] = 63;
    file[64 + 41] = 0;
    assert!(matches!(Image::parse(&file).err(), Some(ImageError::Malformed { what: "segment size", .. })));
}

/// A program of one executable segment, `text` bytes at 0x400000, with these symbols: name offset, value
/// and size.
fn program(text: u64, strings: &[u8], symbols: &[(u32, u64, u64)]) -> Vec<u8> {
    let mut file = Vec::new();
    let symbols_at = 64 + 56;
    let strings_at = symbols_at + symbols.len() * 24;
    let sections_at = strings_at + strings.len();
    let put = |file: &mut Vec<u8>, values: &[(u64, usize)]| {
        for &(value, len) in values {
            file.extend_from_slice(&value.to_le_bytes()[..len]);
        }
    };
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&mut file, &[(2, 2), (62, 2), (1, 4), (0x400000, 8), (64, 8), (sections_at as u64, 8), (0, 4)]);
    put(&mut file, &[(64, 2), (56, 2), (1, 2), (64, 2), (4, 2), (0, 2)]);
    put(&mut file, &[(1, 4), (5, 4), (0, 8), (0x400000, 8), (0x400000, 8), (64, 8), (text, 8), (4096, 8)]);
    for &(name, value, size) in symbols {
        put(&mut file, &[(name.into(), 4), (0x12, 1), (0, 1), (1, 2), (value, 8), (size, 8)]);
    }
    file.extend_from_slice(strings);
    let section =
        |file: &mut Vec<u8>, kind: u64, flags: u64, addr: u64, offset: usize, size: u64, link: u64| {
            put(file, &[(0, 4), (kind, 4), (flags, 8), (addr, 8), (offset as u64, 8), (size, 8)]);
            put(file, &[(link, 4), (0, 4), (1, 8), (0, 8)]);
        };
    section(&mut file, 0, 0, 0, 0, 0, 0);
    section(&mut file, 1, 6, 0x400000, 0, text, 0);
    section(&mut file, 2, 0, 0, symbols_at, symbols.len() as u64 * 24, 3);
    section(&mut file, 3, 0, 0, strings_at, strings.len() as u64, 0);
    file
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{what} took {:?}", start.elapsed());
    result
}

#[test]
fn names_that_overlap_do_not_multiply() {
    // 200,000 symbols, each named by another tail of one string of 4 MiB: 400 GiB if all were copied.
    let strings = [vec![b'x'; 4 << 20], vec![0]].concat();
    let symbols: Vec<(u32, u64, u64)> = (0..200_000).map(|i| (i, 0x400000 + u64::from(i), 1)).collect();
    let file = program(1 << 20, &strings, &symbols);
    let error = timed("overlapping long names", || Image::parse(&file)).err();
    assert!(matches!(error, Some(ImageError::Malformed { .. })), "{error:?}");
    // The same with strings just short enough to be kept.
    let strings = [vec![b'x'; 1 << 19], vec![0]].concat();
    let file = program(1 << 20, &strings, &symbols);
    assert!(timed("overlapping names", || Image::parse(&file)).is_err());
}

#[test]
fn large_symbol_tables_are_read_in_linear_time() {
    let mut strings = vec![0];
    let symbols: Vec<(u32, u64, u64)> = (0..200_000u64)
        .map(|i| {
            let at = strings.len() as u32;
            strings.extend_from_slice(format!("_ZN4llvm5Class{i}E\0").as_bytes());
            (at, 0x400000 + i * 16, 16)
        })
        .collect();
    let file = program(200_000 * 16, &strings, &symbols);
    let image = timed("200,000 functions", || Image::parse(&file)).expect("a program");
    assert_eq!(image.functions().len(), 200_000);
    assert_eq!(image.name(&image.functions()[77]), "_ZN4llvm5Class77E");
}

#[test]
fn nested_and_coinciding_functions_are_read_in_linear_time() {
    let strings = b"\0f\0";
    let nested: Vec<(u32, u64, u64)> = (0..200_000).map(|i| (1, 0x400000 + i, 500_000 - i)).collect();
    let file = program(500_000, strings, &nested);
    let image = timed("nested functions", || Image::parse(&file)).expect("a program");
    let found = timed("looking up nested functions", || {
        (0..200_000).filter(|&i| image.function_at(LinkAddr(0x400000 + i)).is_some()).count()
    });
    assert_eq!(found, 200_000);
    let same: Vec<(u32, u64, u64)> = (0..200_000).map(|_| (1, 0x400000, 4)).collect();
    let image =
        timed("one function often", || Image::parse(&program(4096, strings, &same))).expect("a program");
    assert_eq!(image.names(&image.functions()[0]).len(), 1);
}

#[test]
fn sizes_that_leave_the_section_are_cut() {
    let file = program(4096, b"\0f\0g\0", &[(1, 0x400010, u64::MAX), (3, 0x400ff0, 0)]);
    let image = Image::parse(&file).expect("a program");
    let ends: Vec<u64> = image.functions().iter().map(|f| f.addr.0 + f.size).collect();
    assert_eq!(ends, [0x401000, 0x401000]);
    // A section header that says more than the segment that is loaded: half as many bytes in memory.
    let mut file = file;
    file[64 + 41] = 0x08;
    let image = Image::parse(&file).expect("a program");
    assert_eq!(image.text(), [LinkAddr(0x400000)..LinkAddr(0x400800)]);
    assert_eq!((image.functions().len(), image.dropped().outside_text), (1, 1));
}

#[test]
fn behind_an_inner_function_is_the_outer_one() {
    let file =
        program(4096, b"\0f\0g\0h\0", &[(1, 0x400100, 0x100), (3, 0x400110, 0x10), (5, 0x400120, 0x10)]);
    let image = Image::parse(&file).expect("a program");
    let name_at = |at| image.function_at(LinkAddr(at)).map(|f| image.name(f));
    let found = [0x4000ff, 0x400100, 0x400111, 0x400125, 0x400130, 0x4001ff, 0x400200].map(name_at);
    assert_eq!(found, [None, Some("f"), Some("g"), Some("h"), Some("f"), Some("f"), None]);
}

#[test]
fn damaged_patterns_and_symbols_do_no_harm() {
    let mut random = Random(5);
    let letters: Vec<char> = "ab*?[]!+@0x:(<_ZN4S1EIé\\ ^-".chars().collect();
    for _ in 0..20_000 {
        let len = 1 + random.below(24);
        let text: String = (0..len).map(|_| letters[random.below(letters.len())]).collect();
        let _ = Pattern::parse(&text);
        let _ = demangle(&format!("_Z{text}"));
        let _ = demangle(&format!("_R{text}"));
    }
}
