//! `incise run`: scripts of the language.

pub mod args;
mod json;
mod text;
mod words;

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::rc::Rc;

use incise::Error;
use incise::script::{ScriptError, ScriptEvent, ScriptOptions, ScriptTotals, Scripting};

use crate::signals::{self, INTERRUPTED};
use crate::target::{Which, exit_code};
use crate::{FAILED, Failure};
use args::RunArgs;

/// A way to show what a script tells.
type Show = fn(&ScriptEvent<'_>, &mut dyn Write) -> io::Result<()>;

/// The arguments, with what `-c` says in its place.
///
/// # Errors
/// If that is no program.
pub(crate) fn complete(mut args: RunArgs) -> Result<RunArgs, Failure> {
    if let Some(command) = args.command.take() {
        args.target.program = words::words(&command)?.into_iter().map(Into::into).collect();
    }
    Ok(args)
}

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    if args.list {
        return Err("functions are listed by incise list 'PATTERN' BINARY, the points of a script by incise run --dry-run".into());
    }
    let target = &args.target;
    let mut words = args.words.iter();
    let (name, source) = match (&args.expression, &args.words[..]) {
        (Some(source), _) => ("script".to_owned(), source.clone()),
        (None, [path, ..]) => {
            words.next();
            let source = std::fs::read_to_string(path).map_err(|error| {
                let hint =
                    if path.contains('{') { "; a script on the command line is given by -e" } else { "" };
                format!("cannot read {path}: {error}{hint}")
            })?;
            (path.clone(), source)
        }
        (None, []) => return Err("a script is needed: -e TEXT, or a file".into()),
    };
    let options = ScriptOptions {
        name,
        source: without_shebang(&source),
        arguments: words.cloned().collect(),
        follow: target.follow,
        traps: target.trap.into(),
        records: args.buffer as usize,
        keys: args.keys,
        rows: args.unwind_rows as usize,
        dry_run: args.dry_run,
        awaiting: target.awaiting(),
    };
    let out = target.writer(io::stdout())?;
    let out = Rc::new(RefCell::new(out));
    let show: Show = if args.json { json::show } else { text::show };
    let sink = {
        let out = Rc::clone(&out);
        move |event: &ScriptEvent<'_>| show(event, &mut *out.borrow_mut())
    };
    let started = match (target.pid, &target.program[..]) {
        (None, []) => {
            signals::catch(true);
            Scripting::alone(&options, sink)
        }
        _ => match target.which()? {
            Which::Process(pid) => Scripting::attach(pid, &options, sink),
            Which::Program(program, arguments) => Scripting::launch(program, arguments, &options, sink),
        },
    };
    let result = started.and_then(|scripting| {
        target.tell_start(scripting.installed(), scripting.stop(), "the script");
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
    told(&result.totals);
    if let Some(probes) = &result.probes {
        target.tell_missing(probes, "probed");
        target.tell_stop(probes);
    }
    Ok(result.probes.map_or(ExitCode::SUCCESS, |probes| exit_code(probes.ending)))
}

/// A script that is a program of its own begins with `#!`; the line stays, so that numbers of lines are right.
fn without_shebang(source: &str) -> String {
    match source.strip_prefix("#!") {
        Some(rest) => format!("//{rest}"),
        None => source.to_owned(),
    }
}

/// What did not go well.
pub(crate) fn told(totals: &ScriptTotals) {
    if totals.lost > 0 {
        eprintln!("incise: {} records were lost; --buffer makes room for more", totals.lost);
    }
    if totals.dropped > 0 {
        eprintln!("incise: {} values found no room in their maps; --keys makes more", totals.dropped);
    }
    for probe in &totals.not_found {
        eprintln!("incise: {probe}: the program had no such probe of <sys/sdt.h>");
    }
    if totals.rows_left_out > 0 {
        let rows = totals.rows_left_out;
        eprintln!(
            "incise: stacks may end early: {rows} rows of unwind tables found no room; --unwind-rows makes more"
        );
    }
    for (fault, count) in &totals.faults {
        eprintln!("incise: {count} runs ended early: {fault}");
    }
    match totals.left_out {
        0 => {}
        1 => eprintln!("incise: 1 point is left out: what the script names has no value there"),
        count => eprintln!("incise: {count} points are left out: what the script names has no value there"),
    }
}
