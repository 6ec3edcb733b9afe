//! Which program, and how probes go into it: what `count`, `trace`, `hist`, `top` and `run` have in common.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use incise::image::PatternError;
use incise::space::SpaceError;
use incise::{Condition, CountOptions, CountResult, Ending, NotCounted, Tactic};

use crate::Failure;
use crate::args::Trap;
use crate::count::incomplete;
use crate::script_file;
use crate::signals;

/// The program, and what is done where.
#[derive(Args, Debug)]
#[group(skip)]
pub struct TargetArgs {
    /// Attach to a running process.
    #[arg(short, long, value_name = "PID", conflicts_with = "program")]
    pub pid: Option<i32>,
    /// Follow child processes, and what they execute.
    #[arg(short, long)]
    pub follow: bool,
    /// What to do where only a trap fits.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Trap::Fallback)]
    pub trap: Trap,
    /// Write to FILE, not to the terminal.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Tell what is done, and how long the program was stopped for it.
    #[arg(short, long)]
    pub verbose: bool,
    /// Tell how points were patched, and which could not be probed and why.
    #[arg(long)]
    pub explain: bool,
    /// The program to run, and its arguments.
    #[arg(last = true, value_name = "CMD")]
    pub program: Vec<OsString>,
}

/// Functions, by their names.
#[derive(Args, Debug)]
#[group(skip)]
pub struct PatternArgs {
    /// Functions, as names, globs, MODULE!NAME or *ADDRESS.
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Only when EXPR holds, such as 'arg0 > 100 && *(int *)arg1 == 7': in the language of `incise run`.
    #[arg(long = "if", value_name = "EXPR", value_parser = Condition::parse)]
    pub condition: Option<Condition>,
}

/// Bytes written to a file at a time.
const FILE_BUFFER: usize = 1 << 18;

/// A program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    /// One that runs already.
    Process(i32),
    /// One to be started, with its arguments.
    Program(&'a OsString, &'a [OsString]),
}

impl PatternArgs {
    /// The functions that are meant, in this program.
    pub(crate) fn options(&self, target: &TargetArgs) -> CountOptions {
        CountOptions {
            patterns: self.patterns.clone(),
            module: self.module.clone(),
            condition: self.condition.clone(),
            follow: target.follow,
            traps: target.trap.into(),
            awaiting: target.awaiting(),
            ..CountOptions::default()
        }
    }
}

impl TargetArgs {
    /// What a command came to; if its program is a script, with a word about that where it may be the cause.
    pub(crate) fn explained(&self, result: Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
        let Err(error) = result else { return result };
        let known = error.downcast_ref::<incise::Error>();
        let hint = match known {
            Some(incise::Error::Pattern(PatternError::NoFunction { .. })) => self.script_hint(),
            Some(incise::Error::Space(SpaceError::Launch { source, .. }))
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                self.script().map(|(script, interpreter)| {
                    format!("it is a script that may not be run: chmod +x, or -- {interpreter} {script}")
                })
            }
            _ => None,
        };
        Err(match hint {
            Some(hint) => format!("{error}; {hint}").into(),
            None => error,
        })
    }

    /// If the program is a script, and what it starts is not followed: that this could be done.
    fn script_hint(&self) -> Option<String> {
        let (script, interpreter) = self.script().filter(|_| !self.follow)?;
        Some(format!("{script} is a script run by {interpreter}: -f follows what it starts"))
    }

    /// The program and its interpreter, if it is a script.
    fn script(&self) -> Option<(String, String)> {
        let program = self.program.first().filter(|_| self.pid.is_none())?;
        Some((program.display().to_string(), script_file::interpreter(program.as_ref())?))
    }

    /// Tells of modules that are not there yet. With `--output`, what comes on standard error is the program's alone.
    pub(crate) fn awaiting(&self) -> Option<fn(&PatternError)> {
        let tell: fn(&PatternError) = |error| {
            if matches!(error, PatternError::NoModule { .. }) {
                eprintln!("incise: {error}; waiting for it to be loaded");
            }
        };
        self.output.is_none().then_some(tell)
    }

    /// Tells which patterns matched nothing to the end.
    pub(crate) fn tell_unmatched(&self, unmatched: &[PatternError]) {
        for error in unmatched {
            eprintln!("incise: {error}");
        }
        if let Some(hint) = self.script_hint().filter(|_| !unmatched.is_empty()) {
            eprintln!("incise: {hint}");
        }
    }
}

