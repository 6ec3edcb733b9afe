//! What `cargo xtask install` puts down is what a C programmer and a shell user need.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Whether `tool` can be run. If not that part of the test is skipped, which is said here.
fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        let reason = format!("there is no {tool}: tests/install-packages installs it");
        println!("skipped: {reason}");
        assert!(std::env::var_os("INCISE_NO_SKIP").is_none(), "skipped: {reason}");
    }
    found
}

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Installs into a fresh folder, which is the prefix.
fn installed(name: &str) -> PathBuf {
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&prefix);
    output(Command::new(env!("CARGO_BIN_EXE_xtask")).args(["install", "--prefix"]).arg(&prefix));
    prefix
}

#[test]
fn what_is_installed_works() {
    let prefix = installed("prefix");
    let version = output(Command::new(prefix.join("bin/incise")).arg("--version"));
    assert_eq!(text(&version.stdout), concat!("incise ", env!("CARGO_PKG_VERSION"), "\n"));
    a_program_is_built_with_pkg_config(&prefix);
    manual_pages_have_no_faults(&prefix);
    completions_know_the_subcommands(&prefix);
}

fn a_program_is_built_with_pkg_config(prefix: &Path) {
    if !have("pkg-config") || !have("gcc") {
        return;
    }
    let flags = |arguments: &[&str]| {
        let mut command = Command::new("pkg-config");
        let flags = output(command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(arguments));
        text(&flags.stdout).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(flags(&["--modversion", "libpatch"]), [env!("CARGO_PKG_VERSION")]);
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/capi/tests/programs");
    let expected = std::fs::read_to_string(programs.join("demo.out")).expect("the expected output");
    let build = |program: &Path, libraries: &[String]| {
        let mut gcc = Command::new("gcc");
        gcc.args(["-O0", "-g", "-o"]).arg(program).arg(programs.join("demo.c"));
        output(gcc.args(flags(&["--cflags", "libpatch"])).args(libraries));
    };
    let shared = prefix.join("demo");
    build(&shared, &flags(&["--libs", "libpatch"]));
    let run = output(Command::new(&shared).env("LD_LIBRARY_PATH", prefix.join("lib")));
    assert_eq!(text(&run.stdout), expected);

    let bare = prefix.join("demo-static");
    let mut libraries = vec![prefix.join("lib/libpatch.a").display().to_string()];
    libraries
        .extend(flags(&["--static", "--libs-only-l", "libpatch"]).into_iter().filter(|l| l != "-lpatch"));
    build(&bare, &libraries);
    assert_eq!(text(&output(&mut Command::new(&bare)).stdout), expected);
}

fn manual_pages_have_no_faults(prefix: &Path) {
    let manual = prefix.join("share/man");
    for (section, page) in [
        ("1", "incise"),
        ("1", "incise-count"),
        ("3", "libpatch"),
        ("3", "patch_init"),
        ("3", "patch_commit"),
    ] {
        let file = manual.join(format!("man{section}/{page}.{section}"));
        assert!(file.is_file(), "{}", file.display());
        if have("man") {
            let mut man = Command::new("man");
            man.arg("--warnings").arg("-M").arg(&manual).args(["-E", "UTF-8", "-Tutf8", section, page]);
            let page = output(man.env("LC_ALL", "C.UTF-8"));
            assert_eq!(text(&page.stderr), "", "{man:?}");
            assert!(plain(&page.stdout).contains("NAME"), "{man:?}");
        }
    }
}

/// Text without what makes it bold: characters struck twice.
fn plain(page: &[u8]) -> String {
    let mut plain = String::new();
    for c in text(page).chars() {
        if c == '\u{8}' {
            plain.pop();
        } else {
            plain.push(c);
        }
    }
    plain
}

fn completions_know_the_subcommands(prefix: &Path) {
    let bash = prefix.join("share/bash-completion/completions/incise");
    let script = format!(
        "source {}; COMP_WORDS=(incise coun); COMP_CWORD=1; _incise incise coun incise; echo \"${{COMPREPLY[@]}}\"",
        bash.display()
    );
    assert_eq!(text(&output(Command::new("bash").args(["-c", &script])).stdout), "count\n");
    for other in ["share/zsh/site-functions/_incise", "share/fish/vendor_completions.d/incise.fish"] {
        let script = std::fs::read_to_string(prefix.join(other)).expect("a script");
        assert!(script.contains("count") && script.contains("doctor"), "{other}");
    }
}

#[test]
fn a_package_is_installed_below_its_root() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("root");
    let _ = std::fs::remove_dir_all(&root);
    let mut install = Command::new(env!("CARGO_BIN_EXE_xtask"));
    install.args(["install", "--prefix=/usr", "--libdir=lib/x86_64-linux-gnu", "--destdir"]).arg(&root);
    output(&mut install);
    assert!(root.join("usr/bin/incise").is_file());
    assert!(root.join("usr/lib/x86_64-linux-gnu/libpatch.so").is_file());
    let package = root.join("usr/lib/x86_64-linux-gnu/pkgconfig/libpatch.pc");
    let package = std::fs::read_to_string(package).expect("the file of pkg-config");
    assert!(package.contains("prefix=/usr\n") && package.contains("libdir=${prefix}/lib/x86_64-linux-gnu\n"));
    assert!(!package.contains(&*root.to_string_lossy()));
}
