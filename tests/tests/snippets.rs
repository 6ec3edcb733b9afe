//! Dyninst's list of tests for snippets (docs/snippet-tests.md): what no other test shows, and that those named there exist.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;
use serde_json::Value;

#[test]
fn the_tests_of_the_list_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let list = std::fs::read_to_string(root.join("docs/snippet-tests.md")).expect("the list");
    let named: Vec<(&str, &str)> = list.split('`').filter_map(|text| text.split_once(".rs: ")).collect();
    assert!(named.len() > 50, "{}", named.len());
    for (file, test) in named {
        let source = std::fs::read_to_string(root.join(format!("{file}.rs"))).expect(file);
        assert!(source.contains(&format!("fn {test}(")), "{file}.rs has no test {test}");
    }
}

/// At each call of a function: who is called, also through a pointer, and with what.
#[test]
fn calls_are_monitored_with_their_arguments_and_targets() {
    if need_program("gcc").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.file("calls");
    let source = scratch.file("calls.c");
    let text = "#define NOIPA __attribute__((noipa))\n\
                NOIPA long once(long n) { return n; }\n\
                NOIPA long twice(long n) { return 2 * n; }\n\
                NOIPA long apply(long (*f)(long), long n) { long got = f(n); __asm__ volatile(\"\" ::: \"memory\"); return got + once(100); }\n\
                int main(void) { long sum = 0; for (long i = 0; i < 10; i++) sum += apply(i & 1 ? once : twice, i); return sum != 1065; }\n";
    std::fs::write(&source, text).expect("written");
    let built = run(Command::new("gcc").args(["-O1", "-g"]).arg(&source).arg("-o").arg(&program));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    let shown = scratch.file("shown");
    let script = "call:apply { @calls[usym(point`dynamic_target)] = count(); @sum[usym(point`dynamic_target)] = sum(reg`rdi); }";
    let mut command = Command::new(incise());
    command.args(["run", "--json", "-e", script, "-o"]).arg(&shown).arg("--").arg(&program);
    let outcome = run(&mut command);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let lines = std::fs::read_to_string(&shown).expect("what it shows");
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let maps: BTreeMap<(String, String), i64> = lines
        .filter(|line| line["type"] == "map")
        .map(|line| {
            let (map, key) =
                (line["map"].as_str().expect("a name"), line["key"][0].as_str().expect("a symbol"));
            let key = key.rsplit(['!', '`']).next().expect("a name").to_owned();
            ((map.to_owned(), key), line["value"].as_i64().expect("a number"))
        })
        .collect();
    let of = |map: &str, key: &str| maps.get(&(map.to_owned(), key.to_owned())).copied();
    assert_eq!((of("@calls", "once"), of("@sum", "once")), (Some(15), Some(1025)), "{maps:?}");
    assert_eq!((of("@calls", "twice"), of("@sum", "twice")), (Some(5), Some(20)), "{maps:?}");
}
