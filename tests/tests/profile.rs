//! Profilers name the code of probes by the functions it belongs to.

use std::path::{Path, PathBuf};
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

/// The program, and the samples that perf takes of it while `incise count` runs it with `options`; nothing if perf cannot record.
fn record(scratch: &Scratch, perf: &Path, clock: &[&str], options: &[&str]) -> Option<PathBuf> {
    let compiler = need_program("gcc")?;
    let (source, program, data) = (scratch.file("tiny.c"), scratch.file("tiny"), scratch.file("perf.data"));
    std::fs::write(&source, SOURCE).expect("written");
    assert!(
        run(Command::new(compiler).arg("-O2").arg("-o").arg(&program).arg(&source)).ending
            == Ending::Exited(0)
    );
    let recorded = run(Command::new(perf)
        .args(["record", "-q", "-e", "cpu-clock", "-F", "999"])
        .args(clock)
        .arg("-o")
        .arg(&data)
        .arg("--")
        .arg(incise())
        .arg("count")
        .args(options)
        .args(["-o", "/dev/null", "tiny", "--"])
        .arg(&program));
    if recorded.ending != Ending::Exited(0) {
        let why = String::from_utf8_lossy(&recorded.stderr).into_owned();
        assert!(why.contains("ermission") || why.contains("not supported"), "{why}");
        skip(&format!("perf cannot record here: {why}"));
        return None;
    }
    Some(data)
}

#[test]
fn perf_finds_the_function_of_a_trampoline() {
    let Some(perf) = need_program("perf") else { return };
    let scratch = Scratch::new();
    let Some(data) = record(&scratch, &perf, &[], &["--perf-map"]) else { return };
    let report = run(Command::new(&perf).args(["script", "-F", "comm,ip,sym", "-i"]).arg(&data));
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    let of_program = text.lines().filter(|line| line.trim_start().starts_with("tiny ")).collect::<Vec<_>>();
    let named = of_program.iter().filter(|line| line.ends_with("incise:tiny")).count();
    assert!(named > 10, "{named} of {} samples:\n{}", of_program.len(), of_program.first().unwrap_or(&""));
    let unknown = of_program.iter().filter(|line| line.ends_with("[unknown]")).count();
    assert!(unknown * 20 < of_program.len(), "{unknown} of {} have no name", of_program.len());
}

#[test]
fn perf_makes_files_of_trampolines_and_knows_their_code() {
    let Some(perf) = need_program("perf") else { return };
    let scratch = Scratch::new();
    let Some(data) = record(&scratch, &perf, &["-k", "mono"], &["--jit-dump"]) else { return };
    let with = scratch.file("with.data");
    let made = run(Command::new(&perf).args(["inject", "--jit", "-i"]).arg(&data).arg("-o").arg(&with));
    assert_eq!(made.ending, Ending::Exited(0), "{}", made.error_text());
    let report = run(Command::new(&perf).args(["script", "-F", "comm,ip,sym,dso", "-i"]).arg(&with));
    let text = String::from_utf8_lossy(&report.stdout).into_owned();
    let found = |line: &&str| line.contains("incise:tiny") && line.contains("/jitted-");
    let named: Vec<&str> = text.lines().filter(found).collect();
    assert!(named.len() > 10, "{} samples:\n{text}", named.len());
    let file =
        |line: &str| line.rsplit_once('(').and_then(|(_, file)| file.strip_suffix(')')).map(PathBuf::from);
    let file = file(named[0]).expect("a file");
    // `lea eax, [rdi + 1]`, which is displaced.
    assert!(std::fs::read(&file).expect("an ELF file").windows(3).any(|bytes| bytes == [0x8D, 0x47, 0x01]));
    // What perf leaves beside the dump is ours to take away.
    let pid = file
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split('-').nth(1))
        .expect("a number");
    for entry in std::fs::read_dir("/tmp").expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("jitted-{pid}-")) || name == format!("jit-{pid}.dump") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
}
