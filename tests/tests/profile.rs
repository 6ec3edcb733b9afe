//! Profilers name the code of probes by the functions it belongs to.

use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::{need_program, skip};

/// Most of its time is spent in the probes of `tiny`.
const SOURCE: &str = r#"
__attribute__((noipa)) int tiny(int n) { return n + 1; }
int main(void)
{
    int sum = 0;
    for (int i = 0; i < 60000000; i++)
        sum = tiny(sum);
    return sum != 60000000;
}
"#;

#[test]
fn perf_finds_the_function_of_a_trampoline() {
    let (Some(perf), Some(compiler)) = (need_program("perf"), need_program("gcc")) else { return };
    let scratch = Scratch::new();
    let (source, program, data) = (scratch.file("tiny.c"), scratch.file("tiny"), scratch.file("perf.data"));
    std::fs::write(&source, SOURCE).expect("written");
    assert!(
        run(Command::new(compiler).arg("-O2").arg("-o").arg(&program).arg(&source)).ending
            == Ending::Exited(0)
    );
    let record = ["record", "-q", "-e", "cpu-clock", "-F", "999", "-o"];
    let recorded = run(Command::new(&perf)
        .args(record)
        .arg(&data)
        .arg("--")
        .arg(incise())
        .args(["count", "--perf-map", "-o", "/dev/null", "tiny", "--"])
        .arg(&program));
    if recorded.ending != Ending::Exited(0) {
        let why = String::from_utf8_lossy(&recorded.stderr).into_owned();
        assert!(why.contains("ermission") || why.contains("not supported"), "{why}");
        return skip(&format!("perf cannot record here: {why}"));
    }
    let report = run(Command::new(&perf).args(["script", "-F", "comm,ip,sym", "-i"]).arg(&data));
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    let of_program = text.lines().filter(|line| line.trim_start().starts_with("tiny ")).collect::<Vec<_>>();
    let named = of_program.iter().filter(|line| line.ends_with("incise:tiny")).count();
    assert!(named > 10, "{named} of {} samples:\n{}", of_program.len(), of_program.first().unwrap_or(&""));
    let unknown = of_program.iter().filter(|line| line.ends_with("[unknown]")).count();
    assert!(unknown * 20 < of_program.len(), "{unknown} of {} have no name", of_program.len());
}
