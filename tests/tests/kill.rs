//! The command is killed outright at random instants, while it puts probes in, while they count, while it takes
//! them out: the program goes on and its work is right.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use incise_tests::build::incise;
use incise_tests::command::{signal, wait};
use incise_tests::long;
use incise_tests::outcome::Ending;
use incise_tests::process::{Target, compile};
use incise_tests::scratch::Scratch;

const PATTERNS: [&str; 6] = ["work_*", "malloc", "free", "str*", "mem*", "pthread_*"];

/// Random numbers, from a seed that a failure tells.
struct Random(AtomicU64);

impl Random {
    fn new() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
        let seed = std::env::var("INCISE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now);
        println!("INCISE_SEED={seed}");
        Random(AtomicU64::new(seed))
    }

    fn below(&self, limit: u64) -> u64 {
        let mut x = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % limit
    }

    /// A time up to `most`, short ones as likely as long ones.
    fn time(&self, most: Duration) -> Duration {
        let scale = [1, 4, 16, 64][self.below(4) as usize];
        Duration::from_micros(self.below(most.as_micros() as u64 / scale + 1))
    }
}

struct Tool {
    child: Child,
    report: PathBuf,
}

impl Tool {
    fn start(command: &mut Command, report: PathBuf) -> Tool {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Tool { child, report }
    }

    /// Kills it. What it did meanwhile is no matter.
    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(self.report);
    }
}

fn attached(scratch: &Scratch, pid: u32, options: &[&str]) -> Tool {
    let report = scratch.file(&format!("report-{pid}"));
    let mut command = Command::new(incise());
    command.arg("count").args(options).args(PATTERNS).arg("-o").arg(&report);
    command.arg("-p").arg(pid.to_string()).stdin(Stdio::null()).stderr(Stdio::null());
    Tool::start(&mut command, report)
}

fn kills() -> u64 {
    if long() { 100 } else { 10 }
}

/// Options of the command, chosen by chance.
fn options(random: &Random) -> Vec<&'static str> {
    let mut options = Vec::new();
    if random.below(3) == 0 {
        options.extend(["--trap", "force"]);
    }
    if random.below(2) == 0 {
        options.push("-f");
    }
    options
}

fn arguments(random: &Random) -> Vec<&'static str> {
    let threads = ["1", "2", "3", "4"][random.below(4) as usize];
    if random.below(3) == 0 { vec![threads, "fork"] } else { vec![threads] }
}

fn check(target: Target, what: &str) {
    let outcome = target.finish();
    let output = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert!(output.ends_with("wrong 0\n"), "{what}: {}: {output} {}", outcome.ending, outcome.error_text());
    assert_eq!(outcome.ending, Ending::Exited(0), "{what}");
}

fn attach_and_kill(program: &Path, scratch: &Scratch, random: &Random, most: Duration) {
    let (arguments, options) = (arguments(random), options(random));
    let target = Target::start(Command::new(program).args(&arguments));
    let what = format!("attached to {arguments:?} with {options:?}");
    let mut tool = attached(scratch, target.pid(), &options);
    if random.below(3) == 0 {
        // In the middle of the removal.
        sleep(most);
        signal(tool.child.id(), libc::SIGINT);
        sleep(random.time(most / 4));
    } else {
        sleep(random.time(most));
    }
    assert!(tool.child.try_wait().is_ok(), "{what}");
    tool.kill();
    sleep(random.time(Duration::from_millis(30)));
    if random.below(2) == 0 {
        // Another one comes where the first left its probes, and leaves in good order.
        let mut second = attached(scratch, target.pid(), &options);
        sleep(most);
        signal(second.child.id(), libc::SIGINT);
        let status = wait(&mut second.child, incise_tests::command::PATIENCE);
        assert!(status.is_some(), "{what}: the next one does not end");
    }
    check(target, &what);
}

#[test]
fn attached_and_killed_at_any_time() {
    let (scratch, random) = (Scratch::new(), Random::new());
    let program = compile(&scratch, "checksum", &[]);
    let most = installation(&program, &scratch);
    for _ in 0..kills() {
        attach_and_kill(&program, &scratch, &random, most);
    }
}

