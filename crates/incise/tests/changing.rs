//! Functions replaced, calls sent elsewhere and left out, graphs changed, in another process, in this one and in files; and all
//! of it taken back.

mod support;

use std::path::Path;
use std::process::Command;

use incise::changing::Graph;
use incise::image::LinkAddr;
use incise::space::AddressSpace;
use incise::space::file::Output;
use incise::space::remote::{ProcessId, Tracer};
use incise::{Addr, Outcome, Point, PointKind, Position, Query, Refusal, Session, TrapPolicy, changing};
use incise_cfg::{Block, EdgeKind};
use support::answering::Answering;

const SOURCE: &str = r#"
__attribute__((noinline)) double scale(long n, double by) { return n * by; }
__attribute__((noinline)) double add(long n, double by) { return n + by; }
__attribute__((noinline)) long many(long a, long b, long c, long d, long e, long f, long g) {
    __asm__ volatile("" ::: "memory");
    return a + b + c + d + e + f + 10 * g;
}
__attribute__((noinline)) long other(long a, long b, long c, long d, long e, long f, long g) {
    __asm__ volatile("" ::: "memory");
    return 1000 + a + g;
}
__attribute__((noinline)) long twice(long n) { return scale(n, 2.0) + scale(n, 0.5); }
long answer(long n) {
    switch (n) {
    case 1: return twice(8);
    case 2: return many(1, 2, 3, 4, 5, 6, 7);
    default: return 0;
    }
}
"#;

const BRANCHES: &str = r#"
__attribute__((noinline)) long size(long n) {
    long size = 1;
    if (n > 10) __asm__ volatile("addq $100, %0" : "+r"(size));
    __asm__ volatile("addq $10, %0" : "+r"(size));
    return size;
}
long answer(long n) { return size(n); }
"#;

#[test]
fn functions_and_calls_of_another_program_are_changed_and_changed_back() {
    let mut target = Answering::start(SOURCE);
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let entry = |name: &str| session.find(Query::functions(name)).expect("the function").remove(0);
    let calls = |name: &str| -> Vec<Point> {
        session.find(Query::functions(name).kind(PointKind::BeforeCall)).expect("calls")
    };
    for traps in [TrapPolicy::Fallback, TrapPolicy::Force] {
        assert_eq!((target.ask(&mut tracer, 1), target.ask(&mut tracer, 2)), (20, 91));
        let mut batch = session.batch().traps(traps);
        let scale = batch.push_back(&entry("scale"), changing::replace_by(entry("add").addr));
        batch.push_back(&entry("many"), changing::replace_by(entry("other").addr));
        batch.commit().expect("commit");
        assert_eq!((target.ask(&mut tracer, 1), target.ask(&mut tracer, 2)), (18, 1008));
        let mut batch = session.batch().traps(traps);
        batch.remove(scale);
        batch.commit().expect("commit");
        assert_eq!((target.ask(&mut tracer, 1), target.ask(&mut tracer, 2)), (20, 1008));
        session.remove_all().expect("removal");
        // The second call of two goes elsewhere, then nowhere.
        let second = calls("twice")[1].clone();
        let mut batch = session.batch().traps(traps);
        batch.push_back(&second, changing::call_instead(entry("add").addr));
        batch.commit().expect("commit");
        assert_eq!(target.ask(&mut tracer, 1), 24);
        session.remove_all().expect("removal");
        let mut batch = session.batch().traps(traps);
        batch.push_back(&calls("answer")[0], changing::leave_out_call());
        let wrong = batch.push_back(&entry("scale"), changing::leave_out_call());
        let report = batch.best_effort().commit().expect("commit");
        let refused = report.entries.iter().find(|entry| entry.instance == wrong).expect("an entry");
        assert!(matches!(refused.outcome, Outcome::Refused(Refusal::Unfit { .. })), "{:?}", refused.outcome);
        assert_ne!(target.ask(&mut tracer, 1) + target.ask(&mut tracer, 2), 111, "one of them is not called");
        session.remove_all().expect("removal");
    }
    assert_eq!((target.ask(&mut tracer, 1), target.ask(&mut tracer, 2)), (20, 91));
    tracer.detach(pid).expect("detached");
    target.end();
}

