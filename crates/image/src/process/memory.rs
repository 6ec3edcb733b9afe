//! Memory of a running program, as this crate sees it.

use incise_isa::Addr;

/// Reads memory of a running program.
pub trait MemoryReader {
    /// Fills `into` from the bytes at `at`; `false` if any of them cannot be read.
    fn read(&self, at: Addr, into: &mut [u8]) -> bool;
}

impl<F: Fn(Addr, &mut [u8]) -> bool> MemoryReader for F {
    fn read(&self, at: Addr, into: &mut [u8]) -> bool {
        self(at, into)
    }
}
