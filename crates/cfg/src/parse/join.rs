//! Joins the bodies of functions into one graph with shared blocks.

use crate::graph::edge::{EdgeKind, ParseError};
use crate::graph::{BlockData, Cfg, EdgeData, FunctionData, LEAVES, RETURNS, TO_IMPORT};
use crate::parse::body::{Body, IMPORT, LocalBlock, NEW_ENTRY, TAIL};
use crate::parse::code::{NONE, Off};
use crate::parse::context::Context;
use crate::parse::returning::Returning;

/// A function to be joined.
pub(crate) struct Joined<'b> {
    pub entry: Off,
    pub source: u8,
    pub body: &'b Body,
    /// It is asked for; others are only there to be called.
    pub wanted: bool,
}

/// A block of one function on its way into the graph.
#[derive(Clone, Copy)]
struct Piece {
    start: Off,
    end: Off,
    insns: u32,
    last: Off,
    function: u32,
    /// The local block whose edges it has; [`NONE`] if it falls into the next piece.
    edges_of: u32,
}

/// The graph of `functions`, which ascend by entry, with what `returning` says is reached. `whole`: they are
/// all of the program.
pub(crate) fn join(
    context: &Context<'_>,
    functions: &[Joined<'_>],
    returning: &Returning,
    whole: bool,
) -> Result<Cfg, ParseError> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(returning.first_block.last().map_or(0, |&n| n as usize));
    for (index, function) in functions.iter().enumerate().filter(|(_, f)| f.wanted) {
        collect(index, function, returning, &mut pieces);
    }
    pieces.sort_by_key(|p| (p.start, p.function));
    split_shared(context, &mut pieces);
    let too_many = |what| ParseError::TooMany { what };
    u32::try_from(pieces.len() * 8).map_err(|_| too_many("blocks"))?;

    let mut cfg = Cfg { base: context.code.base().0, whole, ..Cfg::default() };
    // Blocks: pieces of several functions that begin at one address are one block.
    let mut block_of_piece: Vec<u32> = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.iter().enumerate() {
        let same = index.checked_sub(1).and_then(|i| pieces.get(i)).is_some_and(|p| p.start == piece.start);
        if !same {
            let insns = piece.insns << 4 | (piece.end - piece.last) & 15;
            cfg.blocks.push(BlockData { start: piece.start, end: piece.end, insns, first_edge: 0 });
        }
        block_of_piece.push(cfg.blocks.len() as u32 - 1);
    }
    members(functions, returning, &pieces, &block_of_piece, &mut cfg);
    let mut last = NONE;
    for (piece, &block) in pieces.iter().zip(&block_of_piece) {
        if block != last {
            if let Some(data) = cfg.blocks.get_mut(block as usize) {
                data.first_edge = cfg.edges.len() as u32;
            }
            edges(functions, returning, piece, block, &mut cfg);
            last = block;
        }
    }
    u32::try_from(cfg.edges.len()).map_err(|_| too_many("edges"))?;
    cfg.index();
    Ok(cfg)
}

/// The reached blocks of one function, with cuts taken back that only unreached code asked for.
fn collect(index: usize, function: &Joined<'_>, returning: &Returning, pieces: &mut Vec<Piece>) {
    let body = function.body;
    let mut incoming = vec![0u32; body.blocks.len()];
    for block in (0..body.blocks.len()).filter(|&b| returning.is_reached(index, b)) {
        for edge in body.edges_of(block) {
            if let Some(count) = incoming.get_mut(edge.to as usize) {
                *count += 1 + u32::from(edge.kind != EdgeKind::FallThrough);
            }
        }
    }
    let first = pieces.len();
    for (local, block) in body.blocks.iter().enumerate().filter(|(b, _)| returning.is_reached(index, *b)) {
        let LocalBlock { start, end, insns, last, .. } = *block;
        if insns == 0 {
            continue;
        }
        let kept = start == function.entry || body.roots.binary_search(&(local as u32)).is_ok();
        if incoming.get(local) == Some(&1)
            && !kept
            && let Some(before) = pieces.get_mut(first..).and_then(<[Piece]>::last_mut)
            && before.end == start
            && falls_into(body, before.edges_of, local)
        {
            (before.end, before.last, before.edges_of) = (end, last, local as u32);
            before.insns += insns;
            continue;
        }
        pieces.push(Piece { start, end, insns, last, function: index as u32, edges_of: local as u32 });
    }
}

fn falls_into(body: &Body, block: u32, next: usize) -> bool {
    let falls = |e: &crate::parse::body::LocalEdge| e.kind == EdgeKind::FallThrough && e.to as usize == next;
    body.edges_of(block as usize).iter().any(falls)
}

