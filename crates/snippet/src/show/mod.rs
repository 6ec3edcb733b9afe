//! What snippets leave, for people: records as printf(3) would show them, maps and histograms as bpftrace does.
//!
//! Formats stay with the reader; records and maps hold values only, as quadwords.

mod bars;
mod map;
mod printf;
mod value;

pub use bars::{Bucket, buckets};
pub use map::{Entry, entries, print_map};
pub use printf::printf;
pub use value::{Shown, decode};

/// Knows the names of addresses in the program.
pub trait Symbols {
    /// `FUNCTION+OFFSET`, or what else tells the address.
    fn symbol(&self, at: u64) -> String;
}

impl<F: Fn(u64) -> String> Symbols for F {
    fn symbol(&self, at: u64) -> String {
        self(at)
    }
}
