//! Modules of memory maps: this process's own, and what patches, upgrades and readers make of it.

mod support;

use std::sync::Arc;

use incise_image::{Image, Kind, LinkAddr, Mapping, MemoryMap, Module, mark_main_by_entry, modules};
use incise_isa::Addr;
use support::{Scratch, image, libc_path, own_map, own_modules, read_own};

/// A line of /proc/PID/maps.
fn line(range: (u64, u64), flags: &str, offset: u64, inode: u64, name: &str) -> String {
    let device = if inode == 0 { "00:00" } else { "08:01" };
    format!("{:x}-{:x} {flags} {offset:08x} {device} {inode} {name}\n", range.0, range.1)
}

/// The lines the loader makes of `image` at `bias`.
fn loaded(image: &Image, bias: u64, inode: u64, name: &str) -> String {
    let page = |at: u64| at & !0xfff;
    let mut lines = String::new();
    for segment in image.segments() {
        let p = segment.permissions;
        let flags: String = [(p.read, 'r'), (p.write, 'w'), (p.execute, 'x')]
            .map(|(on, c)| if on { c } else { '-' })
            .iter()
            .collect();
        let start = page(segment.link.0) + bias;
        let end = page(segment.link.0 + segment.file_size + 0xfff) + bias;
        lines += &line((start, end), &format!("{flags}p"), page(segment.file_offset.0), inode, name);
    }
    lines
}

fn find_in(text: &str, image: &Arc<Image>) -> Vec<Module> {
    modules(&MemoryMap::parse(text), &mut |_| Some(Arc::clone(image)))
}

fn libc() -> Arc<Image> {
    Arc::new(image(libc_path()))
}

/// The addresses of the executable segment of `image` at `bias`.
fn text_of(image: &Image, bias: u64) -> (u64, u64) {
    let text = image.text_segments().next().expect("an executable segment");
    ((text.start.0 & !0xfff) + bias, ((text.end.0 + 0xfff) & !0xfff) + bias)
}

#[test]
fn the_bytes_of_every_function_are_where_the_module_says() {
    for module in own_modules().iter().filter(|m| !m.is_vdso()) {
        let file = std::fs::read(&module.path).expect("the file of a module");
        let functions = module.image.functions();
        for function in functions.iter().step_by(functions.len() / 200 + 1) {
            let size = function.size.min(64);
            let expected = module.image.bytes_at(&file, function.addr, size).expect("in the file");
            let mut found = vec![0; size as usize];
            assert!(read_own(module.to_addr(function.addr), &mut found));
            assert_eq!(found, expected, "{} of {}", module.image.name(function), module.name);
        }
        assert!(!functions.is_empty(), "{}", module.name);
    }
}

#[test]
fn every_executable_file_mapping_belongs_to_one_module() {
    let modules = own_modules();
    for mapping in own_map().iter().filter(|m| m.permissions.execute && m.inode != 0) {
        let owners = modules.iter().filter(|m| m.is_text(mapping.range.start));
        assert_eq!(owners.count(), 1, "{mapping:?}");
    }
    for module in &modules {
        assert!(module.bias % 4096 == 0 && module.image.kind() != Kind::Executable || module.bias == 0);
    }
}

#[test]
fn patched_text_still_belongs_to_its_module() {
    let (image, bias) = (libc(), 0x7f00_0000_0000);
    let (start, end) = text_of(&image, bias);
    let whole = loaded(&image, bias, 7, "/lib/libc.so.6");
    let text_line = whole.lines().find(|l| l.contains("r-xp")).expect("text").to_owned() + "\n";
    let offset = image.link_to_file(LinkAddr(start - bias)).expect("in the file").0;
    let file = |from: u64, to: u64| line((from, to), "r-xp", offset + from - start, 7, "/lib/libc.so.6");
    let cases = [
        ("untouched", text_line.clone()),
        (
            "anonymous middle",
            file(start, start + 0x5000)
                + &line((start + 0x5000, start + 0x6000), "r-xp", 0, 0, "")
                + &file(start + 0x6000, end),
        ),
        (
            "memfd at the start",
            line((start, start + 0x1000), "r-xp", 0x3000, 99, "/memfd:text (deleted)")
                + &file(start + 0x1000, end),
        ),
        ("all replaced", line((start, end), "r-xp", 0, 0, "")),
    ];
    for (case, lines) in cases {
        let found = find_in(&whole.replace(&text_line, &lines), &image);
        // The memfd may be opened and be found to be nothing.
        let found: Vec<&Module> = found.iter().filter(|m| m.name == "libc.so.6").collect();
        assert_eq!(found.len(), 1, "{case}");
        assert_eq!(found[0].bias, bias, "{case}");
        assert_eq!(found[0].text, [Addr(start)..Addr(end)], "{case}");
    }
}

#[test]
fn a_file_mapped_twice_to_run_is_two_modules() {
    let image = libc();
    let (low, high) = (0x7f00_0000_0000, 0x7f10_0000_0000);
    let text = loaded(&image, low, 7, "/lib/libc.so.6") + &loaded(&image, high, 7, "/lib/libc.so.6");
    let biases: Vec<u64> = find_in(&text, &image).iter().map(|m| m.bias).collect();
    assert_eq!(biases, [low, high]);
}

