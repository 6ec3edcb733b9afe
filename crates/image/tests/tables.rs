//! Tables that compilers leave in programs: unwind ranges, patchable entries, restartable sequences,
//! separate debug files, labels of hand-written assembly.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use incise_image::{DebugLink, Image, ImageError, LinkAddr, Module, Pattern, debug_file_candidates, find};
use incise_isa::Addr;
use support::{Scratch, image, output};

const PROGRAM: &str = r#"
#include <stdio.h>
static __attribute__((noinline)) int first(int x) { return x * 3 + 1; }
__attribute__((noinline)) int second(int x) { puts("x"); return first(x) + 2; }
int main(int argc, char **argv) { return second(argc); }
"#;

fn addr_of(image: &Image, name: &str) -> Option<LinkAddr> {
    image.functions().iter().find(|f| image.names(f).any(|n| n.text == name)).map(|f| f.addr)
}

#[test]
fn unwind_tables_find_the_functions_of_a_stripped_program() {
    let scratch = Scratch::new("unwind");
    let Some(path) = scratch.compile("full", PROGRAM, &["-O1"]) else { return };
    let (stripped, headless) = (scratch.path("stripped"), scratch.path("headless"));
    if output("strip", &["-o", &stripped, &path]).is_none() {
        return;
    }
    // Without section headers (e_shoff, e_shnum, e_shstrndx zero), the program header leads there.
    let mut bytes = std::fs::read(&stripped).expect("the stripped program");
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    std::fs::write(&headless, &bytes).expect("written");

    let full = image(&path);
    let ranges = full.unwind_functions().to_vec();
    for name in ["first", "second", "main"] {
        let function = full.functions().iter().find(|f| full.name(f) == name).expect(name);
        assert!(ranges.contains(&function.addr.span(function.size)), "{name}: {ranges:?}");
    }
    let in_plt = |at: LinkAddr| full.plt().iter().any(|r| r.contains(&at));
    assert!(!full.plt().is_empty() && ranges.iter().all(|r| !in_plt(r.start)));

    let stripped = image(&stripped);
    assert!(full.has_symtab() && !stripped.has_symtab());
    assert_eq!(stripped.unwind_functions(), ranges);
    let headless = image(&headless);
    assert!(headless.sections().is_empty());
    assert!(ranges.iter().all(|r| headless.unwind_functions().contains(r)));
}

#[test]
fn the_way_back_from_signal_handlers_is_no_function_that_begins_a_byte_early() {
    // As in glibc: the description covers the byte before.
    const SOURCE: &str = r#"
    __asm__(".text\n.balign 16\nnop\n.cfi_startproc\n.cfi_signal_frame\nnop\n"
            ".globl back\nback: mov $15, %rax\nsyscall\n.cfi_endproc");
    int main(void) { return 0; }
    "#;
    let scratch = Scratch::new("signal-frame");
    let Some(path) = scratch.compile("program", SOURCE, &["-O1"]) else { return };
    let (program, stripped) = (image(&path), scratch.path("stripped"));
    let back = addr_of(&program, "back").expect("a symbol");
    let begins = |image: &Image, at: u64| image.unwind_functions().iter().any(|range| range.start.0 == at);
    assert!(addr_of(&program, "main").is_some_and(|main| begins(&program, main.0)));
    assert!(!begins(&program, back.0 - 1));
    if output("strip", &["-o", &stripped, &path]).is_some() {
        assert!(!begins(&image(&stripped), back.0 - 1));
    }
}

#[test]
fn unwind_ranges_agree_with_readelf() {
    let path = "/usr/bin/gdb";
    if !std::path::Path::new(path).exists() {
        return support::skip("gdb is not installed");
    }
    let Some(text) = output("readelf", &["--debug-dump=frames", path]) else { return };
    let image = image(path);
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    for line in text.lines().filter(|l| l.contains(" FDE ")) {
        let range = line.split("pc=").nth(1).expect("a range").trim();
        let (start, end) = range.split_once("..").expect("a range");
        let hex = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let start = hex(start);
        let in_plt = image.plt().iter().any(|r| r.contains(&LinkAddr(start)));
        if !in_plt && hex(end) > start {
            expected.insert(start, hex(end));
        }
    }
    let own: BTreeMap<u64, u64> = image.unwind_functions().iter().map(|r| (r.start.0, r.end.0)).collect();
    assert!(own.len() > 10_000, "{}", own.len());
    assert!(own == expected, "{} ranges, readelf lists {}", own.len(), expected.len());
}

