//! Indirect functions in programs that bind lazily, and in static ones.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use incise_image::{
    FunctionKind, MemoryMap, Module, Pattern, SlotTarget, Target, find, implementations, modules,
};
use incise_isa::Addr;
use support::{Scratch, image, open};

const LIBRARY: &str = r#"
static int impl(int x) { return x + 1; }
static int (*choose(void))(int) { return impl; }
int pick(int x) __attribute__((ifunc("choose")));
int call_pick(int x) { return pick(x); }
"#;

const PROGRAM: &str = r#"
#include <stdio.h>
int call_pick(int);
int main(void) {
    puts("before"); fflush(stdout); getchar();
    int result = call_pick(41);
    puts(result == 42 ? "after" : "wrong"); fflush(stdout); getchar();
    return 0;
}
"#;

/// A child that is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn modules_of(pid: u32) -> Vec<Module> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the child's map");
    modules(&MemoryMap::parse(&map), &mut |m| (*m.name != *"[vdso]").then(|| open(m))?)
}

fn in_use(pid: u32, modules: &[Module], target: &Target) -> Vec<Addr> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("the child's memory");
    implementations(modules, target, &|at: Addr, into: &mut [u8]| memory.read_exact_at(into, at.0).is_ok())
}

/// The program, stopped before its call and again behind it, with what `examine` finds at both times.
fn run<T>(program: &str, preload: &str, mut examine: impl FnMut(u32) -> T) -> (T, T) {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", preload).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().expect("the program"));
    let mut lines = BufReader::new(child.0.stdout.take().expect("its output")).lines();
    let mut line = || lines.next().and_then(Result::ok).expect("a line");
    assert_eq!(line(), "before");
    let before = examine(child.0.id());
    child.0.stdin.as_mut().expect("its input").write_all(b"\n").expect("written");
    assert_eq!(line(), "after");
    (before, examine(child.0.id()))
}

/// The one target `pattern` names.
fn target(modules: &[Module], pattern: &str) -> Target {
    let pattern = Pattern::parse(pattern).expect("a pattern");
    let mut targets = find(modules, &[pattern], None).expect("in the library");
    assert_eq!(targets.len(), 1, "{targets:?}");
    targets.remove(0)
}

#[test]
fn a_slot_that_is_not_bound_yet_is_no_implementation() {
    let scratch = Scratch::new("lazy");
    let flags = ["-shared", "-fPIC", "-Wl,-z,lazy", "-O1"];
    let Some(library) = scratch.compile("libpick.so", LIBRARY, &flags) else { return };
    let flags = [&library, "-Wl,-z,lazy", "-O1"];
    let Some(program) = scratch.compile("program", PROGRAM, &flags) else { return };
    let (before, (used, implementation)) = run(&program, "", |pid| {
        let modules = modules_of(pid);
        let pick = target(&modules, "libpick!pick");
        assert_eq!(pick.kind, FunctionKind::Ifunc);
        (in_use(pid, &modules, &pick), target(&modules, "libpick!impl").addr)
    });
    assert_eq!(before.0, []);
    assert_eq!(used, [implementation]);
}

#[test]
fn a_function_of_that_name_in_another_module_is_no_implementation() {
    let scratch = Scratch::new("interposed");
    let flags = ["-shared", "-fPIC", "-Wl,-z,now", "-O1"];
    let Some(library) = scratch.compile("libpick.so", LIBRARY, &flags) else { return };
    let other = "int pick(int x) { return 42; }";
    let Some(preload) = scratch.compile("libother.so", other, &flags) else { return };
    let Some(program) = scratch.compile("program", PROGRAM, &[&library]) else { return };
    let (_, (used, plain)) = run(&program, &preload, |pid| {
        let modules = modules_of(pid);
        let used = in_use(pid, &modules, &target(&modules, "libpick!pick"));
        (used, target(&modules, "libother!pick").kind)
    });
    assert_eq!(used, []);
    assert_eq!(plain, FunctionKind::Plain);
}

#[test]
fn static_programs_have_a_slot_for_each_resolver_they_use() {
    let scratch = Scratch::new("static-ifunc");
    let source =
        "#include <string.h>\nint main(int n, char **v) { return strlen(v[0]) + (strchr(v[1], n) != 0); }";
    for (name, flags) in [("fixed", ["-static", "-no-pie"]), ("pie", ["-static-pie", "-fPIE"])] {
        let Some(path) = scratch.compile(name, source, &flags) else { return };
        let image = image(&path);
        for wanted in ["strlen", "strchr"] {
            let function =
                image.functions().iter().find(|f| image.names(f).any(|n| n.text == wanted)).expect(wanted);
            assert_eq!(function.kind, FunctionKind::Ifunc, "{name}: {wanted}");
            assert!(!image.slots_of(SlotTarget::Resolver(function.addr)).is_empty(), "{name}: {wanted}");
        }
        let text = image.text();
        for slot in image.slots() {
            let SlotTarget::Resolver(at) = slot.target else { continue };
            assert!(text.iter().any(|r| r.contains(&at)), "{name}: {slot:?}");
        }
    }
}
