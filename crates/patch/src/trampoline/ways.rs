//! Snippets on one way in or out of an instruction, as code of its trampoline: behind guards before the displaced
//! instruction, behind it, and in stubs that its taken branch goes by.

use incise_isa::Addr;
use incise_isa::native::{Assembler, Flow, Guard, Guarded, Insn, Live, live_before};
use incise_space::Features;
use smallvec::SmallVec;

use crate::code::{Code, LOOKAHEAD};
use crate::snippet::generate::PointContext;
use crate::snippet::placement::Placement;
use crate::tactic::Refusal;
use crate::trampoline::literals::Literals;
use crate::trampoline::lower::{Ready, in_reach, lower};
use crate::trampoline::sequences::Snippets;

/// A detour of a taken branch: its snippets, then its target.
pub(crate) struct Stub {
    /// The branch.
    pub of: Addr,
    /// Offset in the trampoline.
    pub offset: u32,
}

/// The stubs of a trampoline.
pub(crate) type Stubs = SmallVec<[Stub; 1]>;

/// Appends the snippets on one way, if they run before `insn`: behind a guard, or because it is a jump and always
/// taken. `live` is what the program still reads at `insn`.
pub(crate) fn way_in(
    asm: &mut Assembler,
    snippets: &[Ready],
    at: PointContext<'_>,
    literals: &mut Literals,
) -> Result<(), Refusal> {
    let insn = at.insn;
    let wanted = match at.placement {
        Placement::Toward(target) => Some(Guarded::Toward(insn, target)),
        Placement::Returned => Some(Guarded::Returned(insn.addr())),
        Placement::Taken if matches!(insn.flow(), Flow::Jump(_)) => None,
        Placement::Entered => None,
        Placement::Before | Placement::After | Placement::Taken => return Ok(()),
    };
    let guard = wanted.map(|wanted| Guard::open(asm, wanted, at.features.moves)).transpose()?;
    lower(asm, snippets, at, literals)?;
    if let Some(guard) = guard {
        guard.close(asm);
    }
    Ok(())
}

/// Appends the snippets that run behind `insn`.
pub(crate) fn after(
    asm: &mut Assembler,
    insn: &Insn,
    snippets: &Snippets,
    code: &Code,
    features: Features,
    literals: &mut Literals,
) -> Result<(), Refusal> {
    let Some(sequence) = snippets.along(Placement::After) else { return Ok(()) };
    let live = live_at(code, insn.end(), sequence, asm);
    let here = asm.here();
    let at = PointContext { insn, placement: Placement::After, live, features, here, counters: &[] };
    lower(asm, sequence, at, literals)
}

/// The snippets that `insn`, a conditional branch, runs when it is taken.
pub(crate) fn taken<'s>(insn: &Insn, snippets: &'s Snippets) -> Option<&'s [Ready]> {
    match insn.flow() {
        Flow::Branch(_) | Flow::Begin(_) => snippets.along(Placement::Taken),
        _ => None,
    }
}

/// Appends the stub of a branch: the snippets, and a jump to `resolved`, where its target is now.
pub(crate) fn stub(
    asm: &mut Assembler,
    insn: &Insn,
    sequence: &[Ready],
    resolved: Addr,
    code: &Code,
    features: Features,
    literals: &mut Literals,
) -> Result<Stub, Refusal> {
    let offset = asm.bytes().len() as u32;
    let target = insn.flow().target().unwrap_or(resolved);
    let (live, here) = (live_at(code, target, sequence, asm), asm.here());
    let at = PointContext { insn, placement: Placement::Taken, live, features, here, counters: &[] };
    lower(asm, sequence, at, literals)?;
    if features.moves && !in_reach(asm, resolved) {
        return Err(Refusal::NoRoom(insn.addr()));
    }
    asm.jump(resolved);
    Ok(Stub { of: insn.addr(), offset })
}

/// The snippets that run where control enters.
pub(crate) fn entered(snippets: &Snippets) -> Option<&[Ready]> {
    snippets.along(Placement::Entered)
}

/// What the program still needs when it comes to `at`, as far as the snippets could change it.
fn live_at(code: &Code, at: Addr, snippets: &[Ready], asm: &Assembler) -> Live {
    let bytes = code.original(at);
    let bytes = &bytes[..bytes.len().min(LOOKAHEAD as usize)];
    if snippets.iter().all(|snippet| snippet.changes_only_flags(asm)) && !code.flags_live(at) {
        Live { flags: false, ..Live::ALL }
    } else if snippets.iter().any(Ready::saves) {
        live_before(bytes, at)
    } else {
        Live::ALL
    }
}
