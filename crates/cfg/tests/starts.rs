//! Function starts of stripped programs against what their symbols or unwind tables said before.

use std::collections::BTreeSet;
use std::path::Path;

use incise_cfg::{Options, Parser};
use incise_image::Image;

#[path = "support/build.rs"]
mod build;

/// Where functions begin in `.text`, as the parser finds them.
fn found(path: &Path) -> BTreeSet<u64> {
    let file = std::fs::read(path).expect("a file");
    let image = Image::parse(&file).expect("a program");
    let cfg = Parser::new(&image, &file)
        .and_then(|p| p.parse(&Options { threads: 2, progress: None }))
        .expect("a graph");
    let text = image.sections().iter().find(|s| &*s.name == ".text").expect("code").range();
    cfg.functions().map(|f| f.entry()).filter(|at| text.contains(at)).map(|at| at.0).collect()
}

/// Where functions begin according to symbols.
fn named(path: &Path) -> BTreeSet<u64> {
    let file = std::fs::read(path).expect("a file");
    let image = Image::parse(&file).expect("a program");
    assert!(image.has_symtab(), "{path:?} has no symbols");
    let text = image.sections().iter().find(|s| &*s.name == ".text").expect("code").range();
    // Go's linker marks bounds of its code with symbols of functions.
    let bound = |name: &str| matches!(name, "runtime.text" | "runtime.etext");
    let whole = |f: &&incise_image::Function| {
        !f.label && !image.names(f).all(|n| n.text.contains(".cold") || bound(n.text))
    };
    let starts = image.functions().iter().filter(whole).map(|f| f.addr);
    starts.filter(|at| text.contains(at)).map(|at| at.0).collect()
}

/// Shares of what was found that is right, and of what is there that was found.
fn compare(what: &str, truth: &BTreeSet<u64>, found: &BTreeSet<u64>) -> (f64, f64) {
    let both = truth.intersection(found).count() as f64;
    let (precision, recall) = (both / found.len().max(1) as f64, both / truth.len().max(1) as f64);
    println!(
        "{what}: {} functions, precision {:.2} %, recall {:.2} %",
        truth.len(),
        precision * 100.0,
        recall * 100.0
    );
    if std::env::var_os("INCISE_VERBOSE").is_some() {
        println!("  missed {:x?}", truth.difference(found).take(40).collect::<Vec<_>>());
        println!("  wrong {:x?}", found.difference(truth).take(40).collect::<Vec<_>>());
    }
    (precision, recall)
}

const NO_UNWIND: [&str; 7] =
    ["-R", ".eh_frame", "-R", ".eh_frame_hdr", "-R", ".gcc_except_table", "--strip-all"];

fn check(program: &Path, what: &str) -> [(f64, f64); 2] {
    let truth = named(program);
    assert!(truth.len() > 10, "{what} has hardly any functions");
    let name = what.replace([' ', '/'], "-");
    let stripped = build::objcopy(program, &format!("{name}-stripped"), &["--strip-all"]);
    let bare = build::objcopy(program, &format!("{name}-bare"), &NO_UNWIND);
    let (Some(stripped), Some(bare)) = (stripped, bare) else { return [(1.0, 1.0); 2] };
    [
        compare(&format!("{what}, stripped"), &truth, &found(&stripped)),
        compare(&format!("{what}, stripped, without unwind tables"), &truth, &found(&bare)),
    ]
}

