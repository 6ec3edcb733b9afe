//! Commands about control flow: `functions`, `disasm`, `cfg`, `parse`.

pub mod args;
mod canvas;
mod disasm;
mod functions;
mod graph;
mod heat;
mod parse;
mod picture;
mod program;

pub(crate) use disasm::run as disasm;
pub(crate) use functions::run as functions;
pub(crate) use graph::run as cfg;
pub(crate) use parse::run as parse;
pub(crate) use program::{Binary, threads};
