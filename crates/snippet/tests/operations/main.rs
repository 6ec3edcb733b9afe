//! Operations on shared memory, run in this process: by many threads, by children that are killed in the middle, on memory that is
//! full.
//!
//! # Safety
//! Code of [`operation::Function`](incise_snippet::data::operation::Function) follows the system's calling convention and
//! touches no memory but what its arguments point to, which is large enough for the layouts used here.

#![allow(unsafe_code, reason = "runs generated code")]

mod calls;
mod histograms;
mod maps;
mod rings;
mod support;
mod tables;
