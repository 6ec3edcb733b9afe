//! Snippets become machine code at a point: only what they change *and* the program still needs is kept.

use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr, GprSet, Live, SPRINGBOARD_LEN};

use smallvec::SmallVec;

use crate::engine::report::InstanceId;
use crate::snippet::generate::{FORGET_RETURN, PointContext};
use crate::snippet::{CallRecord, CounterPlace, Generated, MachineCode};
use crate::tactic::Refusal;
use crate::trampoline::generated::{effects, generated};
use crate::trampoline::literals::Literals;

/// A snippet whose addresses are known. Counters are what there are millions of: the others are apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ready {
    Counter(Addr),
    /// A cell of which each thread has its own.
    ThreadCounter(Addr),
    Code(Box<MachineCode>),
    Gate,
    Callback(Box<Callback>),
    Generated(Box<Placed>),
    Switched(Box<Switched>),
}

/// A call of a callback's entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Callback {
    pub entry: Addr,
    pub payload: [u64; 2],
}

/// A snippet that generates code, and where its counters are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub snippet: Generated,
    pub counters: Box<[CounterPlace]>,
}

/// A snippet of an instance that is switched on and off in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Switched {
    pub instance: InstanceId,
    pub on: bool,
    pub what: Ready,
}

impl Ready {
    /// The snippet behind a switch.
    pub(crate) fn what(&self) -> &Ready {
        if let Ready::Switched(switched) = self { &switched.what } else { self }
    }

    /// Runs without a call, so that neighbours can share what is saved around it.
    fn is_inline(&self) -> bool {
        !matches!(self, Ready::Callback(_) | Ready::Generated(_) | Ready::Switched(_))
    }

    /// Adds one to a counter, whichever way, or does nothing.
    pub(crate) fn is_counter(&self) -> bool {
        matches!(self, Ready::Counter(_) | Ready::ThreadCounter(_)) || self.is_nothing()
    }

    /// It is no code: the instruction shall run in a trampoline, and that is all.
    fn is_nothing(&self) -> bool {
        matches!(self, Ready::Code(code) if **code == MachineCode::default())
    }

    /// Runs without a register.
    pub(crate) fn changes_only_flags(&self, asm: &Assembler) -> bool {
        match self {
            Ready::Counter(counter) => in_reach(asm, *counter),
            Ready::ThreadCounter(_) => true,
            _ => self.is_nothing(),
        }
    }

    /// What it changes and the program still needs is saved around it, here.
    pub(crate) fn saves(&self) -> bool {
        !matches!(self.what(), Ready::Gate | Ready::Callback(_))
    }

    /// The counters it refers to.
    pub(crate) fn counters(&self) -> &[CounterPlace] {
        match self.what() {
            Ready::Generated(placed) => &placed.counters,
            _ => &[],
        }
    }
}

/// Bytes under rsp that a function may use without moving it (psABI x86-64, 3.2.2).
pub(crate) const RED_ZONE: i32 = 128;

/// Appends the code of `snippets`, in order. `at` tells where they run, and in `live` what the program still reads there.
pub(crate) fn lower(
    asm: &mut Assembler,
    snippets: &[Ready],
    at: PointContext<'_>,
    literals: &mut Literals,
) -> Result<(), Refusal> {
    let mut rest = snippets;
    for run in snippets.chunk_by(|a, b| a.is_inline() && b.is_inline()) {
        rest = &rest[run.len()..];
        let live = with_read(at.live, rest, &at);
        match &run[0] {
            Ready::Callback(callback) => {
                let Callback { entry, payload } = **callback;
                let prefixes = prefixes_before_call(asm, entry);
                asm.raw(&PREFIXES[..prefixes]);
                asm.lea_rsp(-RED_ZONE);
                literals.call(asm, entry);
                literals.record(asm, &CallRecord { payload, site: at.addr() });
                asm.raw(&FORGET_RETURN);
                // Of one length, wherever it lies.
                asm.raw(&PREFIXES[prefixes..]);
                asm.lea_rsp(RED_ZONE);
            }
            Ready::Generated(placed) => {
                let Placed { snippet, counters } = &**placed;
                let at = PointContext { here: asm.here(), counters, live, ..at };
                generated(asm, &*snippet.0, &at, literals)?;
            }
            Ready::Switched(switched) => {
                let rest = switch(asm, switched.instance, switched.on, literals);
                lower(asm, std::slice::from_ref(&switched.what), PointContext { live, ..at }, literals)?;
                rest.end(asm);
            }
            _ => inline(asm, run, live),
        }
    }
    Ok(())
}

