//! Liveness against the processor: registers and flags that are said to be dead get random values at
//! random instructions of real runs; what the programs print and return must not change.

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::ops::Range;

use incise_cfg::{LiveSet, Liveness, Options, Parser};
use incise_image::Image;
use incise_isa::native::Gpr;

#[path = "support/build.rs"]
mod build;
#[path = "support/modules.rs"]
mod modules;
#[path = "support/step.rs"]
mod step;

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

/// Runs the program; with a seed, clobbers one in `one_in` points. Returns the output and the exit code.
fn run(program: &[&str], seed: Option<u64>, one_in: u64) -> (Vec<u8>, Option<i32>, Clobbered) {
    let path = build::folder().join(format!("output-{:?}", std::thread::current().id()));
    let output = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let mut output = output.expect("a file for output");
    let mut clobbered = Clobbered::default();
    let mut found: Vec<(Range<u64>, u64, String)> = Vec::new();
    let mut parsed: HashMap<String, Option<Module>> = HashMap::new();
    let mut state = seed.unwrap_or(1);
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let file = output.try_clone().expect("a second descriptor");
    let ran = step::step_into(program, 4_000_000, file, |pid, _, at| {
        if seed.is_none() || random() % one_in != 0 {
            return;
        }
        if !found.iter().any(|(range, ..)| range.contains(&at)) {
            found = modules::mapped(pid);
        }
        let Some((_, bias, path)) = found.iter().find(|(range, ..)| range.contains(&at)) else { return };
        let Some(module) = parsed.entry(path.clone()).or_insert_with(|| Module::open(path)) else { return };
        let live = module.live_at(at.wrapping_sub(*bias));
        clobber(pid, live, &mut random, &mut clobbered);
    })
    .expect("the program runs");
    let mut text = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut text)).expect("its output");
    (text, ran.exit, clobbered)
}

fn clobber(pid: i32, live: LiveSet, random: &mut impl FnMut() -> u64, clobbered: &mut Clobbered) {
    let mut registers = step::registers(pid);
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
