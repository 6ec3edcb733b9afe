//! Counts of real programs are those of the kernel's uprobes, function by function: all exported functions of
//! the program, of its libraries and of libc, in all processes it starts. What it writes and how it ends is the same.
//!
//! Each program runs three times, always at the same addresses: twice under uprobes, to know what is the same each
//! time, and once under `incise count`. Where these differ it runs a few times more, at other addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use incise_tests::command::{PATIENCE, count, run, steady_addresses};
use incise_tests::exported::{Exported, Text, exported};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::{need_program, need_root, skip};
use incise_tests::uprobes::Uprobes;

/// A program, copied with its libraries to where nobody else maps them.
struct Private {
    scratch: Scratch,
    program: PathBuf,
    /// File name and exported functions of the program and its libraries.
    modules: BTreeMap<String, (PathBuf, Vec<Exported>)>,
    /// What the program is run with in front of its libraries.
    preloaded: Option<PathBuf>,
}

impl Private {
    fn copy(called: &str, file: &Path) -> Private {
        let scratch = Scratch::new();
        let libraries = scratch.file("lib");
        fs::create_dir(&libraries).expect("a new folder");
        fs::create_dir(scratch.file("work")).expect("a new folder");
        let take = |from: &Path, to: PathBuf| {
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("our own file");
            to
        };
        let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
        // One file may be several programs; the name that it is called by tells which.
        let program = take(file, scratch.file(called));
        let mut files = vec![program.clone()];
        let list = run(Command::new("ldd").arg(file));
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            if let [soname, "=>", path, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
                files.push(take(Path::new(path), libraries.join(soname)));
            }
        }
        let modules = files.into_iter().map(|file| {
            // C++ names are told as they are written, which binutils may do differently.
            let mut functions = exported(&file, &libraries).unwrap_or_else(|error| panic!("{error}"));
            functions.retain(|function| !function.name.starts_with("_Z"));
            if libraries.join(JEMALLOC).exists() {
                functions.retain(|function| !ALIGNED.contains(&function.name.trim_start_matches('_')));
            }
            (name(&file), (file, functions))
        });
        let modules = modules.collect();
        Private { scratch, program, modules, preloaded: None }
    }

    fn work(&self) -> PathBuf {
        self.scratch.file("work")
    }

    /// Surroundings in which a program always does the same.
    fn prepare(&self, command: &mut Command, addresses: Addresses) {
        command.current_dir(self.work()).env_clear().envs(STEADY);
        command.env("LD_LIBRARY_PATH", self.scratch.file("lib"));
        if let Some(library) = &self.preloaded {
            command.env("LD_PRELOAD", library);
        }
        if addresses == Addresses::Same {
            steady_addresses(command);
        }
    }

    /// A new folder to work in, as `setup` (a shell script) leaves it; that does not run any of our copies.
    fn set_up(&self, setup: &str) {
        let _ = fs::remove_dir_all(self.work());
        fs::create_dir(self.work()).expect("a new folder");
        let mut shell = Command::new("/bin/sh");
        self.prepare(shell.args(["-ec", setup]), Addresses::Same);
        shell.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
        let outcome = run(&mut shell);
        assert_eq!(outcome.ending, Ending::Exited(0), "{setup}: {}", outcome.error_text());
    }

    /// Counters at every exported function: module and address of each.
    fn probe(&self) -> io::Result<(Uprobes, Vec<(String, u64)>)> {
        let mut places: Vec<(String, u64)> = Vec::new();
        let mut offsets: Vec<(&PathBuf, Vec<u64>)> = Vec::new();
        for (module, (file, functions)) in &self.modules {
            let text = Text::of(file).unwrap_or_else(|error| panic!("{error}"));
            let bytes = fs::read(file)?;
            let links: BTreeSet<u64> = functions.iter().map(|function| function.link).collect();
            let known = links.iter().filter_map(|link| Some((*link, text.offset(*link)?)));
            let known = known.filter(|(_, offset)| {
                let first = bytes.get(*offset as usize).unwrap_or(&LOCK);
                ![EVEX, LOCK].contains(first)
            });
            let (links, file_offsets): (Vec<u64>, Vec<u64>) = known.unzip();
            places.extend(links.into_iter().map(|link| (module.clone(), link)));
            offsets.push((file, file_offsets));
        }
        let mut probes = Uprobes::new(places.len())?;
        let mut first = 0;
        for (file, offsets) in offsets {
            probes.attach(file, &offsets, first)?;
            first += offsets.len();
        }
        Ok((probes, places))
    }

    /// Where the function of a report lies.
    fn find(&self, module: &str, function: &str) -> Option<u64> {
        let (_, functions) = self.modules.get(module)?;
        let (name, version) = function.split_once('@').map_or((function, None), |(n, v)| (n, Some(v)));
        let version = version.map(|version| version.trim_start_matches('@'));
        let fits = |f: &&Exported| f.name == name && version.is_none_or(|v| f.version.as_deref() == Some(v));
        let mut candidates = functions.iter().filter(fits);
        let first = candidates.clone().next()?;
        Some(candidates.find(|function| function.default).unwrap_or(first).link)
    }
}

