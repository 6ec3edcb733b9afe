//! x86-64 (AMD64): 64-bit mode only.

mod springboard;

pub use springboard::{Placement, SPRINGBOARD_LEN, Springboard, TRAP, TRAP_LEN};
