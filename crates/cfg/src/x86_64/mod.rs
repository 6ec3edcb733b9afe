//! What the parser has to know of x86-64 beyond the flow of single instructions.

mod expr;
mod resolve;
mod stack;
mod state;

use std::ops::Range;

use iced_x86::{Code as Opcode, OpKind};

use crate::code::{Code, Off};

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
        let insn = code.insn(at)?;
        let padding = insn.is_nop()
            || insn.bytes() == [0xcc]
            || insn.bytes() == [0, 0]
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

fn is_idle(insn: &iced_x86::Instruction) -> bool {
    match insn.code() {
        Opcode::Mov_rm64_r64 | Opcode::Mov_r64_rm64 => {
            insn.op0_kind() == OpKind::Register
                && insn.op1_kind() == OpKind::Register
                && insn.op0_register() == insn.op1_register()
        }
        Opcode::Lea_r64_m => {
            insn.memory_base() == insn.op0_register()
                && insn.memory_index() == iced_x86::Register::None
                && insn.memory_displacement64() == 0
        }
        _ => false,
    }
}
