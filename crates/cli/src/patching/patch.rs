//! `incise patch`: changes a program.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use incise::Ending;
use incise::patching::{
    Change, How, Live, Note, OnDisk, Plan, Request, View, linked, patches, place, plan, planned_listing,
    unhex,
};
use incise::space::file::Output;

use super::args::PatchArgs;
use super::find::number;
use super::show;
use super::target;
use crate::Failure;
use crate::signals::{self, INTERRUPTED};

pub(crate) fn run(args: &PatchArgs) -> Result<ExitCode, Failure> {
    let mut words = args.words.clone();
    if args.target.pid.is_none() && args.target.program.is_empty() {
        let file = target::file(&mut words)?;
        return self::file(args, &file, &words);
    }
    if args.output.is_some() || args.in_place {
        return Err("-o and --in-place are for files; a live patch is kept on disk with --save OUT".into());
    }
    let (at, change, text) = wanted(args, &words)?;
    let Some(pid) = args.target.pid else { return launched(args, &at, change, &text) };
    if args.dry_run {
        let view = View::of_process(pid)?;
        return rehearse(args, &view, &at, change).map(|()| ExitCode::SUCCESS);
    }
    let mut live = Live::attach(pid)?;
    let made = load(args, &mut live, &at).and_then(|at| make(args, &mut live, &at, change, &text));
    live.detach()?;
    made.map(|()| ExitCode::SUCCESS)
}

/// Starts a program, changes it before it runs, and lets it run.
fn launched(args: &PatchArgs, at: &str, change: Change, text: &str) -> Result<ExitCode, Failure> {
    let (program, arguments) =
        args.target.program.split_first().ok_or("a program to run, or -p PID, is needed")?;
    signals::catch(false);
    let mut live = Live::launch(program, arguments)?;
    let prepared = (|| {
        // What is not mapped yet is looked for when the libraries are.
        if needed(args).is_some() || place(&live.view()?, at).is_err() {
            live.run_to_entry()?;
        }
        if args.dry_run {
            return rehearse(args, &live.view()?, at, change);
        }
        let at = load(args, &mut live, at)?;
        make(args, &mut live, &at, change, text)
    })();
    if prepared.is_err() || args.dry_run {
        live.kill();
        return prepared.map(|()| ExitCode::SUCCESS);
    }
    Ok(match live.run_to_end()? {
        Ending::Exited(code) => ExitCode::from(code as u8),
        Ending::Killed(signal) => signals::die(signal),
        Ending::Detached => ExitCode::SUCCESS,
    })
}

fn make(args: &PatchArgs, live: &mut Live, at: &str, change: Change, text: &str) -> Result<(), Failure> {
    let view = live.view()?;
    let request = request(args, &view, at, change)?;
    let plan = plan(&view, &request)?;
    preview(args, &view, &plan)?;
    if let Some(out) = &args.save {
        save(&view, &plan, &request, out)?;
    }
    let over = over(&view, &plan);
    let made = live.carry_out(&view, &plan, &request, text)?;
    let by = if made.patch.detour.is_some() { ", by way of code elsewhere" } else { "" };
    eprintln!(
        "incise: patch {} is in process {}{over}{by}; stopped {} us",
        made.patch.id,
        live.pid(),
        made.stop.as_micros()
    );
    Ok(())
}

/// Which patches a change comes over.
fn over(view: &View, plan: &Plan) -> String {
    let range = plan.at..plan.at + plan.old.len() as u64;
    let touched = patches(view).into_iter().filter(|patch| patch.touches(&range));
    let ids: Vec<String> = touched.map(|patch| patch.id.to_string()).collect();
    match &ids[..] {
        [] => String::new(),
        [id] => format!(", over patch {id}"),
        ids => format!(", over patches {}", ids.join(", ")),
    }
}

