//! A compiled program at its points: the frame is filled, the code called, what it set is put in place.

use std::sync::{Mutex, PoisonError};

use incise_isa::Addr;
use incise_isa::native::{Assembler, Flow, Gpr, GprSet, abi};
use incise_patch::{Data, Effects, Generate, Output, Placement, Placer, PointContext, Refusal, Vectors};
use incise_snippet::compile::{Compiled, frame};
use incise_snippet::tree::{PointFact, Replaced, Type};
use incise_space::SpaceError;

/// The status flags (AMD APM vol. 1, 3.1.4).
const STATUS_FLAGS: u32 = 0x8D5;

/// Code that all points share, and where it is.
#[derive(Debug)]
pub(super) struct Code {
    compiled: Compiled,
    /// The memory of its blocks.
    data: Vec<Data>,
    replaces: Option<(Replaced, Type)>,
    placed: Mutex<Option<Placed>>,
}

#[derive(Clone, Copy, Debug)]
struct Placed {
    generation: u64,
    /// Nothing if it cannot reach its data.
    at: Option<Addr>,
}

impl Code {
    pub(super) fn new(compiled: Compiled, data: Vec<Data>, replaces: Option<(Replaced, Type)>) -> Code {
        Code { compiled, data, replaces, placed: Mutex::new(None) }
    }

    /// Where its function is, if it is placed and reaches its data: it takes the address of a frame, and gives a value and a status.
    pub(super) fn entry(&self) -> Option<Addr> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).and_then(|placed| placed.at)
    }

    /// Whether it runs in place of a function or a call.
    pub(super) fn replaces(&self) -> bool {
        self.replaces.is_some()
    }

    /// Where the program returned a value, what it runs in place of is left out.
    fn replace(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let Some((what, ty)) = self.replaces else { return Ok(()) };
        let unfit = |why: &str| Refusal::Unfit { at: at.addr(), why: why.to_owned() };
        if at.placement != Placement::Before {
            return Err(unfit("functions and calls are replaced before they begin only"));
        }
        // cmp edx, 1 ; jne, over what leaves
        out.asm().raw(&[0x83, 0xFA, 1, 0x0F, 0x85, 0, 0, 0, 0]);
        let from = out.position();
        out.leave();
        if ty.is_float() {
            // movq xmm0, rax
            out.asm().raw(&[0x66, 0x48, 0x0F, 0x6E, 0xC0]);
        }
        match what {
            Replaced::Function => out.asm().raw(&[0xC3]),
            Replaced::Call if !matches!(at.insn.flow(), Flow::Call(_) | Flow::IndirectCall) => {
                return Err(unfit("there is no call"));
            }
            Replaced::Call if at.features.moves && !at.reaches(at.insn.end()) => {
                return Err(Refusal::NoRoom(at.addr()));
            }
            Replaced::Call => out.asm().jump(at.insn.end()),
        }
        let distance = (out.position() - from) as u32;
        out.asm().set(from - 4, &distance.to_le_bytes());
        Ok(())
    }

    /// The general registers of the program that the code around needs.
    fn reads(&self, at: &PointContext<'_>) -> GprSet {
        let uses = self.compiled.uses();
        if uses.effective_address || uses.target {
            uses.reads.union(at.insn.address_registers())
        } else {
            uses.reads
        }
    }

    /// Fills the frame at `rsp`. Changes `rdi`, and flags.
    fn fill(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let (uses, lowered) = (self.compiled.uses(), out.stack_offset() + frame::SIZE);
        let reads = self.reads(at);
        let store = |asm: &mut Assembler, offset: i32| asm.mov_store(Gpr::Rsp, offset, Gpr::Rdi);
        for register in reads.iter().filter(|register| *register != Gpr::Rsp) {
            out.asm().mov_store(Gpr::Rsp, frame::gpr(register), register);
        }
        for number in (0..16).filter(|number| uses.vector_reads & 1 << number != 0) {
            out.asm().low_quadword(false, number, frame::vector(number));
        }
        if uses.flags {
            out.asm().raw(&[0x9C]);
            out.asm().pop(Gpr::Rdi);
            out.asm().raw(&[0x81, 0xE7]);
            out.asm().raw(&STATUS_FLAGS.to_le_bytes());
            store(out.asm(), frame::FLAGS);
            self.again(reads, out);
        }
        let unfit =
            |error: incise_isa::native::NoAddress| Refusal::Unfit { at: at.addr(), why: error.to_string() };
        if uses.effective_address {
            out.asm().operand_address(at.insn, Gpr::Rdi, lowered).map_err(unfit)?;
            store(out.asm(), frame::fact(PointFact::EffectiveAddress));
            self.again(reads, out);
        }
        if uses.target {
            let load = out.position();
            out.asm().target_address(at.insn, Gpr::Rdi, lowered).map_err(unfit)?;
            store(out.asm(), frame::fact(PointFact::Target));
            debug_assert!(load < out.position());
        }
        if uses.bytes_accessed {
            out.asm().mov_imm(Gpr::Rdi, at.insn.bytes_accessed().into());
            store(out.asm(), frame::fact(PointFact::BytesAccessed));
        }
        if uses.original_address {
            out.load_address(at, Gpr::Rdi, at.addr())?;
            store(out.asm(), frame::fact(PointFact::OriginalAddress));
        }
        if uses.reads.contains(Gpr::Rsp) {
            out.asm().lea(Gpr::Rdi, Gpr::Rsp, lowered);
            store(out.asm(), frame::gpr(Gpr::Rsp));
        }
        Ok(())
    }

    /// Gives `rdi` the program's value again.
    fn again(&self, reads: GprSet, out: &mut Output<'_>) {
        if reads.contains(Gpr::Rdi) {
            out.asm().mov_load(Gpr::Rdi, Gpr::Rsp, frame::gpr(Gpr::Rdi));
        }
    }
}

