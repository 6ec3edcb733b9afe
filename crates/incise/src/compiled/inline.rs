//! A program in line at its points.

use std::sync::{Mutex, PoisonError};

use incise_isa::Addr;
use incise_isa::native::{Assembler, GprSet, Live};
use incise_patch::{Data, Effects, Generate, Output, Placer, PointContext, Refusal};
use incise_snippet::inline::{Inline, Target, Unfit};
use incise_snippet::tree::Program;
use incise_space::SpaceError;

/// A short program, and where its blocks are.
#[derive(Debug)]
pub(super) struct InLine {
    inline: Inline,
    /// The memory of its blocks.
    data: Vec<Data>,
    /// Where threads have their areas for restartable sequences.
    rseq: Option<i32>,
    placed: Mutex<Option<(u64, Vec<Addr>)>>,
}

/// The program in line, if it can be at every point: where all registers are needed and its data is far away, too.
pub(super) fn qualifies(program: &Program) -> Option<Inline> {
    let inline = Inline::of(program)?;
    let blocks = vec![Addr(1 << 46); inline.blocks().len()];
    let target =
        Target { blocks: &blocks, live: Live::ALL, untouched: GprSet::EMPTY, moves: false, rseq: None };
    inline.emit(&mut Assembler::new(Addr(0)), &target).ok()?;
    Some(inline)
}

impl InLine {
    pub(super) fn new(inline: Inline, data: Vec<Data>, rseq: Option<i32>) -> InLine {
        InLine { inline, data, rseq, placed: Mutex::new(None) }
    }

    /// Whether it returns a condition.
    pub(super) fn returns(&self) -> bool {
        self.inline.returns()
    }

    fn with_target<R>(
        &self,
        at: &PointContext<'_>,
        untouched: GprSet,
        work: impl FnOnce(&Target<'_>) -> R,
    ) -> R {
        let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Where nothing is placed the code is only planned.
        let blocks = placed.map_or_else(|| vec![at.here; self.data.len()], |(_, blocks)| blocks);
        let (live, moves, rseq) = (at.live, at.features.moves, self.rseq);
        work(&Target { blocks: &blocks, live, untouched, moves, rseq })
    }

    /// The effects of code that leaves some registers alone.
    pub(super) fn effects_around(&self, at: &PointContext<'_>, untouched: GprSet) -> Effects {
        let emit = |target: &Target<'_>| self.inline.emit(&mut Assembler::new(at.here), target);
        let emitted = self.with_target(at, untouched, emit).unwrap_or_default();
        Effects { reads: self.inline.reads(), clobbers: emitted.clobbers, flags: true, ..Effects::default() }
    }

    /// The code, around what runs only if it returns true.
    pub(super) fn around(
        &self,
        at: &PointContext<'_>,
        untouched: GprSet,
        out: &mut Output<'_>,
        then: &mut dyn FnMut(&mut Output<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let unfit = |_: Unfit| Refusal::NoRoom(at.addr());
        let emitted = self.with_target(at, untouched, |target| {
            let begun = self.inline.begin(out.asm(), target).map_err(unfit)?;
            then(out)?;
            self.inline.end(out.asm(), target, begun).map_err(unfit)
        })?;
        emitted.faults.into_iter().for_each(|(load, fixup)| out.fault(load, fixup));
        for (field, bytes) in emitted.literals {
            out.literal(field, &bytes);
        }
        Ok(())
    }
}

impl Generate for InLine {
    fn effects(&self, at: &PointContext<'_>) -> Effects {
        self.effects_around(at, GprSet::EMPTY)
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        self.around(at, GprSet::EMPTY, out, &mut |_| Ok(()))
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
