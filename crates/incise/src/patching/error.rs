//! What can go wrong when a program is looked at or patched by hand.

use std::path::PathBuf;

use incise_image::{ImageError, PatternError};
use incise_isa::Addr;
use incise_isa::native::AsmError;
use incise_patch::CommitError;
use incise_space::SpaceError;
use incise_space::file::FileError;

/// Why a place could not be found, or not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not an x86-64 program.
    #[error("{path}: {source}", path = .path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// There is no such process, or it cannot be looked at.
    #[error("process {pid}: {reason}")]
    Process {
        /// The process id that was given.
        pid: i32,
        /// Why not.
        reason: String,
    },
    /// A pattern is malformed or matches nothing.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A name stands for several places.
    #[error("`{name}` is at {count} places: {shown}; name one of them")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many there are.
        count: usize,
        /// Some of them.
        shown: String,
    },
    /// A place behind the end of a variable.
    #[error("the variable {name} has only {size} bytes: {name}+{offset:#x} is behind it")]
    OutsideVariable {
        /// The variable.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// How far behind its start the place would be, in bytes.
        offset: u64,
    },
    /// The function `main` cannot be told.
    #[error(
        "where main begins cannot be told from the entry code at {entry}: {reason}; name the address (*0x...)"
    )]
    NoMain {
        /// The entry point.
        entry: Addr,
        /// What was found instead.
        reason: &'static str,
    },
    /// The program has no entry point in its code.
    #[error("the program has no entry point in its code")]
    NoEntry,
    /// `rip` of something that does not run.
    #[error("`rip` names a place in a running process only (-p PID)")]
    NoThread,
    /// The address is not mapped, or not readable.
    #[error("there is nothing to read at {at}")]
    Unmapped {
        /// The address.
        at: Addr,
    },
    /// The bytes are no instruction.
    #[error("the bytes at {at} are not an instruction: begin at an instruction's first byte")]
    NoInstruction {
        /// The address.
        at: Addr,
    },
    /// The address is not where an instruction begins.
    #[error(
        "{at} is inside the instruction `{text}` at {start}: name that one, or change single bytes with --bytes"
    )]
    InsideInstruction {
        /// The address.
        at: Addr,
        /// Where the instruction begins.
        start: Addr,
        /// The instruction.
        text: String,
    },
    /// The assembler does not take the text.
    #[error("{0}")]
    Assembly(#[from] AsmError),
    /// The change makes no sense at this place.
    #[error("{at}: {reason}")]
    Unsuitable {
        /// The address.
        at: Addr,
        /// Why not.
        reason: String,
    },
    /// The change does not suit what an earlier patch put there.
    #[error("{reason}; patch {id} ({text}) is there: take it back first (incise undo ... {id})")]
    Patched {
        /// The number of the patch that is there.
        id: u32,
        /// What it is.
        text: String,
        /// Why the change does not suit.
        reason: Box<PatchError>,
    },
    /// What was patched cannot be told as a patch file.
    #[error("{0}")]
    Export(String),
    /// The bytes are not those that were expected.
    #[error("{at}: expected {expected}, found {found}; nothing was changed")]
    Unexpected {
        /// The address.
        at: Addr,
        /// As given.
        expected: String,
        /// What is there.
        found: String,
    },
    /// There is no such patch.
    #[error("there is no patch {id}{}", if .known.is_empty() { "; nothing is patched".to_owned() } else { format!("; known by number: {}", .known) })]
    NoPatch {
        /// The number that was given.
        id: u32,
        /// Those there are.
        known: String,
    },
    /// A patch file is malformed.
    #[error("line {line} of the patch file: {reason}")]
    PatchFile {
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A library was not loaded.
    #[error("{0}")]
    Load(String),
    /// The program ended before the place was reached.
    #[error("the program ended before it came to its entry point")]
    Ended,
    /// The file cannot be changed or written.
    #[error(transparent)]
    OnDisk(#[from] FileError),
    /// The address space could not do it.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The engine could not do it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}
