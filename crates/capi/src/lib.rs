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
mod rings;
mod tree;
mod tree_flow;
mod tree_maps;
mod tree_records;

pub use data::{patch_clear_map, patch_read_map, patch_read_text, patch_run_once};
pub use exports::{
    patch_cancel, patch_commit, patch_configure, patch_drop_results, patch_error_string, patch_fini,
    patch_init, patch_queue, patch_read_count, patch_version,
};
pub use rings::{patch_ring_close, patch_ring_dropped, patch_ring_open, patch_ring_read, patch_ring_words};
pub use tree::{
    patch_add, patch_arg, patch_binary, patch_call, patch_cast, patch_choose, patch_const, patch_evaluate,
    patch_fact_of, patch_float_arg, patch_if, patch_load, patch_queue_tree, patch_read_variable,
    patch_register, patch_return, patch_returned, patch_run_tree, patch_sequence, patch_set,
    patch_set_register, patch_store, patch_tree_free, patch_tree_new, patch_unary, patch_value,
    patch_variable, patch_while,
};
pub use tree_flow::{
    patch_array, patch_atomic, patch_bits, patch_break, patch_compare_exchange, patch_continue,
    patch_debugger, patch_do_while, patch_element, patch_for, patch_local, patch_set_element, patch_stop,
    patch_switch, patch_vector,
};
pub use tree_maps::{
    patch_map, patch_map_delete, patch_map_has, patch_map_update, patch_map_value, patch_read_tree_map,
};
pub use tree_records::{
    patch_command, patch_emit, patch_read_rings, patch_rings_new, patch_stack, patch_text,
};