/// First byte of instructions that the kernel (6.18) does not run right under a uprobe.
const EVEX: u8 = 0x62;
/// First byte of instructions that the kernel puts no uprobe at.
const LOCK: u8 = 0xF0;

/// jemalloc maps memory once more where what it was given is not aligned as it needs. Where that lies depends on what
/// else is mapped, our trampolines among it.
const JEMALLOC: &str = "libjemalloc.so.2";
const ALIGNED: [&str; 3] = ["mmap", "mmap64", "munmap"];

const STEADY: [(&str, &str); 14] = [
    // The first call of an indirect function that is bound when it is called goes by before it is known.
    ("LD_BIND_NOW", "1"),
    ("PATH", "/usr/bin:/bin"),
    ("HOME", "/nonexistent"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
    ("PYTHONHASHSEED", "0"),
    ("PYTHONHOME", "/usr"),
    ("PERL_HASH_SEED", "0"),
    ("GIT_AUTHOR_NAME", "a"),
    ("GIT_AUTHOR_EMAIL", "a@b"),
    ("GIT_AUTHOR_DATE", "1700000000 +0000"),
    ("GIT_COMMITTER_NAME", "a"),
    ("GIT_COMMITTER_EMAIL", "a@b"),
    ("GIT_COMMITTER_DATE", "1700000000 +0000"),
];

/// The files a run left, with their contents.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "index") {
                // An index of git has times of files in it.
                let bytes = fs::read(&path).unwrap_or_default();
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// What a client does, in the folder where the program runs.
type Client = dyn Fn(&Path) + Sync;

/// How often a place was hit, run by run.
type Hits = BTreeMap<(String, u64), Vec<u64>>;

/// Compares the counts of one program, run in a folder that the script `setup` made. `least`: hits that have to be
/// compared at the least, lest nothing is.
fn compare(name: &str, setup: &str, arguments: &[&str], least: u64) {
    compare_while(name, setup, arguments, least, None, &|_| ());
}

/// [`compare`], while `client`, which is given the folder the program runs in, asks something of it. The program
/// ends when the client does. `preloaded`: a source of `targets/`, built as a library that is loaded before others.
fn compare_while(
    name: &str,
    setup: &str,
    arguments: &[&str],
    least: u64,
    preloaded: Option<&str>,
    client: &Client,
) {
    if !need_root() {
        return;
    }
    let Some(file) = need_program(name) else { return };
    let mut private = Private::copy(name, &file);
    private.preloaded = preloaded.map(|source| {
        let library = private.scratch.file("preloaded.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets").join(source);
        let outcome =
            run(Command::new("gcc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        library
    });
    let (expected, found) = (Hits::new(), Hits::new());
    let mut case = Case { name, setup, arguments, client, expected, found, output: None };
    for addresses in [Addresses::Same, Addresses::Same] {
        if let Err(error) = case.under_uprobes(&private, addresses) {
            return skip(&format!("no multi-uprobe links here: {error}"));
        }
    }
    let report = case.under_incise(&private, Addresses::Same);
    let missing = case.missing(&private, &report);
    assert!(missing.is_empty(), "{name}: neither counted nor refused: {missing:?}");
    // What depends on addresses (hashes of pointers) shows when they change.
    for _ in 0..4 {
        if case.wrong().is_empty() {
            break;
        }
        case.under_uprobes(&private, Addresses::Random).expect("uprobes, as before");
        case.under_incise(&private, Addresses::Random);
    }
    let steady =
        || case.expected.iter().filter(|(place, hits)| case.found.contains_key(*place) && is_steady(hits));
    let (functions, hits) = (steady().count(), steady().map(|(_, hits)| hits[0]).sum::<u64>());
    let unsteady = case.found.len() - functions;
    let wrong = case.wrong();
    println!(
        "{name}: {functions} functions, {hits} hits compared, {unsteady} unsteady, {} wrong",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{name}: wrong counts (place, uprobes, incise): {wrong:#?}");
    assert!(hits >= least, "{name}: only {hits} hits compared");
    assert!(unsteady * 20 <= functions, "{name}: {unsteady} functions differ from run to run");
}

/// Where a run's memory lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addresses {
    Same,
    Random,
}

/// One program and what it is to do.
struct Case<'a> {
    name: &'a str,
    setup: &'a str,
    arguments: &'a [&'a str],
    /// What is asked of it meanwhile.
    client: &'a Client,
    /// What uprobes counted.
    expected: Hits,
    /// What incise counted.
    found: Hits,
    /// Outcome and files of the first run.
    output: Option<(Outcome, BTreeMap<PathBuf, Vec<u8>>)>,
}

impl Case<'_> {
    fn under_uprobes(&mut self, private: &Private, addresses: Addresses) -> io::Result<()> {
        let (mut probes, places) = private.probe()?;
        private.set_up(self.setup);
        let mut command = Command::new(&private.program);
        private.prepare(command.args(self.arguments), addresses);
        let outcome = self.serve(private, || run(&mut command));
        self.is_as_ever(private, outcome);
        for (place, hits) in places.into_iter().zip(probes.take()?) {
            self.expected.entry(place).or_default().push(hits);
        }
        Ok(())
    }

    fn under_incise(&mut self, private: &Private, addresses: Addresses) -> Report {
        private.set_up(self.setup);
        let prepare = |command: &mut Command| private.prepare(command, addresses);
        let counted = self.serve(private, || count(&["-f", "*"], &private.program, self.arguments, &prepare));
        self.is_as_ever(private, counted.outcome);
        let report = counted.report.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        for counted in &report.counts {
            let link = private.find(&counted.module, &counted.function);
            let place = link.map(|link| (counted.module.clone(), link));
            if let Some(place) = place.filter(|place| self.expected.contains_key(place)) {
                self.found.entry(place).or_default().push(counted.hits);
            }
        }
        report
    }

    /// Runs the program and its client.
    fn serve<T>(&self, private: &Private, run: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            scope.spawn(|| (self.client)(&private.work()));
            run()
        })
    }

    /// Compares output, ending and files with those of the first run.
    fn is_as_ever(&mut self, private: &Private, outcome: Outcome) {
        let files = files(&private.work());
        match &self.output {
            None => {
                assert_eq!(outcome.ending, Ending::Exited(0), "{}: {}", self.name, outcome.error_text());
                self.output = Some((outcome, files));
            }
            Some((first, first_files)) => {
                assert_eq!(first.difference(&outcome), None, "{} does something else", self.name);
                let same = |(path, bytes): (&PathBuf, &Vec<u8>)| files.get(path) == Some(bytes);
                let differing = first_files.iter().find(|entry| !same(*entry)).map(|(path, _)| path);
                assert_eq!(differing, None, "{} writes another file", self.name);
                assert_eq!(first_files.len(), files.len(), "{} writes other files", self.name);
            }
        }
    }

    /// Places that uprobes count the same each time, and incise never so.
    fn wrong(&self) -> Vec<(&(String, u64), u64, &Vec<u64>)> {
        let steady = self.expected.iter().filter(|(_, hits)| is_steady(hits));
        let found = steady.filter_map(|(place, hits)| Some((place, hits[0], self.found.get(place)?)));
        found.filter(|(_, hits, found)| !found.contains(hits)).collect()
    }

    /// Exported functions that the report does not tell of.
    fn missing(&self, private: &Private, report: &Report) -> Vec<(String, String)> {
        let counts = report.counts.iter().map(|count| (&count.module, &count.function));
        let refused = report.refused.iter().map(|refused| (&refused.module, &refused.function));
        let told = counts.chain(refused).filter_map(|(m, f)| Some((m.clone(), private.find(m, f)?)));
        let told: BTreeSet<(String, u64)> = told.collect();
        let mut missing = Vec::new();
        for (module, (_, functions)) in &private.modules {
            for function in functions.iter().filter(|function| !function.indirect) {
                if !told.contains(&(module.clone(), function.link)) {
                    missing.push((module.clone(), function.name.clone()));
                }
            }
        }
        missing
    }
}