/// How long it takes to attach and to put all probes in, on this machine as it is now.
fn installation(program: &Path, scratch: &Scratch) -> Duration {
    incise();
    let target = Target::start(Command::new(program).arg("2"));
    let began = std::time::Instant::now();
    let mut tool = attached(scratch, target.pid(), &[]);
    let tracer = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    while !tracer() && began.elapsed() < Duration::from_secs(5) {
        sleep(Duration::from_millis(1));
    }
    let attached = began.elapsed();
    signal(tool.child.id(), libc::SIGINT);
    assert!(wait(&mut tool.child, Duration::from_secs(60)).is_some(), "it ends when interrupted");
    let whole = began.elapsed();
    check(target, "undisturbed");
    println!("attached after {attached:?}, done after {whole:?}");
    whole.clamp(Duration::from_millis(20), Duration::from_millis(500))
}

/// The process that runs `program` in the process group of a tool that was killed.
fn survivor(group: u32, program: &Path) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let ours = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name: the state, the parent, the group.
        let of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2)?.parse().ok());
        of == Some(group) && std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
    };
    numbers.into_iter().find(ours)
}

/// Another run of the tool attaches to what the killed one left, wherever that was, and leaves in good order.
fn take_over(scratch: &Scratch, pid: u32, options: &[&str], most: Duration, what: &str) {
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    while traced() {
        sleep(Duration::from_millis(1));
    }
    let told = scratch.file(&format!("told-{pid}"));
    let mut command = Command::new(incise());
    command.args(["count", "-v"]).args(options).args(["work_*", "mem*", "-o", "/dev/null"]);
    command.arg("-p").arg(pid.to_string()).stdin(Stdio::null());
    let mut second =
        command.stderr(std::fs::File::create(&told).expect("a new file")).spawn().expect("the tool");
    sleep(most);
    signal(second.id(), libc::SIGINT);
    let ended = wait(&mut second, incise_tests::command::PATIENCE).map(Ending::from);
    let told = std::fs::read_to_string(told).unwrap_or_default();
    assert!(ended == Some(Ending::Exited(0)) || told.contains("has ended"), "{what}: {ended:?}: {told}");
}

#[test]
fn launched_and_killed_at_any_time() {
    let (scratch, random) = (Scratch::new(), Random::new());
    let (mut ran, mut taken) = (0, 0);
    incise();
    // Follows how long it takes to launch a program on this machine as it is: about half of the kills come later.
    let mut most = Duration::from_millis(60);
    for (number, link) in
        (0..kills()).zip([&[][..], &["-static"], &["-no-pie"], &["-static-pie"]].iter().cycle())
    {
        let program = compile(&scratch, "checksum", link);
        let (arguments, options) = (arguments(&random), options(&random));
        let what = format!("launched {arguments:?} {link:?} with {options:?}, {number}");
        let mut command = Command::new(incise());
        command.arg("count").args(&options).arg("work_*").arg("mem*").arg("-o").arg("/dev/null").arg("--");
        let target = Target::start_unready(command.arg(&program).args(&arguments));
        sleep(random.time(most));
        signal(target.pid(), libc::SIGKILL);
        sleep(random.time(Duration::from_millis(30)));
        if random.below(2) == 0
            && let Some(pid) = survivor(target.pid(), &program)
        {
            take_over(&scratch, pid, &options, most, &what);
            taken += 1;
        }
        let outcome = target.finish();
        let output = String::from_utf8_lossy(&outcome.stdout).into_owned();
        // Killed before the program was run, there is nothing to see.
        let never = output.is_empty();
        assert!(never || output == "ready\nwrong 0\n", "{what}: {output:?} {}", outcome.error_text());
        ran += u64::from(!never);
        most = if never { most * 3 / 2 } else { most * 3 / 4 };
    }
    println!("{ran} of {} ran, {taken} were taken over", kills());
    assert!(ran * 4 >= kills(), "only {ran} programs got to run");
}
