//! What the tests share: the files of this machine, and the tools they are compared with.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use incise_image::{Image, Mapping, MemoryMap, Module, modules};
use incise_isa::Addr;

/// The path of the C library this process has mapped.
pub fn libc_path() -> String {
    let map = own_map();
    let mapping = map.iter().find(|m| m.name.rsplit('/').next().is_some_and(|n| n.starts_with("libc.so")));
    mapping.expect("libc is mapped").name.to_string()
}

/// The memory map of this process.
pub fn own_map() -> MemoryMap {
    MemoryMap::parse(&std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps"))
}

/// Opens the file of a mapping, the vdso out of this process's memory.
pub fn open(mapping: &Mapping) -> Option<Arc<Image>> {
    let file = if *mapping.name == *"[vdso]" {
        let mut file = vec![0; (mapping.range.end.0 - mapping.range.start.0) as usize];
        read_own(mapping.range.start, &mut file).then_some(file)?
    } else {
        std::fs::read(&*mapping.name).ok()?
    };
    Image::parse(&file).ok().map(Arc::new)
}

/// The modules of this process.
pub fn own_modules() -> Vec<Module> {
    modules(&own_map(), &mut open)
}

/// Reads this process's memory.
pub fn read_own(at: Addr, into: &mut [u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open("/proc/self/mem").expect("/proc/self/mem");
    memory.read_exact_at(into, at.0).is_ok()
}

/// Parses the file at `path`.
pub fn image(path: impl AsRef<Path>) -> Image {
    let file = std::fs::read(&path).expect("the file is readable");
    Image::parse(&file).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Standard output of a tool, or `None`, with a line that says so, if the tool is not there.
pub fn output(tool: &str, args: &[&str]) -> Option<String> {
    match Command::new(tool).args(args).env("LC_ALL", "C").output() {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => panic!("{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            skip(&format!("{tool} cannot be run: {error}"));
            None
        }
    }
}

/// Says that a test did not run, and fails it where skips are failures.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    assert!(std::env::var_os("INCISE_NO_SKIP").is_none(), "skipped: {reason}");
}

/// A directory of its own for one test, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("incise-image-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Scratch(path)
    }

    /// Compiles `source` with gcc; `None` (with a line that says so) without gcc.
    pub fn compile(&self, name: &str, source: &str, flags: &[&str]) -> Option<String> {
        let (input, program) = (self.0.join(format!("{name}.c")), self.path(name));
        std::fs::write(&input, source).expect("the source is written");
        let mut args = vec!["-o", &program];
        let input = input.to_string_lossy().into_owned();
        args.push(&input);
        args.extend(flags);
        output("gcc", &args)?;
        Some(program)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
