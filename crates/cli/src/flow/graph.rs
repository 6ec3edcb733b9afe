//! `incise cfg`: the graph of a function as a picture, for Graphviz, or as JSON.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use incise_cfg::{Block, Completeness, Edge, EdgeKind, Function, Loops};
use serde::Serialize;

use super::args::{CfgArgs, Format};
use super::picture;
use super::program::Binary;
use crate::Failure;

pub(crate) fn run(args: &CfgArgs) -> Result<ExitCode, Failure> {
    let binary = Binary::open(&args.binary)?;
    let (cfg, entry) = binary.function(&args.function)?;
    let Some(function) = cfg.function_at(entry) else { return Err(format!("no function at {entry}").into()) };
    let text = match args.format {
        Format::Dot => dot(&binary, function),
        Format::Svg => picture::svg(&binary, function),
        Format::Json => json(&binary, function)?,
    };
    match &args.output {
        Some(path) => {
            std::fs::write(path, text)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        None => io::stdout().lock().write_all(text.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Colour of an edge by its kind.
pub(super) fn colour(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Taken => "#2e7d32",
        EdgeKind::NotTaken => "#c62828",
        EdgeKind::Indirect => "#6a1b9a",
        EdgeKind::Catch => "#ef6c00",
        EdgeKind::Direct => "#1565c0",
        EdgeKind::FallThrough | EdgeKind::CallFallThrough | EdgeKind::Call | EdgeKind::Return => "#455a64",
    }
}

/// The instructions of a block, a line each.
pub(super) fn listing(binary: &Binary, block: Block<'_>) -> Vec<String> {
    let insns = block.instructions(&binary.image, &binary.file);
    insns.map(|insn| format!("{}  {insn}", insn.addr())).collect()
}

/// The edges that stay in the function.
pub(super) fn inner<'g>(function: Function<'g>) -> impl Iterator<Item = Edge<'g>> {
    function.blocks().flat_map(|block| block.outgoing()).filter(|edge| !edge.leaves_function())
}

fn dot(binary: &Binary, function: Function<'_>) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = String::new();
    let _ = writeln!(out, "digraph \"{}\" {{", escape(&binary.name(function.entry())));
    let _ = writeln!(out, "  node [shape=box, fontname=monospace, fontsize=10];");
    for block in function.blocks() {
        let lines: String =
            listing(binary, block).iter().map(|line| format!("{}\\l", escape(line))).collect();
        let _ = writeln!(out, "  \"{}\" [label=\"{lines}\"];", block.start());
    }
    for edge in inner(function) {
        let (from, colour) = (edge.source().start(), colour(edge.kind()));
        match edge.target() {
            Some(to) => {
                let _ = writeln!(
                    out,
                    "  \"{from}\" -> \"{}\" [color=\"{colour}\", tooltip=\"{}\"];",
                    to.start(),
                    edge.kind()
                );
            }
            None => {
                let _ = writeln!(out, "  \"{from}\" -> \"{from} ?\" [color=\"{colour}\", style=dashed];");
                let _ = writeln!(out, "  \"{from} ?\" [label=\"unknown\", shape=plaintext];");
            }
        }
    }
    out.push_str("}\n");
    out
}

#[derive(Serialize)]
struct Graph {
    function: String,
    entry: String,
    returns: bool,
    complete: bool,
    unresolved: Vec<String>,
    blocks: Vec<Node>,
    edges: Vec<Arrow>,
    loops: Vec<Cycle>,
}

#[derive(Serialize)]
struct Node {
    start: String,
    end: String,
    loop_depth: usize,
    instructions: Vec<Instruction>,
}

#[derive(Serialize)]
struct Instruction {
    address: String,
    bytes: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

#[derive(Serialize)]
struct Arrow {
    from: String,
    to: Option<String>,
    kind: &'static str,
    leaves_function: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<String>,
}

#[derive(Serialize)]
struct Cycle {
    headers: Vec<String>,
    blocks: usize,
    depth: usize,
    natural: bool,
}

fn json(binary: &Binary, function: Function<'_>) -> Result<String, Failure> {
    let (loops, lines) = (Loops::of(function), binary.lines());
    let unresolved: Vec<String> = match function.completeness() {
        Completeness::Complete => Vec::new(),
        Completeness::Incomplete(list) => list.iter().map(ToString::to_string).collect(),
    };
    let node = |block: Block<'_>| Node {
        start: block.start().to_string(),
        end: block.end().to_string(),
        loop_depth: loops.depth(block.id()),
        instructions: block
            .instructions(&binary.image, &binary.file)
            .map(|insn| Instruction {
                address: insn.addr().to_string(),
                bytes: insn.bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
                text: insn.text(),
                source: lines.as_ref().and_then(|l| l.at(incise::image::LinkAddr(insn.addr().0))),
            })
            .collect(),
    };
    let arrow = |edge: Edge<'_>| Arrow {
        from: edge.source().start().to_string(),
        to: edge.target_addr().map(|at| at.to_string()),
        kind: edge.kind().name(),
        leaves_function: edge.leaves_function(),
        import: edge.import().and_then(|i| binary.image.imports().nth(i as usize)).map(str::to_owned),
    };
    let start = |id| function.cfg().block(id).map_or_else(String::new, |b| b.start().to_string());
    let cycle = |l: &incise_cfg::Loop| Cycle {
        headers: l.headers().map(start).collect(),
        blocks: l.blocks().len(),
        depth: l.depth(),
        natural: l.is_natural(),
    };
    let graph = Graph {
        function: binary.name(function.entry()),
        entry: function.entry().to_string(),
        returns: function.returns(),
        complete: function.is_complete(),
        unresolved,
        blocks: function.blocks().map(node).collect(),
        edges: function.blocks().flat_map(|b| b.outgoing()).map(arrow).collect(),
        loops: loops.all().iter().map(cycle).collect(),
    };
    Ok(serde_json::to_string(&graph)? + "\n")
}
