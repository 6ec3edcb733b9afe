//! Debugging information: of compilers, packed, and damaged.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use incise_image::dwarf::{DebugInfo, DwarfError, Location, Tag, TypeId, TypeKind, VariableKind};
use incise_image::{Image, LinkAddr};
use object::{Object, ObjectSection};
use support::{Scratch, skip};

/// Compiles a program of the snippet crate's tests; `None`, told, without the compiler.
fn compiled(compiler: &str, source: &str, flags: &[&str]) -> Option<Vec<u8>> {
    // Several tests compile the same.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let scratch = Scratch::new(&format!("{compiler}{source}{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let sources = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../snippet/tests/programs"));
    let out = scratch.path("program");
    match Command::new(compiler).args(flags).arg("-o").arg(&out).arg(sources.join(source)).status() {
        Ok(status) => assert!(status.success(), "{compiler} {source}"),
        Err(error) => {
            skip(&format!("{compiler}: {error}"));
            return None;
        }
    }
    Some(std::fs::read(out).expect("what was compiled"))
}

/// Asks everything; returns how many answers there were. A type is followed a few levels only: it may hold itself.
fn use_up(image: &Image, info: &DebugInfo) -> usize {
    fn types(info: &DebugInfo, id: TypeId, left: &mut usize, depth: usize) {
        if *left == 0 || depth > 8 {
            return;
        }
        *left -= 1;
        match info.type_of(id).map(|found| found.kind) {
            Some(TypeKind::Pointer(Some(to)) | TypeKind::Reference(to) | TypeKind::Array(to, _)) => {
                types(info, to, left, depth + 1);
            }
            Some(TypeKind::Structure { members, .. }) => {
                members.iter().for_each(|member| types(info, member.ty, left, depth + 1));
            }
            _ => {}
        }
    }
    let mut answers = 0;
    for function in image.functions() {
        for at in [0, 4, function.size / 2, function.size.saturating_sub(1)] {
            let pc = function.addr + at;
            answers += usize::from(info.function_at(pc).is_some());
            for variable in info.variables_at(pc) {
                answers += usize::from(info.location(image, &variable, pc).is_ok());
                let mut left = 200;
                variable.ty.inspect(|id| types(info, *id, &mut left, 0));
            }
        }
    }
    for name in ["head", "table", "deep::Derived::made", "nothing"] {
        answers += usize::from(info.global(name, None).is_some());
    }
    for name in ["node", "deep::Derived", "pair"] {
        answers += usize::from(info.named_type(None, name, None).is_some());
    }
    answers + usize::from(info.enumerator("GREEN", None).is_some())
}

/// Functions whose sizes lead behind all addresses.
#[test]
fn a_function_that_ends_nowhere_has_no_code() {
    let Some(mut file) = compiled("gcc", "values.c", &["-g", "-O0"]) else { return };
    let image = Image::parse(&file).expect("a program");
    let mut found = 0;
    for function in image.functions().iter().filter(|function| function.size > 0) {
        let both = [function.addr.0.to_le_bytes(), function.size.to_le_bytes()].concat();
        let places: Vec<usize> = (0..file.len() - 16).filter(|at| file[*at..*at + 16] == both).collect();
        found += places.len();
        places.into_iter().for_each(|at| file[at + 8..at + 16].fill(0xff));
    }
    assert!(found > 3, "{found}");
    use_up(&image, &DebugInfo::parse(&file).expect("debugging information"));
}

#[test]
fn damage_in_the_sections_does_no_harm() {
    let flags: [&[&str]; 3] = [&["-g", "-O0"], &["-gdwarf-4", "-O2"], &["-gdwarf-5", "-O2"]];
    let sources = [("gcc", "values.c"), ("g++", "values.cc"), ("gcc", "values.c")];
    for ((compiler, source), flags) in sources.into_iter().zip(flags) {
        let Some(whole) = compiled(compiler, source, flags) else { return };
        let image = Image::parse(&whole).expect("a program");
        let healthy = use_up(&image, &DebugInfo::parse(&whole).expect("debugging information"));
        assert!(healthy > 60, "{healthy}");
        let elf = object::File::parse(&*whole).expect("ELF");
        let ranges: Vec<(u64, u64)> = elf
            .sections()
            .filter(|section| section.name().is_ok_and(|name| name.starts_with(".debug_")))
            .filter(|section| section.name() != Ok(".debug_line"))
            .filter_map(|section| section.file_range())
            .filter(|(_, size)| *size > 0)
            .collect();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            random.wrapping_mul(0x2545_f491_4f6c_dd1d)
        };
        let rounds =
            if std::env::var_os("INCISE_LONG").is_some_and(|value| value == "1") { 5000 } else { 150 };
        let (mut differ, mut slowest) = (0, Duration::ZERO);
        for _ in 0..rounds {
            let mut copy = whole.clone();
            for _ in 0..1 + next() % 6 {
                let (start, size) = ranges[next() as usize % ranges.len()];
                let at = (start + next() % size) as usize;
                copy[at] = match next() % 4 {
                    0 => 0xff,
                    1 => 0,
                    2 => copy[at] ^ 1 << (next() % 8),
                    _ => next() as u8,
                };
            }
            let start = Instant::now();
            if let Ok(info) = DebugInfo::parse(&copy) {
                differ += usize::from(use_up(&image, &info) != healthy);
            } else {
                differ += 1;
            }
            slowest = slowest.max(start.elapsed());
        }
        println!("{source} {flags:?}: {healthy} answers, {differ} of {rounds} differ, slowest {slowest:?}");
        assert!(differ > rounds / 20, "the damage met nothing");
        assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    }
}

