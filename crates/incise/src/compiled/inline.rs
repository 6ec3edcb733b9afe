//! A program in line at its points.

use std::sync::{Mutex, PoisonError};

use incise_isa::Addr;
use incise_isa::native::{Assembler, Live};
use incise_patch::{Data, Effects, Generate, Output, Placer, PointContext, Refusal};
use incise_snippet::inline::{Emitted, Inline, Target, Unfit};
use incise_snippet::tree::Program;
use incise_space::SpaceError;

/// A short program, and where its blocks are.
#[derive(Debug)]
pub(super) struct InLine {
    inline: Inline,
    /// The memory of its blocks.
    data: Vec<Data>,
    placed: Mutex<Option<(u64, Vec<Addr>)>>,
}

/// The program in line, if it can be at every point: where all registers are needed and its data is far away, too.
pub(super) fn qualifies(program: &Program) -> Option<Inline> {
    let inline = Inline::of(program)?;
    let blocks = vec![Addr(1 << 46); inline.blocks().len()];
    let target = Target { blocks: &blocks, live: Live::ALL, moves: false };
    inline.emit(&mut Assembler::new(Addr(0)), &target).ok()?;
    Some(inline)
}

impl InLine {
    pub(super) fn new(inline: Inline, data: Vec<Data>) -> InLine {
        InLine { inline, data, placed: Mutex::new(None) }
    }

    fn emit(&self, asm: &mut Assembler, at: &PointContext<'_>) -> Result<Emitted, Unfit> {
        let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nothing is placed the code is only planned.
        let planned = vec![at.here; self.data.len()];
        let blocks = placed.as_ref().map_or(&planned, |(_, blocks)| blocks);
        let target = Target { blocks, live: at.live, moves: at.features.moves };
        self.inline.emit(asm, &target)
    }
}

impl Generate for InLine {
    fn effects(&self, at: &PointContext<'_>) -> Effects {
        let emitted = self.emit(&mut Assembler::new(at.here), at).unwrap_or_default();
        let reads = self.inline.reads();
        Effects { reads, clobbers: emitted.clobbers, flags: true, ..Effects::default() }
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let emitted = self.emit(out.asm(), at).map_err(|_| Refusal::NoRoom(at.addr()))?;
        emitted.faults.into_iter().for_each(|(load, fixup)| out.fault(load, fixup));
        Ok(())
    }

    fn place(&self, placer: &mut Placer<'_>) -> Result<(), SpaceError> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = placer.generation();
        if placed.as_ref().is_some_and(|(known, _)| *known == generation) {
            return Ok(());
        }
        let blocks = self.data.iter().map(|data| placer.data(data)).collect::<Result<Vec<Addr>, _>>()?;
        *placed = Some((generation, blocks));
        Ok(())
    }
}
