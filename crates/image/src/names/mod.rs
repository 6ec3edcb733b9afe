//! How users name functions and addresses, and what a name means.

pub(crate) mod demangle;
pub(crate) mod find;
pub(crate) mod glob;
pub(crate) mod module_glob;
pub(crate) mod pattern;
pub(crate) mod pattern_error;
pub mod suggest;
