//! Frida, through its Python bindings: a process is attached to, and C code compiled in it is called.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::Error;
use crate::hit::contender::{Contender, Line};
use crate::hit::own::LOCK;
use crate::target::Target;

pub(super) fn lines() -> Vec<Line> {
    vec![
        Line::new("frida: CModule probe", || Frida::start("frame_frida_probe", "cm.on_probe")).against(LOCK),
        Line::new("frida: CModule onEnter", || Frida::start("frame_frida_enter", "{ onEnter: cm.on_enter }"))
            .against(LOCK),
    ]
}

/// Arguments: process, address, what is attached. Prints `ready`, and the hits when a line comes in.
const SCRIPT: &str = r#"
import sys, frida
pid, address, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
session = frida.attach(pid)
script = session.create_script("""
const hits = Memory.alloc(8);
const cm = new CModule(`
#include <gum/guminterceptor.h>
extern volatile gint64 hits;
void on_probe(GumCpuContext *context) { hits++; }
void on_enter(GumInvocationContext *context) { hits++; }
`, { hits });
Interceptor.attach(ptr('%s'), %s);
rpc.exports.hits = () => hits.readU64().toNumber();
""" % (address, what))
script.load()
print('ready', flush=True)
sys.stdin.readline()
print(script.exports_sync.hits(), flush=True)
sys.stdin.readline()
"#;

struct Frida {
    target: Target,
    symbol: &'static str,
    python: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Frida {
    fn start(symbol: &'static str, what: &str) -> Result<Frida, Error> {
        let python = std::env::var("INCISE_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let has = Command::new(&python).args(["-c", "import frida"]).stderr(Stdio::null()).status();
        if !has.is_ok_and(|status| status.success()) {
            return Err(format!(
                "{python} has no module `frida` (pip install frida; INCISE_BENCH_PYTHON names another python)"
            )
            .into());
        }
        let mut target = Target::start(&[])?;
        let address = format!("{:#x}", target.address(symbol)?);
        let mut command = Command::new(&python);
        command.args(["-c", SCRIPT, &target.pid().to_string(), &address, what]);
        let mut python = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(python.stdout.take().ok_or("no standard output")?);
        let mut frida = Frida { target, symbol, python, answers };
        match frida.answer()?.as_str() {
            "ready" => Ok(frida),
            other => Err(format!("frida could not attach: {other}").into()),
        }
    }

    fn answer(&mut self) -> Result<String, Error> {
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }
}

impl Contender for Frida {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        self.target.time(self.symbol, calls)
    }

    fn hits(&mut self) -> Result<Option<u64>, Error> {
        use std::io::Write;
        let requests = self.python.stdin.as_mut().ok_or("no standard input")?;
        writeln!(requests)?;
        Ok(Some(self.answer()?.parse()?))
    }
}

impl Drop for Frida {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
        self.target.end();
    }
}
