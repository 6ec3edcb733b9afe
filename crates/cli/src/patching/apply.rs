//! `incise apply`: the changes of a patch file.

use std::fs;
use std::ops::Range;
use std::process::ExitCode;

use incise::Addr;
use incise::image::Module;
use incise::patching::{Live, Note, OnDisk, PatchFile, Request, View, loaded, plan};
use incise::space::file::Output;

use super::args::ApplyArgs;
use super::show::counted;
use crate::Failure;

pub(crate) fn run(args: &ApplyArgs) -> Result<ExitCode, Failure> {
    let path = &args.patch;
    let text =
        fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let patch = PatchFile::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    match (args.pid, &args.file) {
        (Some(pid), _) => live(args, pid, &patch),
        (None, Some(file)) => {
            let mut target = OnDisk::open(file)?;
            let view = target.view()?;
            module(&view, &patch)?;
            for note in &patch.notes {
                target.add(note.clone())?;
            }
            if args.check {
                println!("{} {}", fitting(&patch), file.display());
                return Ok(ExitCode::SUCCESS);
            }
            let output = match (&args.output, args.in_place) {
                (Some(out), false) => Output::new(out),
                (None, true) => Output::in_place(file),
                _ => {
                    return Err("where to write the patched file? -o OUT, or --in-place to replace it".into());
                }
            };
            target.save(&output)?;
            println!("{} in {}", being(&patch), output.path.display());
            Ok(ExitCode::SUCCESS)
        }
        (None, None) => Err("to what? Name a file, or -p PID".into()),
    }
}

fn fitting(patch: &PatchFile) -> String {
    let count = patch.notes.len();
    format!("{} {}", counted(count, "change"), if count == 1 { "fits" } else { "fit" })
}

fn being(patch: &PatchFile) -> String {
    let count = patch.notes.len();
    format!("{} {}", counted(count, "change"), if count == 1 { "is" } else { "are" })
}

/// The module that the patch file is for: by its build-id, or else the program.
fn module<'v>(view: &'v View, patch: &PatchFile) -> Result<&'v Module, Failure> {
    let modules = view.program().modules();
    let Some(id) = &patch.build_id else { return Ok(modules.first().ok_or("it has no code")?) };
    let same = |module: &&Module| module.image.build_id() == Some(id.as_slice());
    modules.iter().find(same).ok_or_else(|| {
        let name = patch.program.as_deref().unwrap_or("another program");
        format!("the patch file is for another build of {name}: the build-ids differ").into()
    })
}

/// All changes, or none.
fn live(args: &ApplyArgs, pid: i32, patch: &PatchFile) -> Result<ExitCode, Failure> {
    let view = View::of_process(pid)?;
    let module = module(&view, patch)?;
    let requests: Vec<Request> = patch.notes.iter().map(|note| loaded(module, &note.request)).collect();
    let mut earlier: Vec<Range<Addr>> = Vec::new();
    for (note, request) in patch.notes.iter().zip(&requests) {
        let range = request.at..request.at + note.expected.len().max(1) as u64;
        // What comes over an earlier change is looked at when that is there.
        if !earlier.iter().any(|other| other.start < range.end && range.start < other.end) {
            expected(&view, note, request)?;
            plan(&view, request)?;
        }
        earlier.push(range);
    }
    if args.check {
        println!("{} process {pid}", fitting(patch));
        return Ok(ExitCode::SUCCESS);
    }
    let mut live = Live::attach(pid)?;
    let mut done = Vec::new();
    for (note, request) in patch.notes.iter().zip(&requests) {
        let made = live.view().map_err(Failure::from).and_then(|view| {
            expected(&view, note, request)?;
            Ok(live.patch(request, &note.shown())?)
        });
        match made {
            Ok(made) => done.push(made.patch.id),
            Err(error) => {
                for id in done.into_iter().rev() {
                    live.undo(id)?;
                }
                live.detach()?;
                return Err(error);
            }
        }
    }
    live.detach()?;
    println!("{} in process {pid}", being(patch));
    Ok(ExitCode::SUCCESS)
}

/// Checks that what a change expects is there.
fn expected(view: &View, note: &Note, request: &Request) -> Result<(), Failure> {
    let here = Note { request: request.clone(), expected: note.expected.clone() };
    Ok(here.check(view)?)
}
