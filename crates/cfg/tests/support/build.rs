//! Builds test programs and takes things out of them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of this test process, emptied by the operating system's own means.
pub fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("incise-cfg-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for test programs");
    folder
}

/// Compiles one of `tests/programs` with the flags; `None`, said so, if there is no compiler.
pub fn compile(source: &str, name: &str, flags: &[&str]) -> Option<PathBuf> {
    compile_with(if source.ends_with(".cc") { "g++" } else { "gcc" }, source, name, flags)
}

/// The same with a compiler of one's choice.
pub fn compile_with(compiler: &str, source: &str, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(source);
    let output = folder().join(name);
    let run = Command::new(compiler).args(flags).arg(path).arg("-o").arg(&output).status();
    match run {
        Ok(status) => assert!(status.success(), "{compiler} {flags:?} {source} failed"),
        Err(error) => {
            println!("skipped: {compiler}: {error}");
            return None;
        }
    }
    Some(output)
}

/// A copy of `program` that `objcopy` made with the flags.
#[allow(dead_code, reason = "not every test takes things out")]
pub fn objcopy(program: &Path, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let output = folder().join(name);
    match Command::new("objcopy").args(flags).arg(program).arg(&output).output() {
        Ok(ran) => {
            assert!(ran.status.success(), "objcopy {flags:?}: {}", String::from_utf8_lossy(&ran.stderr))
        }
        Err(error) => {
            println!("skipped: objcopy: {error}");
            return None;
        }
    }
    Some(output)
}
