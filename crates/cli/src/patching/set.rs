//! `incise set`: registers and memory, when a thread comes by; variables, at once.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use incise::isa::native::Syntax;
use incise::patching::{Change, Live, Note, OnDisk, Request, Setting, place, plan};
use incise::script::ScriptError;
use incise::space::file::Output;
use incise::{Ending, Error, Evaluated, Ran, evaluate};

use super::args::SetArgs;
use super::target;
use crate::signals::{self, INTERRUPTED};
use crate::{FAILED, Failure};

pub(crate) fn run(args: &SetArgs) -> Result<ExitCode, Failure> {
    match (&args.at, args.target.pid) {
        (Some(at), _) => when_passed(args, at),
        (None, Some(pid)) => once(args, pid),
        (None, None) => {
            Err("where? --at WHERE; variables of a running process: incise set -p PID NAME=VALUE".into())
        }
    }
}

/// Sets variables of a process at once, and tells what they were and are.
fn once(args: &SetArgs, pid: i32) -> Result<ExitCode, Failure> {
    signals::catch(true);
    for assignment in &args.assignments {
        let name = variable(assignment).ok_or_else(|| {
            format!(
                "`{assignment}` is no assignment: write NAME=VALUE; registers are set at a place: --at WHERE"
            )
        })?;
        let value = |text: &str| -> Result<String, Failure> {
            let Evaluated { printed, ran, .. } = evaluate(pid, text, PATIENCE, &INTERRUPTED)?;
            match ran {
                Ran::Fault(fault) => Err(format!("`{text}` could not be evaluated: {fault}").into()),
                Ran::Value(_) | Ran::Nothing => Ok(printed.concat().trim_end().to_owned()),
            }
        };
        let set = value(name).and_then(|before| Ok((before, value(assignment)?)));
        match set {
            Ok((before, after)) => println!("{name}: {before} -> {after}"),
            Err(error) => return told(error),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what is wrong with an assignment.
fn told(error: Failure) -> Result<ExitCode, Failure> {
    match error.downcast_ref::<Error>() {
        Some(Error::Script(ScriptError::Source(diagnostics))) => {
            eprint!("{}", diagnostics.render(io::stderr().is_terminal()));
            Ok(ExitCode::from(FAILED))
        }
        _ => Err(error),
    }
}

/// How long a thread of the process may take to set a variable.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is set by an assignment in the language of `incise run`.
fn variable(assignment: &str) -> Option<&str> {
    let (left, right) = assignment.split_once('=')?;
    let left = left.trim_end_matches(['+', '-', '*', '/', '%', '^', '|', '&', '<', '>']).trim();
    (!left.is_empty() && !right.trim().is_empty() && !right.starts_with('=')).then_some(left)
}

fn when_passed(args: &SetArgs, at: &str) -> Result<ExitCode, Failure> {
    let mut assignments = args.assignments.clone();
    if args.target.pid.is_none() && args.target.program.is_empty() {
        let path = target::file(&mut assignments)?;
        return file(args, &path, at, setting(args, assignments)?);
    }
    let setting = setting(args, assignments)?;
    if args.output.is_some() || args.in_place {
        return Err("-o and --in-place are for files: incise set FILE --at WHERE ASSIGNMENT -o OUT".into());
    }
    if let Some(pid) = args.target.pid {
        let mut live = Live::attach(pid)?;
        let made = probe(&mut live, at, setting);
        live.detach()?;
        return made.map(|()| ExitCode::SUCCESS);
    }
    let (program, arguments) =
        args.target.program.split_first().ok_or("a program to run, or -p PID, is needed")?;
    signals::catch(false);
    let mut live = Live::launch(program, arguments)?;
    let made = (|| {
        if place(&live.view()?, at).is_err() {
            live.run_to_entry()?;
        }
        probe(&mut live, at, setting)
    })();
    if let Err(error) = made {
        live.kill();
        return Err(error);
    }
    Ok(match live.run_to_end()? {
        Ending::Exited(code) => ExitCode::from(code as u8),
        Ending::Killed(signal) => signals::die(signal),
        Ending::Detached => ExitCode::SUCCESS,
    })
}

fn setting(args: &SetArgs, assignments: Vec<String>) -> Result<Setting, Failure> {
    if assignments.is_empty() {
        return Err("set what? rax=1, '[rbp-4]=0', '[rdi]=\"text\"'".into());
    }
    Ok(Setting { condition: args.condition.clone(), times: args.times, assignments, counter: None })
}

fn probe(live: &mut Live, at: &str, mut setting: Setting) -> Result<(), Failure> {
    let view = live.view()?;
    let at = place(&view, at)?.addr;
    // Wrong words are told before anything is put into the process.
    setting.code(&view, at)?;
    if let Some(times) = setting.times {
        setting.counter = Some(live.quadword(at, times)?);
    }
    let text = format!("set {}", setting.to_text());
    let request = Request { at, change: Change::Set(setting), count: 1, syntax: Syntax::Intel };
    let made = live.patch(&request, &text)?;
    eprintln!(
        "incise: patch {} is in process {}; stopped {} us",
        made.patch.id,
        live.pid(),
        made.stop.as_micros()
    );
    Ok(())
}

/// The same in a file: it happens whenever that runs.
fn file(args: &SetArgs, path: &Path, at: &str, setting: Setting) -> Result<ExitCode, Failure> {
    let output = match (&args.output, args.in_place) {
        (Some(out), false) => Output::new(out),
        (None, true) => Output::in_place(path),
        _ => return Err("where to write the file? -o OUT, or --in-place to replace it".into()),
    };
    let mut file = OnDisk::open(path)?;
    let view = file.view()?;
    let at = place(&view, at)?.addr;
    let request = Request { at, change: Change::Set(setting), count: 1, syntax: Syntax::Intel };
    let expected = plan(&view, &request)?.old;
    let id = file.add(Note { request, expected })?;
    file.save(&output)?;
    eprintln!("incise: patch {id} is in {}", output.path.display());
    Ok(ExitCode::SUCCESS)
}
