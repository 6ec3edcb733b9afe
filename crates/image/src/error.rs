//! Why a file is not an image.

use crate::FileOffset;

/// Why a file could not be read as a program or library.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file does not begin with the ELF magic number.
    #[error("not an ELF file")]
    NotElf,
    /// `EI_CLASS` is not `ELFCLASS64` (also: the x32 ABI).
    #[error("not a 64-bit ELF file")]
    Not64,
    /// A program for another processor.
    #[error("made for another processor (ELF machine {machine}), not for x86-64")]
    WrongMachine {
        /// `e_machine`.
        machine: u16,
    },
    /// An object file, a core dump or the like: nothing that is mapped and run.
    #[error("neither a program nor a shared library (ELF type {file_type})")]
    NotExecutable {
        /// `e_type`.
        file_type: u16,
    },
    /// A table or a field that the program loader relies on makes no sense.
    #[error("malformed ELF file: {what} at file offset {offset}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where it was found in the file.
        offset: FileOffset,
    },
    /// The debug file belongs to another build (or one of the two has no build-id).
    #[error("the debug file was not made from this build")]
    OtherBuild,
}

impl ImageError {
    pub(crate) fn malformed(what: &'static str, offset: u64) -> ImageError {
        ImageError::Malformed { what, offset: FileOffset(offset) }
    }
}