#[test]
fn cut_sections_do_no_harm() {
    let Some(mut whole) = compiled("gcc", "values.c", &["-g", "-O2"]) else { return };
    let image = Image::parse(&whole).expect("a program");
    let elf = object::File::parse(&*whole).expect("ELF");
    let section = elf.section_by_name(".debug_info").and_then(|section| section.file_range());
    let (start, size) = section.expect("the section");
    // From the end on, more and more of it is zero: entries that end lists too early.
    for keep in (0..size).rev().step_by(97) {
        whole[(start + keep) as usize..(start + size) as usize].fill(0);
        if let Ok(info) = DebugInfo::parse(&whole) {
            use_up(&image, &info);
        }
    }
}

#[test]
fn packed_sections_are_read() {
    let Some(plain) = compiled("gcc", "values.c", &["-g"]) else { return };
    let Some(packed) = compiled("gcc", "values.c", &["-g", "-gz=zlib"]) else { return };
    assert!(packed.len() < plain.len());
    let image = Image::parse(&packed).expect("a program");
    let answers = use_up(&image, &DebugInfo::parse(&packed).expect("packed"));
    let image = Image::parse(&plain).expect("a program");
    assert_eq!(answers, use_up(&image, &DebugInfo::parse(&plain).expect("plain")));
}

#[test]
fn without_information_there_is_an_error() {
    let Some(plain) = compiled("gcc", "values.c", &["-g0"]) else { return };
    // The compiler's own start files may have some.
    match DebugInfo::parse(&plain) {
        Err(error) => assert_eq!(error, DwarfError::Absent),
        Ok(info) => assert!(info.global("head", None).is_none()),
    }
    assert_eq!(DebugInfo::parse(b"#!/bin/sh").err(), Some(DwarfError::NotElf));
}

#[test]
fn inlined_functions_are_told_apart() {
    let Some(file) = compiled("gcc", "values.c", &["-g", "-O0"]) else { return };
    let (image, info) = (Image::parse(&file).expect("a program"), DebugInfo::parse(&file).expect("-g"));
    let outer = image.functions().iter().find(|function| image.name(function) == "outer").expect("outer");
    let function = info.function_at(outer.addr).expect("outer");
    assert_eq!((function.name.as_str(), function.entry), ("outer", outer.addr));
    let inside = (0..outer.size)
        .map(|at| outer.addr + at)
        .find(|pc: &LinkAddr| info.function_at(*pc).is_some_and(|function| function.inlined == ["inlined"]));
    let variables = info.variables_at(inside.expect("a place in what was inlined"));
    let moved = variables.iter().find(|variable| variable.name == "moved").expect("moved");
    assert_eq!((moved.kind, moved.inlined.as_deref()), (VariableKind::Local, Some("inlined")));
    // The inner `base` comes before the outer one.
    let bases: Vec<_> = variables.iter().filter(|variable| variable.name == "base").collect();
    assert_eq!(bases.len(), 2);
    assert_eq!((bases[0].inlined.as_deref(), bases[1].inlined.as_deref()), (Some("inlined"), None));
    assert!(matches!(info.location(&image, bases[1], outer.addr), Ok(Location::Memory(_))));
}

#[test]
fn types_are_what_the_source_says() {
    let Some(file) = compiled("gcc", "values.c", &["-g"]) else { return };
    let info = DebugInfo::parse(&file).expect("-g");
    let node = info.named_type(Some(Tag::Struct), "node", None).expect("struct node");
    let Some(TypeKind::Structure { size: 88, members, tag: Tag::Struct }) =
        info.type_of(node).map(|t| t.kind)
    else {
        panic!("{:?}", info.type_of(node));
    };
    let bits: Vec<_> =
        members.iter().filter_map(|member| Some((member.name.as_str(), member.bits?))).collect();
    assert_eq!(bits, [("low", (0, 3)), ("middle", (3, 7)), ("high", (10, 5))]);
    let next = members.iter().find(|member| member.name == "next").expect("next");
    assert_eq!(info.type_of(next.ty).map(|ty| ty.kind), Some(TypeKind::Pointer(Some(node))));
    assert!(members.iter().any(|member| member.name.is_empty()), "the anonymous union");
    let color = info.named_type(Some(Tag::Enum), "color", None).expect("enum color");
    assert_eq!(info.enumerator_of(color, "BLUE"), Some(-3));
    assert_eq!(info.named_type(Some(Tag::Union), "node", None), None);
}
