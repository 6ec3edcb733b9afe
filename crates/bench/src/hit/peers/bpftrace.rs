//! bpftrace: what its users write for what `incise` does.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::hit::contender::{Contender, Line};
use crate::target::Target;

pub(super) fn lines() -> Vec<Line> {
    let start = |symbol: &'static str, text: &'static str| move || Bpftrace::start(symbol, text);
    vec![
        Line::new("bpftrace: hist(arg0)", start("frame_bpftrace", "uprobe:F { @ = hist(arg0); }")),
        Line::new(
            "bpftrace: hist(nsecs - @start[tid])",
            start(
                "frame_bpftrace_pair",
                "uprobe:F { @start[tid] = nsecs; } \
                 uretprobe:F /@start[tid]/ { @ = hist(nsecs - @start[tid]); delete(@start[tid]); }",
            ),
        ),
    ]
}

struct Bpftrace {
    target: Target,
    symbol: &'static str,
    child: Child,
}

impl Bpftrace {
    fn start(symbol: &'static str, text: &str) -> Result<Bpftrace, Error> {
        let target = Target::start(&[])?;
        let place = format!("{}:{symbol}", std::env::current_exe()?.display());
        let mut command = Command::new("bpftrace");
        command.args(["-p", &target.pid().to_string(), "-e", &text.replace(":F", &format!(":{place}"))]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            command.spawn().map_err(|error| format!("bpftrace: {error} (Debian package bpftrace)"))?;
        let mut bpftrace = Bpftrace { target, symbol, child };
        // A call costs as much as before until the probes are there.
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience && bpftrace.child.try_wait()?.is_none() {
            let (base, probed) = bpftrace.target.time(symbol, 100)?;
            if probed - base > 100.0 {
                // The second one of a pair.
                std::thread::sleep(Duration::from_secs(1));
                return Ok(bpftrace);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("it puts no probe in (needs root)".into())
    }
}

impl Contender for Bpftrace {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        self.target.time(self.symbol, calls)
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.target.end();
    }
}