#[inline(never)]
extern "C" fn inner(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

extern "C" fn replacement(n: u64) -> u64 {
    n * 100
}

#[test]
fn counters_before_a_replacement_count_and_those_behind_do_not() {
    let session = Session::own().expect("a session");
    let entry = Addr(inner as *const () as u64);
    let (before, behind) = (session.counter("before"), session.counter("behind"));
    let mut batch = session.batch();
    batch.insert(entry, before.increment(), Position::Last);
    batch.insert(entry, changing::replace_by(Addr(replacement as *const () as u64)), Position::Last);
    batch.insert(entry, behind.increment(), Position::Last);
    batch.commit().expect("commit");
    assert_eq!((inner(3), inner(4)), (300, 400));
    assert_eq!((before.read(), behind.read()), (2, 0));
    session.remove_all().expect("removal");
    assert_eq!(inner(3), 4);
}

/// The block of `size` that adds 100, and the edge that decides for the other way.
fn parts<S: AddressSpace>(graph: &Graph<S>, file: &[u8]) -> (LinkAddr, LinkAddr, incise_cfg::EdgeId) {
    let image = incise::image::Image::parse(file).expect("a program");
    let adds =
        |block: &Block<'_>| block.instructions(&image, file).any(|insn| insn.bytes().last() == Some(&100));
    let block = graph.cfg().blocks().find(adds).expect("the block that adds 100");
    let decides = |kind: EdgeKind| matches!(kind, EdgeKind::Taken | EdgeKind::NotTaken);
    let mut edges = graph.cfg().edges().filter(|edge| decides(edge.kind()));
    let around = edges.find(|edge| edge.target_addr() != Some(block.start())).expect("the way around it");
    let behind = around.target_addr().expect("an address");
    (block.start(), behind, around.id())
}

#[test]
fn the_graph_of_a_function_of_another_program_is_changed_and_changed_back() {
    let mut target = Answering::start(BRANCHES);
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let file = std::fs::read(format!("/proc/{}/exe", target.pid())).expect("the program");
    let entry = session.find(Query::functions("size")).expect("the function").remove(0).addr;
    let graph = || session.graph(entry).expect("a graph");
    let mut both = |tracer: &mut Tracer| (target.ask(tracer, 5), target.ask(tracer, 50));
    assert_eq!(both(&mut tracer), (11, 111));

    // The way around leads through.
    let mut changed = graph();
    let (adds, behind, around) = parts(&changed, &file);
    changed.redirect(around, adds).expect("an edge");
    assert_eq!(changed.cfg().edge(around).and_then(|edge| edge.target_addr()), Some(adds));
    let change = changed.commit().expect("commit");
    assert_eq!(both(&mut tracer), (111, 111));
    change.revert().expect("reverted");
    assert_eq!(both(&mut tracer), (11, 111));

    // On its way around it runs what is put there, also where that way leads through.
    for (redirected, expected) in [(false, (43, 111)), (true, (143, 111))] {
        let mut changed = graph();
        changed.insert_on(around, changing::code([0x48, 0x83, 0xC0, 0x20])).expect("an edge"); // add rax, 32
        if redirected {
            changed.redirect(around, adds).expect("an edge");
        }
        let change = changed.commit().expect("commit");
        assert_eq!(both(&mut tracer), expected);
        change.revert().expect("reverted");
        assert_eq!(both(&mut tracer), (11, 111));
    }

    // What adds 100 is taken out, and 7 are added where the function is left.
    let mut changed = graph();
    let block = changed.cfg().block_at(adds).expect("a block").range();
    assert_eq!(block.end, behind);
    changed.remove(block).expect("a block");
    assert!(changed.cfg().block_at(adds).is_none());
    let exit = changed.function().expect("the function").exits().next().expect("an exit").last();
    changed.insert(exit, changing::code([0x48, 0x83, 0xC0, 0x07])).expect("an instruction"); // add rax, 7
    let change = changed.commit().expect("commit");
    assert_eq!(both(&mut tracer), (18, 18));
    change.revert().expect("reverted");
    assert_eq!(both(&mut tracer), (11, 111));
    assert!(changed_nowhere(graph(), exit));
    tracer.detach(pid).expect("detached");
    target.end();
}

/// Whether a graph refuses what it does not have.
fn changed_nowhere<S: AddressSpace>(mut graph: Graph<S>, exit: LinkAddr) -> bool {
    let returns = graph.cfg().edges().find(|edge| edge.kind() == EdgeKind::Return).expect("a return").id();
    let inside = LinkAddr(graph.function().expect("the function").entry().0 + 1);
    graph.redirect(returns, exit).is_err()
        && graph.split(inside).is_err()
        && graph.remove(inside..exit).is_err()
}

#[inline(never)]
extern "C" fn clamped(n: u64) -> u64 {
    if std::hint::black_box(n) > 100 {
        return std::hint::black_box(100);
    }
    n
}

#[test]
fn the_graph_of_a_function_of_this_program_is_changed_and_changed_back() {
    let session = Session::own().expect("a session");
    let mut graph = session.graph(Addr(clamped as *const () as u64)).expect("a graph");
    let taken = graph.cfg().edges().find(|edge| edge.kind() == EdgeKind::Taken).expect("a branch");
    let (taken, behind) = (taken.id(), taken.source().end());
    graph.redirect(taken, behind).expect("an edge");
    let change = graph.commit().expect("commit");
    let now = (clamped(7), clamped(700));
    assert!(now == (7, 700) || now == (100, 100), "{now:?}");
    change.revert().expect("reverted");
    assert_eq!((clamped(7), clamped(700)), (7, 100));
}

/// Whether a shell takes a name that begins with a digit.
fn takes_any_name(bash: &Path) -> Option<bool> {
    let run = |line: &str| Command::new(bash).args(["-c", line]).output().ok();
    let good = run("export good=5; echo $good")?;
    let bad = run("export 1bad")?;
    (good.stdout == b"5\n").then_some(bad.status.success())
}

#[test]
fn an_edge_of_an_installed_shell_is_redirected_in_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bash, out) = (Path::new("/bin/bash"), folder.path().join("bash"));
    let session = Session::open(bash).expect("bash");
    let Some(entry) =
        session.find(Query::functions("legal_identifier")).ok().and_then(|found| found.first().cloned())
    else {
        return println!("skipped: this bash does not export legal_identifier");
    };
    assert_eq!(takes_any_name(bash), Some(false));
    // One of its decisions keeps names from beginning with a digit.
    let decisions = |graph: &Graph<_>| -> Vec<(incise_cfg::EdgeId, LinkAddr)> {
        let edges =
            graph.cfg().edges().filter(|edge| matches!(edge.kind(), EdgeKind::Taken | EdgeKind::NotTaken));
        let other = |edge: incise_cfg::Edge<'_>| {
            let mut others = edge.source().outgoing().filter(|other| other.id() != edge.id());
            Some((edge.id(), others.next()?.target_addr()?))
        };
        edges.filter_map(other).collect()
    };
    let all = decisions(&session.graph(entry.addr).expect("a graph"));
    let mut found = false;
    for (edge, other) in all {
        let session = Session::open(bash).expect("bash");
        let mut graph = session.graph(entry.addr).expect("a graph");
        graph.redirect(edge, other).expect("an edge");
        let Ok(change) = graph.commit() else { continue };
        session.save(&Output::new(&out)).expect("saved");
        if takes_any_name(&out) == Some(true) {
            change.revert().expect("reverted");
            session.save(&Output::new(&out)).expect("saved");
            assert_eq!(takes_any_name(&out), Some(false));
            found = true;
            break;
        }
    }
    assert!(found, "no edge lets a name begin with a digit");
}
