//! `incise cfg`: the graph of a function as a picture, for Graphviz, or as JSON.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use incise::image::LinkAddr;
use incise::isa::native::Syntax;
use incise_cfg::{Block, Completeness, Edge, EdgeKind, Function, Loops};
use serde::Serialize;

use super::args::{CfgArgs, Format};
use super::heat::Heat;
use super::picture;
use super::program::{Binary, Lines};
use crate::Failure;

pub(crate) fn run(args: &CfgArgs) -> Result<ExitCode, Failure> {
    let binary = Binary::open(&args.binary)?;
    let (cfg, entry) = binary.function(&args.function)?;
    let Some(function) = cfg.function_at(entry) else { return Err(format!("no function at {entry}").into()) };
    let heat = args.heat.as_deref().map(|path| Heat::read(path, &binary, function)).transpose()?;
    let text = match args.format {
        Format::Dot => dot(&binary, function, heat.as_ref()),
        Format::Svg if function.blocks().count() > picture::MOST_BLOCKS => {
            let (name, blocks, most) = (&args.function, function.blocks().count(), picture::MOST_BLOCKS);
            return Err(format!(
                "{name} has {blocks} blocks, too many for a picture ({most} at most): --format dot, and Graphviz draws it"
            )
            .into());
        }
        Format::Svg => picture::svg(&binary, function, heat.as_ref()),
        Format::Json => json(&binary, function, heat.as_ref())?,
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

/// How often a block ran, and its instructions, a line each; with a line in front of those that come from another
/// line of the source than the one before.
pub(super) fn listing(
    binary: &Binary,
    lines: Option<&Lines>,
    heat: Option<&Heat>,
    block: Block<'_>,
) -> Vec<String> {
    let mut listing: Vec<String> =
        heat.and_then(|heat| heat.block(block)).map(|hits| format!("ran {hits} times")).into_iter().collect();
    let mut last = None;
    for insn in block.instructions(&binary.image, &binary.file) {
        let here = lines.and_then(|lines| lines.at(LinkAddr(insn.addr().0)));
        if here.is_some() && here != last {
            // The name of the file is enough in a picture.
            let shown = here.as_deref().map(|place| place.rsplit('/').next().unwrap_or(place));
            listing.push(format!("; {}", shown.unwrap_or_default()));
            last = here;
        }
        listing.push(format!("{}  {}", insn.addr(), insn.text_in(Syntax::Intel)));
    }
    listing
}

/// The edges that stay in the function.
pub(super) fn inner<'g>(function: Function<'g>) -> impl Iterator<Item = Edge<'g>> {
    function.blocks().flat_map(|block| block.outgoing()).filter(|edge| !edge.leaves_function())
}

fn dot(binary: &Binary, function: Function<'_>, heat: Option<&Heat>) -> String {
    let source = binary.lines();
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = String::new();
    let _ = writeln!(out, "digraph \"{}\" {{", escape(&binary.name(function.entry())));
    let _ = writeln!(out, "  node [shape=box, fontname=monospace, fontsize=10];");
    for block in function.blocks() {
        let lines: String = listing(binary, source.as_ref(), heat, block)
            .iter()
            .map(|line| format!("{}\\l", escape(line)))
            .collect();
        let fill = heat.map_or(String::new(), |heat| {
            format!(", style=filled, fillcolor=\"#{:06x}\"", heat.fill(heat.block(block)))
        });
        let _ = writeln!(out, "  \"{}\" [label=\"{lines}\"{fill}];", block.start());
    }
    for edge in inner(function) {
        let (from, colour) = (edge.source().start(), colour(edge.kind()));
        match edge.target() {
            Some(to) => {
                let hits = heat.and_then(|heat| heat.edge(edge));
                let hits = hits.map_or(String::new(), |hits| format!(", label=\"{hits}\""));
                let _ = writeln!(
                    out,
                    "  \"{from}\" -> \"{}\" [color=\"{colour}\", tooltip=\"{}\"{hits}];",
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
    #[serde(skip_serializing_if = "Option::is_none")]
    hits: Option<u64>,
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
    hits: Option<u64>,
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

fn json(binary: &Binary, function: Function<'_>, heat: Option<&Heat>) -> Result<String, Failure> {
    let (loops, lines) = (Loops::of(function), binary.lines());
    let unresolved: Vec<String> = match function.completeness() {
        Completeness::Complete => Vec::new(),
        Completeness::Incomplete(list) => list.iter().map(ToString::to_string).collect(),
    };
    let node = |block: Block<'_>| Node {
        start: block.start().to_string(),
        end: block.end().to_string(),
        loop_depth: loops.depth(block.id()),
        hits: heat.and_then(|heat| heat.block(block)),
        instructions: block
            .instructions(&binary.image, &binary.file)
            .map(|insn| Instruction {
                address: insn.addr().to_string(),
                bytes: insn.bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
                text: insn.text_in(Syntax::Intel),
                source: lines.as_ref().and_then(|l| l.at(LinkAddr(insn.addr().0))),
            })
            .collect(),
    };
    let arrow = |edge: Edge<'_>| Arrow {
        from: edge.source().start().to_string(),
        to: edge.target_addr().map(|at| at.to_string()),
        kind: edge.kind().name(),
        leaves_function: edge.leaves_function(),
        hits: heat.and_then(|heat| heat.edge(edge)),
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
