//! Soundness against execution: every instruction that runs lies in a block at a boundary, and every
//! transfer is an edge, unless its function says that it is incomplete.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use incise_cfg::{Cfg, EdgeKind, Options, Parser};
use incise_image::{Image, LinkAddr};

#[path = "support/step.rs"]
mod step;

#[path = "support/modules.rs"]
mod modules;

/// A parsed file, and what it says about every instruction.
struct Judge {
    image: Image,
    cfg: Cfg,
    /// Instructions in blocks, and whether one of them is the last of its block.
    insns: HashMap<u64, bool>,
    file: Vec<u8>,
}

impl Judge {
    fn new(path: &str) -> Option<Judge> {
        let file = std::fs::read(path).ok()?;
        let image = Image::parse(&file).ok()?;
        let cfg = Parser::new(&image, &file).ok()?.parse(&Options { threads: 2, progress: None }).ok()?;
        let mut insns = HashMap::new();
        for block in cfg.blocks() {
            for insn in block.instructions(&image, &file) {
                *insns.entry(insn.addr().0).or_default() |= insn.addr().0 == block.last().0;
            }
        }
        Some(Judge { image, cfg, insns, file })
    }

    /// Whether the functions that hold `at`, or the one that begins before it, say they are incomplete.
    fn excused(&self, at: u64) -> bool {
        let holders: Vec<_> = self.cfg.blocks_over(LinkAddr(at)).collect();
        if !holders.is_empty() {
            return holders.iter().any(|b| b.functions().any(|f| !f.is_complete()));
        }
        let before = self.cfg.functions().filter(|f| f.entry().0 <= at).last();
        before.is_some_and(|f| !f.is_complete())
    }

    /// What is wrong with the transfer from `from`, or `None`.
    fn fault(&self, from: u64, to: u64, same: bool) -> Option<String> {
        let Some(&is_last) = self.insns.get(&from) else {
            return Some(format!("{from:#x} is no boundary of a block"));
        };
        let block_insns = |block: incise_cfg::Block<'_>| {
            block.instructions(&self.image, &self.file).find(|i| i.addr().0 == from).map(|i| i.end().0)
        };
        let blocks: Vec<_> =
            self.cfg.blocks_over(LinkAddr(from)).filter(|b| block_insns(*b).is_some()).collect();
        let inside = |b: &incise_cfg::Block<'_>| b.last().0 != from && same && block_insns(*b) == Some(to);
        let by_edge = |b: &incise_cfg::Block<'_>| {
            b.last().0 == from
                && b.outgoing().any(|e| match e.kind() {
                    EdgeKind::Return => true,
                    EdgeKind::Call | EdgeKind::Indirect => {
                        // An unknown target must at least be outside: calls and tail calls.
                        let open = e.leaves_function() && e.target_addr().is_none();
                        (same && e.target_addr() == Some(LinkAddr(to))) || open
                    }
                    _ => same && e.target_addr() == Some(LinkAddr(to)),
                })
        };
        if blocks.iter().any(|b| inside(b) || by_edge(b)) {
            return None;
        }
        Some(format!("{from:#x} -> {to:#x} is no edge (last of its block: {is_last})"))
    }
}

#[derive(Default)]
struct Tally {
    steps: u64,
    transfers: usize,
    excused: usize,
    faults: Vec<String>,
}

