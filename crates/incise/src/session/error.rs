//! What can go wrong in a session.

use incise_image::PatternError;
use incise_patch::CommitError;
use incise_snippet::compile::CompileError;
use incise_space::SpaceError;
use incise_space::file::FileError;

use crate::changing::{GraphError, LoadError};
use crate::script::ScriptError;

/// Why something could not be found or done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pattern is malformed or matches nothing.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The address space could not do it.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A transaction changed nothing.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What was found could not be written down.
    #[error("cannot write: {0}")]
    Output(#[source] std::io::Error),
    /// A program of the tree could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A graph cannot be changed so.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A library was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A script is wrong, or cannot run at a point.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// What was to run once is not over yet.
    #[error("it is not over yet, and goes on; perhaps it waits for something that its thread holds")]
    Late,
    /// A program in a file could not be read, changed or written.
    #[error(transparent)]
    File(#[from] FileError),
}
