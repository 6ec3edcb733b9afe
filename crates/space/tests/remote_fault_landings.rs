//! Faults of code in trampolines of another process, and of a file.

mod remote_support;

use std::process::{Command, Stdio};

use incise_image::Image;
use incise_isa::Addr;
use incise_space::file::{FileSpace, Output};
use incise_space::remote::{Event, Tracer};
use incise_space::{AddressSpace, Bytes, Edit, Landing};
use remote_support::*;

/// A trampoline at `at` for `answer`: its first instruction reads address 16, and its landing makes the answer 2.
fn faulting(at: Addr, answer: Addr) -> (Vec<u8>, Landing) {
    // mov 16, %eax; mov $2, %eax; jmp answer + 5
    let mut code = vec![0x8B, 0x04, 0x25, 16, 0, 0, 0];
    let landing = Landing::fault(at, at + code.len() as u64);
    code.extend([0xB8, 2, 0, 0, 0, 0xE9]);
    let next = at + code.len() as u64 + 4;
    code.extend(((answer + 5).offset_from(next) as i32).to_le_bytes());
    (code, landing)
}

fn jump(answer: Addr, to: Addr) -> Edit {
    let mut new = [0xE9, 0, 0, 0, 0];
    new[1..].copy_from_slice(&(to.offset_from(answer + 5) as i32).to_le_bytes());
    Edit { at: answer, old: Bytes::new(&[0xB8, 1, 0, 0, 0]), new: Bytes::new(&new), heads: 1 }
}

fn install(space: &mut dyn AddressSpace, answer: Addr) {
    let map = space.mappings().expect("mappings");
    let near = Addr(answer.0.saturating_sub(1 << 30).max(1 << 28))..answer + (1 << 30);
    let hole = map.holes(near.start, near.end).find(|hole| hole.start.align_up(PAGE) + PAGE < hole.end);
    let code = hole.expect("a hole").start.align_up(PAGE);
    space.map_code(code, PAGE).expect("map");
    let (bytes, fault) = faulting(code, answer);
    space.write_code(&[(code, &bytes)]).expect("write");
    space.publish_landings(&[Landing { trap: answer, landing: code }, fault]).expect("landings");
    space.apply(&[jump(answer, code)], &|_| None).expect("applied");
}

/// Answers lines, and handles a fault of its own for each: the number of those is told too.
const OWN_FAULTS: &str = r#"
static volatile int own;
static void handler(int signal, siginfo_t *info, void *context) {
    if (info->si_addr != (void *)8 || info->si_code != SEGV_MAPERR || signal != SIGSEGV) _exit(98);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 3;
    own++;
}
int main(void) {
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
    if (getenv("HANDLES")) sigaction(SIGSEGV, &action, NULL);
    ready();
    while (line()) {
        int a = answer();
        if (getenv("HANDLES")) { long at = 8; __asm__ volatile("movq (%0), %0" : "+a"(at)); }
        printf("%d %d\n", a, own); fflush(stdout);
    }
    return 7;
}
"#;

#[test]
fn another_process_is_spared_with_a_tracer_and_without() {
    let program = compile(OWN_FAULTS, &[]);
    for handles in [false, true] {
        let mut command = Command::new(&program);
        if handles {
            command.env("HANDLES", "1");
        }
        let mut program = Program::run(&mut command);
        let told = |answer, n: i32| format!("{answer} {}", if handles { n } else { 0 });
        assert_eq!(program.ask(), told(1, 1));
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        install(&mut space, program.answer);
        for n in 2..5 {
            assert_eq!(program.ask_traced(&mut tracer), told(2, n));
        }
        tracer.detach(pid).expect("traced");
        for n in 5..8 {
            assert_eq!(program.ask(), told(2, n));
        }
        assert_eq!(program.finish().code(), Some(7));
    }
}

#[test]
fn a_blocked_signal_does_not_make_a_fault_deadly_while_traced() {
    let source =
        "int main(void) { sigset_t all; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, NULL); ready();
        while (line()) { int a = answer(); sigprocmask(SIG_BLOCK, NULL, &all);
        printf(\"%d %d\\n\", a, sigismember(&all, SIGSEGV)); fflush(stdout); } return 7; }";
    let mut program = Program::start(source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    install(&mut tracer.space(pid).expect("traced"), program.answer);
    for _ in 0..3 {
        assert_eq!(program.ask_traced(&mut tracer), "2 1");
    }
    assert_eq!(program.finish_traced(&mut tracer), Event::Exited { pid, code: 7 });
}

#[test]
fn a_program_changed_on_disk_is_spared() {
    for flags in [&["-pie", "-fPIE"][..], &["-no-pie"]] {
        let program = compile("int main(void) { printf(\"%d\\n\", answer()); return 7; }", flags);
        let mut space = FileSpace::open(&program).expect("a program");
        let image = Image::parse(&std::fs::read(&program).expect("readable")).expect("an ELF file");
        let answer = image.functions().iter().find(|f| image.name(f) == "answer").expect("a symbol");
        install(&mut space, Addr(answer.addr.0));
        let out = program.with_extension("changed");
        space.save(&Output::new(&out)).expect("saved");
        let output = Command::new(&out).stderr(Stdio::inherit()).output().expect("it runs");
        assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"2\n"[..]), "{flags:?}");
    }
}