fn judge(program: &[&str], limit: u64) -> Tally {
    let mut pairs: HashSet<(u64, u64)> = HashSet::new();
    let mut modules: Vec<(Range<u64>, u64, String)> = Vec::new();
    let mut unknown: HashSet<u64> = HashSet::new();
    let ran = step::step(program, limit, |pid, from, to| {
        if pairs.insert((from, to)) {
            let known =
                modules.iter().any(|(range, ..)| range.contains(&to)) || unknown.contains(&(to >> 12));
            if !known {
                modules = modules::mapped(pid);
                if !modules.iter().any(|(range, ..)| range.contains(&to)) {
                    unknown.insert(to >> 12);
                }
            }
        }
    })
    .expect("the program runs");
    assert!(matches!(ran.exit, None | Some(0)), "{program:?} failed: {:?}", ran.exit);
    let mut judges: BTreeMap<String, Option<Judge>> = BTreeMap::new();
    let mut tally = Tally { steps: ran.steps, transfers: pairs.len(), ..Tally::default() };
    let find = |at: u64| modules.iter().find(|(range, ..)| range.contains(&at));
    let mut pairs: Vec<_> = pairs.iter().copied().collect();
    pairs.sort_unstable();
    for (from, to) in pairs {
        let Some((_, bias, path)) = find(from) else { continue };
        let judge = judges.entry(path.clone()).or_insert_with(|| Judge::new(path));
        let Some(judge) = judge else { continue };
        let same = find(to).is_some_and(|(_, other, name)| other == bias && name == path);
        let (from, to) = (from.wrapping_sub(*bias), to.wrapping_sub(*bias));
        if let Some(fault) = judge.fault(from, to, same) {
            if judge.excused(from) {
                tally.excused += 1;
            } else {
                tally.faults.push(format!("{path}: {fault}"));
            }
        }
    }
    tally
}

/// Instructions stepped through; `INCISE_LONG=1` takes them all.
fn limit() -> u64 {
    if std::env::var_os("INCISE_LONG").is_some_and(|value| value == "1") { u64::MAX } else { 150_000 }
}

fn check(program: &[&str]) {
    if !std::path::Path::new(program[0]).exists() {
        println!("skipped: {} is not installed", program[0]);
        return;
    }
    let tally = judge(program, limit());
    println!(
        "{}: {} steps, {} transfers, {} in incomplete functions, {} faults",
        program[0],
        tally.steps,
        tally.transfers,
        tally.excused,
        tally.faults.len()
    );
    assert!(tally.transfers > 1000, "hardly anything ran");
    assert!(tally.faults.is_empty(), "{:#?}", &tally.faults[..tally.faults.len().min(40)]);
}

#[test]
fn bash() {
    let script = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); s=${s}x; case $s in *xxx*) t=$s;; esac; done; echo ${#s} $t";
    check(&["/usr/bin/bash", "-c", script]);
}

#[test]
fn python() {
    let script =
        "import re,json\nd={i:str(i) for i in range(50)}\nprint(json.dumps(d), re.findall('a+b', 'aabab'*9))";
    check(&["/usr/bin/python3.11", "-S", "-E", "-c", script]);
}

#[test]
fn sqlite() {
    let script = "create table t(a,b); insert into t values(1,2),(3,4),(5,'x'); select sum(a), group_concat(b) from t where a>1 order by b;";
    check(&["/usr/bin/sqlite3", ":memory:", script]);
}

#[test]
fn xz() {
    check(&["/usr/bin/xz", "-c", "-1", "/usr/bin/true"]);
}

#[test]
fn perl() {
    check(&[
        "/usr/bin/perl",
        "-e",
        r#"my %h; for (1..50) { $h{$_ % 7} .= "x$_"; } print join(",", map { "$_=$h{$_}" } sort keys %h); "aab" =~ /(a+)b/ and print $1; printf("%5.2f", 3.14159)"#,
    ]);
}

#[test]
fn git() {
    check(&["/usr/bin/git", "hash-object", "/usr/bin/true"]);
}

#[test]
fn openssl() {
    check(&["/usr/bin/openssl", "dgst", "-sha256", "/usr/bin/true"]);
}

#[test]
fn compiler() {
    let compiler = "/usr/lib/gcc/x86_64-linux-gnu/12/cc1";
    check(&[compiler, "-quiet", "-O2", "/dev/null", "-o", "/dev/null"]);
}

#[test]
fn exceptions_and_tables_of_a_debugger() {
    check(&["/usr/bin/gdb", "--version"]);
}
