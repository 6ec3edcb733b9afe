//! Compiled programs that are stopped in a debugger, and snippets that are evaluated there.

pub mod gdb;
pub mod program;
pub mod skip;
pub mod stopped;
