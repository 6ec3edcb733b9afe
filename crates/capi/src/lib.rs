//! libpatch: the C interface of incise.
//!
//! The interface is documented in `include/libpatch/patch.h`. [`exports`] has the functions themselves,
//! [`abi`] the structures, [`library`] what they do.

#![deny(unsafe_code)]

mod abi;
mod commit;
mod data;
mod error;
mod exports;
mod library;
mod lock;
mod operation;
mod options;
mod probe;
mod resolve;
mod results;

pub use data::{patch_clear_map, patch_read_map, patch_read_text, patch_run_once};
pub use exports::{
    patch_cancel, patch_commit, patch_configure, patch_drop_results, patch_error_string, patch_fini,
    patch_init, patch_queue, patch_read_count, patch_version,
};
