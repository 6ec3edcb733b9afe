//! What holds where control goes to code nobody can look into: the calling convention of the program.

use incise_image::Image;
use incise_isa::native::{Gpr, GprSet, abi};

use super::STATUS_FLAGS;
use super::set::Set;

/// The facts of one convention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convention {
    /// What a call through a pointer may read.
    pub arguments: Set,
    /// What it overwrites.
    pub clobbered: Set,
    /// What is live behind a return.
    pub results: Set,
    /// What no call changes: an exception, and whoever looks further up the stack, counts on it.
    pub kept: Set,
}

impl Convention {
    /// The convention of `image`: that of Go where its runtime's tables are, of System V elsewhere.
    pub(super) fn of(image: &Image) -> Convention {
        let go = image.sections().iter().any(|s| matches!(&*s.name, ".gopclntab" | ".go.buildinfo"));
        if go { Convention::go() } else { Convention::system_v() }
    }

    /// System V (psABI 3.2), and what compilers add: the count of vector arguments in `al`, the static chain
    /// in `r10`, a third integer result in `rcx` and four vector results (LLVM), ten vector arguments
    /// (OCaml).
    fn system_v() -> Convention {
        let gprs: GprSet = abi::ARGUMENTS.into_iter().chain([Gpr::Rax, Gpr::R10, Gpr::Rsp]).collect();
        let results: GprSet = abi::RESULTS.into_iter().chain([Gpr::Rcx]).collect();
        Convention {
            arguments: Set::of(gprs.union(abi::CALLEE_SAVED), 0, 0x3ff),
            clobbered: Set::of(abi::CALLER_SAVED, STATUS_FLAGS, u32::MAX),
            results: Set::of(results.union(abi::CALLEE_SAVED), 0, 0b1111),
            kept: Set::of(abi::CALLEE_SAVED, 0, 0),
        }
    }

    /// Go's internal convention passes and returns values in nearly all registers and keeps none; its
    /// helpers keep all.
    fn go() -> Convention {
        let all = Set::of(GprSet::ALL, 0, u32::MAX);
        Convention { arguments: all, clobbered: Set::EMPTY, results: all, kept: all }
    }
}

/// Whether a function of that name is called by no convention: it keeps all registers.
pub(super) fn keeps_all(import: &str) -> bool {
    matches!(import, "__fentry__" | "mcount" | "_mcount")
        || import.starts_with("__x86_indirect_thunk")
        || import.starts_with("__asan_check_")
        || import.starts_with("__hwasan_check_")
}
