//! Liveness against the processor: registers and flags that are said to be dead get random values at
//! random instructions of real runs; what the programs print and return must not change.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Seek};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use incise_cfg::{LiveSet, Liveness, Options, Parser};
use incise_image::Image;
use incise_isa::native::Gpr;

#[path = "support/build.rs"]
mod build;
#[path = "support/modules.rs"]
mod modules;
#[path = "support/sample.rs"]
mod sample;
#[path = "support/step.rs"]
mod step;

use sample::{Ended, Plan, sample_into};

struct Module {
    /// What is live before each instruction.
    live: HashMap<u64, LiveSet>,
}

impl Module {
    fn open(path: &str) -> Option<Module> {
        let file = std::fs::read(path).ok()?;
        let image = Image::parse(&file).ok()?;
        let cfg = Parser::new(&image, &file).ok()?.parse(&Options { threads: 2, progress: None }).ok()?;
        let liveness = Liveness::of(&cfg, &image, &file, 2);
        let mut live: HashMap<u64, LiveSet> = HashMap::new();
        for (at, set) in cfg.blocks().flat_map(|block| liveness.instructions(block)) {
            live.insert(at.0, set);
        }
        Some(Module { live })
    }

    fn live_at(&self, at: u64) -> LiveSet {
        self.live.get(&at).copied().unwrap_or(LiveSet::ALL)
    }
}

#[derive(Default, Debug)]
struct Clobbered {
    points: u64,
    registers: u64,
    flags: u64,
    vectors: u64,
}

/// What of a program's files is dead where.
#[derive(Default)]
struct Modules {
    parsed: HashMap<String, Option<Module>>,
    found: Vec<(Range<u64>, u64, String)>,
    /// Addresses that no file has.
    nowhere: Vec<u64>,
}

impl Modules {
    /// What is live at an address of the process, and where that is.
    fn live_at(&mut self, pid: i32, at: u64) -> Option<(LiveSet, String)> {
        let page = at & !0xfff;
        if self.nowhere.contains(&page) {
            return None;
        }
        if !self.found.iter().any(|(range, ..)| range.contains(&at)) {
            self.found = modules::mapped(pid);
        }
        let Some((_, bias, path)) = self.found.iter().find(|(range, ..)| range.contains(&at)) else {
            self.nowhere.push(page);
            return None;
        };
        let module = self.parsed.entry(path.clone()).or_insert_with(|| Module::open(path)).as_ref()?;
        let link = at.wrapping_sub(*bias);
        Some((module.live_at(link), format!("{path} {link:#x}")))
    }
}

/// Random numbers (xorshift64, Marsaglia 2003).
fn random(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A file for output, and what is in it at last.
fn output() -> std::fs::File {
    let path = build::folder().join(format!("output-{:?}", std::thread::current().id()));
    let output = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    output.expect("a file for output")
}

fn contents(mut output: std::fs::File) -> Vec<u8> {
    let mut text = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut text)).expect("its output");
    text
}

/// Runs the program step by step; with a seed, clobbers one in `one_in` points. Returns the output and the exit code.
fn run(program: &[&str], seed: Option<u64>, one_in: u64) -> (Vec<u8>, Option<i32>, Clobbered) {
    let output = output();
    let mut clobbered = Clobbered::default();
    let mut modules = Modules::default();
    let mut random = random(seed.unwrap_or(1));
    let file = output.try_clone().expect("a second descriptor");
    let ran = step::step_into(program, 4_000_000, file, |pid, _, at| {
        if seed.is_none() || !random().is_multiple_of(one_in) {
            return;
        }
        if let Some((live, _)) = modules.live_at(pid, at) {
            clobber(pid, live, &mut random, &mut clobbered);
        }
    })
    .expect("the program runs");
    (contents(output), ran.exit, clobbered)
}

/// Runs the program at full speed but for some stretches, in which every second instruction is preceded by clobbering.
/// What it prints has to be what it prints otherwise, and it has to end in time.
fn sampled(program: &[&str], runs: u64) {
    sampled_with(&mut Modules::default(), program, runs);
}

