//! `incise list`: what patterns match, without touching anything.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use incise::image::MemoryMap;
use incise::{Addr, Images, Program, Query};
use serde::Serialize;

use crate::Failure;
use crate::args::ListArgs;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Function { module: &'a str, function: &'a str, symbols: &'a [String], address: String },
    Unresolved { module: &'a str, function: &'a str, resolver: String },
}

pub(crate) fn run(args: &ListArgs) -> Result<ExitCode, Failure> {
    let (patterns, program, memory) = match args.pid {
        Some(pid) => {
            let (program, memory) = process(pid)?;
            (&args.words[..], program, Some(memory))
        }
        None => {
            let (file, patterns) = args.words.split_last().ok_or("a pattern and a file are needed")?;
            if patterns.is_empty() {
                return Err(
                    format!("what to look for in {file}? Usage: incise list PATTERN... BINARY").into()
                );
            }
            let bytes = fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
            let program =
                Program::of_file(Path::new(file), &bytes).map_err(|error| format!("{file}: {error}"))?;
            (patterns, program, None)
        }
    };
    let mut query = Query::default().kind(args.points.into());
    for pattern in patterns {
        query = query.or(pattern);
    }
    if let Some(module) = &args.module {
        query = query.module(module);
    }
    let read =
        |at: Addr, into: &mut [u8]| memory.as_ref().is_some_and(|m| m.read_exact_at(into, at.0).is_ok());
    let found = query.run(&program, &read)?;
    let mut out = io::stdout().lock();
    for point in &found.points {
        let (module, function, address) = (&point.module, &point.display_name, point.addr.to_string());
        if args.json {
            let line = Line::Function { module, function, symbols: &point.names, address };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            let aliases = point.names.iter().filter(|name| **name != point.name).cloned().collect::<Vec<_>>();
            let aliases =
                if aliases.is_empty() { String::new() } else { format!("  = {}", aliases.join(" = ")) };
            writeln!(out, "{address:>18}  {module}!{function}{aliases}")?;
        }
    }
    crate::count::incomplete(&found.incomplete, !args.json);
    for unresolved in &found.unresolved {
        let (module, function, resolver) =
            (&unresolved.module, &unresolved.name, unresolved.resolver.to_string());
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&Line::Unresolved { module, function, resolver })?)?;
        } else {
            writeln!(out, "{resolver:>18}  {module}!{function}  (indirect function: this is its resolver)")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A running process, read only.
fn process(pid: i32) -> Result<(Program, File), Failure> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no process {pid}"),
        io::ErrorKind::PermissionDenied => {
            format!("not permitted to look at process {pid}: run as its user, or as root")
        }
        _ => format!("cannot read the memory map of process {pid}: {error}"),
    })?;
    let memory = File::open(format!("/proc/{pid}/mem"))
        .map_err(|error| format!("cannot read the memory of process {pid}: {error}"))?;
    let read = |at: Addr, into: &mut [u8]| memory.read_exact_at(into, at.0).is_ok();
    let map = MemoryMap::parse(&maps);
    let program = Program::of_map(&map, &pid.to_string(), &mut Images::default(), &read);
    Ok((program, memory))
}
