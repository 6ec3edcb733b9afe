//! Finds threads that can still run given code: by instruction pointer, return address, signal frame.
//!
//! # Safety
//! The only unsafe call sends a signal to a program that the test launched.

mod remote_support;

use std::time::Duration;

use incise_isa::Addr;
use incise_space::AddressSpace;
use incise_space::remote::{Left, Tracer};
use remote_support::*;

/// The main thread calls `answer`; a probe there can make it wait inside the trampoline.
const WAITING: &str = r#"
static volatile long released;
static char stack[65536];
static void handler(int signal) { (void)signal; while (!released) usleep(1000); }
int main(void) {
    stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
    sigaltstack(&alternate, NULL);
    sigaction(SIGUSR1, &action, NULL);
    ready(); printf("%p\n", (void *)&released); fflush(stdout);
    while (line()) { printf("%d\n", answer()); fflush(stdout); }
    return 7;
}
"#;

struct Waiting {
    program: Program,
    tracer: Tracer,
    space: incise_space::remote::RemoteSpace,
    probe: Probe,
    released: Addr,
}

/// A program that is about to run a probe with this code at its beginning.
fn start(code: impl Fn(Addr, Addr) -> Vec<u8>) -> Waiting {
    let mut program = Program::start(WAITING, &["-no-pie"]);
    let released = program.read_line();
    let released = Addr(u64::from_str_radix(released.trim_start_matches("0x"), 16).expect("an address"));
    let (tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Jump);
    space.write_code(&[(probe.code, &code(probe.code, released))]).expect("mapped");
    probe.install(&mut space);
    Waiting { program, tracer, space, probe, released }
}

impl Waiting {
    /// Whether the trampoline is found in use, and is not once the thread was let go.
    fn check(mut self) {
        let ranges = [self.probe.code - PAGE..self.probe.code, self.probe.code.span(64)];
        assert_eq!(self.space.quiescent(&ranges).expect("traced"), [true, true], "not begun");
        self.program.send();
        pump(&mut self.tracer, Duration::from_millis(50));
        assert_eq!(self.space.quiescent(&ranges).expect("traced"), [true, false], "inside");
        assert_eq!(self.space.wait_until_quiescent(&ranges).expect("traced"), [true, false]);
        self.probe.uninstall(&mut self.space);
        let left = self.space.remove().expect("removed");
        assert!(left.mappings >= 1 && left.bytes >= PAGE, "what is in use stays: {left:?}");
        // The target's own memory, through the debugger's door.
        let file = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", self.program.pid));
        std::os::unix::fs::FileExt::write_all_at(&file.expect("permitted"), &[1], self.released.0)
            .expect("mapped");
        pump(&mut self.tracer, Duration::from_millis(50));
        assert_eq!(self.program.read_line(), "2");
        assert_eq!(self.space.quiescent(&ranges).expect("traced"), [true, true], "left");
        assert_eq!(self.space.remove().expect("removed"), Left::default());
        assert_eq!(self.program.ask_traced(&mut self.tracer), "1");
    }
}

/// mov $2, %eax; ret
const RETURN_TWO: [u8; 6] = [0xB8, 2, 0, 0, 0, 0xC3];

#[test]
fn an_instruction_pointer() {
    start(|_, released| {
        // 1: cmpb $0, released; je 1b
        let mut code = vec![0x80, 0x3C, 0x25];
        code.extend((released.0 as u32).to_le_bytes());
        code.extend([0, 0x74, 0xF6]);
        code.extend(RETURN_TWO);
        code
    })
    .check();
}

#[test]
fn a_return_address() {
    start(|at, released| {
        // call 2f; mov $2, %eax; ret; (at 128, outside the range) 2: cmpb $0, released; je 2b; ret
        let mut code = vec![0xE8];
        code.extend(123u32.to_le_bytes());
        code.extend(RETURN_TWO);
        code.resize(128, 0xCC);
        code.extend([0x80, 0x3C, 0x25]);
        code.extend((released.0 as u32).to_le_bytes());
        code.extend([0, 0x74, 0xF6, 0xC3]);
        assert_eq!(at.0 % PAGE, 0);
        code
    })
    .check();
}

#[test]
fn a_return_address_on_a_stack_that_a_signal_handler_interrupted() {
    // As above, but a handler on an alternate stack interrupts the wait.
    let mut waiting = start(|_, released| {
        let mut code = vec![0xE8];
        code.extend(123u32.to_le_bytes());
        code.extend(RETURN_TWO);
        code.resize(128, 0xCC);
        code.extend([0x80, 0x3C, 0x25]);
        code.extend((released.0 as u32).to_le_bytes());
        code.extend([0, 0x74, 0xF6, 0xC3]);
        code
    });
    waiting.program.send();
    pump(&mut waiting.tracer, Duration::from_millis(50));
    // SAFETY: a child of ours.
    unsafe { libc::kill(waiting.program.pid.0, libc::SIGUSR1) };
    pump(&mut waiting.tracer, Duration::from_millis(50));
    let ranges = [waiting.probe.code.span(64), waiting.probe.code + 64..waiting.probe.code + PAGE];
    assert_eq!(waiting.space.quiescent(&ranges).expect("traced"), [false, false]);
    // The handler's stack has the interrupted instruction pointer (in the second range); the return
    // address (in the first) is only on the stack the frame tells of.
}
