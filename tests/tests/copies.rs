//! Functions that run as copies call each other as they did, also through linkage stubs, whatever other modules put there.

use std::fs;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

/// `leaf` is called through a linkage stub, `own` is not. Each returns to its caller, which looks at the address.
const LIBRARY: &str = r#"
static char *low, *high;
#define SEEN { char *to = __builtin_return_address(0); if (!low || to < low) low = to; if (to > high) high = to; }
__attribute__((noinline)) int leaf(int n) { SEEN; return n & 1 ? n + 3 : n - 1; }
__attribute__((noinline)) static int own(int n) { SEEN; return n % 3 ? n : 2 * n; }
__attribute__((noinline)) static int deep(int n) { return n ? deep(n - 1) + own(n) : 0; }
int walk(int n) {
    int sum = deep(10);
    for (int i = 0; i < n; i++)
        sum += leaf(i) + own(i);
    return high - low < 4096 ? sum : -1;
}
"#;
const PROGRAM: &str = r#"
#include <stdio.h>
int walk(int);
int main(void) { printf("%d\n", walk(1000)); printf("%d\n", walk(10)); return 0; }
"#;
/// Takes the place of the library's function.
const OTHER: &str = "int leaf(int n) { return 7 * n; }";

#[test]
fn calls_between_copies_count_and_can_be_interposed() {
    let Some(compiler) = need_program("gcc") else { return };
    for binding in ["now", "lazy"] {
        let scratch = Scratch::new();
        let compile = |name: &str, source: &str, options: &[&str]| {
            let file = scratch.file(&format!("{name}.c"));
            fs::write(&file, source).expect("a new file");
            let mut command = Command::new(&compiler);
            command.args(["-O2", "-fPIC", &format!("-Wl,-z,{binding}"), "-L"]).arg(scratch.path());
            command.arg("-o").arg(scratch.file(name)).arg(&file).args(options);
            assert_eq!(run(&mut command).ending, Ending::Exited(0));
        };
        compile("libcopies.so", LIBRARY, &["-shared"]);
        compile("libother.so", OTHER, &["-shared"]);
        compile("program", PROGRAM, &["-lcopies", "-Wl,-rpath,$ORIGIN"]);
        let (program, report) = (scratch.file("program"), scratch.file("report"));
        for other in [false, true] {
            let preload = format!("LD_PRELOAD={}", scratch.file("libother.so").display());
            let preload = if other { preload } else { "NONE=".to_owned() };
            let plain = run(Command::new("env").arg(&preload).arg(&program));
            let counts = |engine: &str, kind: &str| {
                let mut command = Command::new(incise());
                command.args(["count", "--json", "--exact", "--engine", engine, "--points", kind]);
                command.args(["-f", "-m", "libcopies*", "-o"]).arg(&report);
                command.args(["*", "--", "env"]).arg(&preload).arg(&program);
                let outcome = run(&mut command);
                assert_eq!(
                    (&outcome.stdout, outcome.ending),
                    (&plain.stdout, plain.ending),
                    "{binding} {other} {engine} {kind}: {}",
                    outcome.error_text()
                );
                let counts = Report::read(&report).expect("a report").counts;
                counts.into_iter().map(|count| (count.function, count.hits)).collect::<Vec<_>>()
            };
            for kind in ["block", "entry", "instruction"] {
                let in_line = counts("in-line", kind);
                assert_eq!(in_line, counts("out-of-line", kind), "{binding} {other} {kind}");
                let of = |name: &str| in_line.iter().find(|(function, _)| function == name).map(|(_, n)| *n);
                assert_eq!(of("walk"), Some(2), "{in_line:?}");
                assert_eq!(of("leaf"), Some(if other { 0 } else { 1010 }), "{binding} {kind}: {in_line:?}");
            }
        }
    }
}
