//! `incise set`: registers and memory, when a thread comes by.

use std::process::ExitCode;

use incise::Ending;
use incise::isa::native::Syntax;
use incise::patching::{Change, Live, Request, place, set_code};

use super::args::SetArgs;
use crate::Failure;
use crate::signals;

pub(crate) fn run(args: &SetArgs) -> Result<ExitCode, Failure> {
    if let Some(pid) = args.target.pid {
        let mut live = Live::attach(pid)?;
        let made = probe(args, &mut live);
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
        probe(args, &mut live)
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

fn probe(args: &SetArgs, live: &mut Live) -> Result<(), Failure> {
    let view = live.view()?;
    let at = place(&view, &args.at)?.addr;
    let condition = args.condition.as_deref();
    // Wrong words are told before anything is put into the process.
    set_code(&view, at, condition, None, &args.assignments)?;
    let times = args.times.map(|times| live.quadword(at, times)).transpose()?;
    let view = live.view()?;
    let code = set_code(&view, at, condition, times, &args.assignments)?;
    let request = Request { at, change: Change::Assembly(code), count: 1, syntax: Syntax::Intel };
    let limit = args.times.map_or(String::new(), |times| format!(" --times {times}"));
    let when = condition.map_or(String::new(), |condition| format!(" --if {condition}"));
    let made = live.patch(&request, &format!("set {}{when}{limit}", args.assignments.join(" ")))?;
    eprintln!(
        "incise: patch {} is in process {}; stopped {} us",
        made.patch.id,
        live.pid(),
        made.stop.as_micros()
    );
    Ok(())
}
