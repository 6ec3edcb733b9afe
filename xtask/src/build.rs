//! The release build of what users get.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::task::{self, Error};

/// Where cargo put what it built.
pub struct Built {
    /// The command.
    pub command: PathBuf,
    /// libpatch.so.
    pub shared: PathBuf,
    /// libpatch.a.
    pub archive: PathBuf,
}

/// Builds the command and the C library.
pub fn release() -> Result<Built, Error> {
    let files = build(&["--package=incise-cli", "--package=incise-capi"])?;
    let file = |name| named(&files, name);
    Ok(Built { command: file("incise")?, shared: file("libpatch.so")?, archive: file("libpatch.a")? })
}

/// Builds the program `name` of a package, and tells where it is.
pub fn program(package: &str, name: &'static str) -> Result<PathBuf, Error> {
    named(&build(&[&format!("--package={package}"), &format!("--bin={name}")])?, name)
}

fn build(what: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let mut command = task::cargo();
    command.args(["build", "--release", "--locked"]).args(what);
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let start = |source| Error::Start { command: "cargo build".to_owned(), source };
    let output = command.spawn().and_then(|child| child.wait_with_output()).map_err(start)?;
    if !output.status.success() {
        return Err(Error::Status { command: task::text(&command), status: output.status });
    }
    Ok(artifacts(&String::from_utf8_lossy(&output.stdout)))
}

fn named(files: &[PathBuf], name: &'static str) -> Result<PathBuf, Error> {
    let found = files.iter().find(|file| file.file_name().is_some_and(|found| found == name));
    found.cloned().ok_or(Error::NotBuilt(name))
}

/// The files that cargo's messages tell of.
fn artifacts(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let artifacts = messages.filter(|message| message["reason"] == "compiler-artifact");
    artifacts
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .collect()
}
