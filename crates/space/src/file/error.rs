//! Why a file could not be changed, written or restored.

use std::io;
use std::path::{Path, PathBuf};

use incise_image::ImageError;

use crate::{Fault, SpaceError};

/// What can go wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file is no program or library for x86-64, or a damaged one.
    #[error("{}: {source}", .path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// A system call on a file failed.
    #[error("{action} {} failed: {source}", .path.display())]
    System {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The result would replace the program it is made from.
    #[error("{} is the program itself: name another file, or ask for the change in place", .path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// The file has no record of a change.
    #[error("{} has no record of changes: incise did not write it", .path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
    },
    /// The record is there but cannot be what was written.
    #[error("the record of changes in {} is damaged: {what}", .path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another program has rewritten the file since: what the record says does not lead to the original.
    #[error(
        "{} was changed by another program (such as strip) after incise wrote it: its original cannot be restored",
        .path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A structure that appended parts cannot be joined to.
    #[error("this file cannot be extended: {0}")]
    Unsupported(&'static str),
    /// It is no file of counts.
    #[error("{} is no file of counts: {what}", .path.display())]
    NoCounts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The address space under it failed.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

impl FileError {
    pub(super) fn system(action: &'static str, path: &Path, source: impl Into<io::Error>) -> FileError {
        FileError::System { action, path: path.to_owned(), source: source.into() }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            FileError::System { .. } => Fault::System,
            FileError::Space(error) => error.fault(),
            FileError::SameFile { .. } => Fault::Caller,
            _ => Fault::Target,
        }
    }
}
