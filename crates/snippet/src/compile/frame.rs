//! The frame: what a compiled program knows of its point.
//!
//! | offset | what |
//! |---|---|
//! | 0 | general registers by number: rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15 |
//! | 128 | the status flags, as bits of RFLAGS |
//! | 136 | the low quadwords of xmm0 to xmm15 |
//! | 264 | effective address, bytes accessed, original address, target |
//! | 296 | what guards the code against reaching itself keeps here |
//!
//! Only what [`Uses`](super::Uses) tells has to be filled in.

use incise_isa::native::Gpr;

use crate::tree::PointFact;

/// Its size in bytes.
pub const SIZE: i32 = 304;
/// Where the flags are.
pub const FLAGS: i32 = 128;

/// Where the code keeps the address of its thread's mark, if it has set that.
pub(super) const GUARD: i32 = 296;

/// Where a general register is.
pub const fn gpr(register: Gpr) -> i32 {
    register.number() as i32 * 8
}

/// Where the low quadword of a vector register is.
pub const fn vector(number: u8) -> i32 {
    136 + number as i32 * 8
}

/// Where a fact about the point is.
pub const fn fact(fact: PointFact) -> i32 {
    264 + match fact {
        PointFact::EffectiveAddress => 0,
        PointFact::BytesAccessed => 8,
        PointFact::OriginalAddress => 16,
        PointFact::Target => 24,
    }
}