/// The displacement of the short jump before a snippet with a switch: over the jump behind it, or to that one.
pub(crate) const ON: u8 = SPRINGBOARD_LEN as u8;
/// The same, off.
pub(crate) const OFF: u8 = 0;

/// Appends the switch of an instance. One byte tells which jump is taken, so that a thread that comes by while it
/// changes finds the one or the other.
fn switch(asm: &mut Assembler, instance: InstanceId, on: bool, literals: &mut Literals) -> Over {
    asm.raw(&[0xEB, if on { ON } else { OFF }]);
    literals.switches.push((instance, asm.bytes().len() as u32 - 1));
    asm.raw(&[0xE9, 0, 0, 0, 0]);
    Over(asm.bytes().len())
}

/// A jump over code that is not there yet: where the jump ends.
struct Over(usize);

impl Over {
    /// It leads here.
    fn end(self, asm: &mut Assembler) {
        let over = (asm.bytes().len() - self.0) as i32;
        asm.set(self.0 - 4, &over.to_le_bytes());
    }
}

/// A segment prefix, which means nothing in 64-bit mode (AMD APM vol. 3, 1.2.4).
const PREFIXES: [u8; 3] = [0x3E; 3];

/// How many bytes before the call of a callback's `entry`, and what moves rsp there, align the displacement behind it, which
/// the entry reads: with alignment checks on (AC), it would fault otherwise.
fn prefixes_before_call(asm: &Assembler, entry: Addr) -> usize {
    const LEA_RSP: u64 = 5;
    let call = if in_reach(asm, entry) { 5 } else { 6 };
    let field = asm.here() + LEA_RSP + call + CallRecord::DISPLACEMENT as u64;
    (field.0.wrapping_neg() % 4) as usize
}

/// What is live before `snippets`, if `live` is behind them: with what they read of the program's.
pub(crate) fn with_read(mut live: Live, snippets: &[Ready], at: &PointContext<'_>) -> Live {
    for snippet in snippets {
        if let Ready::Generated(placed) = snippet.what() {
            let effects = effects(&*placed.snippet.0, &PointContext { counters: &placed.counters, ..*at });
            live.gprs = live.gprs.union(effects.reads);
            live.flags |= effects.reads_flags;
        }
    }
    live
}

fn inline(asm: &mut Assembler, run: &[Ready], live: Live) {
    let far = run.iter().any(|s| matches!(s, Ready::Counter(at) if !in_reach(asm, *at)));
    let mut clobbers = if far { GprSet::of(&[Gpr::Rcx]) } else { GprSet::EMPTY };
    let (mut flags, mut stack) = (false, false);
    for snippet in run {
        match snippet {
            Ready::Counter(_) | Ready::ThreadCounter(_) => flags = true,
            Ready::Code(code) => {
                clobbers = clobbers.union(code.clobbers);
                flags |= code.flags;
                stack |= code.stack;
            }
            Ready::Gate | Ready::Callback(_) | Ready::Generated(_) | Ready::Switched(_) => {}
        }
    }
    let keep_flags = flags && live.flags;
    if keep_flags {
        clobbers = clobbers.union(GprSet::of(&[Gpr::Rax]));
    }
    // The flags wait in rax, unless user code may change it.
    let spill_flags = keep_flags && run.iter().any(|s| matches!(s, Ready::Code(_)) && !s.is_nothing());
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
            Ready::ThreadCounter(at) => {
                // Cells lie where a displacement reaches them.
                let _ = asm.inc_gs(*at);
            }
            Ready::Code(code) => asm.raw(&code.bytes),
            Ready::Gate | Ready::Callback(_) | Ready::Generated(_) | Ready::Switched(_) => {}
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
