//! Counts while the program runs, after it was killed, of its children.

use std::process::Command;
use std::time::{Duration, Instant};

use incise_tests::command::{run, signal};
use incise_tests::outcome::Ending;
use incise_tests::process::{Target, compile};
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

use crate::support::{counts, rewrite};

#[test]
fn counts_are_read_while_it_runs_and_survive_a_kill() {
    let scratch = Scratch::new();
    let program = compile(&scratch, "checksum", &[]);
    let out = scratch.file("checksum.out");
    rewrite(&program, &out, &["work_*"]);
    let target = Target::start(Command::new(&out).args(["1", "1000000"]));
    let total = || counts(&out).0.counts.iter().map(|count| count.hits).sum::<u64>();
    let began = Instant::now();
    let mut last = 0;
    while last < 1000 && began.elapsed() < Duration::from_secs(20) {
        last = total();
    }
    assert!(last >= 1000, "only {last} calls were seen while it runs");
    signal(target.pid(), libc::SIGKILL);
    let outcome = target.finish();
    assert_eq!(outcome.ending, Ending::Killed(libc::SIGKILL));
    let after = total();
    assert!(after >= last, "{after} after the kill, {last} before");
    assert_eq!(total(), after);
}

#[test]
fn children_count_into_the_file_of_their_parent_and_executed_programs_into_their_own() {
    let scratch = Scratch::new();
    let Some(bash) = need_program("bash") else { return };
    let out = scratch.file("bash");
    rewrite(&bash, &out, &["main", "execute_command"]);
    let script =
        format!("(echo sub); {} -c 'echo other'; exec {} -c 'echo last'", out.display(), out.display());
    let outcome = run(Command::new(&out).args(["-c", &script]));
    assert_eq!(outcome.stdout, b"sub\nother\nlast\n", "{}", outcome.error_text());
    let (report, processes) = counts(&out);
    assert_eq!((processes, report.hits("main")), (3, Some(3)));
}