impl Generate for Code {
    fn effects(&self, at: &PointContext<'_>) -> Effects {
        let uses = self.compiled.uses();
        let mut clobbers = uses.clobbers;
        clobbers.insert(Gpr::Rdi);
        let mut vectors = match uses.vector_clobbers {
            0 => Vectors::None,
            some => Vectors::Sse(some),
        };
        if uses.calls {
            (clobbers, vectors) = (abi::CALLER_SAVED, Vectors::All);
        }
        Effects {
            // Who gets control in place of the program may look at anything.
            reads: if self.replaces() { GprSet::ALL } else { self.reads(at) },
            clobbers,
            writes: uses.writes,
            reads_flags: uses.flags,
            flags: true,
            vectors,
            stack: true,
        }
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let placed = *self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nothing is placed the code is only planned.
        let entry = placed.map_or(Some(at.here), |placed| placed.at).ok_or(Refusal::NoRoom(at.addr()))?;
        let uses = self.compiled.uses();
        out.asm().lea_rsp(-frame::SIZE);
        self.fill(at, out)?;
        out.asm().mov(Gpr::Rdi, Gpr::Rsp);
        if uses.calls {
            out.call_function(at, entry, &[])?;
        } else {
            out.call(at, entry)?;
        }
        for number in (0..16).filter(|number| uses.vector_writes & 1 << number != 0) {
            match out.kept_vector(number) {
                Some(slot) => {
                    out.asm().mov_load(Gpr::Rdi, Gpr::Rsp, frame::vector(number));
                    out.asm().mov_store(Gpr::Rsp, frame::SIZE + slot, Gpr::Rdi);
                }
                None => out.asm().low_quadword(true, number, frame::vector(number)),
            }
        }
        for register in uses.writes.iter() {
            out.asm().mov_load(register, Gpr::Rsp, frame::gpr(register));
        }
        out.asm().lea_rsp(frame::SIZE);
        self.replace(at, out)
    }

    fn place(&self, placer: &mut Placer<'_>) -> Result<(), SpaceError> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = placer.generation();
        if placed.is_some_and(|placed| placed.generation == generation) {
            return Ok(());
        }
        let blocks = self.data.iter().map(|data| placer.data(data)).collect::<Result<Vec<Addr>, _>>()?;
        let mut reaches = true;
        let at = placer.code(self.compiled.len(), |at| match self.compiled.link(at, &blocks) {
            Ok(code) => (code, self.compiled.faults().to_vec()),
            Err(_) => {
                reaches = false;
                (vec![incise_isa::native::TRAP; self.compiled.len()], Vec::new())
            }
        })?;
        *placed = Some(Placed { generation, at: reaches.then_some(at) });
        Ok(())
    }
}
