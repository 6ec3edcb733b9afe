//! `incise list`, and `count -l`: what patterns match, without touching anything.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use incise::image::{Image, MemoryMap, PatternError};
use incise::{Addr, Found, Images, Program, Query};
use serde::Serialize;

use crate::Failure;
use crate::args::{CountArgs, ListArgs, Points};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Function {
        module: &'a str,
        function: &'a str,
        symbols: &'a [String],
        address: String,
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    Unresolved {
        module: &'a str,
        function: &'a str,
        resolver: String,
    },
}

pub(crate) fn run(args: &ListArgs) -> Result<ExitCode, Failure> {
    let query = |patterns| query(patterns, args.module.as_deref(), args.points, args.filter.as_ref());
    if let Some(pid) = args.pid {
        print(&[in_process(pid, &query(&args.words))?], args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (file, patterns) = args.words.split_last().ok_or("a pattern and a file are needed")?;
    if patterns.is_empty() {
        return Err(format!("what to look for in {file}? Usage: incise list PATTERN... BINARY").into());
    }
    let unread = |_: Addr, _: &mut [u8]| false;
    let found = query(patterns).run(&open(Path::new(file))?, &unread)?;
    print(&[found], args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What a count with these arguments would count: in a process, or in a program and the libraries it is linked with.
pub(crate) fn count(args: &CountArgs) -> Result<ExitCode, Failure> {
    let query =
        query(&args.functions.patterns, args.functions.module.as_deref(), args.points, args.filter.as_ref());
    if let Some(pid) = args.target.pid {
        print(&[in_process(pid, &query)?], args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = args.target.program.first().ok_or("a program, or -p PID, is needed")?;
    let program =
        in_path(Path::new(name)).ok_or_else(|| format!("there is no program {}", name.display()))?;
    let unread = |_: Addr, _: &mut [u8]| false;
    let (mut all, mut none): (Vec<Found>, Option<PatternError>) = (Vec::new(), None);
    for file in linked(&program)? {
        match query.run(&open(&file)?, &unread) {
            Ok(found) => all.push(found),
            // It may be in another one.
            Err(error @ (PatternError::NoModule { .. } | PatternError::NoFunction { .. })) => {
                none.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let (true, Some(error)) = (all.is_empty(), none) {
        return Err(error.into());
    }
    print(&all, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn query(
    patterns: &[String],
    module: Option<&str>,
    points: Points,
    filter: Option<&incise::Filter>,
) -> Query {
    let query =
        patterns.iter().fold(Query::default().kind(points.into()), |query, pattern| query.or(pattern));
    let query = module.into_iter().fold(query, |query, module| query.module(module));
    filter.into_iter().fold(query, |query, filter| query.only(filter.clone()))
}

fn open(file: &Path) -> Result<Program, Failure> {
    let bytes = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    Ok(Program::of_file(file, &bytes).map_err(|error| format!("{}: {error}", file.display()))?)
}

fn print(all: &[Found], json: bool) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for point in all.iter().flat_map(|found| &found.points) {
        let (module, function, address) = (&point.module, &point.display_name, point.addr.to_string());
        if json {
            let ends = point.edge.map(|(from, to)| (from.to_string(), to.to_string()));
            let (from, to) = ends.unzip();
            let (symbols, kind) = (&point.names[..], point.kind.name());
            let line = Line::Function { module, function, symbols, address, kind, from, to };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            let aliases = point.names.iter().filter(|name| **name != point.name).cloned().collect::<Vec<_>>();
            let aliases =
                if aliases.is_empty() { String::new() } else { format!("  = {}", aliases.join(" = ")) };
            writeln!(out, "{address:>18}  {module}!{function}{aliases}")?;
        }
    }
    for unresolved in all.iter().flat_map(|found| &found.unresolved) {
        let (module, function, resolver) =
            (&unresolved.module, &unresolved.name, unresolved.resolver.to_string());
        if json {
            writeln!(out, "{}", serde_json::to_string(&Line::Unresolved { module, function, resolver })?)?;
        } else {
            writeln!(out, "{resolver:>18}  {module}!{function}  (indirect function: this is its resolver)")?;
        }
    }
    out.flush()?;
    let incomplete: Vec<_> = all.iter().flat_map(|found| found.incomplete.clone()).collect();
    crate::count::incomplete(&incomplete, !json);
    Ok(())
}

/// What is found in a running process, which is only read.
fn in_process(pid: i32, query: &Query) -> Result<Found, Failure> {
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
    Ok(query.run(&program, &read)?)
}

/// The program that `name` starts: searched for in PATH, unless it is a path itself.
pub(crate) fn in_path(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.exists().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A program and the libraries it needs, as far as they lie where libraries are by default.
fn linked(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    const FOLDERS: [&str; 6] =
        ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
    let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&own).chain(FOLDERS.iter().map(PathBuf::from)).collect();
    let (mut all, mut seen) = (vec![program.to_owned()], BTreeSet::new());
    let mut next = 0;
    while let Some(file) = all.get(next).cloned() {
        let bytes = fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let image = Image::parse(&bytes).map_err(|error| format!("{}: {error}", file.display()))?;
        for needed in image.needed().iter().filter(|needed| seen.insert((*needed).clone())) {
            all.extend(folders.iter().map(|folder| folder.join(needed)).find(|file| file.is_file()));
        }
        next += 1;
    }
    Ok(all)
}
