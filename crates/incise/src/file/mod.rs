//! Programs in files: a session over one, counters in it, and what they counted.
//!
//! ```no_run
//! use incise::space::file::Output;
//! use incise::{Query, RewriteOptions, Session, rewrite};
//!
//! // Probes of one's own:
//! let session = Session::open("a.out")?;
//! let mut batch = session.batch();
//! for point in &session.find(Query::functions("*0x401136"))? {
//!     let nop = incise::MachineCode { bytes: [0x90][..].into(), ..Default::default() };
//!     batch.push_back(point, incise::Snippet::Code(nop));
//! }
//! batch.commit()?;
//! session.save(&Output::new("a.patched"))?;
//!
//! // Counters that `incise report` reads:
//! let options = RewriteOptions { patterns: vec!["str*".into()], ..RewriteOptions::default() };
//! rewrite("a.out".as_ref(), &Output::new("a.counted"), &options)?;
//! # Ok::<(), incise::Error>(())
//! ```

mod report;
mod rewrite;

pub use report::{CountsReport, ProcessCounts, read_counts};
pub use rewrite::{RewriteOptions, Rewritten, rewrite};

use std::path::Path;

use incise_space::file::{FileError, FileSpace, Output, Saved};

use crate::program::Program;
use crate::session::{Error, Session};

impl Session<FileSpace> {
    /// A program or library in a file. Addresses are link addresses; nothing is written before
    /// [`save`](Self::save).
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, or is no program for x86-64.
    pub fn open(path: impl AsRef<Path>) -> Result<Session<FileSpace>, Error> {
        let path = path.as_ref();
        let space = FileSpace::open(path)?;
        let program = Program::of_file(path, space.original())
            .map_err(|source| FileError::Image { path: path.to_owned(), source })?;
        Ok(Session::still(space, program))
    }

    /// Writes the program as it is now.
    ///
    /// # Errors
    /// [`Error::File`]: then what was in the place of the output stays.
    pub fn save(&self, output: &Output) -> Result<Saved, Error> {
        Ok(self.with_space(|space| space.save(output))?)
    }
}
