//! What all tasks need: the workspace, commands, files, errors.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{fs, io};

/// Why a task ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run {command}: {source}")]
    Start { command: String, source: io::Error },
    #[error("{command}: {status}")]
    Status { command: String, status: ExitStatus },
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cargo built no {0}")]
    NotBuilt(&'static str),
    #[error("{0}")]
    Output(String),
    #[error("tests failed")]
    Tests,
}

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The cargo that runs us, in the workspace.
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(workspace());
    command
}

/// Runs a command to its end, which has to be a good one.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| Error::Start { command: text(command), source })?;
    if status.success() { Ok(()) } else { Err(Error::Status { command: text(command), status }) }
}

/// A command as one would type it.
pub fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// An error about a file.
pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// Writes a file, and the folders it needs. Who uses the old one keeps it.
pub fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, contents).map_err(at(&new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))
}
