//! x86-64 (AMD64): 64-bit mode only.

pub mod abi;
mod assemble;
mod assembler;
mod decode;
mod flags;
mod flow;
mod gpr;
mod gs;
mod guard;
mod liveness;
mod liveness_along;
mod operand_address;
mod operands;
mod register_use;
mod relocate;
mod springboard;
mod stream;
mod text;
mod undo;
mod vector;

pub use assemble::{Assembler, OutOfReach};
pub use assembler::{AsmError, Syntax, assemble};
pub use decode::{DecodeError, Insn, MAX_INSN_LEN, RawBytes, decode};
pub use flags::{FlagUse, flag_use};
pub use flow::Flow;
pub use gpr::{Gpr, GprSet};
pub use gs::uses_gs_base;
pub use guard::{Guard, Guarded, MAX_GUARD_LEN};
pub use liveness::{
    Live, flags_live_before, flags_live_before_call, flags_live_through, live_before, reads_flags,
};
pub use liveness_along::{Handed, flags_live_along, gprs_live_along};
pub use operand_address::NoAddress;
pub use operands::{MemoryUse, mnemonics};
pub use register_use::{RegisterUse, RegisterUses, register_use};
pub use relocate::{MAX_RELOCATED_LEN, RelocateError, Relocation, relocate};
pub use springboard::{
    Bound, Placement, SPRINGBOARD_LEN, Springboard, TRAP, TRAP_LEN, is_illegal, trap_displacements,
};
pub use stream::InsnStream;
pub use text::Constant;
pub use undo::{KeptFlags, Undo, undo, undo_each};
pub use vector::VectorWidth;

#[cfg(test)]
mod testing {
    /// Bytes written as in a listing: `48 8b 05`.
    pub fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect()
    }
}
