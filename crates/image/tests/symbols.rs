//! The functions of real files, compared with what `nm` and `readelf` say.

mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use incise_image::{FunctionKind, Image, outline};
use support::{Scratch, image, libc_path, output};

/// Names and addresses of functions as `readelf` lists them: typed symbols that are defined.
fn readelf_functions(path: &str) -> Option<BTreeSet<(u64, String)>> {
    let text = output("readelf", &["-sW", path])?;
    let functions = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, value, _, kind, _, _, section, name, ..] = fields.as_slice() else { return None };
        let wanted = matches!(kind, "FUNC" | "IFUNC") && section != "UND" && section != "ABS";
        let name = name.split('@').next().unwrap_or(name);
        wanted.then(|| Some((u64::from_str_radix(value, 16).ok()?, name.to_owned())))?
    });
    Some(functions.collect())
}

fn own_functions(image: &Image) -> BTreeSet<(u64, String)> {
    let functions = image.functions().iter();
    functions.flat_map(|f| image.names(f).map(|name| (f.addr.0, name.text.to_owned()))).collect()
}

#[test]
fn every_function_symbol_is_found() {
    let me = std::env::current_exe().expect("path of this test");
    let libc = libc_path();
    for path in [libc.as_str(), "/usr/bin/python3", "/bin/bash", "/usr/bin/gdb", &me.to_string_lossy()] {
        if !std::path::Path::new(path).exists() {
            support::skip(&format!("{path} does not exist"));
            continue;
        }
        let Some(expected) = readelf_functions(path) else { return };
        let image = image(path);
        let own = own_functions(&image);
        let missing: Vec<_> = expected.difference(&own).collect();
        let dropped = image.dropped();
        assert!(missing.len() <= dropped.outside_text + dropped.linkage_stubs, "{path}: {missing:?}");
        assert!(
            missing.len() * 1000 <= expected.len(),
            "{path}: {} of {}: {missing:?}",
            missing.len(),
            expected.len()
        );
        assert!(!expected.is_empty(), "{path}");
        println!("{path}: {} names, {} functions, {dropped:?}", own.len(), image.functions().len());
    }
}

#[test]
fn an_opened_file_says_what_a_parsed_one_says() {
    let libc = libc_path();
    for path in [libc.as_str(), "/bin/bash", "/usr/bin/python3"] {
        let Ok(file) = std::fs::read(path) else {
            support::skip(&format!("{path} does not exist"));
            continue;
        };
        let parsed = image(path);
        let read = Cell::new(0);
        let outline = outline(file.len() as u64, &|at, into| {
            into.copy_from_slice(&file[at as usize..at as usize + into.len()]);
            read.set(read.get() + into.len());
            true
        });
        println!("{path}: {} of {} bytes are read", read.get(), file.len());
        assert!(read.get() < file.len() * 2 / 3, "{path}");
        let opened = Image::open(Arc::new(outline.expect("readable"))).expect("a program");
        // Before and after the tables are read.
        for _ in 0..2 {
            assert!(!opened.may_name("no such name") && opened.may_name("mem"), "{path}");
            assert_eq!(opened.function("no such name"), None);
            assert_eq!(opened.r_debug(), parsed.r_debug(), "{path}");
            assert_eq!(opened.rseq_offset(), parsed.rseq_offset(), "{path}");
            assert_eq!(own_functions(&opened), own_functions(&parsed), "{path}");
        }
        assert_eq!(opened.functions(), parsed.functions(), "{path}");
        assert_eq!(opened.dropped(), parsed.dropped(), "{path}");
        assert_eq!(opened.slots(), parsed.slots(), "{path}");
        assert!(opened.imports().eq(parsed.imports()), "{path}");
        assert!(opened.import_indices("malloc").eq(parsed.import_indices("malloc")), "{path}");
        assert_eq!(opened.unwind_functions(), parsed.unwind_functions(), "{path}");
        assert_eq!(opened.critical_sections(), parsed.critical_sections(), "{path}");
        assert_eq!(opened.build_id(), parsed.build_id(), "{path}");
    }
}

