//! What planning makes of a piece of code: input and expected output in one text file each.
//!
//! `BLESS=1 cargo test -p incise-patch --test filetests` writes what comes out into the files.
//!
//! Above the line `---`: `text ADDRESS` and lines of hexadecimal bytes; `function START END` and `restartable START END`, `copied START END` for what
//! is known about them; `probe ADDRESS counter|code|callback|gate [after|taken|returned|toward ADDRESS]`; `policy forbid|fallback|force`;
//! `engine in-line`; `flags by convention`: none are handed over at calls and returns;
//! `taken START END` for memory that is in use. Numbers are hexadecimal, `#` begins a comment.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use common::FakeSpace;
use incise_isa::Addr;
use incise_isa::native::{Flow, Gpr, GprSet, decode};
use incise_patch::{
    Atomicity, Batch, ByCost, Engine, Facts, Layout, MachineCode, Outcome, Place, Placement, Policy,
    Position, Snippet, TrapPolicy,
};

#[derive(Default)]
struct Case {
    text: Vec<(u64, Vec<u8>)>,
    functions: Vec<Range<Addr>>,
    restartable: Vec<Range<Addr>>,
    copied: Vec<Range<Addr>>,
    taken: Vec<Range<Addr>>,
    probes: Vec<(Place, String)>,
    traps: TrapPolicy,
    /// `in-line` or `by-cost`; out of line otherwise.
    engine: String,
    /// No flags are handed over at calls and returns.
    conventional: bool,
}

impl Facts for Case {
    fn function(&self, at: Addr) -> Option<Range<Addr>> {
        self.functions.iter().find(|range| range.contains(&at)).cloned()
    }
    fn function_before(&self, at: Addr) -> Option<Range<Addr>> {
        self.functions.iter().filter(|range| range.end <= at).max_by_key(|range| range.end).cloned()
    }
    fn begins(&self, at: Addr) -> bool {
        self.functions.iter().any(|function| function.start == at)
    }
    fn entries(&self, range: Range<Addr>) -> Vec<Addr> {
        self.functions.iter().map(|function| function.start).filter(|start| range.contains(start)).collect()
    }
    fn is_restartable(&self, at: Addr) -> bool {
        self.restartable.iter().any(|range| range.contains(&at))
    }
    fn is_copied(&self, at: Addr) -> bool {
        self.copied.iter().any(|range| range.contains(&at))
    }
    fn hands_flags_over(&self, _: Addr) -> bool {
        !self.conventional
    }
}

fn parse(input: &str) -> Case {
    let mut case = Case::default();
    let hex = |word: &str| u64::from_str_radix(word, 16).unwrap_or_else(|_| panic!("not a number: {word}"));
    for line in input.lines() {
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        match words[..] {
            [] => {}
            ["text", at] => case.text.push((hex(at), Vec::new())),
            ["function", start, end] => case.functions.push(Addr(hex(start))..Addr(hex(end))),
            ["restartable", start, end] => case.restartable.push(Addr(hex(start))..Addr(hex(end))),
            ["copied", start, end] => case.copied.push(Addr(hex(start))..Addr(hex(end))),
            ["taken", start, end] => case.taken.push(Addr(hex(start))..Addr(hex(end))),
            ["probe", at, what, ref way @ ..] => {
                let placement = match way {
                    [] => Placement::Before,
                    ["after"] => Placement::After,
                    ["taken"] => Placement::Taken,
                    ["returned"] => Placement::Returned,
                    ["entered"] => Placement::Entered,
                    ["toward", to] => Placement::Toward(Addr(hex(to))),
                    _ => panic!("unknown way {way:?}"),
                };
                case.probes.push((Place { at: Addr(hex(at)), placement }, what.to_owned()));
            }
            ["policy", "forbid"] => case.traps = TrapPolicy::Forbid,
            ["policy", "fallback"] => case.traps = TrapPolicy::Fallback,
            ["policy", "force"] => case.traps = TrapPolicy::Force,
            ["engine", name @ ("in-line" | "by-cost")] => (*name).clone_into(&mut case.engine),
            ["flags", "by", "convention"] => case.conventional = true,
            _ => {
                let (_, bytes) =
                    case.text.last_mut().unwrap_or_else(|| panic!("bytes before `text`: {line}"));
                bytes.extend(words.iter().map(|byte| hex(byte) as u8));
            }
        }
    }
    case
}

