//! The child's life: one signal handler that goes from run to run.
//!
//! # Safety
//!
//! Everything here runs in a forked child with one thread. [`start`] never returns: it raises the
//! first signal, and from then on all Rust code runs inside the handler, on its own stack, with all
//! signals blocked; code under test runs between a handler's return and the next signal. The
//! handler does not allocate, because the fork may have caught another thread in the allocator.
//! `RUNNER` points to a value that outlives the process.

#![allow(unsafe_code, reason = "a signal handler that rewrites the interrupted context")]

use std::arch::{asm, naked_asm};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::map::{MEMORY, Memory};
use super::segments::{self, Segments};
use crate::case::{Body, Case, Start};
use crate::compare::{self, IMAGE_LEN};
use crate::layout::{Place, STACK_LEN};
use crate::outcome::{MAX_COPIES, Outcome, Verdict};
use crate::tape::Tape;
use crate::xstate::{Components, Xstate};

static RUNNER: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Marks an extended state area in a signal frame (Linux: FP_XSTATE_MAGIC1).
const XSTATE_MAGIC: u32 = 0x4650_5853;
const USER_CODE_SELECTOR: u64 = 0x33;
const USER_DATA_SELECTOR: u64 = 0x2b;
/// gregs index of each register in hardware order.
const GREGS: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
const RIP: usize = 16;
const EFLAGS: usize = 17;
const SELECTORS: usize = 18;
const ERROR: usize = 19;
const TRAP: usize = 20;
/// Flags a start state may choose: CF PF AF ZF SF DF OF.
const CHOSEN_FLAGS: u64 = 0xcd5;
const FIXED_FLAGS: u64 = 0x202;

/// Exit codes of a child that could not begin.
pub const EXIT_HANDLER: i32 = 40;
/// The kernel gave no extended state.
pub const EXIT_NO_XSTATE: i32 = 41;
/// Added to the number of the [`super::map::MapStep`] that failed.
pub const EXIT_MAP: i32 = 50;

#[derive(Clone, Copy)]
enum Phase {
    Begin,
    Original,
    Copy(usize),
}

/// What a child works on; made by the parent, used by the child alone.
pub struct Runner<'a> {
    cases: &'a [Case],
    tape: &'a Tape,
    verdicts: *mut Verdict,
    progress: &'a AtomicU32,
    memory: Memory,
    components: Components,
    own_bases: [u64; 2],
    index: usize,
    phase: Phase,
    original: Outcome,
    actual: Outcome,
    start_state: Xstate,
    original_image: Vec<u8>,
    actual_image: Vec<u8>,
    pristine: Vec<u8>,
    written: (u64, usize),
    stack: Vec<u8>,
}

impl<'a> Runner<'a> {
    /// Prepares everything that needs memory. `verdicts` has a place for each case; `progress`
    /// receives the index of the case being run, shifted left by 3, and the copy's number.
    pub fn new(
        cases: &'a [Case],
        tape: &'a Tape,
        from: usize,
        verdicts: *mut Verdict,
        progress: &'a AtomicU32,
    ) -> Self {
        Runner {
            cases,
            tape,
            verdicts,
            progress,
            memory: Memory::plan(),
            components: Components::detect(),
            own_bases: [0; 2],
            index: from,
            phase: Phase::Begin,
            original: Outcome::default(),
            actual: Outcome::default(),
            start_state: Xstate::default(),
            original_image: vec![0; IMAGE_LEN],
            actual_image: vec![0; IMAGE_LEN],
            pristine: vec![0; STACK_LEN],
            written: (0, 0),
            stack: vec![0; 1 << 18],
        }
    }

    /// Takes over the process. Only for a freshly forked child.
    pub fn start(&mut self) -> ! {
        if let Err(step) = self.memory.map() {
            exit(EXIT_MAP + step as i32);
        }
        self.own_bases = segments::bases();
        RUNNER.store((&raw mut *self).cast(), Ordering::Release);
        if !self.install_handler() || !super::guard::seal() {
            exit(EXIT_HANDLER);
        }
        // SAFETY: the handler is in place; it takes over here and never comes back.
        unsafe { asm!("int3", options(noreturn)) }
    }