#[test]
fn aliases_are_names_of_one_function() {
    let image = image(libc_path());
    let malloc = image.functions().iter().find(|f| image.name(f) == "malloc").expect("malloc");
    let names: Vec<&str> = image.names(malloc).map(|n| n.text).collect();
    assert_eq!(names, ["malloc", "__libc_malloc"]);
    assert!(malloc.exported && malloc.size > 0);
    assert_eq!(image.function_at(malloc.addr + 1).map(|f| f.addr), Some(malloc.addr));
    let strlen = image.functions().iter().find(|f| image.name(f) == "strlen").expect("strlen");
    assert_eq!(strlen.kind, FunctionKind::Ifunc);
}

#[test]
fn versions_are_kept() {
    let image = image(libc_path());
    let versions: Vec<(bool, Option<&str>)> = image
        .functions()
        .iter()
        .flat_map(|f| image.names(f))
        .filter(|name| name.text == "memcpy")
        .map(|name| (name.default_version, name.version))
        .collect();
    assert_eq!(versions.len(), 2, "{versions:?}");
    assert!(versions.contains(&(true, Some("GLIBC_2.14"))), "{versions:?}");
    assert!(versions.contains(&(false, Some("GLIBC_2.2.5"))), "{versions:?}");
}

/// A library with versioned names, names without a version, and two names of one function.
fn versioned(scratch: &Scratch, name: &str, more: &[&str]) -> Option<String> {
    let script = scratch.path("script");
    std::fs::write(&script, "V1 { global: old; both; };\nV2 { global: both; } V1;").expect("written");
    let source = r#"
        __asm__(".symver both_1, both@V1\n.symver both_2, both@@V2");
        int both_1(void) { return 1; }
        int both_2(void) { return 2; }
        int old(void) { return 3; }
        int plain(void) { return 4; }
        int alias(void) __attribute__((alias("plain")));
    "#;
    let script = format!("-Wl,--version-script={script}");
    let mut flags = vec!["-shared", "-fPIC", &script];
    flags.extend(more);
    scratch.compile(name, source, &flags)
}

/// Every name with its version and whether that is the default, sorted.
fn exported(image: &Image) -> Vec<(String, Option<String>, bool)> {
    let names = image.functions().iter().flat_map(|f| image.names(f)).filter(|name| name.exported);
    let mut names: Vec<_> =
        names.map(|n| (n.text.to_owned(), n.version.map(str::to_owned), n.default_version)).collect();
    names.sort();
    names
}

#[test]
fn both_symbol_tables_give_each_name_once() {
    let scratch = Scratch::new("versioned");
    let Some(path) = versioned(&scratch, "libv.so", &[]) else { return };
    let image = image(path);
    assert!(image.has_symtab());
    let name =
        |text: &str, version: Option<&str>, default| (text.to_owned(), version.map(str::to_owned), default);
    assert_eq!(
        exported(&image),
        [
            name("alias", None, true),
            name("both", Some("V1"), false),
            name("both", Some("V2"), true),
            name("both_1", None, true),
            name("both_2", None, true),
            name("old", Some("V1"), true),
            name("plain", None, true),
        ]
    );
    for text in ["both", "old", "plain", "alias"] {
        let names = image.functions().iter().flat_map(|f| image.names(f)).filter(|n| n.text == text);
        assert_eq!(names.count(), if text == "both" { 2 } else { 1 }, "{text}");
    }
    let plain = image.functions().iter().find(|f| image.name(f) == "alias").expect("alias");
    assert_eq!(image.names(plain).map(|n| n.text).collect::<Vec<_>>(), ["alias", "plain"]);
}

#[test]
fn dynamic_symbols_are_found_without_section_headers() {
    let scratch = Scratch::new("headless");
    for style in ["gnu", "sysv"] {
        let flags = ["-s", "-shared", "-fPIC", &format!("-Wl,--hash-style={style}")];
        let plain = "int a(void) { return 1; } int b(void) { return 2; } int c(void) { return 3; }";
        let Some(few) = scratch.compile(&format!("libfew-{style}.so"), plain, &flags) else { return };
        let Some(more) = versioned(&scratch, &format!("lib{style}.so"), &flags) else { return };
        for (path, count) in [(few, 3), (more, 7)] {
            let mut file = std::fs::read(path).expect("the library");
            let whole = Image::parse(&file).expect("a library");
            file[0x28..0x30].fill(0);
            file[0x3c..0x40].fill(0);
            let headless = Image::parse(&file).expect("a library");
            assert!(headless.sections().is_empty());
            assert_eq!(exported(&headless), exported(&whole), "{style}");
            assert_eq!(exported(&headless).len(), count, "{style}");
        }
    }
}
