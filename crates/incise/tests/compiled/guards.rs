//! What runs only where a condition holds.

use incise::snippet::{Expr, Fault, Program, Stmt, Storage, Type, Variable, arg, constant, cpu};

use super::{Over, global};

/// Conditions on the argument of `depth`, which is called with 5, 4, ... 0, and how often each holds.
fn conditions() -> Vec<(Expr, u64)> {
    let here = || constant(Type::U64, 0).lt(1);
    vec![
        (arg(0).gt(2), 3),
        (arg(0).gt(2).and(arg(0).lt(5)), 2),
        (arg(0).eq(0).or(arg(0).eq(5)), 2),
        (here(), 6),
        // These are called.
        (arg(0).rem(2).eq(1), 3),
        (cpu().cast(Type::U64).lt(4096).and(arg(0).rem(3).eq(0)), 2),
    ]
}

#[test]
fn counters_and_programs_run_where_a_condition_holds() {
    let mut over = Over::start();
    let entry = over.point("depth");
    let (sum, per_cpu) = (global("sum", Type::U64), Variable::new("n", Type::U64, Storage::PerCpu));
    let adds = Program::new([sum.add(1)]).expect("a program");
    let reads = Program::new([sum.set(sum.get().add(arg(0))), per_cpu.add(1)]).expect("a program");
    let (adds, reads) =
        (over.session.program(&adds).expect("compiled"), over.session.program(&reads).expect("compiled"));
    let mut inline = 0;
    for (condition, expected) in conditions() {
        let text = format!("{condition}");
        let program = Program::new([Stmt::give(condition)]).expect("a program");
        let compiled = over.session.program(&program).expect("compiled");
        inline += u32::from(compiled.is_inline());
        let counter = over.session.counter("hits");
        over.session.variable(&sum).set(0);
        over.session.variable(&per_cpu).set(0);
        let mut batch = over.session.batch();
        batch.push_back(&entry, compiled.guard(counter.increment()).expect("a counter"));
        batch.push_back(&entry, compiled.guard(&adds).expect("a program"));
        batch.push_back(&entry, compiled.guard(&reads).expect("a program"));
        batch.commit().expect("commit");
        assert_eq!(over.target.ask(&mut over.tracer, 4), 5);
        over.session.remove_all().expect("removal");
        assert_eq!(counter.read(), expected, "{text}");
        assert_eq!(over.value(&per_cpu), expected, "{text}");
        assert!(over.value(&sum) >= expected, "{text}");
    }
    assert_eq!(inline, 4, "the others are called");
    over.end();
}

#[test]
fn a_condition_that_faults_does_not_hold() {
    let mut over = Over::start();
    let entry = over.point("depth");
    // The address is there for none, or for the last.
    let bad = arg(0).mul(8).add(8).cast(Type::Pointer).load(Type::U64).ne(0);
    let called = arg(0).rem(2).eq(0).or(constant(Type::U64, 1).div(arg(0).sub(3)).eq(9));
    for (condition, fault, holds) in [(bad, Fault::Memory, 0), (called, Fault::Division, 3)] {
        let program = Program::new([Stmt::give(condition)]).expect("a program");
        let compiled = over.session.program(&program).expect("compiled");
        let counter = over.session.counter("hits");
        let mut batch = over.session.batch();
        batch.push_back(&entry, compiled.guard(counter.increment()).expect("a counter"));
        batch.commit().expect("commit");
        assert_eq!(over.target.ask(&mut over.tracer, 4), 5);
        over.session.remove_all().expect("removal");
        assert_eq!(counter.read(), holds);
        let expected = if fault == Fault::Memory { 6 } else { 1 };
        assert_eq!(compiled.faults(fault), expected, "{fault:?}");
    }
    over.end();
}

#[test]
fn what_returns_nothing_guards_nothing() {
    let over = Over::start();
    let sum = global("sum", Type::U64);
    let compiled = over.session.program(&Program::new([sum.add(1)]).expect("a program")).expect("compiled");
    assert!(compiled.guard(over.session.counter("hits").increment()).is_none());
    over.end();
}
