//! A server under load: redis, attached to while it runs. It answers a fixed number of requests of each kind, and each
//! is counted in the function that carries it out; a hot function is patched back and forth, and no client sees an error.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, run, signal, wait};
use incise_tests::outcome::Ending;
use incise_tests::process::Snapshot;
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5));
    }
}

/// Redis, with its port, its client and its source of load.
struct Redis {
    server: Server,
    port: String,
    client: PathBuf,
    load: PathBuf,
}

impl Redis {
    /// Starts it; `None`, with the reason told, where it is not installed.
    fn start(scratch: &Scratch) -> Option<Redis> {
        let server = need_program("redis-server")?;
        let (load, client) = (need_program("redis-benchmark")?, need_program("redis-cli")?);
        // A port nobody has now.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("loopback").port();
        let port = port.to_string();
        let mut command = Command::new(server);
        // One file is several programs; its name tells which.
        command.arg0("redis-server");
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.current_dir(scratch.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let redis = Redis { server: Server(command.spawn().expect("a server")), port, client, load };
        until("the server answers", || redis.ask(&["ping"]) == "PONG\n");
        Some(redis)
    }

    fn pid(&self) -> u32 {
        self.server.0.id()
    }

    /// What it answers.
    fn ask(&self, words: &[&str]) -> String {
        let outcome = run(Command::new(&self.client).args(["-p", &self.port]).args(words));
        String::from_utf8_lossy(&outcome.stdout).into_owned()
    }

    /// Many requests of each kind. Replies are checked by the client: an error is told, and ends it.
    fn load(&self, requests: &str, kinds: &str) {
        let mut benchmark = Command::new(&self.load);
        benchmark.args(["-p", &self.port, "-n", requests, "-c", "8", "-q", "-e", "-t", kinds]);
        let outcome = run(&mut benchmark);
        let told = String::from_utf8_lossy(&outcome.stdout).into_owned() + &outcome.error_text();
        assert_eq!(outcome.ending, Ending::Exited(0), "{told}");
        assert!(!told.contains("Error") && !told.contains("ERR"), "{told}");
    }
}

#[test]
fn every_request_is_counted() {
    let scratch = Scratch::new();
    let Some(redis) = Redis::start(&scratch) else { return };
    let before = Snapshot::take(redis.pid());

    let (report, told) = (scratch.file("report"), scratch.file("told"));
    let mut count = Command::new(incise());
    count.args(["count", "--json", "-v", "*Command", "-m", "redis*", "-o"]).arg(&report);
    count.args(["-p", &redis.pid().to_string()]).stdin(Stdio::null());
    let mut count = count.stderr(File::create(&told).expect("a new file")).spawn().expect("the command");
    until("probes are in place", || fs::read_to_string(&told).is_ok_and(|text| text.contains("in place")));
    let kinds = ["set", "get", "incr", "lpush", "sadd", "hset", "mset"];
    redis.load("2000", &kinds.join(","));
    signal(count.id(), libc::SIGINT);
    let ended = wait(&mut count, PATIENCE).map(Ending::from);
    assert_eq!(ended, Some(Ending::Exited(0)), "{}", fs::read_to_string(&told).unwrap_or_default());

    let report = Report::read(&report).expect("a report");
    for kind in kinds {
        let function = format!("{kind}Command");
        assert_eq!(report.hits(&function), Some(2000), "{function}: {:?}", report.reason(&function));
    }
    assert_eq!(before.difference(&Snapshot::take(redis.pid())), None);
    assert_eq!(redis.ask(&["ping"]), "PONG\n");
    println!("redis: {} functions, {:?}", report.counts.len(), report.summary);
}

/// Each request is an entry and an exit of the function that carries it out, and a duration in its histogram.
#[test]
fn every_request_is_traced_and_timed() {
    let scratch = Scratch::new();
    let Some(redis) = Redis::start(&scratch) else { return };
    let before = Snapshot::take(redis.pid());
    for (verb, options) in [("trace", &["--args=1", "--return", "--buffer", "262144"][..]), ("hist", &[])] {
        let (file, told) = (scratch.file(verb), scratch.file("told"));
        let mut command = Command::new(incise());
        command.args([verb, "--json", "-v", "*Command", "-m", "redis*", "-o"]).arg(&file).args(options);
        command.args(["-p", &redis.pid().to_string()]).stdin(Stdio::null());
        let mut command =
            command.stderr(File::create(&told).expect("a new file")).spawn().expect("the command");
        until("probes are in place", || {
            fs::read_to_string(&told).is_ok_and(|text| text.contains("in place"))
        });
        redis.load("2000", "set,get,incr");
        signal(command.id(), libc::SIGINT);
        let ended = wait(&mut command, PATIENCE).map(Ending::from);
        assert_eq!(ended, Some(Ending::Exited(0)), "{}", fs::read_to_string(&told).unwrap_or_default());
        let text = fs::read_to_string(&file).expect("written");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let summary = lines.last().expect("a summary");
        for kind in ["set", "get", "incr"] {
            let function = format!("{kind}Command");
            let mut of = lines.iter().filter(|line| line["function"] == *function);
            if verb == "hist" {
                assert_eq!(of.next().map(|line| &line["count"]), Some(&2000.into()), "{function}");
            } else {
                assert_eq!(summary["dropped"], 0, "{summary}");
                assert_eq!(of.clone().filter(|line| line["type"] == "entry").count(), 2000, "{function}");
                assert_eq!(of.filter(|line| line["duration_ns"].is_u64()).count(), 2000, "{function}");
            }
        }
        println!("redis under {verb}: {summary}");
    }
    assert_eq!(before.difference(&Snapshot::take(redis.pid())), None);
}

/// `get` becomes slower, or answers with the key, and is itself again, while eight clients go on asking.
#[test]
fn a_hot_function_goes_back_and_forth_under_load() {
    let scratch = Scratch::new();
    let Some(redis) = Redis::start(&scratch) else { return };
    let pid = redis.pid().to_string();
    let incise = |words: &[&str]| {
        let outcome = run(Command::new(incise()).args(words));
        assert_eq!(outcome.ending, Ending::Exited(0), "{words:?}: {}", outcome.error_text());
        String::from_utf8_lossy(&outcome.stdout).into_owned()
    };
    assert_eq!(redis.ask(&["set", "princess", "elsewhere"]), "OK\n");
    let first = incise(&["inspect", "-p", &pid, "getCommand", "-n", "1", "--json"]);
    let first: serde_json::Value = serde_json::from_str(&first).expect("an instruction");
    let first = first["text"].as_str().expect("text");
    let slow = format!("push rcx; mov ecx, 50; 1: dec ecx; jnz 1b; pop rcx; {first}");
    let changes: [(&[&str], &str); 2] =
        [(&[slow.as_str()], "elsewhere\n"), (&["--jump", "pingCommand"], "princess\n")];
    let rounds = if incise_tests::long() { 1000 } else { 12 };
    let before = Snapshot::take(redis.pid());
    let done = AtomicBool::new(false);
    /// Ends the load also when the test fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let loads = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut loads = 0;
            while !done.load(Ordering::Relaxed) {
                redis.load("5000", "get,set");
                loads += 1;
            }
            loads
        });
        let stop = Done(&done);
        for round in 0..rounds {
            let (change, answer) = changes[round % changes.len()];
            incise(&[&["patch", "-p", &pid, "getCommand"], change].concat());
            assert_eq!(redis.ask(&["get", "princess"]), answer, "round {round}");
            incise(&["undo", "-p", &pid]);
            assert_eq!(redis.ask(&["get", "princess"]), "elsewhere\n", "round {round}");
        }
        drop(stop);
        load.join().expect("no client saw an error")
    });
    assert!(loads > 0);
    assert_eq!(before.difference(&Snapshot::take(redis.pid())), None);
    println!("redis: {rounds} rounds, {loads} times 10000 requests");
}