    fn install_handler(&mut self) -> bool {
        // SAFETY: the stack lives as long as the process; the handler has the right type.
        unsafe {
            let stack = libc::stack_t {
                ss_sp: self.stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: self.stack.len(),
            };
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigfillset(&raw mut action.sa_mask);
            let signals = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
            libc::sigaltstack(&raw const stack, ptr::null_mut()) == 0
                && signals.iter().all(|&signal| {
                    libc::sigaction(signal, &raw const action, ptr::null_mut()) == 0 && unblock(signal)
                })
        }
    }

    /// One stop: judge what ran, then prepare what runs next.
    fn stopped(&mut self, frame: &mut Frame, segments: Segments) {
        let cases = self.cases;
        self.memory.erase_code(self.written.0, self.written.1);
        match self.phase {
            Phase::Begin => {}
            Phase::Original => {
                let case = &cases[self.index];
                frame.capture(&mut self.original, segments, &self.components);
                self.memory.snapshot(&mut self.original_image);
                self.verdict().original = compare::ending(&self.original, &case.original);
            }
            Phase::Copy(number) => {
                let case = &cases[self.index];
                frame.capture(&mut self.actual, segments, &self.components);
                self.memory.snapshot(&mut self.actual_image);
                // SAFETY: as in `verdict`, written out because other fields are borrowed too.
                let verdict = unsafe { &mut *self.verdicts.add(self.index) };
                compare::compare(
                    case,
                    &case.copies[number],
                    &self.pristine,
                    (&self.original, &self.original_image),
                    (&self.actual, &self.actual_image),
                    &mut verdict.copies[number],
                );
            }
        }
        let next = match self.phase {
            Phase::Begin => Phase::Original,
            Phase::Original => Phase::Copy(0),
            Phase::Copy(number) => Phase::Copy(number + 1),
        };
        self.phase = match next {
            Phase::Copy(number) if number >= cases[self.index].copies.len().min(MAX_COPIES) => {
                self.index += 1;
                Phase::Original
            }
            phase => phase,
        };
        let Some(case) = cases.get(self.index) else {
            self.progress.store((self.index as u32) << 3, Ordering::Relaxed);
            exit(0)
        };
        let (body, number) = match self.phase {
            Phase::Copy(number) => (&case.copies[number].body, number as u32 + 1),
            _ => (&case.original, 0),
        };
        self.progress.store((self.index as u32) << 3 | number, Ordering::Relaxed);
        self.prepare(frame, case.place, body, &case.start);
    }

    fn prepare(&mut self, frame: &mut Frame, place: Place, body: &Body, start: &Start) {
        for ((at, len), &window) in MEMORY.into_iter().zip(&start.windows) {
            if let Some(bytes) = self.memory.bytes(at, len) {
                bytes.copy_from_slice(self.tape.window(window, len));
            }
        }
        for poke in &start.pokes {
            if let Some(bytes) = self.memory.bytes(poke.at, poke.bytes.len()) {
                bytes.copy_from_slice(&poke.bytes);
            }
        }
        if matches!(self.phase, Phase::Original)
            && let Some(bytes) = self.memory.bytes(place.stack().start, STACK_LEN)
        {
            self.pristine.copy_from_slice(bytes);
        }
        self.memory.write_code(body.at, &body.bytes);
        self.written = (body.at, body.bytes.len());
        fill(&mut self.start_state, self.tape, start);
        self.start_state.store(frame.xsave(), &self.components);
        frame.set(start, body.at);
        segments::set_bases([start.fs_base, start.gs_base]);
    }

    fn verdict(&mut self) -> &mut Verdict {
        // SAFETY: the parent made a place for each case and does not read before the child is gone.
        unsafe { &mut *self.verdicts.add(self.index) }
    }
}

