//! What the parser has to know of x86-64 beyond the flow of single instructions.

mod entry;
mod expr;
mod resolve;
mod stack;
mod state;
mod writes;

use std::ops::Range;

use iced_x86::{Code as Opcode, Mnemonic, OpKind, Register};

use incise_isa::native::Flow;

use crate::parse::code::{Code, Off};

pub(crate) use entry::{begins_function, takes_over};
pub(crate) use resolve::Resolver;

/// What is known of an indirect jump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Indirect {
    /// All its targets, ascending.
    Targets(Box<[Off]>),
    /// It goes to an imported function; before that is bound, to the code given.
    Import(u32, Option<Off>),
    /// It leaves the function for another one, as a call would.
    TailCall,
    /// Its targets are not known.
    Unknown,
}

/// The slot that the instruction at `at` calls or jumps through, if it has a fixed address.
pub(crate) fn slot(code: &Code<'_>, at: Off) -> Option<u64> {
    let insn = code.insn(at)?;
    let memory = insn.iced().op0_kind() == OpKind::Memory;
    insn.ip_relative_target().filter(|_| memory).map(|at| at.0)
}

/// The first instruction in `range` that is no padding; `None` if all of it is.
pub(crate) fn skip_padding(code: &Code<'_>, range: Range<Off>) -> Option<Off> {
    let mut at = range.start;
    while at < range.end {
        let Some(insn) = code.insn(at) else { return Some(at) };
        let padding = insn.is_nop()
            || insn.bytes() == [0xcc]
            || insn.bytes() == [0, 0]
            // Behind calls that do not come back.
            || insn.flow() == Flow::Stop
            || insn.iced().code() == Opcode::Xchg_rm16_r16
                && insn.iced().op0_register() == insn.iced().op1_register();
        // `lea` and `mov` of a register to itself, in the widths that change nothing.
        if !padding && !is_idle(insn.iced()) {
            return Some(at);
        }
        at = at.saturating_add(insn.len() as Off);
    }
    None
}

/// Whether the stack may be as it was at `entry` behind the instructions of `range`: the function did not
/// take any, or they give some back.
pub(crate) fn may_leave(code: &Code<'_>, entry: Off, range: Range<Off>) -> bool {
    /// Instructions within which functions take their stack.
    const PROLOGUE: usize = 16;
    let stack = |i: &iced_x86::Instruction| i.op0_register() == Register::RSP;
    let begins = code.insns(entry..entry.saturating_add(256)).take(PROLOGUE);
    let takes = |i: &iced_x86::Instruction| {
        i.mnemonic() == Mnemonic::Push || i.mnemonic() == Mnemonic::Sub && stack(i)
    };
    let mut straight = begins.take_while(|insn| insn.flow().falls_through());
    if !straight.any(|insn| takes(insn.iced())) {
        return true;
    }
    code.insns(range).any(|insn| {
        let i = insn.iced();
        match i.mnemonic() {
            Mnemonic::Pop | Mnemonic::Leave => true,
            Mnemonic::Add | Mnemonic::Lea | Mnemonic::Mov => stack(i),
            _ => false,
        }
    })
}

fn is_idle(insn: &iced_x86::Instruction) -> bool {
    match insn.code() {
        Opcode::Mov_rm64_r64 | Opcode::Mov_r64_rm64 => {
            insn.op0_kind() == OpKind::Register
                && insn.op1_kind() == OpKind::Register
                && insn.op0_register() == insn.op1_register()
        }
        Opcode::Lea_r64_m => {
            insn.memory_base() == insn.op0_register()
                && insn.memory_index() == Register::None
                && insn.memory_displacement64() == 0
        }
        _ => false,
    }
}
