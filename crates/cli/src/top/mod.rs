//! `incise top`: which functions of a program are called most, and take longest, now.

pub mod args;
mod rows;
mod screen;
mod table;

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use incise::CountOptions;
use incise::timing::{Look, Measure, Next, Timing, TimingResult};

use crate::Failure;
use crate::hist::tell;
use crate::signals::INTERRUPTED;
use crate::target::{TargetArgs, Which, exit_code};
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
    let target = &args.target;
    let pause = Duration::from_secs_f64(args.interval);
    let plain = args.once || args.json || target.output.is_some() || !io::stderr().is_terminal();
    let mut functions = CountOptions {
        patterns: args.patterns.clone(),
        module: args.module.clone(),
        follow: target.follow,
        traps: target.trap.into(),
        // The screen is no place for lines.
        awaiting: target.awaiting().filter(|_| plain),
        ..CountOptions::default()
    };
    if functions.patterns.is_empty() {
        functions.patterns.push("*".to_owned());
        functions.module = functions.module.or_else(|| own_module(target));
    }
    let face = if plain {
        Face::Table(Table::new(args, target.writer(io::stderr())?))
    } else {
        Face::Screen(Box::new(Screen::new(args.sort, pause)))
    };
    let face = Rc::new(RefCell::new(face));
    let once = args.once;
    let watch = {
        let face = Rc::clone(&face);
        move |look: &mut Look<'_>| match &mut *face.borrow_mut() {
            Face::Screen(screen) => screen.show(look),
            Face::Table(table) => {
                let written = table.show(look, pause)?;
                if written && once {
                    INTERRUPTED.store(true, Ordering::Relaxed);
                }
                Ok(Next { pause, switches: Vec::new() })
            }
        }
    };
    let of = Measure::Duration;
    let timing = match target.which()? {
        Which::Process(pid) => Timing::attach(pid, functions, of, watch)?,
        Which::Program(program, arguments) => Timing::launch(program, arguments, functions, of, watch)?,
    };
    let result = timing.run(&INTERRUPTED);
    if let Face::Screen(screen) = &mut *face.borrow_mut() {
        screen.leave();
    }
    let TimingResult { probes, values } = result.map_err(failure)?;
    if let Face::Table(table) = &mut *face.borrow_mut() {
        table.finish(&values)?;
    }
    target.tell_missing(&probes, "measured");
    tell(&values);
    target.tell_stop(&probes);
    Ok(exit_code(probes.ending))
}

/// The file name of the program itself.
fn own_module(target: &TargetArgs) -> Option<String> {
    let file = match target.pid {
        Some(pid) => std::fs::read_link(format!("/proc/{pid}/exe")).ok()?,
        None => {
            let named = std::path::PathBuf::from(target.program.first()?);
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found =
                std::env::split_paths(&path).map(|folder| folder.join(&named)).find(|file| file.is_file());
            let file = if named.components().count() > 1 { named } else { found? };
            file.canonicalize().ok()?
        }
    };
    Some(file.file_name()?.to_string_lossy().into_owned())
}
