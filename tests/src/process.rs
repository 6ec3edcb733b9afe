//! Processes that run on while they are looked at: targets to attach to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};

use crate::command::{PATIENCE, kill_group, read_to_end, run, wait};
use crate::outcome::{Ending, Outcome};
use crate::scratch::Scratch;

/// Compiles a program of `targets/`.
///
/// # Panics
/// If that fails.
pub fn compile(scratch: &Scratch, name: &str, options: &[&str]) -> PathBuf {
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/targets")).join(format!("{name}.c"));
    let program = scratch.file(name);
    let mut compiler = Command::new("gcc");
    let outcome = run(compiler.args(["-O2", "-pthread"]).args(options).arg("-o").arg(&program).arg(source));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    program
}

/// A process that runs until its input ends.
pub struct Target {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<std::process::ChildStdout>>,
    errors: Option<ChildStderr>,
}

impl Target {
    /// Starts one, and waits until it says that it is ready.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(command: &mut Command) -> Target {
        let mut target = Target::start_unready(command);
        let mut line = String::new();
        let output = target.output.as_mut().expect("piped");
        output.read_line(&mut line).expect("readable");
        assert_eq!(line, "ready\n", "{command:?}");
        target
    }

    /// The same without waiting.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_unready(command: &mut Command) -> Target {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (input, output) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Target { input, output, errors: child.stderr.take(), child }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Ending> {
        self.child.try_wait().ok().flatten().map(Ending::from)
    }

    /// Ends its input, and waits until everybody has closed its output: the process that was started, and all
    /// that it started.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn finish(mut self) -> Outcome {
        drop(self.input.take());
        let stdout = read_to_end(self.output.take().expect("piped"));
        let ended = wait(&mut self.child, PATIENCE);
        let (Some(stdout), Some(status)) = (stdout, ended) else {
            let states = states(self.pid());
            panic!("process {} does not end: {states}", self.pid());
        };
        let mut stderr = Vec::new();
        let _ = self.errors.take().expect("piped").read_to_end(&mut stderr);
        Outcome { ending: status.into(), stdout, stderr }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.input.is_some() || self.ended().is_none() {
            kill_group(&self.child);
            let _ = self.child.wait();
        }
    }
}

/// What the threads of a process do, for a message.
fn states(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let line = |path: PathBuf| {
        let text = fs::read_to_string(path.join("status")).unwrap_or_default();
        let of = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or("").replace('\t', " ");
        format!("{}, {}", of("State:"), of("TracerPid:"))
    };
    threads.map(|thread| line(thread.path())).collect::<Vec<_>>().join("; ")
}

/// What can be seen of a process from outside, as far as it should be the same once probes are gone.
#[derive(Clone)]
pub struct Snapshot {
    /// Executable memory, by address; what adjoins is one piece.
    pub code: BTreeMap<u64, Vec<u8>>,
    /// Other mappings of files. (The program itself may change its heap and stacks meanwhile.)
    pub maps: Vec<String>,
    /// Signals handled, ignored and blocked, and who traces it.
    pub status: Vec<String>,
    /// Open descriptors.
    pub descriptors: Vec<String>,
    /// The file of each piece of code, and the offset in it of the piece's first byte.
    files: BTreeMap<u64, (String, u64)>,
}

impl Snapshot {
    /// Takes one of a running process.
    ///
    /// # Panics
    /// If it ended.
    pub fn take(pid: u32) -> Snapshot {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a running process");
        let memory = File::open(format!("/proc/{pid}/mem")).expect("our own process");
        let mut code: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut files = BTreeMap::new();
        let mut last: Option<(u64, u64)> = None;
        for line in maps.lines().filter(|line| line.contains(" r-x")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some((start, end)) = words[0].split_once('-') else { continue };
            let hex = |text: &str| u64::from_str_radix(text, 16).expect("an address");
            let (start, end) = (hex(start), hex(end));
            let mut bytes = vec![0; (end - start) as usize];
            memory.read_exact_at(&mut bytes, start).expect("readable code");
            let first = last.filter(|(_, before)| *before == start).map_or(start, |(first, _)| first);
            code.entry(first).or_default().append(&mut bytes);
            last = Some((first, end));
            if let Some(name) = words.get(5).filter(|name| name.starts_with('/')) {
                let offset = hex(words[2]).saturating_sub(start - first);
                files.entry(first).or_insert((String::from(*name), offset));
            }
        }
        // Pages of code that were changed may be anonymous now, with the same bytes.
        let mut kept: Vec<String> = Vec::new();
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_code = words[1].starts_with("r-x");
            if !is_code && words.get(5).is_some_and(|name| name.starts_with('/')) {
                kept.push(line.to_owned());
            }
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
        let wanted = ["SigBlk:", "SigIgn:", "SigCgt:", "TracerPid:"];
        let status = status.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key)));
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut descriptors: Vec<String> =
            descriptors.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        descriptors.sort();
        Snapshot { code, files, maps: kept, status: status.map(str::to_owned).collect(), descriptors }
    }

    /// Where `later` differs from this, for a message.
    pub fn difference(&self, later: &Snapshot) -> Option<String> {
        let lines = |name: &str, before: &[String], after: &[String]| {
            let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect();
            let (gone, new): (Vec<String>, Vec<String>) = (only(before, after), only(after, before));
            (before != after).then(|| format!("{name}: gone {gone:#?}, new {new:#?}"))
        };
        let byte = || {
            let starts = self.code.keys().copied();
            let pairs = starts.filter_map(|start| Some((start, &self.code[&start], later.code.get(&start)?)));
            pairs.into_iter().find_map(|(start, before, after)| {
                let at = before.iter().zip(after).position(|(a, b)| a != b)?;
                Some(format!("code at {:#x}: {:02x} became {:02x}", start + at as u64, before[at], after[at]))
            })
        };
        let lengths = |snapshot: &Snapshot| -> Vec<String> {
            snapshot.code.iter().map(|(start, bytes)| format!("{start:x} {:x}", bytes.len())).collect()
        };
        lines("maps", &self.maps, &later.maps)
            .or_else(|| lines("code", &lengths(self), &lengths(later)))
            .or_else(|| lines("status", &self.status, &later.status))
            .or_else(|| lines("descriptors", &self.descriptors, &later.descriptors))
            .or_else(byte)
    }

    /// Where the code differs from the files it is mapped from.
    pub fn differs_from_files(&self, pid: u32) -> Option<String> {
        for (start, bytes) in &self.code {
            let Some((name, offset)) = self.files.get(start) else { continue };
            let offset = *offset as usize;
            let file = fs::read(format!("/proc/{pid}/root{name}")).unwrap_or_default();
            let file = &file[offset.min(file.len())..];
            let at = file.iter().zip(bytes).position(|(a, b)| a != b);
            if let Some(at) = at {
                return Some(format!("{name} differs at {:#x}", offset + at));
            }
        }
        None
    }
}
