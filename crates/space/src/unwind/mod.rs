//! Unwind information for trampolines.
//!
//! To an unwinder a trampoline is what a signal handler's return is: its caller is the original instruction itself, with
//! the registers it would have there. So one description serves whatever the original code is, with its language-specific
//! data or without any description at all, and nothing of that is copied. `rows.rs` tells what it takes at each
//! instruction of a trampoline, [`table`] writes it as `.eh_frame` (Linux Standard Base 5.0, Core, 10.6; DWARF 5, 6.4),
//! [`object`] as an ELF file in memory for debuggers; [`lists`] make it short, for files; in this process one table serves an
//! arena for good: `slots.rs`.

mod object;
mod paged;
mod rows;
mod slots;
mod table;

pub use object::object;
pub use paged::{Lists, lists};
pub use rows::{Piece, Row};
pub use table::{Expressed, Table, table};

pub(crate) use rows::piece;
pub(crate) use slots::{BLOCK, NOWHERE, SHAPES, Shape, arena_table, fits, shape, slot};

#[cfg(test)]
mod tests;