/// Where blocks of several functions overlap, cuts them at all starts inside that are boundaries of theirs,
/// so that equal code is in equal pieces. `pieces` are sorted, and are so afterwards.
fn split_shared(context: &Context<'_>, pieces: &mut Vec<Piece>) {
    let mut cut: Vec<Piece> = Vec::new();
    let mut whole: Vec<bool> = vec![true; pieces.len()];
    for index in 0..pieces.len() {
        let piece = pieces[index];
        let inside = pieces[index + 1..].iter().take_while(|p| p.start < piece.end);
        let mut starts: Vec<Off> = inside.map(|p| p.start).filter(|&s| s > piece.start).collect();
        if starts.is_empty() {
            continue;
        }
        starts.dedup();
        let (mut start, mut insns, mut last, before) = (piece.start, 0, piece.start, cut.len());
        for insn in context.code.insns(piece.start..piece.end) {
            let at = (insn.addr().0 - context.code.base().0) as Off;
            if at > start && starts.binary_search(&at).is_ok() {
                cut.push(Piece { start, end: at, insns, last, edges_of: NONE, ..piece });
                (start, insns) = (at, 0);
            }
            (insns, last) = (insns + 1, at);
        }
        if cut.len() > before {
            cut.push(Piece { start, insns, ..piece });
            whole[index] = false;
        }
    }
    if !cut.is_empty() {
        let mut keep = whole.into_iter();
        pieces.retain(|_| keep.next().unwrap_or(true));
        pieces.append(&mut cut);
        pieces.sort_by_key(|p| (p.start, p.function));
    }
}

/// Fills in the functions, which blocks they have, and what is unresolved in them.
fn members(
    functions: &[Joined<'_>],
    returning: &Returning,
    pieces: &[Piece],
    block_of_piece: &[u32],
    cfg: &mut Cfg,
) {
    let mut count = vec![0u32; functions.len() + 1];
    for piece in pieces {
        count[piece.function as usize + 1] += 1;
    }
    for i in 1..count.len() {
        count[i] += count[i - 1];
    }
    let mut next = count.clone();
    cfg.members = vec![0; pieces.len()];
    for (piece, &block) in pieces.iter().zip(block_of_piece) {
        let place = &mut next[piece.function as usize];
        cfg.members[*place as usize] = block;
        *place += 1;
    }
    for (index, function) in functions.iter().enumerate().filter(|(_, f)| f.wanted) {
        cfg.functions.push(FunctionData {
            entry: function.entry,
            first_member: count[index],
            first_unresolved: cfg.unresolved.len() as u32,
            source: function.source,
            flags: if returning.returns.get(index) == Some(&true) { RETURNS } else { 0 },
        });
        for &(at, reason) in &function.body.unresolved {
            let mut holders = function.body.blocks.iter().enumerate();
            let reached = holders.any(|(local, block)| {
                (block.last == at || block.end == at) && returning.is_reached(index, local)
            });
            if reached || reason == crate::Reason::TooLarge {
                cfg.unresolved.push((at, reason as u8));
            }
        }
    }
}

/// The edges out of the block of `piece`.
fn edges(functions: &[Joined<'_>], returning: &Returning, piece: &Piece, from: u32, cfg: &mut Cfg) {
    if piece.edges_of == NONE {
        let edge = EdgeData { from, to: from + 1, target: piece.end, kind: EdgeKind::FallThrough, flags: 0 };
        let to = block_starting(cfg, piece.end);
        cfg.edges.push(EdgeData { to, ..edge });
        return;
    }
    let index = piece.function as usize;
    let Some(function) = functions.get(index) else { return };
    for edge in function.body.edges_of(piece.edges_of as usize) {
        if edge.kind == EdgeKind::CallFallThrough && !comes_back(functions, returning, index, piece, edge) {
            continue;
        }
        let import = edge.flags & IMPORT != 0;
        let to = if import || edge.target == NONE { NONE } else { block_starting(cfg, edge.target) };
        let leaves =
            edge.flags & (TAIL | NEW_ENTRY) != 0 || matches!(edge.kind, EdgeKind::Call | EdgeKind::Return);
        let flags = if leaves { LEAVES } else { 0 } | if import { TO_IMPORT } else { 0 };
        cfg.edges.push(EdgeData { from, to, target: edge.target, kind: edge.kind, flags });
    }
}

/// Whether the call before the edge comes back: then what is behind it was reached.
fn comes_back(
    functions: &[Joined<'_>],
    returning: &Returning,
    index: usize,
    piece: &Piece,
    edge: &crate::parse::body::LocalEdge,
) -> bool {
    let Some(function) = functions.get(index) else { return false };
    let call = function.body.edges_of(piece.edges_of as usize).iter().find(|e| e.kind == EdgeKind::Call);
    match call {
        Some(call) if call.flags & IMPORT != 0 => returning.import_returns(call.target),
        Some(call) if call.flags & TAIL != 0 && call.target != NONE => {
            match functions.binary_search_by_key(&call.target, |f| f.entry) {
                Ok(callee) => returning.returns.get(callee) == Some(&true),
                Err(_) => true,
            }
        }
        _ => edge.to != NONE || edge.flags & TAIL != 0,
    }
}

fn block_starting(cfg: &Cfg, at: Off) -> u32 {
    cfg.blocks.binary_search_by_key(&at, |b| b.start).map_or(NONE, |index| index as u32)
}
