//! How functions begin: as compilers make them, and as code that nobody calls does not.

use iced_x86::{Code as Opcode, Mnemonic, OpKind, Register};

use incise_isa::native::{Flow, Gpr, GprSet, Insn, RegisterUses, abi};

use crate::parse::code::Off;
use crate::parse::context::Context;

/// Whether the code at `at` begins as compilers begin functions.
pub(crate) fn begins_function(context: &Context<'_>, at: Off) -> bool {
    let Some(first) = context.code.insn(at) else { return false };
    if first.is_endbr() {
        return true;
    }
    let i = first.iced();
    let second = context.code.insn(at.saturating_add(first.len() as Off));
    match i.mnemonic() {
        Mnemonic::Push => matches!(
            i.op0_register(),
            Register::RBP | Register::RBX | Register::R12 | Register::R13 | Register::R14 | Register::R15
        ),
        Mnemonic::Sub => i.op0_register() == Register::RSP && i.op1_kind() != OpKind::Register,
        // Arguments are kept before registers are.
        Mnemonic::Mov => second.is_some_and(|s| s.iced().mnemonic() == Mnemonic::Push),
        _ => false,
    }
}

/// Whether the code at `at` takes over from code around it, as landing pads and the rarely run parts of functions do:
/// it reads registers that no caller passes anything in, or calls without having moved the stack, which is aligned at
/// calls (psABI 3.2.2) and so is not where a function begins.
pub(crate) fn takes_over(context: &Context<'_>, at: Off, end: Off) -> bool {
    /// Instructions looked at.
    const LIMIT: usize = 24;
    let kept = abi::CALLEE_SAVED.intersection(GprSet::of(&[Gpr::Rsp]).complement());
    let foreign = kept.union(GprSet::of(&[Gpr::Rax]));
    let (mut written, mut moved) = (GprSet::EMPTY, false);
    let mut uses = RegisterUses::default();
    for insn in context.code.insns(at..end).take(LIMIT) {
        let i = insn.iced();
        match insn.flow() {
            _ if insn.is_endbr() || i.mnemonic() == Mnemonic::Push && i.op0_register().is_gpr64() => {
                return false;
            }
            Flow::Call(_) | Flow::IndirectCall => {
                if !moved {
                    return true;
                }
                written = written.union(abi::CALLER_SAVED);
                continue;
            }
            Flow::Next | Flow::Branch(_) => {}
            _ => return false,
        }
        let Some(used) = uses.of(&insn) else { return false };
        let read = if says_nothing(&insn, kept) { GprSet::EMPTY } else { used.read };
        if !read.intersection(foreign).intersection(written.complement()).is_empty() {
            return true;
        }
        written = written.union(used.overwritten);
        moved |= i.stack_pointer_increment() != 0
            || i.op0_kind() == OpKind::Register && i.op0_register() == Register::RSP;
    }
    false
}

/// Whether what the instruction reads may be what a caller left by chance: it only saves or clears a register, does
/// nothing, or asks for the number of vector arguments.
fn says_nothing(insn: &Insn, kept: GprSet) -> bool {
    let i = insn.iced();
    let same = i.op_count() >= 2 && i.op0_kind() == OpKind::Register && i.op0_register() == i.op1_register();
    let clears =
        same && matches!(i.mnemonic(), Mnemonic::Xor | Mnemonic::Sub | Mnemonic::Sbb | Mnemonic::Xchg);
    let counts = same && i.mnemonic() == Mnemonic::Test && i.op0_register() == Register::AL;
    let saves = i.code() == Opcode::Mov_rm64_r64
        && i.op0_kind() == OpKind::Memory
        && i.memory_base() == Register::RSP
        && kept.iter().any(|gpr| usize::from(gpr.number()) == i.op1_register().number());
    insn.is_nop() || clears || counts || saves
}