fn sampled_with(modules: &mut Modules, program: &[&str], runs: u64) {
    const STEPS: u64 = 1500;
    let plain = output();
    let began = Instant::now();
    let none = Plan { pauses: Vec::new(), steps: 0 };
    let ended = sample_into(program, &plain, &none, |_, _| ());
    let takes = began.elapsed().max(Duration::from_millis(1));
    let expected = contents(plain);
    assert_eq!(ended, Ended::Exited(0), "{program:?}: {}", String::from_utf8_lossy(&expected));
    let mut clobbered = Clobbered::default();
    for seed in 1..=runs {
        let mut random = random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut pause = || takes.mul_f64((random() % 1000) as f64 / 2000.0);
        // Some runs begin with the dynamic linker, so that short ones are met too.
        let first = if seed % 4 == 1 { Duration::ZERO } else { pause() };
        let plan = Plan { pauses: vec![first, pause() / 2], steps: STEPS };
        let mut last: VecDeque<String> = VecDeque::new();
        let output = output();
        let ended = sample_into(program, &output, &plan, |pid, at| {
            if !random().is_multiple_of(2) {
                return;
            }
            let Some((live, place)) = modules.live_at(pid, at) else { return };
            last.push_back(format!("{place}: live {:?}, flags {:#x}", live.gprs, live.flags));
            if last.len() > 12 {
                last.pop_front();
            }
            clobber(pid, live, &mut random, &mut clobbered);
        });
        let found = contents(output);
        let same = found == expected && ended == Ended::Exited(0);
        let tail = String::from_utf8_lossy(&found[found.len().saturating_sub(600)..]).into_owned();
        assert!(
            same,
            "{program:?}, seed {seed}: {ended:?}, {} bytes, ends {tail}\nclobbered {last:#?}",
            found.len()
        );
    }
    println!("{}: {clobbered:?}", program[0]);
    assert!(clobbered.registers + clobbered.flags > clobbered.points, "too little is dead: {clobbered:?}");
}

fn clobber(pid: i32, live: LiveSet, random: &mut impl FnMut() -> u64, clobbered: &mut Clobbered) {
    let mut registers = step::registers(pid);
    // A system call that a stop interrupted is made again, with the registers as they are (ERESTARTSYS and its like).
    if registers.orig_rax != u64::MAX && (-516..=-512).contains(&(registers.rax as i64)) {
        return;
    }
    clobbered.points += 1;
    for gpr in live.gprs.complement().iter() {
        let slot = match gpr {
            Gpr::Rax => &mut registers.rax,
            Gpr::Rcx => &mut registers.rcx,
            Gpr::Rdx => &mut registers.rdx,
            Gpr::Rbx => &mut registers.rbx,
            Gpr::Rbp => &mut registers.rbp,
            Gpr::Rsi => &mut registers.rsi,
            Gpr::Rdi => &mut registers.rdi,
            Gpr::R8 => &mut registers.r8,
            Gpr::R9 => &mut registers.r9,
            Gpr::R10 => &mut registers.r10,
            Gpr::R11 => &mut registers.r11,
            Gpr::R12 => &mut registers.r12,
            Gpr::R13 => &mut registers.r13,
            Gpr::R14 => &mut registers.r14,
            Gpr::R15 => &mut registers.r15,
            Gpr::Rsp => continue,
        };
        *slot = random();
        clobbered.registers += 1;
    }
    let dead = 0x8d5 & !live.flags;
    registers.eflags ^= random() & dead;
    clobbered.flags += u64::from(dead.count_ones());
    step::set_registers(pid, &registers);
    if live.vectors & 0xffff != 0xffff {
        step::change_vectors(pid, |vectors| {
            for (number, vector) in vectors.iter_mut().enumerate().filter(|(n, _)| live.vectors & 1 << n == 0)
            {
                *vector = [random() as u32, random() as u32, random() as u32, number as u32];
                clobbered.vectors += 1;
            }
        });
    }
}

fn check(program: &[&str], one_in: u64) {
    let (expected, exit, _) = run(program, None, one_in);
    assert_eq!(exit, Some(0), "{program:?} runs");
    for seed in [0x9e37_79b9, 0x1234_5678_9abc] {
        let (output, exit, clobbered) = run(program, Some(seed), one_in);
        println!("{}: {clobbered:?}", program[0]);
        assert!(clobbered.registers > clobbered.points, "too little is dead: {clobbered:?}");
        let (output, expected) = (String::from_utf8_lossy(&output), String::from_utf8_lossy(&expected));
        assert_eq!((output, exit), (expected, Some(0)), "{program:?} with seed {seed:#x}");
    }
}

fn compiled(source: &str, level: &str) {
    let name = format!("clobber-{source}{level}");
    let Some(program) = build::compile(source, &name, &[level]) else { return };
    check(&[program.to_str().expect("a plain path")], 5);
}

#[test]
fn c_without_optimization() {
    compiled("shapes.c", "-O0");
}

#[test]
fn c_optimized() {
    compiled("shapes.c", "-O2");
}

/// A program that may be missing: then the test is skipped, and says so.
fn need(path: &str) -> bool {
    let there = Path::new(path).exists();
    if !there {
        println!("skipped: {path} is not there");
    }
    there
}

#[test]
fn cxx_with_exceptions() {
    for level in ["-O0", "-O2"] {
        let Some(program) = build::compile("objects.cc", &format!("clobber-objects{level}"), &[level]) else {
            return;
        };
        sampled(&[program.to_str().expect("a plain path")], 20);
    }
}

