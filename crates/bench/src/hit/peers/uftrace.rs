//! uftrace: patches a function at start-up and records its entry and exit with time stamps.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::Error;
use crate::hit::contender::{Contender, Line};
use crate::hit::own::LOCK;
use crate::target::Target;

const SYMBOL: &str = "nop_uftrace";

pub(super) fn lines() -> Vec<Line> {
    vec![Line::new("uftrace: record entry and exit", Uftrace::start).against(LOCK)]
}

struct Uftrace {
    target: Target,
    _data: TempDir,
}

impl Uftrace {
    fn start() -> Result<Uftrace, Error> {
        let quiet = Command::new("uftrace").arg("--version").stdout(Stdio::null()).status();
        quiet.map_err(|error| format!("uftrace: {error} (Debian package uftrace)"))?;
        let data = tempfile::tempdir()?;
        let place = data.path().to_str().ok_or("a temporary directory with a strange name")?;
        let target = Target::start(&["uftrace", "record", "--no-libcall", "-d", place, "-P", SYMBOL])?;
        let mut uftrace = Uftrace { target, _data: data };
        // It says nothing if it cannot patch the function; a call costs as much as before then.
        let times: Vec<(f64, f64)> =
            (0..9).map(|_| uftrace.target.time(SYMBOL, 500)).collect::<Result<_, _>>()?;
        if times.iter().all(|(base, probed)| probed - base < 10.0) {
            return Err("it did not patch the function".into());
        }
        Ok(uftrace)
    }
}

impl Contender for Uftrace {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        self.target.time(SYMBOL, calls)
    }
}

impl Drop for Uftrace {
    fn drop(&mut self) {
        self.target.end();
    }
}
