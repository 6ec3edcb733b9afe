//! `incise patches` and `incise undo -p`: what was changed, and taking it back.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use incise::patching::{Live, OnDisk, Patch, PatchFile, View, file_patches, patches};
use incise::space::file::Output;
use serde::Serialize;

use super::args::PatchesArgs;
use super::show;
use crate::Failure;

#[derive(Serialize)]
#[serde(tag = "type", rename = "patch")]
struct Json<'a> {
    id: u32,
    address: String,
    old: String,
    new: String,
    kind: &'static str,
    detour: Option<String>,
    change: &'a str,
}

pub(crate) fn run(args: &PatchesArgs) -> Result<ExitCode, Failure> {
    let (known, view) = match (args.pid, &args.file) {
        (Some(pid), _) => {
            let view = View::of_process(pid)?;
            (patches(&view), view)
        }
        (None, Some(file)) => (file_patches(file)?, View::of_file(file)?),
        (None, None) => return Err("whose? Name a file, or -p PID".into()),
    };
    let mut out = io::stdout().lock();
    if args.export {
        let file = args
            .file
            .as_ref()
            .ok_or("--export takes a patched file: keep a live patch with --save OUT first")?;
        let module = view.program().modules().first();
        let exported = PatchFile {
            program: module.map(|module| module.name.clone()),
            build_id: module.and_then(|module| module.image.build_id().map(<[u8]>::to_vec)),
            notes: OnDisk::open(file)?.notes().iter().map(|(_, note)| note.clone()).collect(),
        };
        if exported.notes.is_empty() {
            return Err(format!("{}: nothing is patched", file.display()).into());
        }
        write!(out, "{}", exported.to_text())?;
        return Ok(ExitCode::SUCCESS);
    }
    for patch in &known {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&json(patch))?)?;
        } else {
            let module = view.program().module_at(patch.at);
            let module = module.map_or(String::new(), |module| format!("{}  ", module.name));
            writeln!(out, "{:>4}  {}  {module}{}", patch.id, patch.at, patch.text.replace('\n', "; "))?;
            writeln!(out, "      {} -> {}", show::bytes(&patch.old), show::bytes(&patch.new))?;
        }
    }
    if known.is_empty() && !args.json {
        writeln!(out, "nothing is patched")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn json(patch: &Patch) -> Json<'_> {
    Json {
        id: patch.id,
        address: patch.at.to_string(),
        old: show::bytes(&patch.old),
        new: show::bytes(&patch.new),
        kind: if patch.code { "code" } else { "data" },
        detour: patch.detour.as_ref().map(|range| range.start.to_string()),
        change: &patch.text,
    }
}

/// Takes patches of a process back: one, or all, the last first.
pub(crate) fn undo_live(pid: i32, id: Option<u32>) -> Result<ExitCode, Failure> {
    let mut live = Live::attach(pid)?;
    let ids = match id {
        Some(id) => vec![id],
        None => live.patches()?.iter().rev().map(|patch| patch.id).collect(),
    };
    if ids.is_empty() {
        println!("nothing is patched");
    }
    for id in ids {
        let patch = live.undo(id)?;
        println!("patch {} is taken back: {} at {}", patch.id, patch.text.replace('\n', "; "), patch.at);
    }
    live.detach()?;
    Ok(ExitCode::SUCCESS)
}

/// Takes one patch of a file back.
pub(crate) fn undo_in_file(path: &Path, id: u32, output: &Output) -> Result<ExitCode, Failure> {
    let mut file = OnDisk::open(path)?;
    file.remove(id)?;
    file.save(output)?;
    println!("patch {id} is taken back: {}", output.path.display());
    Ok(ExitCode::SUCCESS)
}
