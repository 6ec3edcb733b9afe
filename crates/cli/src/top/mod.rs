//! `incise top`: which functions of a program are called most, and take longest, now.

pub mod args;
mod rows;
mod screen;
mod table;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use incise::timing::{Measure, Next, Snapshot, Timing, TimingResult};
use incise::{CountOptions, Ending};

use crate::Failure;
use crate::hist::tell;
use crate::signals::{self, INTERRUPTED};
use crate::trace::failure;
use args::TopArgs;
use screen::Screen;
use table::Table;

/// Who shows what was measured.
enum Face {
    Screen(Box<Screen>),
    Table(Table),
}

pub(crate) fn run(args: &TopArgs) -> Result<ExitCode, Failure> {
    let pause = Duration::from_secs_f64(args.interval);
    let plain = args.once || args.json || args.output.is_some() || !io::stderr().is_terminal();
    let mut functions = CountOptions {
        patterns: args.patterns.clone(),
        module: args.module.clone(),
        follow: args.follow,
        traps: args.trap.into(),
        ..CountOptions::default()
    };
    if functions.patterns.is_empty() {
        functions.patterns.push("*".to_owned());
        functions.module = functions.module.or_else(|| own_module(args));
    }
    let face = if plain {
        let out: Box<dyn Write> = match &args.output {
            Some(path) => {
                let file = File::create(path)
                    .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
                Box::new(BufWriter::new(file))
            }
            None => Box::new(BufWriter::new(io::stderr())),
        };
        Face::Table(Table::new(args, out))
    } else {
        Face::Screen(Box::new(Screen::new(args.sort, pause)))
    };
    let face = Rc::new(RefCell::new(face));
    let once = args.once;
    let watch = {
        let face = Rc::clone(&face);
        move |snapshot: &Snapshot| match &mut *face.borrow_mut() {
            Face::Screen(screen) => screen.show(snapshot),
            Face::Table(table) => {
                let written = table.show(snapshot, pause)?;
                if written && once {
                    INTERRUPTED.store(true, Ordering::Relaxed);
                }
                Ok(Next { pause, switches: Vec::new() })
            }
        }
    };
    signals::catch(args.pid.is_some());
    let of = Measure::Duration;
    let timing = match (args.pid, args.program.split_first()) {
        (Some(pid), _) => Timing::attach(pid, functions, of, watch)?,
        (None, Some((program, arguments))) => Timing::launch(program, arguments, functions, of, watch)?,
        (None, None) => return Err("a program to run, or -p PID, is needed".into()),
    };
    let result = timing.run(&INTERRUPTED);
    if let Face::Screen(screen) = &mut *face.borrow_mut() {
        screen.leave();
    }
    let TimingResult { probes, values } = result.map_err(failure)?;
    if let Face::Table(table) = &mut *face.borrow_mut() {
        table.finish(&values)?;
    }
    tell(&probes, &values, args.explain, false);
    Ok(match probes.ending {
        Ending::Exited(code) => ExitCode::from(code as u8),
        Ending::Killed(signal) => signals::die(signal),
        Ending::Detached => ExitCode::SUCCESS,
    })
}

/// The file name of the program itself.
fn own_module(args: &TopArgs) -> Option<String> {
    let file = match args.pid {
        Some(pid) => std::fs::read_link(format!("/proc/{pid}/exe")).ok()?,
        None => {
            let named = std::path::PathBuf::from(args.program.first()?);
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found =
                std::env::split_paths(&path).map(|folder| folder.join(&named)).find(|file| file.is_file());
            let file = if named.components().count() > 1 { named } else { found? };
            file.canonicalize().ok()?
        }
    };
    Some(file.file_name()?.to_string_lossy().into_owned())
}
