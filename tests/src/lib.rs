//! What the end-to-end tests share. The tests run the built command, as a user does, and look only at what a
//! user can see: output, exit codes, reports, and the process that was probed.
//!
//! - `tests/programs.rs`: the programs of `programs/`, whose head comments say what to expect.
//! - `tests/counts.rs`: counts of real programs against the kernel's uprobes.
//! - `tests/coverage.rs`: plans for whole programs: sums, reasons, damaged files.
//! - `tests/dense.rs`: counters at every instruction of programs, against callgrind.
//! - `tests/copies.rs`: functions that run as copies call each other.
//! - `tests/ranges.rs`: ranges of instructions as patterns.
//! - `tests/trace.rs`: calls are traced one by one, or their loss is counted.
//! - `tests/queries.rs`: kinds of points and filters, in every space.
//! - `tests/independent.rs`: counts at points against callgrind and gcov.
//! - `tests/hist.rs`: every value is in a histogram; what runs now is shown live.
//! - `tests/attach.rs`: processes that run already: nothing is left behind.
//! - `tests/kill.rs`: the command is killed at any time.
//! - `tests/rewrite.rs`: programs rewritten with counters, and restored.
//! - `tests/errors.rs`: what can go wrong, told in one line, with nothing half-done.
//! - `tests/patching.rs`: patching by hand, live, at launch and on disk.
//! - `tests/faces.rs`: the form of reports, `list` and `doctor`.
//!
//! `INCISE_LONG=1` lengthens what is random; `INCISE_NO_SKIP=1` fails what would be skipped;
//! `INCISE_BLESS=1` writes what was found into the head comments of the programs.

#![deny(unsafe_code)]

pub mod build;
pub mod callgrind;
pub mod command;
pub mod directives;
pub mod exported;
pub mod outcome;
pub mod process;
pub mod report;
pub mod scratch;
pub mod skip;
pub mod terminal;
pub mod uprobes;

/// Whether random tests shall run long.
pub fn long() -> bool {
    std::env::var_os("INCISE_LONG").is_some_and(|value| value == "1")
}