#[test]
fn patchable_entries_are_where_the_functions_begin() {
    let scratch = Scratch::new("patchable");
    for (name, flags) in [
        ("pie", vec!["-pie", "-fPIE"]),
        ("fixed", vec!["-no-pie"]),
        ("relr", vec!["-pie", "-fPIE", "-Wl,-z,pack-relative-relocs"]),
    ] {
        let mut flags = flags;
        flags.extend(["-O1", "-fpatchable-function-entry=7,2"]);
        let Some(path) = scratch.compile(name, PROGRAM, &flags) else { return };
        let image = image(&path);
        for function in ["first", "second", "main"] {
            // Two of the seven nops come before the entry.
            let at = addr_of(&image, function).expect(function);
            assert!(image.patchable_entries().contains(&LinkAddr(at.0 - 2)), "{name}: {function}");
        }
        assert_eq!(image.patchable_entries().len(), 3, "{name}");
    }
}

#[test]
fn restartable_sequences_are_found() {
    let source = r#"
__asm__(".pushsection __rseq_cs, \"aw\"\n.balign 32\n"
        ".long 0, 0\n.quad begin, commit - begin, abort_it\n.popsection\n"
        ".text\n.globl begin\nbegin: nop\nnop\nnop\n.globl commit\ncommit: ret\n"
        ".long 0x53053053\n.globl abort_it\nabort_it: ret\n");
int main(void) { return 0; }
"#;
    let scratch = Scratch::new("rseq");
    for (name, flags) in [("pie", ["-pie", "-fPIE"]), ("fixed", ["-no-pie", "-O0"])] {
        let Some(path) = scratch.compile(name, source, &flags) else { return };
        let image = image(&path);
        let at = |name| addr_of(&image, name).expect(name);
        let [section] = image.critical_sections() else { panic!("{name}: {:?}", image.critical_sections()) };
        assert_eq!(section.range, at("begin")..at("commit"), "{name}");
        assert_eq!(section.abort, at("abort_it"), "{name}");
        assert_eq!(section.signature(), at("commit") + 1..at("abort_it"), "{name}");
    }
}

#[test]
fn a_debug_file_of_the_same_build_gives_its_symbols() {
    let scratch = Scratch::new("debug");
    let Some(path) = scratch.compile("prog", PROGRAM, &["-O1", "-g"]) else { return };
    let (stripped, debug) = (scratch.path("stripped"), scratch.path("prog.debug"));
    let link = format!("--add-gnu-debuglink={debug}");
    for args in [vec!["--only-keep-debug", &path, &debug], vec!["--strip-all", &link, &path, &stripped]] {
        if output("objcopy", &args).is_none() {
            return;
        }
    }
    let debug = std::fs::read(&debug).expect("the debug file");
    let (full, mut merged) = (image(&path), image(&stripped));
    assert_eq!(addr_of(&merged, "first"), None);
    assert_eq!(merged.merge_debug(&debug), Ok(()));
    let list = |image: &Image| -> Vec<(LinkAddr, u64, Vec<String>)> {
        let names = |f| image.names(f).map(|n| n.text.to_owned()).collect();
        image.functions().iter().map(|f| (f.addr, f.size, names(f))).collect()
    };
    assert_eq!(list(&merged), list(&full));

    let Some(other) = scratch.compile("other", "int main(void) { return 7; }", &[]) else { return };
    assert_eq!(image(&other).merge_debug(&debug), Err(ImageError::OtherBuild));

    let link = merged.debug_link().expect("a debug link");
    assert_eq!(link.name, "prog.debug");
    let id = merged.build_id().expect("a build-id");
    let hex: String = id[1..].iter().map(|b| format!("{b:02x}")).collect();
    let candidates = debug_file_candidates("/opt/x/prog", Some(id), Some(link), &["/usr/lib/debug"]);
    assert_eq!(
        candidates,
        [
            format!("/usr/lib/debug/.build-id/{:02x}/{hex}.debug", id[0]),
            "/opt/x/prog.debug".to_owned(),
            "/opt/x/.debug/prog.debug".to_owned(),
            "/usr/lib/debug/opt/x/prog.debug".to_owned(),
        ]
    );
    let own = DebugLink { name: "prog".to_owned(), crc: 0 };
    assert!(!debug_file_candidates("/opt/x/prog", None, Some(&own), &[]).contains(&"/opt/x/prog".to_owned()));
}

