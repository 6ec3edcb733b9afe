//! What the tests of the own process share: a process for each test, and a look at the state of a process.
//!
//! # Safety
//! Raw memory is read only where /proc/self/maps shows readable code.

#![allow(unsafe_code, reason = "reads code by address, waits for processes")]
#![allow(dead_code, reason = "each test program uses its part")]

pub mod answering;
pub mod arbitrary;
pub mod machine;
pub mod shapes;

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use incise::Addr;
use incise::isa::native::{Insn, decode};

/// Runs `body` in a process of its own: this test program again, with nothing but the test `name` in it.
///
/// Tests that patch shared code or change the state of the process need it. They also run one after the
/// other: each wants the processors for its threads.
pub fn isolated(name: &str, patience: Duration, body: impl FnOnce()) {
    const MARK: &str = "INCISE_ISOLATED_TEST";
    if env::var(MARK).is_ok_and(|inside| inside == name) {
        return body();
    }
    let lock = File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/own-process.lock")).expect("a lock file");
    // SAFETY: locks the file, until it is closed.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let program = env::current_exe().expect("the path of the test program");
    let mut child = Command::new(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process for the test");
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let text = |pipe: Option<&mut dyn Read>| {
        let mut bytes = Vec::new();
        pipe.map(|pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (status, out, err) = std::thread::scope(|scope| {
        let out = scope.spawn(|| text(out.as_mut().map(|pipe| pipe as &mut dyn Read)));
        let err = scope.spawn(|| text(err.as_mut().map(|pipe| pipe as &mut dyn Read)));
        let end = Instant::now() + patience;
        let status = loop {
            match child.try_wait().expect("our own child") {
                Some(status) => break Some(status),
                None if Instant::now() > end => {
                    child.kill().expect("our own child");
                    child.wait().expect("our own child");
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        (status, out.join().expect("no panic"), err.join().expect("no panic"))
    });
    let Some(status) = status else {
        panic!("{name} did not end within {patience:?}\n{out}\n{err}");
    };
    let ran = out.contains("1 passed");
    assert!(status.success() && ran, "{name}: {status} (signal {:?})\n{out}\n{err}", status.signal());
    for line in out.lines().chain(err.lines()).filter(|line| line.starts_with("# ")) {
        println!("{line}");
    }
}

/// How long a storm lasts.
pub fn storm_time() -> Duration {
    Duration::from_secs(if env::var_os("INCISE_LONG").is_some() { 60 } else { 5 })
}

/// A sequence of numbers that looks random.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Where executable memory of a file is mapped.
struct Text {
    range: Range<u64>,
    offset: u64,
    path: String,
}

fn texts() -> Vec<Text> {
    let map = fs::read_to_string("/proc/self/maps").expect("the memory map");
    let mut texts: Vec<Text> = Vec::new();
    for line in map.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(range), Some(permissions)) = (fields.first(), fields.get(1)) else { continue };
        let Some(path) = fields.get(5).filter(|path| path.starts_with('/')) else { continue };
        let (start, end) = range.split_once('-').expect("a range");
        let number = |hex: &str| u64::from_str_radix(hex, 16).expect("a number");
        if permissions.contains('x') {
            texts.push(Text {
                range: number(start)..number(end),
                offset: number(fields[2]),
                path: (*path).to_owned(),
            });
        }
    }
    texts
}

/// The code of every file mapped now, as it is in the files: what memory must hold when all probes are out.
/// To be made before the first probe, since a swapped page is no mapping of the file any more.
pub struct Pristine {
    texts: Vec<(Range<u64>, String, Vec<u8>)>,
}

impl Pristine {
    pub fn new() -> Pristine {
        let texts = texts().into_iter().map(|text| {
            let mut bytes = vec![0; (text.range.end - text.range.start) as usize];
            let file = File::open(&text.path).expect("a mapped file");
            let mut len = 0;
            while len < bytes.len() {
                match file.read_at(&mut bytes[len..], text.offset + len as u64).expect("a mapped file") {
                    0 => break,
                    more => len += more,
                }
            }
            bytes.truncate(len);
            (text.range, text.path, bytes)
        });
        let mut pristine = Pristine { texts: texts.collect() };
        // The kernel's code has no file.
        let map = fs::read_to_string("/proc/self/maps").expect("the memory map");
        if let Some(line) = map.lines().find(|line| line.ends_with("[vdso]")) {
            let (start, end) =
                line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
            let number = |hex: &str| u64::from_str_radix(hex, 16).expect("a number");
            let range = number(start)..number(end);
            // SAFETY: mapped readable.
            let bytes = unsafe {
                std::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize)
            };
            pristine.texts.push((range, "[vdso]".to_owned(), bytes.to_vec()));
        }
        assert!(pristine.texts.len() >= 2, "the program and the C library at least");
        pristine.check();
        pristine
    }

    /// All code as it is now.
    pub fn now(&self) -> Vec<Vec<u8>> {
        let bytes = |(range, _, bytes): &(Range<u64>, String, Vec<u8>)| {
            // SAFETY: mapped readable for the life of the process.
            unsafe { std::slice::from_raw_parts(range.start as *const u8, bytes.len()) }.to_vec()
        };
        self.texts.iter().map(bytes).collect()
    }

    /// Asserts that all code is what the files say, byte by byte.
    pub fn check(&self) {
        for (range, path, bytes) in &self.texts {
            // SAFETY: mapped readable for the life of the process.
            let now = unsafe { std::slice::from_raw_parts(range.start as *const u8, bytes.len()) };
            let wrong: Vec<u64> =
                (0..bytes.len()).filter(|&i| now[i] != bytes[i]).map(|i| range.start + i as u64).collect();
            assert!(
                wrong.is_empty(),
                "{path}: {} bytes differ, at {:x?}",
                wrong.len(),
                &wrong[..wrong.len().min(20)]
            );
        }
    }
}

/// What a process uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    pub descriptors: usize,
    pub mappings: usize,
    /// Resident memory, in bytes.
    pub resident: u64,
}

pub fn usage() -> Usage {
    let statm = fs::read_to_string("/proc/self/statm").expect("the size of the process");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    Usage {
        descriptors: fs::read_dir("/proc/self/fd").expect("the descriptors").count(),
        mappings: fs::read_to_string("/proc/self/maps").expect("the memory map").lines().count(),
        resident: pages * 4096,
    }
}

/// The instructions from `range.start` on, one behind the other, up to the end of the function.
pub fn instructions(range: &Range<Addr>) -> Vec<Insn> {
    let len = range.end.offset_from(range.start) as usize;
    // SAFETY: a function of this process.
    let code = unsafe { std::slice::from_raw_parts(range.start.0 as *const u8, len) };
    let mut insns = Vec::new();
    let mut offset = 0;
    while offset < len {
        let Ok(insn) = decode(&code[offset..], range.start + offset as u64) else { break };
        offset += insn.len();
        insns.push(insn);
    }
    insns
}

/// The function at `at`, as the symbols of its file say.
pub fn function(program: &incise::Program, at: usize) -> Range<Addr> {
    use incise_patch::Facts;
    let range = program.function(Addr(at as u64)).expect("a function with a size");
    assert_eq!(range.start, Addr(at as u64), "the address is that of a function's first instruction");
    range
}
