//! The C library as its users have it: programs compiled against it, and its documents.

mod interface;
mod programs;
mod support;
