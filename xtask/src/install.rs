//! `cargo xtask install`: puts everything where a system looks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::task::{self, Error, at, workspace, write};
use crate::{build, generate};

/// What `libpatch.a` needs behind it.
const STATIC_LIBRARIES: &str = "-lgcc_s -lpthread -ldl -lm";

/// Arguments of the task.
#[derive(clap::Args)]
pub struct Args {
    /// Where the files belong: they go to bin, lib, include and share below it.
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Where libraries belong, from the prefix on: `lib/x86_64-linux-gnu` in a Debian package.
    #[arg(long, value_name = "DIR", default_value = "lib")]
    libdir: PathBuf,
    /// Install below this folder instead, as if it were the root (for packages).
    #[arg(long, value_name = "DIR")]
    destdir: Option<PathBuf>,
    /// Keep debugging information, which is most of the size.
    #[arg(long)]
    debug_info: bool,
}

/// Builds and installs.
pub fn run(args: &Args) -> Result<(), Error> {
    let prefix = std::path::absolute(&args.prefix).map_err(at(&args.prefix))?;
    let libdir = prefix.join(&args.libdir);
    let place = Place { destdir: args.destdir.clone(), debug_info: args.debug_info };
    let built = build::release()?;
    place.program(&built.command, &prefix.join("bin/incise"), 0o755)?;
    place.program(&built.shared, &libdir.join("libpatch.so"), 0o644)?;
    place.program(&built.archive, &libdir.join("libpatch.a"), 0o644)?;

    let capi = workspace().join("crates/capi");
    for header in ["include/libpatch/patch.h", "include/libpatch/data.h"] {
        place.copy(&capi.join(header), &prefix.join(header))?;
    }
    place.text(&libdir.join("pkgconfig/libpatch.pc"), package(&prefix, &args.libdir).as_bytes())?;

    let share = prefix.join("share");
    for page in generate::manual_pages() {
        place.text(&share.join("man/man1").join(page.name), &page.contents)?;
    }
    let man3 = share.join("man/man3");
    let page = capi.join("man/libpatch.3");
    place.copy(&page, &man3.join("libpatch.3"))?;
    for function in functions(&fs::read_to_string(&page).map_err(at(&page))?) {
        place.text(&man3.join(format!("{function}.3")), b".so man3/libpatch.3\n")?;
    }
    for (folder, file) in generate::completions() {
        place.text(&share.join(folder).join(file.name), &file.contents)?;
    }
    Ok(())
}

/// Where files are put.
struct Place {
    destdir: Option<PathBuf>,
    debug_info: bool,
}

impl Place {
    /// The place of what belongs at `path`.
    fn of(&self, path: &Path) -> PathBuf {
        match &self.destdir {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    fn text(&self, path: &Path, contents: &[u8]) -> Result<(), Error> {
        let to = self.of(path);
        write(&to, contents, 0o644)?;
        println!("{}", to.display());
        Ok(())
    }

    fn copy(&self, from: &Path, path: &Path) -> Result<(), Error> {
        self.text(path, &fs::read(from).map_err(at(from))?)
    }

    /// A file of machine code, without debugging information unless it is wanted.
    fn program(&self, from: &Path, path: &Path, mode: u32) -> Result<(), Error> {
        let to = self.of(path);
        let bare = to.with_extension("bare");
        write(&bare, &fs::read(from).map_err(at(from))?, mode)?;
        if !self.debug_info {
            strip(&bare)?;
        }
        fs::rename(&bare, &to).map_err(at(&to))?;
        println!("{}", to.display());
        Ok(())
    }
}

fn strip(file: &Path) -> Result<(), Error> {
    task::run(Command::new("strip").arg("--strip-debug").arg(file))
}

/// The functions that a manual page names in its first section.
fn functions(page: &str) -> Vec<&str> {
    let names = page.split(".SH NAME").nth(1).and_then(|rest| rest.split("\\-").next()).unwrap_or("");
    names.split([',', '\n', ' ']).filter(|name| name.starts_with("patch_")).collect()
}

/// The file of pkg-config.
fn package(prefix: &Path, libdir: &Path) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "prefix={}\n\
         libdir=${{prefix}}/{}\n\
         includedir=${{prefix}}/include\n\
         \n\
         Name: libpatch\n\
         Description: Puts probes into the running program\n\
         Version: {version}\n\
         Libs: -L${{libdir}} -lpatch\n\
         Libs.private: {STATIC_LIBRARIES}\n\
         Cflags: -I${{includedir}}\n",
        prefix.display(),
        libdir.display(),
    )
}
