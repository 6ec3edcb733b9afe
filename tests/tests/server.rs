//! A server under load: redis, attached to while it runs, answers a fixed number of requests of each kind, and each
//! is counted in the function that carries it out.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
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

#[test]
fn every_request_is_counted() {
    let Some(server) = need_program("redis-server") else { return };
    let Some(load) = need_program("redis-benchmark") else { return };
    let Some(client) = need_program("redis-cli") else { return };
    let scratch = Scratch::new();
    // A port nobody has now.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("loopback").port();
    let port = port.to_string();
    let mut command = Command::new(server);
    // One file is several programs; its name tells which.
    command.arg0("redis-server");
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.current_dir(scratch.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let server = Server(command.spawn().expect("a server"));
    let ask = |words: &[&str]| run(Command::new(&client).args(["-p", &port]).args(words));
    until("the server answers", || ask(&["ping"]).stdout == b"PONG\n");
    let before = Snapshot::take(server.0.id());

    let (report, told) = (scratch.file("report"), scratch.file("told"));
    let mut count = Command::new(incise());
    count.args(["count", "--json", "-v", "*Command", "-m", "redis*", "-o"]).arg(&report);
    count.args(["-p", &server.0.id().to_string()]).stdin(Stdio::null());
    let mut count = count.stderr(File::create(&told).expect("a new file")).spawn().expect("the command");
    until("probes are in place", || fs::read_to_string(&told).is_ok_and(|text| text.contains("in place")));
    // Replies are checked by the client: an error would be among the output.
    let kinds = ["set", "get", "incr", "lpush", "sadd", "hset", "mset"];
    let mut benchmark = Command::new(load);
    benchmark.args(["-p", &port, "-n", "2000", "-c", "8", "-q", "-e", "-t", &kinds.join(",")]);
    let benchmark = run(&mut benchmark);
    assert_eq!(benchmark.ending, Ending::Exited(0), "{}", benchmark.error_text());
    signal(count.id(), libc::SIGINT);
    let ended = wait(&mut count, PATIENCE).map(Ending::from);
    assert_eq!(ended, Some(Ending::Exited(0)), "{}", fs::read_to_string(&told).unwrap_or_default());

    let report = Report::read(&report).expect("a report");
    for kind in kinds {
        let function = format!("{kind}Command");
        assert_eq!(report.hits(&function), Some(2000), "{function}: {:?}", report.reason(&function));
    }
    assert_eq!(before.difference(&Snapshot::take(server.0.id())), None);
    assert_eq!(ask(&["ping"]).stdout, b"PONG\n");
    println!("redis: {} functions, {:?}", report.counts.len(), report.summary);
}