fn mean(shares: &[(f64, f64)]) -> (f64, f64) {
    let sum = shares.iter().fold((0.0, 0.0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
    (sum.0 / shares.len() as f64, sum.1 / shares.len() as f64)
}

fn levels(source: &str) {
    let mut shares = [Vec::new(), Vec::new()];
    for level in ["-O0", "-O1", "-O2", "-O3", "-Os"] {
        let Some(program) = build::compile(source, &format!("{source}{level}"), &[level]) else { return };
        for (all, one) in shares.iter_mut().zip(check(&program, &format!("{source} {level}"))) {
            all.push(one);
        }
    }
    let (with, without) = (mean(&shares[0]), mean(&shares[1]));
    println!("{source}: with unwind tables {with:.4?}, without {without:.4?}");
    assert!(with.0 >= 0.995 && with.1 >= 0.995, "{with:?}");
    assert!(without.0 >= 0.95 && without.1 >= 0.95, "{without:?}");
}

#[test]
fn c_at_all_levels() {
    levels("shapes.c");
}

#[test]
fn cpp_at_all_levels() {
    levels("objects.cc");
}

#[test]
fn rust() {
    let program = std::env::current_exe().expect("this program");
    let [with, without] = check(&program, "this test program");
    assert!(with.0 >= 0.995 && with.1 >= 0.995, "{with:?}");
    // Without their tables, landing pads look like code of nobody's.
    assert!(without.0 >= 0.95 && without.1 >= 0.95, "{without:?}");
}

/// What the heuristics for programs without tables were not tuned on: another compiler, optimization at link time.
#[test]
fn other_compilers_and_optimization_at_link_time() {
    let mut shares = [Vec::new(), Vec::new()];
    for (compiler, source, options) in [
        ("gcc", "shapes.c", &["-O2", "-flto"][..]),
        ("g++", "objects.cc", &["-O2", "-flto"]),
        ("clang", "shapes.c", &["-O0"]),
        ("clang", "shapes.c", &["-O2"]),
        ("clang", "shapes.c", &["-Os"]),
        ("clang++", "objects.cc", &["-O0"]),
        ("clang++", "objects.cc", &["-O2"]),
        ("clang++", "objects.cc", &["-O3"]),
    ] {
        let what = format!("{compiler} {source} {}", options.join(" "));
        let Some(program) = build::compile_with(compiler, source, &what.replace(' ', "-"), options) else {
            continue;
        };
        for (all, one) in shares.iter_mut().zip(check(&program, &what)) {
            all.push(one);
        }
    }
    let (with, without) = (mean(&shares[0]), mean(&shares[1]));
    println!("others: with unwind tables {with:.4?}, without {without:.4?}");
    assert!(with.0 >= 0.995 && with.1 >= 0.995, "{with:?}");
    assert!(without.0 >= 0.95 && without.1 >= 0.95, "{without:?}");
}

/// Go's programs have a table of their functions, stripped or not, and no unwind tables.
#[test]
fn go() {
    let (source, program) = (build::folder().join("starts.go"), build::folder().join("starts-go"));
    let text = "package main\nimport (\"fmt\"; \"os\"; \"sort\")\nfunc main() { sort.Strings(os.Args); fmt.Println(os.Args) }\n";
    std::fs::write(&source, text).expect("a new file");
    let mut compiler = std::process::Command::new("go");
    compiler.env("GO111MODULE", "off").env("GOCACHE", build::folder().join("gocache"));
    let Ok(status) = compiler.args(["build", "-o"]).arg(&program).arg(&source).status() else {
        println!("skipped: there is no go");
        return;
    };
    assert!(status.success(), "go build failed");
    for (precision, recall) in check(&program, "go") {
        // `duffzero` and `duffcopy` are called in their middle, and assembly jumps into that of others.
        assert!(precision >= 0.98 && recall >= 0.995, "{precision} {recall}");
    }
}

/// Debian's programs have no symbols: their unwind tables are the truth for copies without them.
#[test]
fn programs_of_the_system_without_unwind_tables() {
    system(&["bash", "git", "sqlite3", "openssl", "python3.11"]);
    if std::env::var_os("INCISE_LONG").is_some_and(|value| value == "1") {
        system(&["perl", "gdb"]);
    }
}

/// Others of them, which nothing was tuned on.
#[test]
fn more_programs_of_the_system_without_unwind_tables() {
    system(&[
        "gzip",
        "xz",
        "tar",
        "sed",
        "gawk",
        "find",
        "grep",
        "curl",
        "redis-server",
        "valgrind",
        "strace",
    ]);
}

/// Whether there is such a program, and it is no script.
fn is_program(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|file| Image::parse(&file).is_ok())
}

fn system(names: &[&str]) {
    let mut shares = Vec::new();
    for name in names {
        let path = Path::new("/usr/bin").join(name);
        if !is_program(&path) {
            println!("skipped: there is no program {name}");
            continue;
        }
        let truth = found(&path);
        let Some(bare) = build::objcopy(&path, &format!("{name}-bare"), &NO_UNWIND) else { return };
        shares.push(compare(&format!("{name}, without unwind tables"), &truth, &found(&bare)));
    }
    let all = mean(&shares);
    println!("all: {all:.4?}");
    assert!(shares.is_empty() || all.0 >= 0.95 && all.1 >= 0.95, "{all:?}");
}
