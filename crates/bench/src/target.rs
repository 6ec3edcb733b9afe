//! A process that times its own subjects on request, for probes that are put in from outside.
//!
//! Requests come on standard input, answers go to standard output, one line each:
//! `address SYMBOL` is answered by the address in hexadecimal, `time SYMBOL CALLS` by the nanoseconds of a call of
//! an unprobed subject of the same shape and of that one, `pair SYMBOL BETWEEN CALLS` by the same of two threads at once, `load FILE` (dlopen) by `loaded`, `unloaded` by the end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Error;
use crate::library::Library;
use crate::pair::both;
use crate::subjects::{subject, time};

/// Serves requests until the input ends.
pub(crate) fn serve() -> Result<bool, Error> {
    let mut libraries = Vec::new();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["address", symbol] => {
                let (_, function) = subject(symbol).ok_or("no such subject")?;
                writeln!(out, "{:#x}", function as usize)?;
            }
            ["time", symbol, calls] => {
                let (shape, function) = subject(symbol).ok_or("no such subject")?;
                let calls = calls.parse()?;
                writeln!(out, "{} {}", time(shape.base(), calls), time(function, calls))?;
            }
            ["pair", symbol, between, calls] => {
                let (shape, function) = subject(symbol).ok_or("no such subject")?;
                let (between, calls) = (between.parse()?, calls.parse()?);
                let base = both(shape.base(), between, calls)?;
                writeln!(out, "{base} {}", both(function, between, calls)?)?;
            }
            ["load", file] => {
                libraries.push(Library::open(file)?);
                writeln!(out, "loaded")?;
            }
            _ => return Err(format!("no such request: {line}").into()),
        }
        out.flush()?;
    }
    Ok(true)
}

/// Such a process, started by another one.
pub(crate) struct Target {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Target {
    /// Starts it; `wrapped` is the command that shall run it, with its arguments, if any.
    pub(crate) fn start(wrapped: &[&str]) -> Result<Target, Error> {
        let own = std::env::current_exe()?;
        let mut command = match wrapped {
            [] => Command::new(&own),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&own);
                command
            }
        };
        command.arg("target").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Target { child, requests, answers })
    }

    /// Its process id (of the wrapping command, if there is one).
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a request and returns the answer.
    pub(crate) fn ask(&mut self, request: &str) -> Result<String, Error> {
        let requests = self.requests.as_mut().ok_or("the target has ended")?;
        writeln!(requests, "{request}")?;
        requests.flush()?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(format!("the target has ended: {:?}", self.child.try_wait()?).into());
        }
        Ok(answer.trim_end().to_owned())
    }

    /// The address of a subject in it.
    pub(crate) fn address(&mut self, symbol: &str) -> Result<u64, Error> {
        let answer = self.ask(&format!("address {symbol}"))?;
        Ok(u64::from_str_radix(answer.trim_start_matches("0x"), 16)?)
    }

    /// Times a subject in it.
    pub(crate) fn time(&mut self, symbol: &str, calls: u32) -> Result<(f64, f64), Error> {
        self.times(&format!("time {symbol} {calls}"))
    }

    /// Times a subject in it that two threads call, with so many calls of another one between.
    pub(crate) fn time_pair(&mut self, symbol: &str, between: u32, calls: u32) -> Result<(f64, f64), Error> {
        self.times(&format!("pair {symbol} {between} {calls}"))
    }

    fn times(&mut self, request: &str) -> Result<(f64, f64), Error> {
        let answer = self.ask(request)?;
        let (base, probed) = answer.split_once(' ').ok_or("the target gave no two times")?;
        Ok((base.parse()?, probed.parse()?))
    }

    /// Ends it.
    pub(crate) fn end(&mut self) {
        self.requests = None;
        let _ = self.child.wait();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.end();
    }
}
