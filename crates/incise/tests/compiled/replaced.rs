//! Functions and calls that programs run in place of, and programs that reach themselves.

use incise::snippet::{
    Callee, Expr, Fault, Place, Program, ProgramBuilder, Replaced, Stmt, Type, arg, constant,
};
use incise::{Point, PointKind, Query};

use super::{Over, global};

/// Runs text at points while the target answers.
fn text(over: &mut Over, points: &[Point], text: &str, question: i64) -> (i64, Vec<u64>) {
    let mut language = over.session.language();
    let mut batch = over.session.batch();
    let programs: Vec<_> =
        points.iter().map(|point| language.program(text, point).expect("a snippet")).collect();
    points.iter().zip(&programs).for_each(|(point, program)| {
        batch.push_back(point, program);
    });
    batch.commit().expect("commit");
    let answer = over.target.ask(&mut over.tracer, question);
    over.session.remove_all().expect("removal");
    let faults = |fault: Fault| programs.iter().map(|program| program.faults(fault)).sum();
    (answer, Fault::ALL.into_iter().map(faults).collect())
}

#[test]
fn functions_give_what_programs_say() {
    let mut over = Over::start();
    let depth = [over.point("depth")];
    assert_eq!(text(&mut over, &depth, "if (arg0 == 2) override(40);", 4).0, 43);
    assert_eq!(text(&mut over, &depth, "@x = count();", 4).0, 5);
    let sum = [over.point("sum")];
    assert_eq!(text(&mut over, &sum, "override(7);", 1).0, 7);
    // A run that ends early replaces nothing.
    let (answer, faults) = text(&mut over, &sum, "override(*(long *)16);", 1);
    assert_eq!((answer, faults[Fault::Memory as usize]), (60, 1));
    let calls = over.session.find(Query::functions("depth").kind(PointKind::BeforeCall)).expect("calls");
    assert_eq!(text(&mut over, &calls, "override(100);", 4).0, 101);
    let half = over.point("half");
    assert_eq!(text(&mut over, &[half], "override(farg0 * 3);", 7).0, 12);
    let error = over.session.program_text("override(1); return 2;", &depth[0]).expect_err("two values");
    assert!(error.to_string().contains("override()"), "{error}");
    let error = over.session.program_text("override(1);", &calls_behind(&over)).expect_err("no entry");
    assert!(error.to_string().contains("entry of a function"), "{error}");
    over.end();
}

fn calls_behind(over: &Over) -> Point {
    let kind = PointKind::AfterCall;
    over.session.find(Query::functions("depth").kind(kind)).expect("calls").remove(0)
}

#[test]
fn a_program_that_calls_its_own_function_reaches_the_original() {
    let mut over = Over::start();
    let sum = [over.point("sum")];
    let (answer, faults) = text(&mut over, &sum, "override(inf`sum(arg0) * 2 + inf`sum(arg0));", 1);
    assert_eq!((answer, faults[Fault::Reentered as usize]), (180, 2));
    over.end();
}

#[test]
fn recursion_through_functions_that_are_called_is_bounded() {
    let mut over = Over::start();
    let entry = over.point("note");
    // `depth` is probed too, and calls `note`; `note` calls `depth`.
    let (calls, called) = (global("calls", Type::U64), global("called", Type::U64));
    let callee = |name: &str| Callee { returns: Type::I64, ..Callee::new(name, over.point(name).addr) };
    let note = || Expr::call(callee("note"), vec![constant(Type::I64, 0), constant(Type::F64, 0.0)]);
    let depth = || Expr::call(callee("depth"), vec![constant(Type::I64, 3)]);
    let program = |body: Vec<Stmt>| over.session.program(&Program::new(body).expect("a program"));
    let at_depth = program(vec![calls.add(1), Stmt::Evaluate(note())]).expect("compiled");
    let at_note = program(vec![called.add(1), Stmt::Evaluate(depth())]).expect("compiled");
    let mut batch = over.session.batch();
    batch.push_back(&over.point("depth"), &at_depth);
    batch.push_back(&entry, &at_note);
    batch.commit().expect("commit");
    assert_eq!(over.target.ask(&mut over.tracer, 4), 5);
    over.session.remove_all().expect("removal");
    // Each of the six calls of `depth` calls `note`, whose probe calls `depth` four times, which are not probed again.
    assert_eq!((over.value(&calls), over.value(&called)), (6, 6));
    assert_eq!(at_depth.faults(Fault::Reentered), 24);
    assert_eq!(at_note.faults(Fault::Reentered), 0);
    over.end();
}

#[test]
fn a_run_that_is_left_by_longjmp_is_not_taken_for_one_that_goes_on() {
    let mut over = Over::start();
    let entry = over.point("jumps");
    let leave = Callee::new("leave", over.point("leave").addr);
    let runs = global("runs", Type::U64);
    let mut builder = ProgramBuilder::new();
    builder.replace(Replaced::Function, Type::I64);
    let body = [runs.add(1), Stmt::when(arg(0).ne(0), [Stmt::Evaluate(Expr::call(leave, vec![arg(0)]))])];
    let program = builder.finish(body).expect("a program");
    let compiled = over.session.program(&program).expect("compiled");
    let mut batch = over.session.batch();
    batch.push_back(&entry, &compiled);
    batch.commit().expect("commit");
    for _ in 0..3 {
        assert_eq!(over.target.ask(&mut over.tracer, 8), 5);
    }
    over.session.remove_all().expect("removal");
    assert_eq!((over.value(&runs), compiled.faults(Fault::Reentered)), (3, 0));
    over.end();
}

#[test]
fn registers_may_be_set_where_nothing_is_replaced() {
    let mut over = Over::start();
    let entry = over.point("depth");
    let mut builder = ProgramBuilder::new();
    builder.replace(Replaced::Function, Type::U64);
    let rdi = Place::Register(incise::snippet::Register::General(incise::isa::native::Gpr::Rdi));
    let body = [
        Stmt::when(arg(0).eq(5), [Stmt::assign(rdi, constant(Type::U64, 2))]),
        Stmt::when(arg(0).eq(1), [Stmt::give(constant(Type::U64, 10))]),
    ];
    let program = builder.finish(body).expect("a program");
    assert_eq!(over.run_program(&[entry], program, 4), 11);
    over.end();
}
