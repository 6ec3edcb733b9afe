//! `incise run`: scripts of the language.

pub mod args;
mod json;
mod text;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::rc::Rc;

use incise::script::{ScriptError, ScriptEvent, ScriptOptions, ScriptResult, Scripting};
use incise::{Ending, Error};

use crate::count::incomplete;
use crate::signals::{self, INTERRUPTED};
use crate::{FAILED, Failure};
use args::RunArgs;

/// A way to show what a script tells.
type Show = fn(&ScriptEvent<'_>, &mut dyn Write) -> io::Result<()>;

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let mut words = args.words.iter();
    let (name, source) = match (&args.expression, &args.words[..]) {
        (Some(source), _) => ("script".to_owned(), source.clone()),
        (None, [path, ..]) => {
            words.next();
            let source =
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
            (path.clone(), source)
        }
        (None, []) => return Err("a script is needed: -e TEXT, or a file".into()),
    };
    let options = ScriptOptions {
        name,
        source: without_shebang(&source),
        arguments: words.cloned().collect(),
        follow: args.follow,
        traps: args.trap.into(),
        records: args.buffer as usize,
        keys: args.keys,
        dry_run: args.dry_run,
    };
    let out: Box<dyn Write> = match &args.output {
        Some(path) => {
            let file =
                File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let out = Rc::new(RefCell::new(out));
    let show: Show = if args.json { json::show } else { text::show };
    let sink = {
        let out = Rc::clone(&out);
        move |event: &ScriptEvent<'_>| show(event, &mut *out.borrow_mut())
    };
    signals::catch(args.pid.is_some() || args.program.is_empty());
    let result = start(args, &options, sink).and_then(|scripting| {
        if args.verbose && args.pid.is_some() {
            let stop = scripting.stop().as_micros();
            eprintln!("incise: probes in place, stopped {stop} us; Ctrl-C ends the script");
        }
        scripting.run(&INTERRUPTED)
    });
    let result = match result {
        Ok(result) => result,
        Err(Error::Script(ScriptError::Source(diagnostics))) => {
            eprint!("{}", diagnostics.render(io::stderr().is_terminal()));
            return Ok(ExitCode::from(FAILED));
        }
        Err(Error::Script(ScriptError::Shown)) => {
            out.borrow_mut().flush()?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        json::totals(&result.totals, &mut *out.borrow_mut())?;
    }
    out.borrow_mut().flush()?;
    told(&result, args);
    Ok(match result.probes.map(|probes| probes.ending) {
        Some(Ending::Exited(code)) => ExitCode::from(code as u8),
        Some(Ending::Killed(signal)) => signals::die(signal),
        Some(Ending::Detached) | None => ExitCode::SUCCESS,
    })
}

fn start(
    args: &RunArgs,
    options: &ScriptOptions,
    sink: impl FnMut(&ScriptEvent<'_>) -> io::Result<()> + 'static,
) -> Result<Scripting, Error> {
    match (args.pid, args.program.split_first()) {
        (Some(pid), _) => Scripting::attach(pid, options, sink),
        (None, Some((program, arguments))) => Scripting::launch(program, arguments, options, sink),
        (None, None) => Scripting::alone(options, sink),
    }
}

/// A script that is a program of its own begins with `#!`; the line stays, so that numbers of lines are right.
fn without_shebang(source: &str) -> String {
    match source.strip_prefix("#!") {
        Some(rest) => format!("//{rest}"),
        None => source.to_owned(),
    }
}

/// What did not go well.
fn told(result: &ScriptResult, args: &RunArgs) {
    let totals = &result.totals;
    if totals.lost > 0 {
        eprintln!("incise: {} records were lost; --buffer makes room for more", totals.lost);
    }
    if totals.dropped > 0 {
        eprintln!("incise: {} values found no room in their maps; --keys makes more", totals.dropped);
    }
    for (fault, count) in &totals.faults {
        eprintln!("incise: {count} runs ended early: {fault}");
    }
    if totals.left_out > 0 {
        let count = totals.left_out;
        eprintln!("incise: {count} points are left out: what the script names has no value there");
    }
    let Some(probes) = &result.probes else { return };
    for error in &probes.unmatched {
        eprintln!("incise: {error}");
    }
    incomplete(&probes.incomplete, args.explain);
    if !probes.refused.is_empty() && !args.explain {
        eprintln!("incise: {} points could not be probed; --explain tells why", probes.refused.len());
    }
    for refused in probes.refused.iter().filter(|_| args.explain) {
        eprintln!("incise: {}!{} at {}: {}", refused.module, refused.function, refused.addr, refused.reason);
    }
    if args.verbose {
        eprintln!("incise: stopped {} us in all", probes.stop.as_micros());
    }
}
