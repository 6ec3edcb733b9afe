//! The C library as its users have it: programs compiled against it, and its documents.

mod debugger;
mod interface;
mod programs;
mod support;
