//! Values that unwind tables tell, in one thread.

use incise_image::dwarf::{BinaryOp, Value};

/// Registers that are known while a stack is walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Registers {
    pub sp: u64,
    /// If it is known.
    pub rbp: Option<u64>,
}

/// DWARF numbers of registers (psABI x86-64, figure 3.36).
const RBP: u8 = 6;
const RSP: u8 = 7;

/// What `value` is; nothing if it needs other registers, other operators than tables have, or memory that cannot be read.
pub(super) fn value(text: &Value, registers: Registers, read: &dyn Fn(u64) -> Option<u64>) -> Option<u64> {
    let of = |text: &Value| value(text, registers, read);
    match text {
        Value::Constant(number) => Some(*number),
        Value::Register(RBP) => registers.rbp,
        Value::Register(RSP) => Some(registers.sp),
        Value::Load(address, 8) => read(of(address)?),
        Value::Binary(BinaryOp::Plus, left, right) => Some(of(left)?.wrapping_add(of(right)?)),
        _ => None,
    }
}
