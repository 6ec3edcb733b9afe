//! Others who put probes at functions of a running process: Frida, and the kernel's uprobes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use incise::{Query, Session};

use super::own::pattern;
use super::remote::loaded;
use super::subjects::Subject;
use super::{Contender, Sample};
use crate::Error;
use crate::target::Target;

/// The peers there are on this machine, or why one is not.
pub(super) fn start(subjects: &[Subject]) -> Vec<Result<Box<dyn Contender>, Error>> {
    let frida = Frida::start(subjects).map(|peer| Box::new(peer) as Box<dyn Contender>);
    let uprobes = Uprobes::start().map(|peer| Box::new(peer) as Box<dyn Contender>);
    vec![frida, uprobes]
}

/// Arguments: process. A request is a module's file, the start of the names and how many; the answer is how many
/// were attached, and milliseconds for attaching and detaching.
const SCRIPT: &str = r#"
import sys, frida
session = frida.attach(int(sys.argv[1]))
script = session.create_script("""
const hits = Memory.alloc(8);
const cm = new CModule(`
#include <gum/guminterceptor.h>
extern volatile gint64 hits;
void on_enter(GumInvocationContext *context) { hits++; }
`, { hits });
rpc.exports.sample = (file, prefix, count) => {
  const all = Process.getModuleByName(file).enumerateExports();
  const some = all.filter(e => e.type === 'function' && e.name.startsWith(prefix)).slice(0, count);
  const start = Date.now();
  let installed = 0;
  for (const e of some) {
    try { Interceptor.attach(e.address, { onEnter: cm.on_enter }); installed++; } catch (error) {}
  }
  Interceptor.flush();
  const attached = Date.now();
  Interceptor.detachAll();
  Interceptor.flush();
  return [installed, attached - start, Date.now() - attached];
};
""")
script.load()
print('ready', flush=True)
for line in sys.stdin:
    file, prefix, count = line.rstrip('\n').split('\t')
    print(*script.exports_sync.sample(file, prefix, int(count)), flush=True)
"#;

struct Frida {
    _target: Target,
    python: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Frida {
    fn start(subjects: &[Subject]) -> Result<Frida, Error> {
        let name = std::env::var("INCISE_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let has = Command::new(&name).args(["-c", "import frida"]).stderr(Stdio::null()).status();
        if !has.is_ok_and(|status| status.success()) {
            return Err(format!(
                "frida: {name} has no module `frida` (pip install frida; INCISE_BENCH_PYTHON names another python)"
            )
            .into());
        }
        let target = loaded(subjects)?;
        let mut command = Command::new(&name);
        command.args(["-c", SCRIPT, &target.pid().to_string()]);
        let mut python = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = python.stdin.take().ok_or("no standard input")?;
        let mut answers = BufReader::new(python.stdout.take().ok_or("no standard output")?);
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        match answer.trim_end() {
            "ready" => Ok(Frida { _target: target, python, requests, answers }),
            other => Err(format!("frida could not attach: {other}").into()),
        }
    }
}

impl Contender for Frida {
    fn name(&self) -> &'static str {
        "frida: CModule onEnter"
    }

    fn limit(&self) -> usize {
        20_000
    }

    fn takes_long(&self) -> bool {
        true
    }

    fn sample(&mut self, subject: &Subject) -> Result<Sample, Error> {
        let file = Path::new(&subject.file).file_name().unwrap_or_default().to_string_lossy();
        let prefix = subject.pattern.trim_end_matches('*');
        writeln!(self.requests, "{file}\t{prefix}\t{}", subject.sites)?;
        self.requests.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let figures: Vec<u64> = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let &[installed, install, remove] = figures.as_slice() else { return Err("frida has ended".into()) };
        Ok(Sample {
            installed: installed as usize,
            install: Duration::from_millis(install),
            remove: Duration::from_millis(remove),
            ..Sample::default()
        })
    }
}

impl Drop for Frida {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

/// Events of the tracing file system, one for each function; no more than [`FEW`], for each takes long.
struct Uprobes {
    session: Session,
}

const FEW: usize = 50;

const TRACING: &str = "/sys/kernel/tracing";
const GROUP: &str = "incise_bench_install";

impl Uprobes {
    fn start() -> Result<Uprobes, Error> {
        let events = Path::new(TRACING).join("uprobe_events");
        fs::OpenOptions::new()
            .append(true)
            .open(&events)
            .map_err(|error| format!("uprobes: {}: {error} (needs root)", events.display()))?;
        Ok(Uprobes { session: Session::own()? })
    }
}

impl Contender for Uprobes {
    fn name(&self) -> &'static str {
        "uprobes (tracefs)"
    }

    fn limit(&self) -> usize {
        1_000
    }

    fn takes_long(&self) -> bool {
        true
    }

    fn sample(&mut self, subject: &Subject) -> Result<Sample, Error> {
        let points = self.session.find(Query::functions(pattern(subject)))?;
        let map = incise::image::MemoryMap::parse(&fs::read_to_string("/proc/self/maps")?);
        let mut text = String::new();
        for (n, point) in points.iter().take(subject.sites.min(FEW)).enumerate() {
            let mapping = map.find(point.addr).ok_or("a function that is not mapped")?;
            let offset = point.addr.0 - mapping.range.start.0 + mapping.file_offset;
            text += &format!("p:{GROUP}/p{n} {}:{offset:#x}\n", subject.file);
        }
        let start = Instant::now();
        // One event a write: the kernel keeps nothing of what follows a line it refuses.
        let mut events = fs::OpenOptions::new().append(true).open(format!("{TRACING}/uprobe_events"))?;
        for line in text.lines() {
            events.write_all(format!("{line}\n").as_bytes())?;
        }
        // One by one: there are instructions that uprobes refuse.
        let switch = |n: usize, on: &str| fs::write(format!("{TRACING}/events/{GROUP}/p{n}/enable"), on);
        let all = 0..text.lines().count();
        let installed = all.clone().filter(|&n| switch(n, "1").is_ok()).count();
        let install = start.elapsed();
        let start = Instant::now();
        for n in all {
            switch(n, "0")?;
            events.write_all(format!("-:{GROUP}/p{n}\n").as_bytes())?;
        }
        Ok(Sample { installed, install, remove: start.elapsed(), ..Sample::default() })
    }
}
