//! Registers by name: which differ, which are dead, what they hold.

use iced_x86::Register;
use incise_isa::Addr;
use incise_isa::native::{GprSet, live_before};
use smallvec::SmallVec;

use super::child::Registers;
use super::lockstep::Patched;

/// Flags that a debugger changes: TF, RF.
const NOT_OURS: u64 = 0x1_0100;

/// Names of registers.
pub(super) type Different = SmallVec<[&'static str; 2]>;

/// The first of `differing` that the program may read from `at` on before it overwrites it.
pub(super) fn alive(differing: &Different, at: u64, code: &Patched<'_>) -> Option<&'static str> {
    let mut bytes = Vec::new();
    while let Some(more) = (code.original)(at + bytes.len() as u64).filter(|_| bytes.len() < 300) {
        bytes.extend(more);
    }
    let near = live_before(&bytes, Addr(at));
    let dead = |gprs: GprSet, flags: bool, name: &str| match GPRS.iter().position(|gpr| *gpr == name) {
        Some(number) => gprs.bits() & 1 << number == 0,
        None => name == FLAGS && !flags,
    };
    let rest = differing.iter().filter(|name| !dead(near.gprs, near.flags, name));
    let rest: Different = rest.copied().collect();
    if rest.is_empty() {
        return None;
    }
    // The code that follows in a row does not tell; all of the program may.
    let far = (code.live)(at);
    rest.into_iter().find(|name| !dead(far.gprs, far.flags != 0, name))
}

/// The flags among the registers.
const FLAGS: &str = "rflags";
/// By hardware number.
const GPRS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// A register's value, or the base of a segment.
pub(super) fn value(regs: &Registers, register: Register) -> u64 {
    let full = match register.full_register() {
        Register::RAX => regs.rax,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RBX => regs.rbx,
        Register::RSP => regs.rsp,
        Register::RBP => regs.rbp,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::RIP => regs.rip,
        Register::FS => regs.fs_base,
        Register::GS => regs.gs_base,
        _ => 0,
    };
    if register.size() == 4 { full & 0xFFFF_FFFF } else { full }
}

/// The registers that differ, the instruction pointer left out.
pub(super) fn different(a: &Registers, b: &Registers) -> Different {
    let pairs = [
        ("rax", a.rax, b.rax),
        ("rcx", a.rcx, b.rcx),
        ("rdx", a.rdx, b.rdx),
        ("rbx", a.rbx, b.rbx),
        ("rsp", a.rsp, b.rsp),
        ("rbp", a.rbp, b.rbp),
        ("rsi", a.rsi, b.rsi),
        ("rdi", a.rdi, b.rdi),
        ("r8", a.r8, b.r8),
        ("r9", a.r9, b.r9),
        ("r10", a.r10, b.r10),
        ("r11", a.r11, b.r11),
        ("r12", a.r12, b.r12),
        ("r13", a.r13, b.r13),
        ("r14", a.r14, b.r14),
        ("r15", a.r15, b.r15),
        (FLAGS, a.eflags & !NOT_OURS, b.eflags & !NOT_OURS),
        ("fs_base", a.fs_base, b.fs_base),
        ("gs_base", a.gs_base, b.gs_base),
    ];
    pairs.into_iter().filter(|(_, a, b)| a != b).map(|(name, ..)| name).collect()
}
