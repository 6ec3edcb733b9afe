//! The facts that expressions can name.

use incise_cfg::EdgeKind;

use crate::flow::PointView;
use crate::point::PointKind;

/// A fact, by the type of its values.
#[derive(Clone, Copy)]
pub(super) enum Fact {
    /// Holds or does not.
    Flag(fn(&PointView<'_>) -> bool),
    /// A number, if there is one.
    Number(fn(&PointView<'_>) -> Option<i64>),
    /// Names, any of which may fit.
    Names(fn(&PointView<'_>) -> Vec<String>),
}

/// What each fact is called.
pub(super) const FACTS: [(&str, Fact); 23] = [
    ("function", Fact::Names(|view| view.function_names())),
    ("module", Fact::Names(|view| vec![view.module().to_owned()])),
    ("kind", Fact::Names(|view| vec![view.kind().name().to_owned()])),
    ("callee", Fact::Names(|view| view.callee_names())),
    (
        "mnemonic",
        Fact::Names(|view| view.instruction().map(|insn| insn.mnemonic_text()).into_iter().collect()),
    ),
    ("instruction", Fact::Names(|view| view.instruction().map(|insn| insn.text()).into_iter().collect())),
    ("operand", Fact::Names(|view| view.instruction().map(|insn| insn.operands()).unwrap_or_default())),
    ("edge", Fact::Names(|view| view.edge().map(|edge| edge.kind().name().to_owned()).into_iter().collect())),
    ("file", Fact::Names(files)),
    ("line", Fact::Number(|view| view.line().map(|(_, line)| i64::from(line)))),
    ("address", Fact::Number(|view| i64::try_from(view.point().addr.0).ok())),
    ("offset", Fact::Number(|view| Some(view.offset()))),
    ("length", Fact::Number(|view| view.instruction().map(|insn| insn.len() as i64))),
    ("size", Fact::Number(|view| view.instruction()?.memory_use().size.map(i64::from))),
    ("in_degree", Fact::Number(|view| view.in_degree().map(|n| n as i64))),
    ("out_degree", Fact::Number(|view| view.out_degree().map(|n| n as i64))),
    ("loop_depth", Fact::Number(|view| Some(view.loop_depth() as i64))),
    ("block_size", Fact::Number(|view| view.block().map(|block| block.insn_count() as i64))),
    ("function_blocks", Fact::Number(|view| Some(view.function().blocks().len() as i64))),
    ("reads_memory", Fact::Flag(|view| view.instruction().is_some_and(|insn| insn.memory_use().reads))),
    ("writes_memory", Fact::Flag(|view| view.instruction().is_some_and(|insn| insn.memory_use().writes))),
    ("is_tail_call", Fact::Flag(is_tail_call)),
    ("is_complete", Fact::Flag(|view| view.function().is_complete())),
];

impl Fact {
    pub(super) fn named(name: &str) -> Option<Fact> {
        FACTS.iter().find(|(known, _)| *known == name).map(|(_, fact)| *fact)
    }
}

/// The names that a fact can have at all, if they are a closed set.
pub(super) fn possible(name: &str) -> Option<Vec<String>> {
    match name {
        "mnemonic" => Some(incise_isa::native::mnemonics().collect()),
        "kind" => Some(PointKind::NAMES.iter().map(|(name, _)| (*name).to_owned()).collect()),
        "edge" => Some(EdgeKind::ALL.iter().map(|kind| kind.name().to_owned()).collect()),
        _ => None,
    }
}

/// The path as DWARF has it, and the file's name alone.
fn files(view: &PointView<'_>) -> Vec<String> {
    let Some((path, _)) = view.line() else { return Vec::new() };
    let name = path.rsplit_once('/').map(|(_, name)| name.to_owned());
    name.into_iter().chain([path.clone()]).collect()
}

fn is_tail_call(view: &PointView<'_>) -> bool {
    let ends = view.block().filter(|block| view.instruction().is_some_and(|i| i.addr().0 == block.last().0));
    ends.is_some_and(|block| block.outgoing().any(|edge| edge.is_tail_call()))
}