impl PatternArgs {
    /// The same, where this holds, if it is given.
    pub(crate) fn options_where(&self, target: &TargetArgs, holds: Option<&Condition>) -> CountOptions {
        let options = self.options(target);
        let condition = holds.cloned().or_else(|| options.condition.clone());
        CountOptions { condition, ..options }
    }
}

impl TargetArgs {
    /// The file that was asked for, or else what `terminal` is. A file that cannot be written is told before anything runs: else it
    /// would be a run in vain.
    pub(crate) fn writer(&self, terminal: impl Write + 'static) -> Result<Box<dyn Write>, Failure> {
        let Some(path) = &self.output else { return Ok(Box::new(BufWriter::new(terminal))) };
        let file = File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Box::new(BufWriter::with_capacity(FILE_BUFFER, file)))
    }

    /// The program that is meant; from now on Ctrl-C does not end this command at once.
    pub(crate) fn which(&self) -> Result<Which<'_>, Failure> {
        signals::catch(self.pid.is_some());
        self.tell_children();
        match (self.pid, self.program.split_first()) {
            (Some(pid), _) => Ok(Which::Process(pid)),
            (None, Some((program, arguments))) => Ok(Which::Program(program, arguments)),
            (None, None) => Err("a program to run, or -p PID, is needed".into()),
        }
    }

    /// Children that a process has already are not followed: only those that it makes.
    fn tell_children(&self) {
        let Some(pid) = self.pid.filter(|_| self.follow) else { return };
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            eprintln!(
                "incise: process {pid} has children already, which are not followed: -p {child} looks at one"
            );
        }
    }

    /// Tells that a running process has its probes.
    pub(crate) fn tell_start(&self, probes: usize, stop: Duration, what: &str) {
        if self.verbose && self.pid.is_some() {
            let stop = stop.as_micros();
            eprintln!("incise: {probes} probes in place, stopped {stop} us; Ctrl-C ends {what}");
        }
    }

    /// Tells what is missing of the points that were asked for. `done`: what is not done there.
    pub(crate) fn tell_missing(&self, probes: &CountResult, done: &str) {
        self.tell_unmatched(&probes.unmatched);
        incomplete(&probes.incomplete, self.explain);
        for refused in probes.refused.iter().filter(|_| self.explain) {
            let NotCounted { module, function, addr, reason } = refused;
            eprintln!("incise: {module}!{function} at {addr} is not {done}: {reason}");
        }
        self.tell_traps(probes);
        match probes.refused.len() {
            _ if self.explain => {}
            0 => {}
            1 => eprintln!("incise: 1 point is not {done}; --explain tells why"),
            count => eprintln!("incise: {count} points are not {done}; --explain tells why"),
        }
    }

    /// Tells where only traps fit: what is measured there is their own time.
    fn tell_traps(&self, probes: &CountResult) {
        let trapped = probes.counted.iter().filter(|counted| counted.tactic == Tactic::Trap);
        let mut functions: Vec<&str> = trapped.clone().map(|counted| &*counted.point.display_name).collect();
        functions.dedup();
        if !functions.is_empty() && self.trap != Trap::Force {
            let count = trapped.count();
            let (is, it) = if count == 1 { ("1 point is a trap", "it") } else { ("traps", "them") };
            let is = if count == 1 { is.to_owned() } else { format!("{count} points are {is}") };
            let some = functions.iter().take(4).copied().collect::<Vec<_>>().join(", ");
            let more = if functions.len() > 4 { ", ..." } else { "" };
            eprintln!("incise: {is}, at microseconds a hit ({some}{more}); --trap forbid leaves {it} out");
        }
    }

    /// Tells what the program noticed of it.
    pub(crate) fn tell_stop(&self, probes: &CountResult) {
        for (fault, count) in &probes.faults {
            eprintln!("incise: --if could not be evaluated {count} times: {fault}");
        }
        if probes.overwritten > 0 {
            let n = probes.overwritten;
            eprintln!("incise: the program has written over {n} patched places: its own code stays there");
        }
        if !self.verbose {
            return;
        }
        eprintln!(
            "incise: stopped {} us in all, {} mappings added",
            probes.stop.as_micros(),
            probes.mappings
        );
        if probes.left_behind > 0 {
            eprintln!("incise: {} bytes stay in the process: a thread was inside", probes.left_behind);
        }
    }
}

/// The exit code of a command whose program ended so: the program's own.
pub(crate) fn exit_code(ending: Ending) -> ExitCode {
    match ending {
        Ending::Exited(code) => ExitCode::from(code as u8),
        Ending::Killed(signal) => signals::die(signal),
        Ending::Detached => ExitCode::SUCCESS,
    }
}