#[test]
fn rust() {
    let output = build::folder().join("clobber-rust");
    let source = build::folder().join("clobber.rs");
    std::fs::write(&source, RUST).expect("a new file");
    let compiled = Command::new("rustc").args(["-O", "-o"]).arg(&output).arg(&source).status();
    let Ok(status) = compiled else {
        println!("skipped: there is no rustc");
        return;
    };
    assert!(status.success(), "rustc failed");
    sampled(&[output.to_str().expect("a plain path")], 20);
}

/// Collections, formatting, threads, a panic that is caught.
const RUST: &str = r#"
use std::collections::BTreeMap;
fn main() {
    let mut words: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for i in 0..3000u64 {
        words.entry(format!("{:x}", i * i % 97)).or_default().push(i as f64 / 7.0);
    }
    let sums: Vec<_> = words.iter().map(|(k, v)| (k, v.iter().sum::<f64>())).collect();
    let threads: Vec<_> = (0..3).map(|n| std::thread::spawn(move || (0..50_000u64).fold(n, |a, b| a ^ b * 31))).collect();
    let all: Vec<u64> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    std::panic::set_hook(Box::new(|_| ()));
    let caught = std::panic::catch_unwind(|| { let v: Vec<u8> = Vec::new(); v[sums_len()] });
    println!("{:?} {:?} {}", &sums[..5], all, caught.is_err());
}
fn sums_len() -> usize { std::env::args().count() }
"#;

#[test]
fn go() {
    let output = build::folder().join("clobber-go");
    let source = build::folder().join("clobber.go");
    std::fs::write(&source, GO).expect("a new file");
    let mut compiler = Command::new("go");
    compiler.env("GO111MODULE", "off").env("GOCACHE", build::folder().join("gocache"));
    let Ok(status) = compiler.args(["build", "-o"]).arg(&output).arg(&source).status() else {
        println!("skipped: there is no go");
        return;
    };
    assert!(status.success(), "go build failed");
    sampled(&[output.to_str().expect("a plain path")], 20);
}

/// Interfaces, maps, a goroutine, a fault that becomes a panic and is recovered from.
const GO: &str = r#"
package main

import (
	"fmt"
	"sort"
	"strings"
)

type shape interface{ area() int }
type square struct{ a int }
type line struct{}

func (s square) area() int { return s.a * s.a }
func (line) area() int     { return 0 }

func main() {
	words := map[string]int{}
	for i := 0; i < 20000; i++ {
		var s shape = line{}
		if i%3 != 0 {
			s = square{i}
		}
		words[fmt.Sprintf("%x", s.area()%97)]++
	}
	keys := []string{}
	for k := range words {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	done := make(chan int)
	go func() { done <- len(strings.Join(keys, ",")) }()
	fmt.Println(<-done, len(keys), words[keys[0]])
	defer func() { fmt.Println(recover()) }()
	var p *square
	fmt.Println(p.a)
}
"#;

#[test]
fn a_compiler() {
    let Ok(found) = Command::new("gcc").arg("-print-prog-name=cc1").output() else {
        println!("skipped: there is no gcc");
        return;
    };
    let compiler = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    // The driver knows where headers are, the compiler proper does not.
    let source = build::compile("shapes.c", "clobber-shapes.i", &["-E"]);
    if let Some(source) = source.filter(|_| need(&compiler)) {
        let source = source.to_str().expect("a plain path");
        sampled(&[&compiler, "-quiet", "-fpreprocessed", "-O2", source, "-o", "-"], 12);
    }
}

#[test]
fn cryptography() {
    if !need("/usr/bin/openssl") {
        return;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/shapes.c");
    let mut modules = Modules::default();
    for digest in ["-sha256", "-sha3-256", "-blake2b512"] {
        sampled_with(&mut modules, &["/usr/bin/openssl", "dgst", digest, source], 8);
    }
    let cipher = ["enc", "-aes-256-cbc", "-pbkdf2", "-nosalt", "-k", "x", "-a", "-in", source];
    sampled_with(&mut modules, &[&["/usr/bin/openssl"][..], &cipher].concat(), 12);
}

#[test]
fn an_interpreter() {
    if need("/usr/bin/python3") {
        let program = "import re, json\nd = {str(i): [i * 0.5, hex(i)] for i in range(2000)}\n\
            try:\n  d['x']\nexcept KeyError as e: print(e)\n\
            print(len(json.dumps(d)), re.findall(r'\\d+', json.dumps(d))[-3:], sum(v[0] for v in d.values()))";
        sampled(&["/usr/bin/python3", "-I", "-c", program], 25);
    }
}

#[test]
fn a_database() {
    if need("/usr/bin/sqlite3") {
        let statements = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)
            select count(*), sum(i), max(hex(i * 7919)), group_concat(i % 7) from n where hex(i) like '%3%';";
        sampled(&["/usr/bin/sqlite3", ":memory:", statements], 25);
    }
}
