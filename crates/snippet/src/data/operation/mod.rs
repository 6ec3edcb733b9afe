//! What snippets do with shared memory, as machine code: position-independent, without calls, system calls and locks that
//! wait, so that it may run anywhere, signal handlers included.
//!
//! Each operation is assembly text ([`text`](assemble)) to be put among other code, with its registers told, and a function with the
//! system's calling convention ([`Function`]) that changes no vector register and no memory but that which it is for.

mod calls;
mod histogram;
mod map;
mod ring;

pub use calls::CallsLayout;
pub use histogram::{HistogramLayout, histogram_add};
pub use map::{MapLayout, MapReader, aggregate};
pub use ring::{ring_commit, ring_reserve};

use std::arch::x86_64::__cpuid_count;

use incise_isa::Addr;
use incise_isa::native::Syntax;

/// Machine code of operations.
///
/// # Panics
/// If `text` is no code: all of it comes from this module.
pub fn assemble(text: &str) -> Vec<u8> {
    match incise_isa::native::assemble(text, Addr(0x1000), Syntax::Intel, &|_| None) {
        Ok(code) => code,
        Err(error) => panic!("{error}"),
    }
}

/// Whether the processor has `rdpid` (CPUID 7: ECX bit 22; Intel SDM vol. 2, CPUID).
pub fn has_rdpid() -> bool {
    __cpuid_count(7, 0).ecx & 1 << 22 != 0
}

/// `register = number of this CPU`, by name without size prefix: `9` for `r9`. Flags change.
///
/// `rdpid` where the processor has it; else the limit of segment 0x7b, where Linux keeps the same number (`getcpu` in its
/// vDSO). Bits 12 and up are the node.
///
/// On Zen 4 the first takes 0.6 ns, the other 15.
pub fn cpu(register: &str) -> String {
    if has_rdpid() {
        format!("rdpid {register}\n")
    } else {
        format!("mov {register}, 0x7b\nlsl {register}, {register}\n")
    }
}

/// The operations as functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// `(rings) -> slot`: takes a slot; the address of its turn, 0 if the record is dropped. The record is the quadwords behind,
    /// and finished by `inc qword ptr [slot]`.
    RingReserve(super::RingLayout),
    /// `(histograms, value)`.
    HistogramAdd(HistogramLayout),
    /// `(map, pointer to key) -> value`: the address of the value's quadwords, 0 if there is no room for the key.
    MapFind(MapLayout),
    /// `(quadwords, value)`: takes a value in.
    Aggregate(super::Aggregate),
    /// `(table, stack pointer, check)`: a call begins.
    CallsEnter(CallsLayout),
    /// `(table, stack pointer, check) -> time`: the call that began so ends; how many ticks it took, or -1 if no such call began.
    CallsExit(CallsLayout),
}

impl Function {
    /// Its code, with a `ret` at the end.
    pub fn code(self) -> Vec<u8> {
        let text = match self {
            Function::RingReserve(layout) => {
                format!("mov r11, rdi\n{}mov rax, r10\nret\n", ring_reserve(layout))
            }
            Function::HistogramAdd(layout) => {
                format!("mov r11, rdi\nmov rax, rsi\n{}ret\n", histogram_add(layout))
            }
            Function::MapFind(layout) => format!("mov r11, rdi\n{}mov rax, r10\nret\n", layout.find()),
            Function::Aggregate(kind) => format!("mov r10, rdi\nmov rax, rsi\n{}ret\n", aggregate(kind)),
            Function::CallsEnter(layout) => {
                format!("mov r11, rdi\nmov r9, rsi\nmov r8, rdx\n{}ret\n", layout.enter())
            }
            Function::CallsExit(layout) => {
                format!("mov r11, rdi\nmov r9, rsi\nmov r8, rdx\n{}ret\n", layout.exit())
            }
        };
        assemble(&text)
    }
}
