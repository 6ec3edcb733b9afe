//! Compiled programs do what the interpreter says: the same memory, variables, registers, and ends of runs; and nothing
//! else changes.
//!
//! # Safety
//! Two pages are mapped for programs to work on, the second not to be touched.

#![allow(unsafe_code, reason = "maps memory for programs and reads it")]

mod support;

use std::arch::global_asm;
use std::time::Duration;

use incise::compile::NoOperations;
use incise::interpret::{Datum, World, run};
use incise::isa::native::Gpr;
use incise::snippet::{
    Callee, Constant, Fault, Map, PointFact, Program, Record, Register, Ring, SystemFact, Variable,
};
use incise::{Addr, Compiled, Position, Session};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use support::arbitrary::{Maker, PAGE, canonical};
use support::machine::{Machine, identity};
use support::{Rng, isolated};

global_asm!(
    ".pushsection .text.incise_pressure, \"ax\", @progbits",
    // A probed instruction that does nothing, and behind it what makes registers and flags dead there.
    ".balign 16",
    ".hidden dead_flags",
    ".globl dead_flags",
    "dead_flags:",
    "nop dword ptr [rax + rax]",
    "cmp rbx, rbx",
    "ret",
    ".balign 16",
    ".hidden dead_one",
    ".globl dead_one",
    "dead_one:",
    "nop dword ptr [rax + rax]",
    "mov ecx, 2",
    "ret",
    ".balign 16",
    ".hidden dead_some",
    ".globl dead_some",
    "dead_some:",
    "nop dword ptr [rax + rax]",
    "mov eax, 1",
    "mov ecx, 2",
    "mov r8d, 3",
    "mov r11d, 4",
    "cmp rbx, rbx",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn dead_flags();
    fn dead_one();
    fn dead_some();
}

