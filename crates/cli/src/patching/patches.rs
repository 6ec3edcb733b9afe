//! `incise patches` and `incise undo -p`: what was changed, and taking it back.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use incise::patching::{Live, OnDisk, Patch, PatchFile, View, located, patches};
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
    place: String,
    old: String,
    new: String,
    kind: &'static str,
    detour: Option<String>,
    change: &'a str,
}

pub(crate) fn run(args: &PatchesArgs) -> Result<ExitCode, Failure> {
    let view = match (args.pid, &args.file) {
        (Some(pid), _) => View::of_process(pid)?,
        (None, Some(file)) => View::of_file(file)?,
        (None, None) => return Err("whose? Name a file, or -p PID".into()),
    };
    let mut known = patches(&view);
    if let Some(name) = &args.module {
        let modules = view.program().modules();
        let chosen: Vec<_> = modules.iter().filter(|module| module.is_called(name)).collect();
        if chosen.is_empty() {
            return Err(format!("no module is called `{name}`").into());
        }
        known.retain(|patch| chosen.iter().any(|module| module.range.contains(&patch.at)));
    }
    let mut out = io::stdout().lock();
    if args.export {
        if known.is_empty() {
            return Err("nothing is patched".into());
        }
        write!(out, "{}", PatchFile::of(&view, &known)?.to_text())?;
        return Ok(ExitCode::SUCCESS);
    }
    for patch in &known {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&json(&view, patch))?)?;
        } else {
            let (place, text) = (located(&view, patch.at), patch.text.replace('\n', "; "));
            writeln!(out, "{:>4}  {}  {place}  {text}", patch.id, patch.at)?;
            writeln!(out, "      {}", show::bytes_difference(&patch.old, &patch.new))?;
        }
    }
    if known.is_empty() && !args.json {
        writeln!(out, "nothing is patched")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn json<'a>(view: &View, patch: &'a Patch) -> Json<'a> {
    Json {
        id: patch.id,
        address: patch.at.to_string(),
        place: located(view, patch.at),
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
