//! Parsing: from the bytes of a file to functions with blocks and edges.

pub(crate) mod body;
pub(crate) mod code;
pub(crate) mod context;
mod cut;
mod gaps;
mod go;
mod hidden;
mod join;
mod lsda;
mod noreturn;
mod padding;
pub(crate) mod program;
mod returning;
mod runs;
pub(crate) mod stubs;
pub(crate) mod threads;
mod traverse;
mod unwind;
