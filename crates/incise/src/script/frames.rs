//! How stacks are walked in one process: a table in its memory, which follows what the process loads.

use std::cell::RefCell;
use std::ops::Range;

use incise_image::{FrameRow, FrameRule, Module};
use incise_isa::Addr;
use incise_snippet::data::walk;
use incise_snippet::tree::Block;

use crate::program::Program;

/// Where modules are: each with its bias and its range.
type Mapped = Vec<(u64, Range<Addr>)>;

/// Rows of tables, ascending by address.
pub(crate) type Rows = Vec<(u64, FrameRule)>;

/// The table of a process, once a snippet walks stacks in it.
pub(crate) struct Frames {
    known: RefCell<Option<(Mapped, Block)>>,
    /// Room for so many rows of what is loaded later.
    spare: usize,
}

impl Frames {
    /// No table yet; one will have room for `spare` rows of what is loaded later.
    pub(crate) fn new(spare: usize) -> Frames {
        Frames { known: RefCell::new(None), spare }
    }

    /// The table; made if there is none yet.
    pub(crate) fn table(&self, program: &Program) -> Block {
        let mut known = self.known.borrow_mut();
        let (_, table) = known
            .get_or_insert_with(|| (mapped(program), walk::table(rows(program).into_iter(), self.spare)));
        table.clone()
    }

    /// The table and what it has to tell now ([`refill`](walk::refill)), if there is one and the modules of `program` are others than before.
    pub(crate) fn outdated(&self, program: &Program) -> Option<(Block, Rows)> {
        let mut known = self.known.borrow_mut();
        let (before, table) = known.as_mut()?;
        let now = mapped(program);
        if *before == now {
            return None;
        }
        *before = now;
        Some((table.clone(), rows(program)))
    }
}

fn mapped(program: &Program) -> Mapped {
    program.modules().iter().map(|module| (module.bias, module.range.clone())).collect()
}

/// All rows, ascending by address.
fn rows(program: &Program) -> Rows {
    let row = |module: &Module, row: FrameRow| (module.to_addr(row.at).0, row.rule);
    let rows = program
        .modules()
        .iter()
        .flat_map(|module| module.image.frame_rows().into_iter().map(move |r| row(module, r)));
    let mut rows: Rows = rows.collect();
    rows.sort_by_key(|(at, _)| *at);
    rows
}
