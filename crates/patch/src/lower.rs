//! Snippets become machine code at a point: only what they change *and* the program still needs is kept.

use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr, GprSet, Live};

use smallvec::SmallVec;

use crate::placement::Placement;
use crate::snippet::{CallRecord, MachineCode};

/// Snippets that run one after the other.
pub(crate) type Sequence = SmallVec<[Ready; 1]>;

/// The snippets at one head.
#[derive(Clone, Default, Debug)]
pub(crate) struct Snippets {
    /// Those before the instruction, in order.
    pub before: Sequence,
    /// Those on other ways in or out of it, in order for each.
    pub ways: Vec<(Placement, Sequence)>,
}

impl Snippets {
    pub(crate) fn push(&mut self, placement: Placement, snippet: Ready) {
        if placement == Placement::Before {
            return self.before.push(snippet);
        }
        match self.ways.iter_mut().find(|(way, _)| *way == placement) {
            Some((_, sequence)) => sequence.push(snippet),
            None => self.ways.push((placement, Sequence::from_iter([snippet]))),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.ways.is_empty()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Ready> {
        self.before.iter().chain(self.ways.iter().flat_map(|(_, sequence)| sequence))
    }
}

/// A snippet whose addresses are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ready {
    Counter(Addr),
    Code(MachineCode),
    Gate,
    Callback { entry: Addr, payload: [u64; 2] },
}

impl Ready {
    /// Runs without a call, so that neighbours can share what is saved around it.
    fn is_inline(&self) -> bool {
        !matches!(self, Ready::Callback { .. })
    }
}

/// Bytes under rsp that a function may use without moving it (psABI x86-64, 3.2.2).
const RED_ZONE: i32 = 128;

/// `mov [rsp-8], rsp`: overwrites the return address of a call that has returned. A later frame may come to lie over it
/// without writing there, and who looks for threads in this trampoline would take the rest for a thread that returns.
const FORGET_RETURN: [u8; 5] = [0x48, 0x89, 0x64, 0x24, 0xF8];

/// Places in the code that hold data put behind it: a 32-bit displacement to a record.
#[derive(Default)]
pub(crate) struct Literals {
    records: Vec<(usize, CallRecord)>,
    /// Calls through memory: where the displacement is, and the address to call.
    calls: Vec<(usize, Addr)>,
}

impl Literals {
    /// Calls `to` so that the next instruction is the one returned to, near or far.
    fn call(&mut self, asm: &mut Assembler, to: Addr) {
        if in_reach(asm, to) {
            asm.call(to);
        } else {
            asm.raw(&[0xFF, 0x15, 0, 0, 0, 0]);
            self.calls.push((asm.bytes().len() - 4, to));
        }
    }

    /// Appends the data and fills in the displacements. Nothing may be appended to `code` behind it.
    pub(crate) fn place(self, origin: Addr, code: &mut Vec<u8>) {
        if self.records.is_empty() {
            return;
        }
        while !(origin.0 as usize + code.len()).is_multiple_of(8) {
            code.push(incise_isa::native::TRAP);
        }
        for (field, to) in self.calls {
            let displacement = (code.len() - field - 4) as i32;
            code[field..field + 4].copy_from_slice(&displacement.to_le_bytes());
            code.extend_from_slice(&to.0.to_le_bytes());
        }
        for (slot, record) in self.records {
            let displacement = (code.len() - slot) as i32;
            let field = slot + CallRecord::DISPLACEMENT;
            code[field..field + 4].copy_from_slice(&displacement.to_le_bytes());
            for word in [record.payload[0], record.payload[1], record.site.0] {
                code.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// Appends the code of `snippets`, in order. `live` is what the program still reads at the point; the code
/// appended so far began at the assembler's origin.
pub(crate) fn lower(
    asm: &mut Assembler,
    snippets: &[Ready],
    live: Live,
    site: Addr,
    literals: &mut Literals,
) {
    for run in snippets.chunk_by(|a, b| a.is_inline() && b.is_inline()) {
        if let Ready::Callback { entry, payload } = &run[0] {
            asm.lea_rsp(-RED_ZONE);
            literals.call(asm, *entry);
            literals.records.push((asm.bytes().len(), CallRecord { payload: *payload, site }));
            asm.raw(&[0x0f, 0x1f, 0x80, 0, 0, 0, 0]);
            asm.raw(&FORGET_RETURN);
            asm.lea_rsp(RED_ZONE);
        } else {
            inline(asm, run, live);
        }
    }
}

fn inline(asm: &mut Assembler, run: &[Ready], live: Live) {
    let far = run.iter().any(|s| matches!(s, Ready::Counter(at) if !in_reach(asm, *at)));
    let mut clobbers = if far { GprSet::of(&[Gpr::Rcx]) } else { GprSet::EMPTY };
    let (mut flags, mut stack) = (false, false);
    for snippet in run {
        match snippet {
            Ready::Counter(_) => flags = true,
            Ready::Code(code) => {
                clobbers = clobbers.union(code.clobbers);
                flags |= code.flags;
                stack |= code.stack;
            }
            Ready::Gate | Ready::Callback { .. } => {}
        }
    }
    let keep_flags = flags && live.flags;
    if keep_flags {
        clobbers = clobbers.union(GprSet::of(&[Gpr::Rax]));
    }
    // The flags wait in rax, unless user code may change it.
    let spill_flags = keep_flags && run.iter().any(|s| matches!(s, Ready::Code(_)));
    let saved: SmallVec<[Gpr; 16]> = clobbers.intersection(live.gprs).iter().collect();
    let skip_red_zone = stack || spill_flags || !saved.is_empty();

    if skip_red_zone {
        asm.lea_rsp(-RED_ZONE);
    }
    for &register in &saved {
        asm.push(register);
    }
    if keep_flags {
        asm.save_flags();
        if spill_flags {
            asm.push(Gpr::Rax);
        }
    }
    for snippet in run {
        match snippet {
            Ready::Counter(at) => {
                if asm.lock_inc(*at).is_err() {
                    asm.mov_imm(Gpr::Rcx, at.0);
                    asm.lock_inc_at(Gpr::Rcx);
                }
            }
            Ready::Code(code) => asm.raw(&code.bytes),
            Ready::Gate | Ready::Callback { .. } => {}
        }
    }
    if keep_flags {
        if spill_flags {
            asm.pop(Gpr::Rax);
        }
        asm.restore_flags();
    }
    for &register in saved.iter().rev() {
        asm.pop(register);
    }
    if skip_red_zone {
        asm.lea_rsp(RED_ZONE);
    }
}

/// Whether every instruction of a trampoline that begins near here reaches `at` by a displacement.
pub(crate) fn in_reach(asm: &Assembler, at: Addr) -> bool {
    const SLACK: i64 = 1 << 16;
    at.offset(SLACK).in_rel32_of(asm.here()) && at.offset(-SLACK).in_rel32_of(asm.here())
}