fn snippet(engine: &mut Engine, what: &str) -> Snippet {
    match what {
        "counter" => Snippet::Counter(engine.counter()),
        // xor eax, eax
        "code" => Snippet::Code(MachineCode {
            bytes: [0x31, 0xC0].into(),
            clobbers: GprSet::of(&[Gpr::Rax]),
            flags: true,
            stack: false,
        }),
        "callback" => Snippet::Callback {
            entry: Addr(0x7f00_2000_0000),
            at_functions: Addr(0x7f00_2000_1000),
            payload: [0x1111, 0x2222],
        },
        "gate" => Snippet::Gate,
        _ => panic!("unknown snippet {what}"),
    }
}

fn run(case: &Case) -> String {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::default());
    match case.engine.as_str() {
        "in-line" => engine.set_instrumentation(Layout::InLine),
        "by-cost" => engine.set_instrumentation(ByCost),
        _ => {}
    }
    for (at, bytes) in &case.text {
        space.add_text(*at, bytes);
    }
    space.mapped.extend(case.taken.iter().cloned());
    let mut batch = Batch::default();
    for (place, what) in &case.probes {
        let snippet = snippet(&mut engine, what);
        batch.insert(*place, snippet, Position::Last);
    }
    let policy = Policy { atomicity: Atomicity::BestEffort, traps: case.traps };
    let report = engine.commit(&mut space, case, &batch, policy).expect("a best-effort commit");
    let mut out = String::new();
    for entry in &report.entries {
        match &entry.outcome {
            Outcome::Installed(tactic) => writeln!(out, "{} {tactic}", entry.at),
            Outcome::Refused(why) => writeln!(out, "{} refused: {why}", entry.at),
        }
        .expect("a string takes all");
    }
    for (at, bytes) in &case.text {
        let now = space.bytes(*at, bytes.len());
        let mut offset = 0;
        while offset < now.len() {
            let len = bytes[offset..].iter().zip(&now[offset..]).take_while(|(old, new)| old != new).count();
            if len > 0 {
                writeln!(
                    out,
                    "{:#x}: {:02x?} -> {:02x?}",
                    at + offset as u64,
                    &bytes[offset..offset + len],
                    &now[offset..offset + len]
                )
                .expect("a string takes all");
            }
            offset += len.max(1);
        }
    }
    trampolines(case, &space, &mut out);
    out
}

/// Lists the code outside the text, with the traps that lead into it.
fn trampolines(case: &Case, space: &FakeSpace, out: &mut String) {
    let is_text = |at: u64| {
        case.text.iter().any(|(start, _)| (*start & !0xFFF..(*start & !0xFFF) + 0x1000).contains(&at))
    };
    let addresses: Vec<u64> = space.memory.keys().copied().filter(|&at| !is_text(at)).collect();
    for run in addresses.chunk_by(|a, b| a + 1 == *b) {
        let bytes = space.bytes(run[0], run.len());
        let (mut offset, mut branched) = (0, 0);
        while offset < bytes.len() {
            let at = run[0] + offset as u64;
            for landing in space.landings.iter().filter(|landing| landing.landing == Addr(at)) {
                writeln!(out, "{}:", landing.trap).expect("a string takes all");
            }
            match decode(&bytes[offset..], Addr(at)) {
                Ok(insn) => {
                    writeln!(out, "    {at:#x}  {}", insn.text()).expect("a string takes all");
                    offset += insn.len();
                    if let Flow::Branch(to) | Flow::Jump(to) = insn.flow() {
                        // A stub, or what a guard goes to.
                        let end = run[0] + bytes.len() as u64;
                        branched = branched.max(if to.0 < end { to.0 } else { 0 });
                    }
                    if !insn.flow().falls_through()
                        && !is_code_behind(space, run[0] + offset as u64)
                        && branched < run[0] + offset as u64
                    {
                        let rest: Vec<String> = bytes[offset..].iter().map(|b| format!("{b:02x}")).collect();
                        if !rest.is_empty() {
                            writeln!(out, "    {:#x}  bytes {}", run[0] + offset as u64, rest.join(" "))
                                .expect("a string takes all");
                        }
                        break;
                    }
                }
                Err(_) => {
                    writeln!(out, "    {at:#x}  byte {:02x}", bytes[offset]).expect("a string takes all");
                    offset += 1;
                }
            }
        }
    }
}

/// Whether a landing lies at or behind `at`, closely.
fn is_code_behind(space: &FakeSpace, at: u64) -> bool {
    space.landings.iter().any(|landing| (at..at + 64).contains(&landing.landing.0))
}

#[test]
fn plans_are_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = String::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a text file");
        let (input, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let found = run(&parse(input));
        if found == expected {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, format!("{}\n---\n{found}", input.trim_end())).expect("the file can be written");
        } else {
            writeln!(wrong, "== {}\n-- expected\n{expected}-- found\n{found}", path.display())
                .expect("a string");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