fn is_steady(hits: &[u64]) -> bool {
    hits.iter().all(|hit| *hit == hits[0])
}

const TEXT: &str = "/usr/share/common-licenses/GPL-3";

#[test]
fn gzip() {
    compare("gzip", "", &["-9", "-kc", TEXT], 50);
}

#[test]
fn xz() {
    compare("xz", "", &["-0", "-kc", "--threads=1", TEXT], 1_000);
}

#[test]
fn bash() {
    let script = "for i in 1 2 3; do x=$((x + i)); echo $x | cat; done; (exit 3); echo $? > file; cat file";
    compare("bash", "", &["--norc", "-c", script], 5_000);
}

#[test]
fn perl() {
    let script = "my %h; $h{$_ % 97} += $_ for 1..5000; print join(',', map { $h{$_} } sort keys %h), qq(\n);
        open my $f, '>', 'file'; print $f 'x' x 10000; close $f; system 'cat file'";
    compare("perl", "", &["-e", script], 10_000);
}

#[test]
fn python() {
    // Ends at once: on its way out it would look at every signal's handler, ours for SIGTRAP among them.
    let script = "import hashlib, json, os, re, sys\nprint(json.dumps({i: str(i * i) for i in range(300)}))\n\
        f = open('file', 'w')\nf.write(hashlib.sha256(re.sub('a', 'b', 'banana' * 999).encode()).hexdigest())\n\
        f.close()\nsys.stdout.flush()\nos._exit(0)";
    compare("python3.11", "", &["-B", "-S", "-c", script], 100_000);
}

