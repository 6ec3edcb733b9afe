//! Libraries whose functions get probes.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// Functions of a library.
pub(super) struct Subject {
    pub name: String,
    /// The library's file.
    pub file: String,
    /// Which of its functions.
    pub pattern: String,
    /// How many of them, at most; all if there are fewer.
    pub sites: usize,
}

/// Functions of the generated library.
const GENERATED: usize = 20_000;

/// What there is on this machine, and why the rest is not.
pub(super) fn subjects(llvm: bool) -> Result<(Vec<Subject>, Vec<String>), Error> {
    let (mut subjects, mut skipped) = (Vec::new(), Vec::new());
    let generated = generate()?;
    for sites in [1, 1_000, GENERATED] {
        subjects.push(Subject {
            name: format!("{sites} functions"),
            file: generated.to_string_lossy().into_owned(),
            pattern: "f_*".to_owned(),
            sites,
        });
    }
    match find_llvm() {
        Some(file) if llvm => {
            let name = format!("all of {}", file.file_name().unwrap_or_default().to_string_lossy());
            let file = file.to_string_lossy().into_owned();
            subjects.push(Subject { name, file, pattern: "*".to_owned(), sites: usize::MAX - 1 });
        }
        None if llvm => skipped.push("libLLVM: not installed".to_owned()),
        _ => {}
    }
    Ok((subjects, skipped))
}

/// A library of functions as compilers write them: leaves, loops, calls, branches.
fn generate() -> Result<PathBuf, Error> {
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("no folder of the program")?;
    let library = folder.join(format!("install-{GENERATED}.so"));
    if library.exists() {
        return Ok(library);
    }
    let mut text = String::from("int g;\n");
    for n in 0..GENERATED {
        match n % 4 {
            0 => writeln!(text, "int f_{n}(int x) {{ return x * {n} + g; }}")?,
            1 => writeln!(
                text,
                "int f_{n}(int x) {{ int a = f_{}(x); return a + f_{}(x + 1) + {n}; }}",
                n - 1,
                n - 1
            )?,
            2 => writeln!(
                text,
                "int f_{n}(int *p, int n) {{ int s = 0; for (int i = 0; i < n; i++) s += p[i] * {n}; return s; }}"
            )?,
            _ => writeln!(text, "int f_{n}(int x) {{ if (x > {n}) g = x; return x; }}")?,
        }
    }
    let source = library.with_extension("c");
    fs::write(&source, text)?;
    // Under another name first: another run may be about to load it.
    let fresh = library.with_extension(format!("{}.so", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-fPIC", "-shared", "-fno-semantic-interposition", "-o"]).arg(&fresh).arg(&source);
    if !compiler.status().map_err(|error| format!("cc: {error}"))?.success() {
        return Err("cc could not compile the generated library".into());
    }
    fs::rename(&fresh, &library)?;
    Ok(library)
}

fn find_llvm() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let is_llvm = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libLLVM") && name.contains(".so") && !file.is_symlink()
    };
    files.map(|entry| entry.path()).filter(|file| is_llvm(file)).max()
}
