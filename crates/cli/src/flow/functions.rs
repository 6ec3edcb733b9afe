//! `incise functions`: the functions of a program, with what is known of each.

use std::io::{self, Write};
use std::process::ExitCode;

use incise::image::{Glob, LinkAddr};
use incise_cfg::Completeness;
use serde::Serialize;

use super::args::FunctionsArgs;
use super::program::Binary;
use crate::Failure;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'l> {
    Function {
        address: String,
        name: &'l str,
        blocks: usize,
        instructions: usize,
        bytes: u64,
        returns: bool,
        complete: bool,
        unresolved: Vec<String>,
    },
}

pub(crate) fn run(args: &FunctionsArgs) -> Result<ExitCode, Failure> {
    let binary = Binary::open(&args.binary)?;
    let wanted = args.glob.as_deref().map(|glob| binary.find(glob)).transpose()?;
    let cfg = binary.graph(args.store.as_deref())?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut shown = 0;
    let glob = args.glob.as_deref().map(Glob::new);
    for function in cfg.functions() {
        let name = binary.name(function.entry());
        // What has no symbol is known by the name that is shown.
        let named = || glob.as_ref().is_some_and(|glob| glob.matches(&name));
        let meant = |wanted: &Vec<LinkAddr>| wanted.binary_search(&function.entry()).is_ok() || named();
        if !wanted.as_ref().is_none_or(meant) {
            continue;
        }
        shown += 1;
        let (blocks, address) = (function.blocks().len(), function.entry().to_string());
        let instructions = function.blocks().map(|block| block.insn_count()).sum();
        let bytes = function.blocks().map(|block| block.end().0 - block.start().0).sum();
        let unresolved: Vec<String> = match function.completeness() {
            Completeness::Complete => Vec::new(),
            Completeness::Incomplete(list) => list.iter().map(ToString::to_string).collect(),
        };
        if args.json {
            let (returns, complete) = (function.returns(), unresolved.is_empty());
            let line = Line::Function {
                address,
                name: &name,
                blocks,
                instructions,
                bytes,
                returns,
                complete,
                unresolved,
            };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
            continue;
        }
        let no_return = if function.returns() { "" } else { "  never returns" };
        write!(out, "{address:>14}  {blocks:>5} blocks  {instructions:>6} instructions  {name}{no_return}")?;
        match unresolved.first() {
            None => writeln!(out)?,
            Some(first) => writeln!(out, "  incomplete ({}: {first})", unresolved.len())?,
        }
    }
    out.flush()?;
    if let (0, Some(glob)) = (shown, &args.glob) {
        return Err(format!("no function {glob} in {}", args.binary.display()).into());
    }
    Ok(ExitCode::SUCCESS)
}
