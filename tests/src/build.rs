//! The command under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The built `incise` command: what `INCISE_BIN` names, else built once by cargo, in the target folder and
/// with the profile of the running test.
///
/// # Panics
/// If it cannot be built.
pub fn incise() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("INCISE_BIN") {
        Some(given) => PathBuf::from(given),
        None => build(&["--package", "incise-cli", "--bin"], "incise"),
    })
}

/// An example of the library, built as the command is.
///
/// # Panics
/// If it cannot be built.
pub fn example(name: &str) -> PathBuf {
    // With the whole workspace, so that what tests were built with serves again.
    build(&["--workspace", "--example"], name)
}

fn build(what: &[&str], name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // TARGET/PROFILE/deps/TEST
    let profile_dir = test.parent().and_then(Path::parent).expect("a test lies in its profile's folder");
    let target = profile_dir.parent().expect("a profile's folder lies in the target folder");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--message-format", "json"])
        .args(what)
        .arg(name)
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{name} cannot be built");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable it built")
}
