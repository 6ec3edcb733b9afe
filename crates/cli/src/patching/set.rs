//! `incise set`: registers and memory, when a thread comes by.

use std::path::Path;
use std::process::ExitCode;

use incise::Ending;
use incise::isa::native::Syntax;
use incise::patching::{Change, Live, Note, OnDisk, Request, Setting, place, plan};
use incise::space::file::Output;

use super::args::SetArgs;
use super::target;
use crate::Failure;
use crate::signals;

pub(crate) fn run(args: &SetArgs) -> Result<ExitCode, Failure> {
    let mut assignments = args.assignments.clone();
    if args.target.pid.is_none() && args.target.program.is_empty() {
        let path = target::file(&mut assignments)?;
        return file(args, &path, setting(args, assignments)?);
    }
    let setting = setting(args, assignments)?;
    if args.output.is_some() || args.in_place {
        return Err("-o and --in-place are for files: incise set FILE --at WHERE ASSIGNMENT -o OUT".into());
    }
    if let Some(pid) = args.target.pid {
        let mut live = Live::attach(pid)?;
        let made = probe(args, &mut live, setting);
        live.detach()?;
        return made.map(|()| ExitCode::SUCCESS);
    }
    let (program, arguments) =
        args.target.program.split_first().ok_or("a program to run, or -p PID, is needed")?;
    signals::catch(false);
    let mut live = Live::launch(program, arguments)?;
    let made = (|| {
        if place(&live.view()?, &args.at).is_err() {
            live.run_to_entry()?;
        }
        probe(args, &mut live, setting)
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

fn probe(args: &SetArgs, live: &mut Live, mut setting: Setting) -> Result<(), Failure> {
    let view = live.view()?;
    let at = place(&view, &args.at)?.addr;
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
fn file(args: &SetArgs, path: &Path, setting: Setting) -> Result<ExitCode, Failure> {
    let output = match (&args.output, args.in_place) {
        (Some(out), false) => Output::new(out),
        (None, true) => Output::in_place(path),
        _ => return Err("where to write the file? -o OUT, or --in-place to replace it".into()),
    };
    let mut file = OnDisk::open(path)?;
    let view = file.view()?;
    let at = place(&view, &args.at)?.addr;
    let request = Request { at, change: Change::Set(setting), count: 1, syntax: Syntax::Intel };
    let expected = plan(&view, &request)?.old;
    let id = file.add(Note { request, expected })?;
    file.save(&output)?;
    eprintln!("incise: patch {id} is in {}", output.path.display());
    Ok(ExitCode::SUCCESS)
}
