//! Functions replaced, calls sent elsewhere and left out, in another process and in this one; and all of it taken back.

mod support;

use incise::space::remote::{ProcessId, Tracer};
use incise::{Addr, Outcome, Point, PointKind, Position, Query, Refusal, Session, TrapPolicy, changing};
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
