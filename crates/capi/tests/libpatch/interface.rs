//! The interface is one: what the header declares, the library exports and the documents describe.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::{Program, crate_dir, have, library_dir, run};

fn read(path: &str) -> String {
    let path = crate_dir().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names like `patch_init` that are followed by `(` in declarations of the header.
fn declared() -> BTreeSet<String> {
    let header = ["patch", "data", "tree"].map(|name| read(&format!("include/libpatch/{name}.h"))).concat();
    let declarations =
        header.lines().filter(|line| line.ends_with(");") && !line.starts_with([' ', '\t', '*']));
    let name = |line: &str| {
        let name = line.split('(').next()?.rsplit([' ', '*']).next()?;
        name.starts_with("patch_").then(|| name.to_owned())
    };
    declarations.filter_map(name).collect()
}

#[test]
fn exactly_the_functions_of_the_header_are_exported() {
    assert!(declared().contains("patch_init") && declared().contains("patch_error_string"));
    if !have("nm") {
        return;
    }
    let library = library_dir().join("libpatch.so");
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().expect("nm");
    let symbols = String::from_utf8(output.stdout).expect("text");
    let exported = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned);
    assert_eq!(exported.collect::<BTreeSet<_>>(), declared());
}

#[test]
fn programs_ask_for_the_library_by_its_bare_name() {
    if !have("readelf") {
        return;
    }
    let library = library_dir().join("libpatch.so");
    let output = Command::new("readelf").arg("-dW").arg(&library).output().expect("readelf");
    let dynamic = String::from_utf8(output.stdout).expect("text");
    assert!(dynamic.contains("soname: [libpatch.so]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
}

#[test]
fn the_manual_page_describes_every_function_and_error() {
    let page = read("man/libpatch.3");
    let header = read("include/libpatch/patch.h");
    for function in declared() {
        assert!(page.contains(&function), "{function} is not in libpatch.3");
    }
    let constants = header.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    for constant in constants.filter(|word| word.starts_with("PATCH_ERR_") || word.starts_with("PATCH_OP")) {
        assert!(page.contains(constant), "{constant} is not in libpatch.3");
    }
}

#[test]
fn the_manual_page_has_no_faults() {
    if !have("man") {
        return;
    }
    let output = Command::new("man")
        .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
        .arg(crate_dir().join("man/libpatch.3"))
        .env("MANROFFSEQ", "")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("man");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

/// The C blocks of the tour that are marked as tests, each with the text block behind it.
fn examples() -> Vec<(String, String)> {
    let tour = read("../../docs/libpatch.md");
    let block = |text: &str, kind: &str| {
        let (_, rest) = text.split_once(&format!("```{kind}\n")).expect("a block");
        rest.split_once("```").expect("its end").0.to_owned()
    };
    tour.split("<!-- test:").skip(1).map(|part| (block(part, "c"), block(part, "text"))).collect()
}

#[test]
fn the_examples_of_the_tour_print_what_it_says() {
    let examples = examples();
    assert_eq!(examples.len(), 4);
    for (index, (code, expected)) in examples.iter().enumerate() {
        let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tour{index}.c"));
        std::fs::write(&source, code).expect("a file");
        let program = Program::from(source).flags("-g -Wall -Wextra -Werror");
        let Some(program) = program.compile("") else { return };
        let output = run(&program, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "example {index}");
        assert_eq!(&String::from_utf8_lossy(&output.stdout), expected, "example {index}");
        assert!(output.status.success(), "example {index}");
    }
}