#[test]
fn files_that_are_only_read_are_no_modules() {
    let image = libc();
    let size = image.segments().iter().map(|s| s.file_offset.0 + s.file_size).max().expect("segments");
    let size = (size + 0xfff) & !0xfff;
    let at = 0x7f20_0000_0000;
    let read_whole = line((at, at + size), "r--p", 0, 7, "/lib/libc.so.6");
    assert!(find_in(&read_whole, &image).is_empty());
    // Its headers happen to lie below executable memory of someone else.
    let (start, _) = text_of(&image, at);
    let by_chance = line((at, at + 0x1000), "r--p", 0, 7, "/lib/libc.so.6")
        + &line((at + 0x1000, at + 0x2000), "rw-p", 0x1000, 7, "/lib/libc.so.6")
        + &line((start, start + 0x4000), "r-xp", 0, 0, "");
    assert!(find_in(&by_chance, &image).is_empty());
    // Mapped to run and to be read: one module.
    let both = loaded(&image, 0x7f00_0000_0000, 7, "/lib/libc.so.6") + &read_whole;
    assert_eq!(find_in(&both, &image).len(), 1);
}

#[test]
fn a_replaced_file_and_its_successor_are_two_modules() {
    let image = libc();
    let text = loaded(&image, 0x7f00_0000_0000, 7, "/lib/libc.so.6 (deleted)")
        + &loaded(&image, 0x7f10_0000_0000, 8, "/lib/libc.so.6");
    let found: Vec<(bool, u64)> = find_in(&text, &image).iter().map(|m| (m.deleted, m.bias)).collect();
    assert_eq!(found, [(true, 0x7f00_0000_0000), (false, 0x7f10_0000_0000)]);
}

#[test]
fn locales_and_archives_are_not_opened() {
    let image = libc();
    let at = 0x7f30_0000_0000;
    let text = line((at, at + 0x9000), "r--p", 0, 5, "/usr/lib/locale/C.utf8/LC_CTYPE")
        + &loaded(&image, 0x7f00_0000_0000, 7, "/lib/libc.so.6")
        + &line((at + 0x10000, at + 0x11000), "rw-s", 0, 6, "/dev/shm/x")
        + &line((at + 0x20000, at + 0x21000), "rw-p", 0, 0, "[heap]");
    let mut opened = Vec::new();
    modules(&MemoryMap::parse(&text), &mut |mapping: &Mapping| {
        opened.push(mapping.name.clone());
        Some(Arc::clone(&image))
    });
    assert_eq!(opened, [Arc::<str>::from("/lib/libc.so.6")]);
}

#[test]
fn the_kind_of_a_program_is_what_it_was_linked_as() {
    let scratch = Scratch::new("kinds");
    let source = "int main(void) { return 0; }";
    let cases: [(&str, &[&str], Kind, bool); 6] = [
        ("pie", &["-pie", "-fPIE"], Kind::PositionIndependent, false),
        ("fixed", &["-no-pie"], Kind::Executable, false),
        ("static", &["-static"], Kind::Executable, true),
        ("static-pie", &["-static-pie", "-fPIE"], Kind::StaticPie, true),
        ("shared", &["-shared", "-fPIC", "-Wl,-soname,libx.so.1"], Kind::SharedObject, false),
        ("stripped", &["-s"], Kind::PositionIndependent, false),
    ];
    for (name, flags, kind, is_static) in cases {
        let Some(path) = scratch.compile(name, source, flags) else { return };
        let image = image(&path);
        assert_eq!((image.kind(), image.is_static()), (kind, is_static), "{name}");
        assert_eq!(image.interpreter().is_some(), !is_static && name != "shared", "{name}");
        assert_eq!(image.soname().is_some(), name == "shared");
        assert!(image.build_id().is_some_and(|id| id.len() == 20), "{name}");
        let main = image.functions().iter().find(|f| image.name(f) == "main");
        assert_eq!(main.is_some(), name != "stripped", "{name}");
        if kind != Kind::SharedObject {
            assert!(image.entry().is_some(), "{name}");
            assert_eq!(image.needed().is_empty(), is_static, "{name}");
        }
    }
    assert_eq!(image(libc_path()).kind(), Kind::SharedObject);
}

#[test]
fn the_program_is_found_by_its_entry_when_it_is_a_library() {
    let image = libc();
    let text =
        loaded(&image, 0x7f00_0000_0000, 7, "/lib/a.so") + &loaded(&image, 0x7f10_0000_0000, 8, "/lib/b.so");
    let mut found = find_in(&text, &image);
    let entry = image.entry().expect("libc can be run") + 0x7f10_0000_0000;
    mark_main_by_entry(&mut found, Addr(entry.0));
    let names: Vec<(&str, bool)> = found.iter().map(|m| (m.name.as_str(), m.main)).collect();
    assert_eq!(names, [("b.so", true), ("a.so", false)]);
}

#[test]
fn the_dynamic_linker_says_where_a_debugger_looks() {
    let modules = own_modules();
    let linker = modules.iter().find(|m| m.name.starts_with("ld-linux")).expect("a dynamic linker");
    let state = linker.image.debug_state().expect("_dl_debug_state");
    assert!(linker.is_text(linker.to_addr(state)));
    // DT_DEBUG of the program holds the address of r_debug; r_brk in it is the function.
    let pointer = modules[0].image.debug_pointer().expect("DT_DEBUG");
    let quadword = |at: Addr| {
        let mut bytes = [0; 8];
        assert!(read_own(at, &mut bytes));
        Addr(u64::from_le_bytes(bytes))
    };
    let r_debug = quadword(modules[0].to_addr(pointer));
    assert_eq!(Some(r_debug), linker.image.r_debug().map(|at| linker.to_addr(at)));
    assert_eq!(quadword(r_debug + 16), linker.to_addr(state));
}