/// A place to probe: the function, what it sets registers to, whether it compares a register with itself.
type Pressure = (usize, &'static [(usize, u64)], bool);

fn pressures() -> [Pressure; 4] {
    [
        (identity as *const () as usize, &[], false),
        (dead_flags as *const () as usize, &[], true),
        (dead_one as *const () as usize, &[(1, 2)], false),
        (dead_some as *const () as usize, &[(0, 1), (1, 2), (8, 3), (11, 4)], true),
    ]
}

/// Where the low quadword of xmm0 is in a machine's state (AMD APM vol. 1, 11.5.2).
const XMM: usize = 160;

/// The interpreter's world: a machine, a page of memory, variables.
struct Small {
    machine: Machine,
    page: u64,
    /// The probed instruction.
    at: u64,
    memory: Vec<u8>,
    variables: Vec<(Variable, u64)>,
}

impl Small {
    fn part(&mut self, at: u64, len: usize) -> Option<&mut [u8]> {
        let from = usize::try_from(at.checked_sub(self.page)?).ok()?;
        self.memory.get_mut(from..from.checked_add(len)?)
    }

    fn vector(&mut self, n: u8) -> &mut [u8] {
        &mut self.machine.xsave[XMM + 16 * usize::from(n)..][..8]
    }

    fn slot(&mut self, variable: &Variable) -> &mut u64 {
        let found = self.variables.iter_mut().find(|(known, _)| known == variable);
        &mut found.expect("a variable of the program").1
    }
}

impl World for Small {
    fn read(&mut self, at: u64, into: &mut [u8]) -> bool {
        let part = self.part(at, into.len());
        part.map(|part| into.copy_from_slice(part)).is_some()
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        self.part(at, bytes.len()).map(|part| part.copy_from_slice(bytes)).is_some()
    }
    fn register(&mut self, register: Register) -> u64 {
        match register {
            Register::General(gpr) => self.machine.gregs[usize::from(gpr.number())],
            Register::Flags => self.machine.flags & 0x8D5,
            Register::Vector(n) => u64::from_le_bytes(self.vector(n).try_into().expect("eight bytes")),
        }
    }
    fn set_register(&mut self, register: Register, value: u64) {
        match register {
            Register::General(gpr) => self.machine.gregs[usize::from(gpr.number())] = value,
            Register::Vector(n) => self.vector(n).copy_from_slice(&value.to_le_bytes()),
            Register::Flags => panic!("flags are not set"),
        }
    }
    fn argument(&mut self, n: u8) -> u64 {
        self.register(Register::General(incise::isa::native::abi::ARGUMENTS[usize::from(n)]))
    }
    fn float(&mut self, n: Option<u8>) -> u64 {
        self.register(Register::Vector(n.unwrap_or(0)))
    }
    fn returned(&mut self) -> u64 {
        self.register(Register::General(Gpr::Rax))
    }
    fn point(&mut self, fact: PointFact) -> u64 {
        if fact == PointFact::OriginalAddress { self.at } else { 0 }
    }
    fn system(&mut self, _: SystemFact) -> u64 {
        0
    }
    fn command(&mut self) -> Vec<u8> {
        Vec::new()
    }
    fn stack(&mut self, _: u8) -> Vec<u64> {
        Vec::new()
    }
    fn variable(&mut self, variable: &Variable) -> u64 {
        *self.slot(variable)
    }
    fn set_variable(&mut self, variable: &Variable, bits: u64) {
        *self.slot(variable) = bits;
    }
    fn call(&mut self, _: &Callee, _: &[Constant]) -> u64 {
        0
    }
    fn map_value(&mut self, _: &Map, _: &[Datum]) -> Option<u64> {
        None
    }
    fn update(&mut self, _: &Map, _: &[Datum], _: Option<Constant>) {}
    fn delete(&mut self, _: &Map, _: &[Datum]) {}
    fn emit(&mut self, _: &Ring, _: &Record, _: &[Datum]) {}
    fn stop(&mut self, _: bool) {}
}

/// A page, and behind it one that cannot be used.
fn pages() -> u64 {
    // SAFETY: new mappings.
    unsafe {
        let none = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = libc::mmap(std::ptr::null_mut(), 3 * PAGE, libc::PROT_NONE, none, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        let page = at.cast::<u8>().add(PAGE);
        assert_eq!(libc::mprotect(page.cast(), PAGE, libc::PROT_READ | libc::PROT_WRITE), 0);
        page as u64
    }
}

/// What a program is put into.
struct Bench<'a> {
    session: &'a Session,
    page: u64,
    /// How many runs ended by each fault.
    faults: [u64; 6],
    /// How many programs were put in line.
    inline: u64,
}

impl Bench<'_> {
    fn any(&mut self, bytes: &[u8]) -> Result<(), TestCaseError> {
        let (program, variables) = Maker::new(bytes, self.page).program();
        self.check(&program, &variables, bytes)
    }

    fn short(&mut self, bytes: &[u8]) -> Result<(), TestCaseError> {
        let (program, variables) = Maker::new(bytes, self.page).short();
        self.check(&program, &variables, bytes)
    }

    /// Runs a program as it is, and called if it is put in line.
    fn check(
        &mut self,
        program: &Program,
        variables: &[Variable],
        bytes: &[u8],
    ) -> Result<(), TestCaseError> {
        let fail = |error: incise::Error| TestCaseError::fail(format!("{error}\n{program}"));
        let pressure = pressures()[bytes.len() % 4];
        let mut ways = vec![self.session.program(program).map_err(fail)?];
        if ways[0].is_inline() {
            self.inline += 1;
            ways.push(self.session.called(program, &NoOperations).map_err(fail)?);
        }
        for compiled in ways {
            let mut batch = self.session.batch();
            batch.insert(Addr(pressure.0 as u64), &compiled, Position::Last);
            batch.commit().map_err(fail)?;
            let result = self.compare(program, variables, pressure, bytes, &compiled);
            self.session.remove_all().expect("removal");
            let how = if compiled.is_inline() { "in line" } else { "called" };
            result.map_err(|why| TestCaseError::fail(format!("{how}, {why}\n{program}")))?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        program: &Program,
        variables: &[Variable],
        (function, sets, compares): Pressure,
        bytes: &[u8],
        compiled: &Compiled,
    ) -> Result<(), String> {
        let mut rng = Rng::new(bytes.len() as u64);
        // SAFETY: the page is ours.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.page as *mut u8, PAGE) };
        for round in 0..3 {
            let mut machine = Machine::random(&mut rng);
            // With alignment checks (AC) on, reads that are not aligned fault.
            machine.flags &= !(1 << 18);
            // Registers that lead somewhere, and small ones.
            for n in (0..16).filter(|n| *n != 4) {
                match rng.below(3) {
                    0 => machine.gregs[n] = self.page + rng.next() % 4000,
                    1 => machine.gregs[n] = rng.next() % 8,
                    _ => {}
                }
            }
            memory.iter_mut().for_each(|byte| *byte = rng.next() as u8);
            memory[..40].copy_from_slice(b"abcdefghijklmn\0pqrs\0abcdefghijklmnopqrst");
            let now = |variable: &Variable| self.session.variable(variable).constant().bits;
            let mut world = Small {
                machine: machine.clone(),
                page: self.page,
                at: function as u64,
                memory: memory.to_vec(),
                variables: variables.iter().map(|variable| (variable.clone(), now(variable))).collect(),
            };
            let before: Vec<u64> = Fault::ALL.iter().map(|fault| compiled.faults(*fault)).collect();
            let after = machine.run_through(function);
            let ended = run(program, &mut world);
            for (fault, before) in Fault::ALL.into_iter().zip(before) {
                let wanted = u64::from(ended == Err(fault));
                self.faults[fault as usize] += wanted;
                if compiled.faults(fault) - before != wanted {
                    return Err(format!(
                        "round {round}: the interpreter ended with {ended:?}, not so the code"
                    ));
                }
            }
            for (variable, wanted) in &world.variables {
                let found = canonical(self.session.variable(variable).constant());
                let wanted = canonical(Constant::new(variable.ty(), *wanted));
                if found != wanted {
                    return Err(format!("round {round}: {} is {found}, not {wanted}", variable.name()));
                }
            }
            if let Some(at) = (0..PAGE).find(|&at| memory[at] != world.memory[at]) {
                return Err(format!("round {round}: memory differs at {at:#x}"));
            }
            for (register, value) in sets {
                world.machine.gregs[*register] = *value;
            }
            if compares {
                world.machine.flags = world.machine.flags & !0x8D5 | 0x44;
            }
            world.machine.host_rsp = after.host_rsp;
            let differences = world.machine.differences(&after);
            if !differences.is_empty() {
                return Err(format!("round {round}: {differences:?}"));
            }
        }
        Ok(())
    }
}

#[test]
fn any_program_does_what_the_interpreter_says() {
    isolated("any_program_does_what_the_interpreter_says", Duration::from_secs(300), || {
        let session = Session::own().expect("a session");
        let mut bench = Bench { session: &session, page: pages(), faults: [0; 6], inline: 0 };
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
        let cell = std::cell::RefCell::new(&mut bench);
        let bytes = || proptest::collection::vec(any::<u8>(), 0..600);
        let all = TestRunner::new(config.clone()).run(&bytes(), |bytes| cell.borrow_mut().any(&bytes));
        all.unwrap_or_else(|error| panic!("{error}"));
        let short = TestRunner::new(config).run(&bytes(), |bytes| cell.borrow_mut().short(&bytes));
        short.unwrap_or_else(|error| panic!("{error}"));
        println!("# {} in line; runs that ended early, by fault: {:?}", bench.inline, bench.faults);
        assert!(bench.faults[Fault::Memory as usize] > 0 && bench.faults[Fault::Division as usize] > 0);
        assert!(bench.inline > u64::from(cases) / 4, "{}", bench.inline);
    });
}
