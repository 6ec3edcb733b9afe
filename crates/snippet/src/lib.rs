//! What runs at a point: a tree of typed expressions and statements, a language that compiles to it, and its
//! lowering to machine code.
//!
//! No IO and no system call: the tree is made ([`tree`]) or compiled from text ([`language`]), and run by an
//! interpreter ([`interpret`]) or compiled to machine code ([`compile`]).

#![deny(unsafe_code)]

pub mod compile;
pub mod data;
pub mod debug;
pub mod inline;
pub mod interpret;
pub mod language;
pub mod show;
pub mod tree;