#[test]
fn sqlite() {
    let script = "create table t(a integer primary key, b text); with recursive n(i) as (select 1 union all \
        select i + 1 from n where i < 3000) insert into t select i, hex(i * i) from n; create index u on t(b); \
        select count(*), sum(length(b)) from t where b like '%3%'; pragma integrity_check;";
    compare("sqlite3", "", &["-batch", "-init", "/dev/null", "file.db", script], 100_000);
}

#[test]
fn git() {
    let setup = "git init -q -b main .; for i in 1 2 3 4 5; do echo $i >> file; git add file; \
        git commit -q -m $i; done; echo 6 >> file";
    compare("git", setup, &["--no-pager", "log", "--stat", "-p"], 1_000);
    compare("git", setup, &["-c", "pack.threads=1", "repack", "-adq"], 1_000);
    compare("git", setup, &["commit", "-q", "-a", "-m", "six"], 1_000);
}

#[test]
fn openssl() {
    compare("openssl", "", &["dgst", "-sha256", TEXT], 10_000);
    let key = ["-K", "000102030405060708090a0b0c0d0e0f", "-iv", "00000000000000000000000000000000"];
    let encrypt = [&["enc", "-aes-128-cbc", "-base64", "-in", TEXT], &key[..]].concat();
    compare("openssl", "", &encrypt, 10_000);
}

/// One request after the other, each of which waits for the answer to the one before, and then the end.
fn ask_redis(folder: &Path) {
    let began = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(folder.join("socket")) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "the server does not answer: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut replies = BufReader::new(stream.try_clone().expect("a socket"));
    for round in 0..50 {
        let requests = [
            "ping".to_owned(),
            format!("set key:{round} {}", "x".repeat(round + 1)),
            format!("get key:{round}"),
            "incr counter".to_owned(),
            format!("lpush list {}", round * 7 % 31),
            "sort list".to_owned(),
            format!("hset hash field:{round} {round}"),
            format!("zadd ranks {} member:{round}", round % 17),
            "zrange ranks 0 9".to_owned(),
            format!("eval \"return redis.call('append','text','{round}')\" 0"),
        ];
        for request in requests {
            stream.write_all(format!("{request}\r\n").as_bytes()).expect("a server");
            take_reply(&mut replies);
        }
    }
    stream.write_all(b"shutdown nosave\r\n").expect("a server");
    let mut rest = Vec::new();
    let _ = replies.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

/// Reads one reply of redis (RESP2): a line, a text of the length the line tells, or so many replies.
fn take_reply(replies: &mut impl BufRead) {
    let mut line = String::new();
    replies.read_line(&mut line).expect("a reply");
    let number = || line[1..].trim().parse::<usize>().ok();
    match line.as_bytes().first() {
        Some(b'+' | b':') => {}
        Some(b'$') => {
            let mut text = vec![0; number().map_or(0, |len| len + 2)];
            replies.read_exact(&mut text).expect("a reply");
        }
        Some(b'*') => (0..number().unwrap_or(0)).for_each(|_| take_reply(replies)),
        _ => panic!("not a good reply: {line}"),
    }
}

#[test]
fn redis() {
    let arguments = ["--port", "0", "--unixsocket", "socket", "--save", "", "--logfile", "/dev/null"];
    // A thread of jemalloc is woken if it sleeps already, which is a race.
    let arguments = [&arguments[..], &["--jemalloc-bg-thread", "no"]].concat();
    // What it does by the clock it would do more often the slower it is.
    compare_while("redis-server", "", &arguments, 100_000, Some("event_clock.c"), &ask_redis);
}
