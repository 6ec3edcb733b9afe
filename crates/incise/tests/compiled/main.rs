//! Compiled programs on compiled C programs, in another process: what they read, count, call and change.
//!
//! # Safety
//! Signals are sent to programs of ours.

#![allow(unsafe_code, reason = "sends signals")]

mod facts;
mod guards;
mod replaced;
#[path = "../support/mod.rs"]
mod support;
mod text;

use incise::isa::native::{Flow, Gpr, Insn, decode};
use incise::snippet::{
    Callee, Expr, Fault, PointFact, Program, ProgramBuilder, Register, Stmt, Storage, Type, Variable, arg,
    constant, cpu, cycles, nanoseconds, pid, point, retval, tid,
};
use incise::space::AddressSpace;
use incise::space::remote::{ProcessId, RemoteSpace, Tracer};
use incise::{Point, PointKind, Position, Query, Session};
use support::answering::Answering;

const SOURCE: &str = r#"
#include <setjmp.h>
#include <signal.h>
struct list { long value; struct list *next; };
static struct list third = {30, 0}, second = {20, &third}, first = {10, &second};
__attribute__((noinline)) long sum(struct list *at) {
    long sum = 0;
    for (; at; at = at->next) sum += at->value;
    return sum;
}
__attribute__((noinline)) long scale(long n, double by) { return n * by; }
__attribute__((noinline)) long eight(long a, long b, long c, long d, long e, long f, long g, long h) {
    __asm__ volatile("" ::: "memory");
    return a + b + c + d + e + f + g * 10 + h * 100;
}
__attribute__((noinline)) long depth(long n) { return n == 0 ? 0 : depth(n - 1) + 1; }
static long noted;
__attribute__((noinline)) long note(long n, double by) { return noted += n + by; }
__attribute__((noinline)) long name(const char *s) { __asm__ volatile("" ::: "memory"); return s[0]; }
__attribute__((noinline)) double half(double by) { __asm__ volatile("" ::: "memory"); return by / 2; }
static volatile long trapped;
static void on_trap(int signal) { trapped++; }
__attribute__((constructor)) static void listen_to_traps(void) { signal(SIGTRAP, on_trap); }
__attribute__((noinline)) long inner(long n) { __asm__ volatile(""); return 3 * n; }
__attribute__((noinline, optimize("no-omit-frame-pointer"))) long between(long n) { return inner(n) - 1; }
static jmp_buf way;
__attribute__((noinline)) void leave(long n) { longjmp(way, n); }
__attribute__((noinline)) long jumps(long n) { __asm__ volatile("" ::: "memory"); return n; }
long answer(long n) {
    long left;
    switch (n) {
    case 1: return sum(&first);
    case 2: return scale(21, 2.0);
    case 3: return eight(1, 2, 3, 4, 5, 6, 7, 8);
    case 4: return depth(5);
    case 5: return noted;
    case 7: return half(4.0);
    case 9: return between(4) + 1;
    case 10: return trapped;
    case 8: return (left = setjmp(way)) ? left : jumps(5);
    case 6: return name("hello") + name("help") + name("world");
    default: return 0;
    }
}
"#;

/// A program in another process, and a session over it.
struct Over {
    target: Answering,
    tracer: Tracer,
    session: Session<RemoteSpace>,
    pid: ProcessId,
}

