//! Compiles C and C++ programs against the library that was built with this test, and runs them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The crate's folder.
pub fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where libpatch.so and libpatch.a are: beside this test.
pub fn library_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let dir = test.parent().expect("a folder").to_owned();
    assert!(dir.join("libpatch.so").is_file(), "no libpatch.so in {}", dir.display());
    dir
}

/// Whether `tool` can be run. If not the test is to be skipped, which is said here.
pub fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        let reason = format!("there is no {tool}: tests/install-packages installs it");
        assert!(std::env::var_os("INCISE_NO_SKIP").is_none(), "skipped: {reason}");
        println!("skipped: {reason}");
    }
    found
}

/// A program to compile.
pub struct Program {
    source: PathBuf,
    compiler: &'static str,
    flags: Vec<String>,
    libraries: Vec<String>,
}

impl Program {
    /// The program `tests/programs/FILE`, linked with libpatch.so.
    pub fn new(file: &str) -> Program {
        Program::from(crate_dir().join("tests/programs").join(file))
    }

    /// A program from elsewhere.
    pub fn from(source: PathBuf) -> Program {
        let compiler = if source.extension() == Some(OsStr::new("cpp")) { "g++" } else { "gcc" };
        Program { source, compiler, flags: Vec::new(), libraries: vec!["-lpatch".to_owned()] }
    }

    /// Compiles with these flags.
    pub fn flags(mut self, flags: &str) -> Program {
        self.flags.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// Links with these libraries in place of libpatch.so.
    pub fn libraries(mut self, libraries: &[&str]) -> Program {
        self.libraries = libraries.iter().map(|&library| library.to_owned()).collect();
        self
    }

    /// Compiles the program; `None` if there is no compiler. `variant` tells apart programs of one source.
    pub fn compile(&self, variant: &str) -> Option<PathBuf> {
        if !have(self.compiler) {
            return None;
        }
        let stem = self.source.file_stem().expect("a file name").to_string_lossy();
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stem}{variant}"));
        let mut command = Command::new(self.compiler);
        command.args(&self.flags).arg("-I").arg(crate_dir().join("include")).arg("-o").arg(&program);
        command.arg(&self.source).arg("-L").arg(library_dir()).args(&self.libraries);
        let output = command.output().expect("the compiler");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}\n{errors}");
        assert_eq!(errors, "", "{command:?}");
        Some(program)
    }

    /// Compiles the program, runs it with `arguments`, and compares all its output with `FILE.out` beside its
    /// source; nothing may be on stderr, and it has to succeed.
    pub fn check(&self, variant: &str, arguments: &[&str]) {
        let Some(program) = self.compile(variant) else { return };
        let output = run(&program, arguments);
        let expected =
            std::fs::read_to_string(self.source.with_extension("out")).expect("the expected output");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {}\n{stderr}", program.display(), output.status);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{} {arguments:?}", program.display());
        assert_eq!(stderr, "");
    }
}

/// Runs a program with libpatch.so in reach. One that hangs is killed after a minute.
pub fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60"]).arg(program).args(arguments);
    command.env("LD_LIBRARY_PATH", library_dir()).output().expect("timeout(1)")
}
