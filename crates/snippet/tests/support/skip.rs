//! Skips that are seen.

use std::path::PathBuf;

/// The file of a program in PATH; if there is none, the running test is skipped.
pub fn need_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let forbidden = std::env::var_os("INCISE_NO_SKIP").is_some_and(|value| value == "1");
        assert!(!forbidden, "skipped although INCISE_NO_SKIP=1: {name} is not installed");
        println!("skipped: {name} is not installed");
    }
    found
}