impl Over {
    fn start() -> Over {
        let target = Answering::start(SOURCE);
        let (tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
        let space = tracer.space(pid).expect("a space");
        let session = Session::over(space, &pid.to_string()).expect("a session");
        Over { target, tracer, session, pid }
    }

    fn point(&self, name: &str) -> Point {
        self.session.find(Query::functions(name)).expect("the function").remove(0)
    }

    /// Runs a program at points while the target answers.
    fn run(&mut self, points: &[Point], body: impl IntoIterator<Item = Stmt>, question: i64) -> i64 {
        self.run_program(points, Program::new(body).expect("a program"), question)
    }

    fn run_program(&mut self, points: &[Point], program: Program, question: i64) -> i64 {
        let compiled = self.session.program(&program).expect("compiled");
        let mut batch = self.session.batch();
        for point in points {
            batch.push_back(point, &compiled);
        }
        batch.commit().expect("commit");
        let answer = self.target.ask(&mut self.tracer, question);
        for fault in Fault::ALL {
            assert_eq!(compiled.faults(fault), 0, "{fault:?}");
        }
        self.session.remove_all().expect("removal");
        answer
    }

    fn value(&self, variable: &Variable) -> u64 {
        self.session.variable(variable).get()
    }

    fn end(mut self) {
        assert_eq!(self.target.ask(&mut self.tracer, 1), 60, "all is as it was");
        self.tracer.detach(self.pid).expect("detached");
        self.target.end();
    }
}

fn global(name: &str, ty: Type) -> Variable {
    Variable::new(name, ty, Storage::Global)
}

#[test]
fn arguments_memory_and_returned_values_are_read() {
    let mut over = Over::start();
    let (entry, sum) = (over.point("sum"), global("sum", Type::I64));
    // Walks the list as the function does.
    let mut builder = ProgramBuilder::new();
    let at = builder.local("at", Type::Pointer);
    let body = [
        at.set(arg(0).cast(Type::Pointer)),
        Stmt::repeat_while(
            at.get().ne(constant(Type::Pointer, 0)),
            [sum.set(sum.get().add(at.get().load(Type::I64))), at.set(at.get().add(8).load(Type::Pointer))],
        ),
    ];
    assert_eq!(over.run_program(&[entry], builder.finish(body).expect("a program"), 1), 60);
    assert_eq!(over.value(&sum), 60);
    let given = global("given", Type::F64);
    let entry = over.point("scale");
    over.run(&[entry], [given.set(incise::snippet::float_arg(0).mul(1.25))], 2);
    assert_eq!(f64::from_bits(over.session.variable(&given).constant().bits), 2.5);
    let exits = over.session.find(Query::functions("scale").kind(PointKind::FunctionExit)).expect("exits");
    let returned = global("returned", Type::I64);
    over.run(&exits, [returned.set(retval().cast(Type::I64))], 2);
    assert_eq!(over.value(&returned), 42);
    let (g, h) = (global("g", Type::I64), global("h", Type::I64));
    let entry = over.point("eight");
    over.run(&[entry], [g.set(arg(6).cast(Type::I64)), h.set(arg(7).cast(Type::I64))], 3);
    assert_eq!((over.value(&g), over.value(&h)), (7, 8));
    over.end();
}

#[test]
fn registers_and_memory_are_changed() {
    let mut over = Over::start();
    let entry = over.point("scale");
    let rdi = incise::snippet::Place::Register(Register::General(Gpr::Rdi));
    let set = Stmt::assign(rdi, arg(0).add(1));
    assert_eq!(over.run(std::slice::from_ref(&entry), [set], 2), 44);
    let xmm0 = incise::snippet::Place::Register(Register::Vector(0));
    let three = constant(Type::F64, 3.0).reinterpret(Type::U64);
    assert_eq!(over.run(&[entry], [Stmt::assign(xmm0, three)], 2), 63);
    let entry = over.point("sum");
    let value = incise::snippet::Place::Memory(Type::I64, Box::new(arg(0).cast(Type::Pointer)));
    assert_eq!(
        over.run(std::slice::from_ref(&entry), [Stmt::assign(value.clone(), constant(Type::I64, 11))], 1),
        61
    );
    assert_eq!(over.run(&[entry], [Stmt::assign(value, constant(Type::I64, 10))], 1), 60);
    over.end();
}

#[test]
fn functions_of_the_program_are_called() {
    let mut over = Over::start();
    let mut note = Callee::new("note", over.point("note").addr);
    note.returns = Type::I64;
    let last = global("last", Type::I64);
    let entry = over.point("sum");
    let call = Expr::call(note, vec![constant(Type::I64, 5), constant(Type::F64, 1.0)]);
    assert_eq!(over.run(&[entry], [last.set(call)], 1), 60);
    assert_eq!(over.value(&last), 6);
    assert_eq!(over.target.ask(&mut over.tracer, 5), 6);
    over.end();
}

#[test]
fn variables_per_thread_and_cpu_count_and_facts_are_true() {
    let mut over = Over::start();
    let (threads, cpus) =
        (Variable::new("t", Type::U64, Storage::PerThread), Variable::new("c", Type::U64, Storage::PerCpu));
    let entry = over.point("depth");
    let points = [entry.clone()];
    over.run(&points, [threads.add(1), cpus.add(2)], 4);
    let process = over.target.pid() as u64;
    let all = over.session.variable(&threads).all();
    assert_eq!(all.iter().map(|(tid, n)| (*tid, n.bits)).collect::<Vec<_>>(), [(process, 6)]);
    assert_eq!(over.value(&cpus), 12);
    let [thread, number, ticks, time, place] =
        ["tid", "pid", "cycles", "time", "place"].map(|name| global(name, Type::U64));
    let on = global("cpu", Type::U64);
    let facts = [
        thread.set(tid().cast(Type::U64)),
        number.set(pid().cast(Type::U64)),
        ticks.set(cycles().cast(Type::U64)),
        time.set(nanoseconds().cast(Type::U64)),
        on.set(cpu().cast(Type::U64)),
        place.set(point(PointFact::OriginalAddress).cast(Type::U64)),
    ];
    over.run(&points, facts, 4);
    assert_eq!((over.value(&thread), over.value(&number)), (process, process));
    let uptime = std::fs::read_to_string("/proc/uptime").expect("a file");
    let uptime: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    assert!((uptime - over.value(&time) as f64 / 1e9).abs() < 60.0, "{uptime} {}", over.value(&time));
    assert!(over.value(&ticks) > 0);
    assert!(over.value(&on) < 4096);
    assert_eq!(over.value(&place), entry.addr.0);
    over.end();
}

#[test]
fn texts_are_compared() {
    let mut over = Over::start();
    let (hits, all) = (global("hits", Type::U64), global("all", Type::U64));
    let entry = over.point("name");
    let text = || arg(0).cast(Type::Pointer).text(16);
    let is_hello =
        Expr::binary(incise::snippet::BinaryOp::Equal, text(), Expr::bytes(b"hello")).expect("texts");
    over.run(&[entry], [all.add(1), Stmt::when(is_hello, [hits.add(1)])], 6);
    assert_eq!((over.value(&hits), over.value(&all)), (1, 3));
    over.end();
}

#[test]
fn a_bad_address_ends_the_run_and_is_counted() {
    let mut over = Over::start();
    let (before, behind) = (global("before", Type::U64), global("behind", Type::U64));
    let load = constant(Type::Pointer, 16).load(Type::U64);
    let body = [before.add(1), behind.set(load), behind.add(1)];
    let compiled = over.session.program(&Program::new(body).expect("a program")).expect("compiled");
    let mut batch = over.session.batch();
    batch.push_back(&over.point("depth"), &compiled);
    batch.commit().expect("commit");
    assert_eq!(over.target.ask(&mut over.tracer, 4), 5);
    assert_eq!((over.value(&before), over.value(&behind)), (6, 0));
    assert_eq!(compiled.faults(Fault::Memory), 6);
    over.session.remove_all().expect("removal");
    assert_eq!(compiled.faults(Fault::Memory), 6, "what was counted stays");
    over.end();
}

#[test]
fn where_an_instruction_accesses_memory_and_goes_is_known() {
    let mut over = Over::start();
    // add rax, [rdi] (or mov); mov rdi, [rdi+8]; ...
    let at = over.point("sum").addr;
    let mut code = [0u8; 64];
    over.tracer.space(over.pid).and_then(|space| space.read(at, &mut code)).expect("code");
    let mut offset = 0;
    let insns = std::iter::from_fn(|| {
        let insn = decode(&code[offset..], at + offset as u64).ok()?;
        offset += insn.len();
        (insn.flow() != Flow::Return).then_some(insn)
    });
    let loads: Vec<Insn> = insns.filter(|insn| insn.bytes_accessed() == 8).collect();
    assert_eq!(loads.len(), 2, "the value and the next one");
    let (sum, bytes) = (global("sum", Type::U64), global("bytes", Type::U64));
    let accessed = point(PointFact::EffectiveAddress).load(Type::U64);
    let body = [sum.add(accessed), bytes.add(point(PointFact::BytesAccessed))];
    let program = Program::new(body).expect("a program");
    let compiled = over.session.program(&program).expect("compiled");
    let mut batch = over.session.batch();
    batch.insert(loads[0].addr(), &compiled, Position::Last);
    batch.commit().expect("commit");
    assert_eq!(over.target.ask(&mut over.tracer, 1), 60);
    over.session.remove_all().expect("removal");
    assert_eq!((over.value(&sum), over.value(&bytes)), (60, 24), "what the instruction reads, and how much");
    over.end();
}
