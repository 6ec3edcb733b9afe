//! Programs that a test compiles, and expressions evaluated in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use incise_image::dwarf::DebugInfo;
use incise_image::{Image, LinkAddr};
use incise_snippet::debug::Debug;
use incise_snippet::interpret::run;
use incise_snippet::language::{Compiler, parse_snippet};
use incise_snippet::tree::{Constant, Type};

use super::gdb::Stop;
use super::skip::need_program;
use super::stopped::{Names, Stopped};

#[derive(Clone, Copy)]
pub enum Toolchain {
    C,
    Cpp,
    Rust,
}

impl Toolchain {
    /// Compiles a program of `tests/programs`; `None`, told, if a tool is missing.
    pub fn compile(self, source: &str, flags: &[&str]) -> Option<Compiled> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (compiler, more): (_, &[&str]) = match self {
            Toolchain::C => ("gcc", &[]),
            Toolchain::Cpp => ("g++", &[]),
            Toolchain::Rust => ("rustc", &["--edition=2024", "--crate-name=values"]),
        };
        need_program("gdb")?;
        let compiler = need_program(compiler)?;
        let name = format!("incise-debug-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let out = std::env::temp_dir().join(name);
        let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs")).join(source);
        let status = Command::new(compiler).args(more).args(flags).arg("-o").arg(&out).arg(source).status();
        assert!(status.expect("the compiler runs").success());
        let file = fs::read(&out).expect("what was compiled");
        let image = Image::parse(&file).expect("a program");
        let info = DebugInfo::parse(&file).expect("debugging information");
        Some(Compiled { path: out, image, info })
    }
}

/// A program; its file goes away with it.
pub struct Compiled {
    path: PathBuf,
    pub image: Image,
    pub info: DebugInfo,
}

impl Compiled {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is in a process: run-time addresses less link addresses.
    pub fn bias(&self, pid: i32) -> u64 {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the memory map");
        let path = self.path.display().to_string();
        let first = maps.lines().find(|line| line.ends_with(&path)).expect("it is mapped");
        let start = first.split('-').next().and_then(|start| u64::from_str_radix(start, 16).ok());
        let lowest = self.image.segments().iter().map(|segment| segment.link.0).min().expect("segments");
        start.expect("an address") - (lowest & !0xfff)
    }

    /// How many functions were inlined where the program stands.
    pub fn inlined(&self, stop: &Stop, bias: u64) -> usize {
        let function = self.info.function_at(LinkAddr(stop.pc().wrapping_sub(bias)));
        function.map_or(0, |function| function.inlined.len())
    }

    fn evaluate(&self, text: &str, stop: &Stop, bias: u64) -> Result<Constant, String> {
        let place = Some(LinkAddr(stop.pc().wrapping_sub(bias)));
        let names = Names(Debug { info: &self.info, image: &self.image, bias, module: 3, place });
        let source = format!("return {text};");
        let body = parse_snippet("test", &source).map_err(|errors| errors.to_string())?;
        let program = Compiler::default()
            .snippet("test", &source, &body, &names)
            .map_err(|errors| errors.to_string())?;
        let value = run(&program, &mut Stopped(stop)).map_err(|fault| format!("ended early: {fault:?}"))?;
        value.ok_or_else(|| "no value".to_owned())
    }

    pub fn integer(&self, text: &str, stop: &Stop, bias: u64) -> Result<i128, String> {
        let value = self.evaluate(&format!("(long)({text})"), stop, bias)?;
        Ok(i128::from(value.quadword() as i64))
    }

    /// The bits of a float.
    pub fn float(&self, text: &str, stop: &Stop, bias: u64) -> Result<i128, String> {
        let value = self.evaluate(&format!("(double)({text})"), stop, bias)?;
        assert_eq!(value.ty, Type::F64);
        Ok(i128::from(value.bits))
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
