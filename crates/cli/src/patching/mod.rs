//! The commands of patching by hand.

mod apply;
pub mod args;
mod find;
mod inspect;
mod patch;
mod patches;
mod set;
mod show;
mod target;

pub(crate) use apply::run as apply;
pub(crate) use find::run as find;
pub(crate) use inspect::run as inspect;
pub(crate) use patch::run as patch;
pub(crate) use patches::run as patches;
pub(crate) use patches::{undo_in_file, undo_live};
pub(crate) use set::run as set;