#[test]
fn assembly_without_types_is_taken_with_care() {
    let source = r#"
__asm__(".text\n"
        ".globl shared_label\nshared_label: nop\nnop\nret\n"
        "local_label: nop\nret\n"
        ".Lhidden: ret\n"
        "table: .quad 1, 2\n"
        ".globl typed\n.type typed, @function\ntyped: nop\ninside: nop\nret\n.size typed, .-typed\n"
        ".section early, \"ax\"\nnop\n.globl early_end\nearly_end:\n"
        ".section late, \"ax\"\n.globl late_start\nlate_start: nop\nret\n"
        ".data\n.globl data_label\ndata_label: .quad 0\n");
int main(void) { return 0; }
"#;
    let scratch = Scratch::new("labels");
    let Some(path) = scratch.compile("labels", source, &[]) else { return };
    let image = image(&path);
    let function = |name: &str| image.functions().iter().find(|f| image.names(f).any(|n| n.text == name));
    let shared = function("shared_label").expect("a global label is a function");
    assert!(!shared.label);
    assert_eq!(shared.size, 3, "it ends where the next symbol begins");
    assert!(function("local_label").expect("no function covers it").label);
    assert!(function("table").expect("assembly cannot tell").label);
    assert!(!function("typed").expect("a function").label);
    let late = function("late_start").expect("a global label is a function");
    assert_eq!(
        image.names(late).map(|n| n.text).collect::<Vec<_>>(),
        ["late_start"],
        "not the end of the section before"
    );
    for absent in ["early_end", "inside", ".Lhidden", "data_label", "_edata", "__bss_start", "etext"] {
        assert_eq!(function(absent), None, "{absent}");
    }
}

#[test]
fn wildcards_leave_local_labels_alone() {
    let scratch = Scratch::new("wild");
    let source = r#"
__asm__(".text\ntable_local: .quad 1, 2\n.globl table_global\ntable_global: ret\n");
int main(void) { return 0; }
"#;
    let Some(path) = scratch.compile("wild", source, &[]) else { return };
    let image = Arc::new(image(path));
    let text: Vec<_> = image.text().iter().map(|r| Addr(r.start.0)..Addr(r.end.0)).collect();
    let range = Addr(0)..Addr(1 << 32);
    let module = Module {
        name: "wild".to_owned(),
        path: "/wild".to_owned(),
        deleted: false,
        bias: 0,
        image,
        range,
        text,
        main: true,
        unnamed_main: None,
    };
    let names = |pattern: &str| -> Vec<String> {
        let pattern = Pattern::parse(pattern).expect("a pattern");
        let found = find(std::slice::from_ref(&module), &[pattern], None).expect("in the program");
        found.into_iter().map(|target| target.name).collect()
    };
    assert_eq!(names("table_*"), ["table_global"]);
    assert_eq!(names("table_local"), ["table_local"]);
}

#[test]
fn linkage_stubs_and_data_are_no_functions() {
    let scratch = Scratch::new("stubs");
    let source = "#include <stdio.h>\nint main(void) { int (*volatile f)(const char *) = puts; return f(\"\"); }\nint counter;";
    // In a program at fixed addresses the address of `puts` is its stub's, and the symbol table says so.
    let Some(path) = scratch.compile("fixed", source, &["-no-pie", "-fno-pie", "-O1"]) else { return };
    let image = image(&path);
    assert_eq!(addr_of(&image, "puts"), None);
    assert_eq!(addr_of(&image, "counter"), None);
    assert!(image.imports().any(|name| name == "puts"));
    assert!(addr_of(&image, "main").is_some());
}
