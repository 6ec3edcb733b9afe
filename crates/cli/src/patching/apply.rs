//! `incise apply`: the changes of a patch file.

use std::fs;
use std::process::ExitCode;

use incise::Addr;
use incise::image::Module;
use incise::patching::{Live, Note, OnDisk, PatchFile, Request, View, plan};
use incise::space::file::Output;

use super::args::ApplyArgs;
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
                println!("{} changes fit {}", patch.notes.len(), file.display());
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
            println!("{} changes are in {}", patch.notes.len(), output.path.display());
            Ok(ExitCode::SUCCESS)
        }
        (None, None) => Err("to what? Name a file, or -p PID".into()),
    }
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
    let bias = module(&view, patch)?.bias;
    let moved =
        |note: &Note| Request { at: Addr(note.request.at.0.wrapping_add(bias)), ..note.request.clone() };
    for note in &patch.notes {
        let here = Note { request: moved(note), expected: note.expected.clone() };
        here.check(&view)?;
        plan(&view, &here.request)?;
    }
    if args.check {
        println!("{} changes fit process {pid}", patch.notes.len());
        return Ok(ExitCode::SUCCESS);
    }
    let mut live = Live::attach(pid)?;
    let mut done = Vec::new();
    for note in &patch.notes {
        match live.patch(&moved(note), &note.shown()) {
            Ok(made) => done.push(made.patch.id),
            Err(error) => {
                for id in done.into_iter().rev() {
                    live.undo(id)?;
                }
                live.detach()?;
                return Err(error.into());
            }
        }
    }
    live.detach()?;
    println!("{} changes are in process {pid}", patch.notes.len());
    Ok(ExitCode::SUCCESS)
}