/// A library by its path, with all links resolved, and the function of it that is meant.
fn library(by: &str) -> Option<(PathBuf, &str)> {
    let (path, name) = by.rsplit_once('!').filter(|(path, _)| path.contains('/'))?;
    Some((path.into(), name)).map(|(path, name): (PathBuf, _)| (path.canonicalize().unwrap_or(path), name))
}

/// The library that has to be there for a change.
fn needed(args: &PatchArgs) -> Option<PathBuf> {
    args.replace.as_deref().and_then(library).map(|(path, _)| path)
}

/// Has the process load the library that a change needs. Returns the place: as an address, as the library may have functions of
/// the same name.
fn load(args: &PatchArgs, live: &mut Live, at: &str) -> Result<String, Failure> {
    let Some(path) = needed(args) else { return Ok(at.to_owned()) };
    // A place that is not there is told before a library is loaded in vain.
    let found = place(&live.view()?, at)?.addr;
    if live.load(&path, &INTERRUPTED)?.loaded {
        eprintln!("incise: {} is loaded, and stays", path.display());
    }
    Ok(format!("*{found}"))
}

/// Shows what would be done.
fn rehearse(args: &PatchArgs, view: &View, at: &str, change: Change) -> Result<(), Failure> {
    let there = |path: &PathBuf| view.program().modules().iter().any(|m| Path::new(&m.path) == path);
    if let Some(path) = needed(args).filter(|path| !there(path)) {
        place(view, at)?;
        let path = path.display();
        eprintln!("incise: {path} would be loaded first; where its functions will be is not known yet");
        return Ok(());
    }
    let request = request(args, view, at, change)?;
    preview(args, view, &plan(view, &request)?)
}

/// Shows what will change.
fn preview(args: &PatchArgs, view: &View, plan: &Plan) -> Result<(), Failure> {
    let mut out = io::stderr().lock();
    if let How::Data { new } = &plan.how {
        return Ok(show::data_difference(&mut out, plan.at, &plan.old, new)?);
    }
    let (before, after) = planned_listing(view, plan, args.syntax.into());
    show::difference(&mut out, &before, &after)?;
    Ok(())
}

/// The request, once the bytes there are those expected.
fn request(args: &PatchArgs, view: &View, at: &str, change: Change) -> Result<Request, Failure> {
    let at = place(view, at)?.addr;
    let request = Request { at, change, count: args.count, syntax: args.syntax.into() };
    if let Some(expected) = &args.expect {
        let bytes = unhex(expected).ok_or("--expect takes pairs of hexadecimal digits")?;
        incise::patching::expect(view, at, &bytes)?;
    }
    Ok(request)
}

/// The place, the change, and the change in words.
fn wanted(args: &PatchArgs, words: &[String]) -> Result<(String, Change, String), Failure> {
    let Some((at, assembly)) = words.split_first() else {
        return Err("where? Name a place: main+0x13, '*0x401136', ...".into());
    };
    let (change, text) = match args {
        PatchArgs { bytes: Some(text), .. } => {
            (Change::Bytes(hex(text, "--bytes")?), format!("--bytes {text}"))
        }
        PatchArgs { nop: true, .. } => (Change::Nop, "--nop".to_owned()),
        PatchArgs { invert: true, .. } => (Change::Invert, "--invert".to_owned()),
        PatchArgs { always: true, .. } => (Change::Always, "--always".to_owned()),
        PatchArgs { never: true, .. } => (Change::Never, "--never".to_owned()),
        PatchArgs { return_value: Some(value), .. } => {
            (Change::Return(number(value).ok_or("--return takes a number")?), format!("--return {value}"))
        }
        PatchArgs { replace: Some(by), .. } => {
            let by = library(by).map_or(by.clone(), |(path, name)| format!("{}!{name}", path.display()));
            (Change::Jump(by.clone()), format!("--replace {by}"))
        }
        PatchArgs { call: Some(to), .. } => (Change::Call(to.clone()), format!("--call {to}")),
        PatchArgs { jump: Some(to), .. } => (Change::Jump(to.clone()), format!("--jump {to}")),
        PatchArgs { string: Some(text), .. } => {
            (Change::Text(text.clone().into_bytes()), format!("--string {text:?}"))
        }
        PatchArgs { data: Some(text), .. } => {
            (Change::Data(data(text)?), format!("--data {}", text.escape_debug()))
        }
        _ => {
            if assembly.is_empty() {
                return Err("change it to what? Assembly text, or --nop, --invert, --always, --never, --return, --replace, --bytes, ...".into());
            }
            let text = assembly.join("\n");
            return Ok((at.clone(), Change::Assembly(text.clone()), text));
        }
    };
    if let Some(extra) = assembly.first() {
        return Err(format!("one change at a time: `{extra}` is too many").into());
    }
    Ok((at.clone(), change, text))
}

