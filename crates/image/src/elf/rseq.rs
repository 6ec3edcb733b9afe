//! Restartable sequences: code that the kernel aborts when it is interrupted.
//!
//! The kernel compares the instruction pointer with the range that the thread's `struct rseq_cs` names
//! (Linux, `include/uapi/linux/rseq.h`). Code moved out of that range would no longer be restarted.

use std::ops::Range;

use crate::LinkAddr;
use crate::elf::bytes::Bytes;
use crate::elf::layout::Layout;
use crate::elf::relocations::Pointers;

/// A critical section that programs announce in their section `__rseq_cs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CriticalSection {
    /// From the first instruction to behind the one that commits.
    pub range: Range<LinkAddr>,
    /// Where the kernel sends a thread that was interrupted inside.
    pub abort: LinkAddr,
}

impl CriticalSection {
    /// The four bytes before the abort handler, a signature that the kernel compares. They are no code.
    pub fn signature(&self) -> Range<LinkAddr> {
        LinkAddr(self.abort.0.saturating_sub(4))..self.abort
    }
}

/// Size of `struct rseq_cs`: version and flags (32 bits each), start, length, abort address.
const DESCRIPTOR: u64 = 32;

/// Reads `__rseq_cs`.
pub(crate) fn critical_sections(layout: &Layout<'_>, rela: &[Bytes<'_>]) -> Vec<CriticalSection> {
    let Some(section) = layout.section("__rseq_cs") else { return Vec::new() };
    let pointers = Pointers::new(section, rela);
    let count = section.bytes.len() / DESCRIPTOR;
    let descriptor = |index: u64| {
        let at = index * DESCRIPTOR;
        let start = pointers.quadword(at + 8)?;
        let len = pointers.quadword(at + 16)?.0;
        let abort = pointers.quadword(at + 24)?;
        (start.0 != 0 && len != 0).then(|| CriticalSection { range: start.span(len), abort })
    };
    let mut found: Vec<CriticalSection> = (0..count).filter_map(descriptor).collect();
    found.sort_by_key(|s| s.range.start);
    found
}
