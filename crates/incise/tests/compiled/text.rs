//! Programs from text.

use incise::data::Value;
use incise::{PointKind, Query};

use super::Over;

#[test]
fn snippets_in_text_gather_and_print() {
    let mut over = Over::start();
    let mut language = over.session.language();
    let mut batch = over.session.batch();
    let entry = over.point("depth");
    let exits = over.session.find(Query::functions("depth").kind(PointKind::FunctionExit)).expect("exits");
    let text = r#"
        @calls[arg0 % 2] = count();
        if (n == 3) printf("n is %d in %s\n", n, func);
        static long total = 0;
        total += arg0;
        if (arg0 == 0) print(total);
    "#;
    batch.push_back(&entry, &language.program(text, &entry).expect("a snippet"));
    for exit in &exits {
        batch.push_back(exit, &language.program("@most = max(retval);", exit).expect("a snippet"));
    }
    let counter = over.session.counter("hits");
    let guarded = language.guard("n > 1 && n < 5", &entry, counter.increment()).expect("a guard");
    batch.push_back(&entry, guarded);
    batch.commit().expect("commit");
    assert_eq!(over.target.ask(&mut over.tracer, 4), 5);
    assert_eq!(language.printed(), ["n is 3 in depth\n", "15\n"]);
    let calls = language.map("calls").expect("a map");
    let counts: Vec<_> = calls.iter().collect();
    assert_eq!(counts, [(&[0][..], Value::Count(3)), (&[1][..], Value::Count(3))]);
    assert_eq!(language.map("most").expect("a map").get(&[]), Some(Value::Number(5)));
    assert_eq!(language.print("most").as_deref(), Some("@most: 5\n"));
    assert_eq!((counter.read(), language.dropped()), (3, 0));
    over.session.remove_all().expect("removal");
    over.end();
}

#[test]
fn what_is_wrong_is_underlined() {
    let over = Over::start();
    let entry = over.point("depth");
    let wrong = over.session.program_text("@x = arg0 +;", &entry).expect_err("no expression").to_string();
    assert!(wrong.contains("@x = arg0 +;") && wrong.contains("┬"), "{wrong}");
    let wrong = over.session.program_text("long y = retval;", &entry).expect_err("no exit").to_string();
    assert!(wrong.contains("retval"), "{wrong}");
    let mut language = over.session.language();
    let hits = over.session.counter("hits");
    let wrong = language.guard("arg0 = 3", &entry, hits.increment()).expect_err("no condition").to_string();
    assert!(wrong.contains("to compare, write `==`"), "{wrong}");
    over.end();
}

#[test]
fn programs_run_once_in_another_process() {
    use incise::Ran;
    use incise::snippet::{Callee, Expr, Program, Stmt, Type, constant, tid};

    let mut over = Over::start();
    let run = |over: &mut Over, body: Vec<Stmt>| {
        let program = Program::new(body).expect("a program");
        let once = over.session.start_once(|_| Ok(program.clone())).expect("started");
        let began = std::time::Instant::now();
        while once.outcome().is_none() && began.elapsed().as_secs() < 5 {
            let never = std::sync::atomic::AtomicBool::new(false);
            let pause = Some(std::time::Duration::from_millis(1));
            over.tracer.next_event(pause, &never).expect("tracing goes on");
        }
        once.outcome().expect("it is over")
    };
    let mut note = Callee::new("note", over.point("note").addr);
    note.returns = Type::I64;
    let call = Expr::call(note, vec![constant(Type::I64, 5), constant(Type::F64, 1.5)]);
    assert_eq!(run(&mut over, vec![Stmt::give(call)]), Ran::Value(6));
    assert_eq!(over.target.ask(&mut over.tracer, 5), 6, "it was really called");
    let main = over.target.pid() as u64;
    assert_eq!(run(&mut over, vec![Stmt::give(tid().cast(Type::U64))]), Ran::Value(main));
    assert_eq!(run(&mut over, vec![]), Ran::Nothing);
    let bad = constant(Type::Pointer, 16).load(Type::U64);
    assert_eq!(run(&mut over, vec![Stmt::give(bad)]), Ran::Fault(incise::snippet::Fault::Memory));
    // The thread waits in read(2) all the time, and goes on waiting.
    assert_eq!(over.target.ask(&mut over.tracer, 1), 60);
    over.session.remove_all().expect("removal");
    over.end();
}
