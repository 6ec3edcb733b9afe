//! `incise disasm`: the instructions of a function, block by block, with edges and source lines.

use std::io::{self, Write};
use std::process::ExitCode;

use incise::image::LinkAddr;
use incise::isa::native::Syntax;
use incise_cfg::{Completeness, Edge};

use super::args::DisasmArgs;
use super::program::Binary;
use crate::Failure;

pub(crate) fn run(args: &DisasmArgs) -> Result<ExitCode, Failure> {
    let binary = Binary::open(&args.binary)?;
    let (cfg, entry) = binary.function(&args.function)?;
    let Some(function) = cfg.function_at(entry) else { return Err(format!("no function at {entry}").into()) };
    let lines = binary.lines();
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(out, "{}:", binary.name(entry))?;
    if let Completeness::Incomplete(unresolved) = function.completeness() {
        unresolved.iter().try_for_each(|what| writeln!(out, "  incomplete: {what}"))?;
    }
    let mut line = None;
    for block in function.blocks() {
        let from: Vec<String> = block.predecessors().map(|from| from.last().to_string()).collect();
        let from = if from.is_empty() { String::new() } else { format!("  from {}", from.join(", ")) };
        writeln!(out, "\n{}:{from}", block.start())?;
        for insn in block.instructions(&binary.image, &binary.file) {
            let at = LinkAddr(insn.addr().0);
            let here = lines.as_ref().and_then(|lines| lines.at(at));
            if here.is_some() && here != line {
                writeln!(out, "  ; {}", here.as_deref().unwrap_or(""))?;
                line = here;
            }
            let bytes: String = insn.bytes().iter().map(|byte| format!("{byte:02x} ")).collect();
            writeln!(out, "  {at:>12}  {bytes:<30}  {}", insn.text_in(Syntax::Intel))?;
        }
        let edges: Vec<String> = block.outgoing().map(|edge| describe(&binary, edge)).collect();
        if !edges.is_empty() {
            writeln!(out, "  -> {}", edges.join(", "))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// An edge in words.
pub(super) fn describe(binary: &Binary, edge: Edge<'_>) -> String {
    let import = edge.import().and_then(|import| binary.image.imports().nth(import as usize));
    let to = match (import, edge.target_addr()) {
        (Some(import), _) => format!(" {import}"),
        (None, Some(at)) if edge.leaves_function() => format!(" {at} {}", binary.name(at)),
        (None, Some(at)) => format!(" {at}"),
        (None, None) => String::new(),
    };
    let tail = if edge.is_tail_call() { "tail call " } else { "" };
    format!("{tail}{}{to}", edge.kind())
}