fn fill(state: &mut Xstate, tape: &Tape, start: &Start) {
    let bytes = tape.window(start.windows[4], 2048 + 64 + 80);
    let (vectors, rest) = bytes.split_at(2048);
    for (register, bytes) in state.zmm.iter_mut().zip(vectors.chunks_exact(64)) {
        register.copy_from_slice(bytes);
    }
    for (mask, bytes) in state.masks.iter_mut().zip(rest.chunks_exact(8)) {
        *mask = bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    }
    for (st, bytes) in state.st.iter_mut().zip(rest[64..].chunks_exact(10)) {
        st.copy_from_slice(bytes);
    }
    for (register, bytes) in &start.vectors {
        state.zmm[usize::from(*register & 31)] = *bytes;
    }
    state.mxcsr = start.mxcsr;
    state.x87_control = start.x87_control;
    state.x87_status = start.x87_status;
    state.x87_tags = start.x87_tags;
    state.x87_data_pointer = 0;
}

/// The signal frame the kernel made, and will restore.
struct Frame {
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
}

impl Frame {
    fn gregs(&mut self) -> &mut [i64; 23] {
        // SAFETY: the kernel's own frame, on the handler's stack, used by nobody else now.
        unsafe { &mut (*self.context).uc_mcontext.gregs }
    }

    fn xsave(&mut self) -> &mut [u8] {
        // SAFETY: the kernel puts the image where `fpregs` points; its length is in the bytes that
        // are reserved for software (Linux: struct _fpx_sw_bytes at 464).
        unsafe {
            let image = (*self.context).uc_mcontext.fpregs.cast::<u8>();
            let magic = image.add(464).cast::<u32>().read_unaligned();
            let len = image.add(464 + 16).cast::<u32>().read_unaligned() as usize;
            if magic != XSTATE_MAGIC || len < 576 {
                exit(EXIT_NO_XSTATE);
            }
            std::slice::from_raw_parts_mut(image, len)
        }
    }

    fn capture(&mut self, outcome: &mut Outcome, segments: Segments, components: &Components) {
        // SAFETY: the kernel's own record; for the signals handled, si_addr is filled in.
        unsafe {
            outcome.signal = (*self.info).si_signo;
            outcome.code = (*self.info).si_code;
            outcome.address = (*self.info).si_addr() as u64;
        }
        let gregs = self.gregs();
        for (value, &index) in outcome.gpr.iter_mut().zip(&GREGS) {
            *value = gregs[index] as u64;
        }
        outcome.ip = gregs[RIP] as u64;
        outcome.flags = gregs[EFLAGS] as u64;
        outcome.error = gregs[ERROR] as u64;
        outcome.trap = gregs[TRAP] as u64;
        let selectors = gregs[SELECTORS] as u64;
        outcome.selectors[..4].copy_from_slice(&segments.selectors);
        outcome.selectors[4] = (selectors >> 48) as u16;
        outcome.selectors[5] = selectors as u16;
        outcome.bases = segments.bases;
        let image = self.xsave();
        outcome.xstate.load(image, components);
    }

    fn set(&mut self, start: &Start, ip: u64) {
        let gregs = self.gregs();
        for (&value, &index) in start.gpr.iter().zip(&GREGS) {
            gregs[index] = value as i64;
        }
        gregs[RIP] = ip as i64;
        gregs[EFLAGS] = (start.flags & CHOSEN_FLAGS | FIXED_FLAGS) as i64;
        gregs[SELECTORS] = (USER_DATA_SELECTOR << 48 | USER_CODE_SELECTOR) as i64;
    }
}

/// Entry of the handler: clears AC, which the kernel leaves as the interrupted code had it, before
/// any compiled code makes an unaligned access.
#[unsafe(naked)]
extern "C" fn handler() {
    naked_asm!(
        "pushfq",
        "and dword ptr [rsp], {mask}",
        "popfq",
        "jmp {body}",
        mask = const !(1_i32 << 18),
        body = sym on_signal,
    )
}

extern "C" fn on_signal(_: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let runner = RUNNER.load(Ordering::Acquire).cast::<Runner<'static>>();
    // SAFETY: `start` stored the pointer before the first signal; handlers do not nest.
    let runner = unsafe { &mut *runner };
    let segments = Segments::take(runner.own_bases);
    runner.stopped(&mut Frame { info, context }, segments);
}

fn unblock(signal: i32) -> bool {
    // SAFETY: changes this thread's mask only.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) == 0
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(code) }
}