/// The most data that is taken from a file, in bytes.
const MOST_DATA: u64 = 16 << 20;

fn hex(text: &str, option: &str) -> Result<Vec<u8>, String> {
    let bytes = unhex(text).filter(|bytes| !bytes.is_empty());
    bytes.ok_or_else(|| format!("{option} takes pairs of hexadecimal digits"))
}

/// The bytes that `--data` names.
fn data(text: &str) -> Result<Vec<u8>, Failure> {
    let Some(path) = text.strip_prefix('@') else { return Ok(hex(text, "--data")?) };
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MOST_DATA + 1).read_to_end(&mut bytes));
    file.map_err(|error| format!("--data: cannot read {path}: {error}"))?;
    match bytes.len() as u64 {
        0 => Err(format!("--data: {path} is empty: there is nothing to put there").into()),
        len if len > MOST_DATA => Err(format!("--data: {path} has more than {MOST_DATA} bytes").into()),
        _ => Ok(bytes),
    }
}

/// A change of a file.
fn file(args: &PatchArgs, path: &Path, words: &[String]) -> Result<ExitCode, Failure> {
    let (at, change, _) = wanted(args, words)?;
    if needed(args).is_some() {
        return Err(
            "--replace by a function of a library is for processes: a file cannot be made to load one".into(),
        );
    }
    let output = match (&args.output, args.in_place, &args.save) {
        (Some(out), false, None) => Some(Output::new(out)),
        (None, true, None) => Some(Output::in_place(path)),
        (None, false, Some(out)) => Some(Output::new(out)),
        (None, false, None) if args.dry_run => None,
        _ => return Err("where to write the patched file? -o OUT, or --in-place to replace it".into()),
    };
    let mut file = OnDisk::open(path)?;
    let view = file.view()?;
    let request = request(args, &view, &at, change)?;
    let plan = plan(&view, &request)?;
    preview(args, &view, &plan)?;
    let id = file.add(Note { request, expected: plan.old.clone() })?;
    let Some(output) = output.filter(|_| !args.dry_run) else { return Ok(ExitCode::SUCCESS) };
    file.save(&output)?;
    eprintln!("incise: patch {id} is in {}", output.path.display());
    Ok(ExitCode::SUCCESS)
}

/// The same change in a copy of the file that the place belongs to.
fn save(view: &View, plan: &Plan, request: &Request, out: &Path) -> Result<(), Failure> {
    let module = view.program().modules().iter().find(|module| module.range.contains(&request.at));
    let module = module.ok_or("the place belongs to no file: it cannot be saved")?;
    let request = linked(view, request).map_err(|error| format!("--save: {error}"))?;
    let pid = view.pid().ok_or("--save goes with a process or a program to start")?;
    let path = PathBuf::from(format!("/proc/{pid}/root{}", module.path));
    let mut file = OnDisk::open(&path)?;
    file.add(Note { request, expected: plan.old.clone() })?;
    file.save(&Output::new(out))?;
    eprintln!("incise: the same change is in {}", out.display());
    Ok(())
}
