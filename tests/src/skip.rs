//! Skips that are seen.

/// Says why the running test cannot run here. With `INCISE_NO_SKIP=1` that is a failure.
///
/// # Panics
/// With `INCISE_NO_SKIP=1`.
pub fn skip(reason: &str) {
    let forbidden = std::env::var_os("INCISE_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!forbidden, "skipped although INCISE_NO_SKIP=1: {reason}");
    println!("skipped: {reason}");
}

/// The file of a program in PATH; if there is none, the running test is skipped.
pub fn need_program(name: &str) -> Option<std::path::PathBuf> {
    let found = find_program(name);
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// The file of a program in PATH, symbolic links followed.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    // What Debian's packages install comes first: a wrapper elsewhere is not the program.
    let system = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    let folders = system.into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())?.canonicalize().ok()
}

/// Whether this process has root's rights; if not, the running test is skipped.
pub fn need_root() -> bool {
    let root = std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0\t")));
    if !root {
        skip("needs root");
    }
    root
}
