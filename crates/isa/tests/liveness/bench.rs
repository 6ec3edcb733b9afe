//! Runs one instruction between two states of registers and flags.
//!
//! # Safety
//!
//! The instruction must touch no memory, no stack and no segment register. The frame around it saves and
//! restores what the calling convention asks for, on the stack of the caller; a fault inside the code
//! page is turned into a return. The code page is written through a second mapping, and only between
//! runs; both pages lie below 2 GiB, so that the frame addresses them without a register.

use std::cell::Cell;
use std::io::{Error, Result};
use std::ptr;

use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr, Insn};

use crate::random::Random;

const PAGE: usize = 4096;
const STATUS_FLAGS: u64 = 0x8D5;
/// Components of `xrstor`: x87, SSE, AVX, AVX-512 (Intel SDM vol. 1, 13.1). The rest, protection keys among
/// it, is left alone.
const EXTENDED_STATE: u64 = 0xE7;

/// Registers by number, and the status flags. `rsp` is not part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    pub gprs: [u64; 16],
    pub flags: u64,
}

impl State {
    pub fn random(random: &mut Random) -> State {
        // Small and equal values are as telling as large ones.
        let small = random.next() & 1 == 0;
        let gprs = std::array::from_fn(|_| if small { random.next() % 40 } else { random.next() });
        State { gprs, flags: random.next() & STATUS_FLAGS }
    }
}

/// What the code and the test exchange, at the start of the data page.
#[repr(C, align(64))]
struct Exchange {
    /// An image for `xrstor`: the x87 and SSE state of a new thread; all else in its initial state.
    image: [u8; 576],
    before: State,
    after: State,
    stack: u64,
}

thread_local! {
    /// Where a fault in this thread's code page goes, which also tells where that page is.
    static ESCAPE: Cell<u64> = const { Cell::new(0) };
}

pub struct Bench {
    data: *mut Exchange,
    code: u64,
    writable: *mut u8,
}

impl Bench {
    pub fn new() -> Result<Bench> {
        let data = map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: a file descriptor and a length.
        if file < 0 || unsafe { libc::ftruncate(file, PAGE as i64) } != 0 {
            return Err(Error::last_os_error());
        }
        let code = map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, file)?;
        let writable = map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file)?;
        // SAFETY: the mappings keep the file.
        unsafe { libc::close(file) };
        let bench = Bench { data: data.cast(), code: code as u64, writable: writable.cast() };
        // SAFETY: a fresh page, large enough and zeroed; FCW and MXCSR get their initial values.
        let image = unsafe { &mut (*bench.data).image };
        image[0..2].copy_from_slice(&0x037Fu16.to_le_bytes());
        image[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
        // XSTATE_BV: only these two are in the image.
        image[512] = 3;
        for signal in [libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGTRAP] {
            // SAFETY: zero is a valid `sigaction`, and the handler has the type that SA_SIGINFO asks for.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = escape as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
                libc::sigaction(signal, &action, ptr::null_mut());
            }
        }
        Ok(bench)
    }

    /// Puts `insn` into the frame.
    pub fn load(&mut self, insn: &Insn) {
        const SAVED: [Gpr; 6] = [Gpr::Rbx, Gpr::Rbp, Gpr::R12, Gpr::R13, Gpr::R14, Gpr::R15];
        let at = |field: usize| (self.data as usize + field) as u32;
        let stack = at(std::mem::offset_of!(Exchange, stack));
        let before = at(std::mem::offset_of!(Exchange, before));
        let after = at(std::mem::offset_of!(Exchange, after));
        let flags = std::mem::offset_of!(State, flags) as u32;
        let mut asm = Assembler::new(Addr(self.code));
        SAVED.into_iter().for_each(|register| asm.push(register));
        access(&mut asm, 0x89, Gpr::Rsp, stack);
        asm.mov_imm(Gpr::Rax, EXTENDED_STATE);
        asm.mov_imm(Gpr::Rdx, 0);
        absolute(&mut asm, &[0x48, 0x0F, 0xAE], 5, at(0));
        absolute(&mut asm, &[0xFF], 6, before + flags);
        asm.raw(&[0x9D]);
        for register in without_rsp() {
            access(&mut asm, 0x8B, register, before + 8 * u32::from(register.number()));
        }
        asm.raw(insn.bytes());
        for register in without_rsp() {
            access(&mut asm, 0x89, register, after + 8 * u32::from(register.number()));
        }
        asm.raw(&[0x9C]);
        absolute(&mut asm, &[0x8F], 0, after + flags);
        // The flag tells the ways out apart.
        for result in [1, 0] {
            if result == 0 {
                ESCAPE.set(asm.here().0);
            }
            access(&mut asm, 0x8B, Gpr::Rsp, stack);
            asm.raw(&[0xFC]);
            SAVED.into_iter().rev().for_each(|register| asm.pop(register));
            asm.mov_imm(Gpr::Rax, result);
            asm.raw(&[0xC3]);
        }
        assert!(asm.bytes().len() <= PAGE);
        // SAFETY: the page is writable, large enough, and nobody runs in it now.
        unsafe { ptr::copy_nonoverlapping(asm.bytes().as_ptr(), self.writable, asm.bytes().len()) };
    }

    /// The state behind the instruction, or nothing if it faults.
    pub fn run(&mut self, before: &State) -> Option<State> {
        // SAFETY: the page is ours; the code at its start is a function of this type.
        unsafe {
            (*self.data).before = State { flags: before.flags | 0x202, ..*before };
            let frame: extern "C" fn() -> u64 = std::mem::transmute(self.code);
            if frame() == 0 {
                return None;
            }
            let mut after = (*self.data).after;
            after.gprs[usize::from(Gpr::Rsp.number())] = before.gprs[usize::from(Gpr::Rsp.number())];
            after.flags &= STATUS_FLAGS;
            Some(after)
        }
    }
}

fn without_rsp() -> impl Iterator<Item = Gpr> {
    Gpr::ALL.into_iter().filter(|&register| register != Gpr::Rsp)
}

/// `mov` with opcode 89 or 8b between a register and `[address]`.
fn access(asm: &mut Assembler, opcode: u8, register: Gpr, address: u32) {
    absolute(asm, &[0x48 | register.number() >> 3 << 2, opcode], register.number() & 7, address);
}

/// An instruction with `[address]` as operand: ModRM and SIB without base and index.
fn absolute(asm: &mut Assembler, opcode: &[u8], reg: u8, address: u32) {
    asm.raw(opcode);
    asm.raw(&[0x04 | reg << 3, 0x25]);
    asm.raw(&address.to_le_bytes());
}

/// One page below 2 GiB.
fn map(protection: i32, flags: i32, file: i32) -> Result<*mut libc::c_void> {
    // SAFETY: a new mapping where the kernel likes.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, flags | libc::MAP_32BIT, file, 0) };
    if page == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(page) }
}

/// Turns a fault in the code page into a return, and any other into what it would be without a handler.
extern "C" fn escape(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let escape = ESCAPE.get();
    // SAFETY: the kernel passes a `ucontext_t`.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = &mut registers[libc::REG_RIP as usize];
    if *at as u64 / PAGE as u64 == escape / PAGE as u64 {
        *at = escape as i64;
    } else {
        // SAFETY: resets a disposition; the fault comes again.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
