//! Changes of what functions and calls do: snippets that send control elsewhere. Taking them out, alone or with others in a
//! transaction, gives the program back as it was.
//!
//! ```
//! use incise::{Addr, Position, Session, changing};
//!
//! #[inline(never)]
//! extern "C" fn old(n: u64) -> u64 {
//!     std::hint::black_box(n) + 1
//! }
//! extern "C" fn new(n: u64) -> u64 {
//!     n * 10
//! }
//!
//! let session = Session::own()?;
//! let mut batch = session.batch();
//! let entry = Addr(old as *const () as u64);
//! let replaced = batch.insert(entry, changing::replace_by(Addr(new as *const () as u64)), Position::Last);
//! batch.commit()?;
//! assert_eq!(old(4), 40);
//! let mut batch = session.batch();
//! batch.remove(replaced);
//! batch.commit()?;
//! assert_eq!(old(4), 5);
//! # Ok::<(), incise::Error>(())
//! ```

use incise_isa::Addr;
use incise_isa::native::{Flow, Gpr, GprSet};
use incise_patch::{Effects, Generate, Output, Placement, PointContext, Refusal, Snippet};

/// At the entry of a function: another one, with the same arguments, runs in its place and returns to its caller. Snippets behind
/// it at the point do not run.
pub fn replace_by(function: Addr) -> Snippet {
    Snippet::generated(Change::Goto(function))
}

/// Before a call: another function is called in place of the one that would be.
///
/// # Errors
/// In the transaction: [`Refusal::Unfit`] where there is no call.
pub fn call_instead(function: Addr) -> Snippet {
    Snippet::generated(Change::Call(function))
}

/// Before a call: it is left out. What it would have returned is not set.
///
/// # Errors
/// In the transaction: [`Refusal::Unfit`] where there is no call.
pub fn leave_out_call() -> Snippet {
    Snippet::generated(Change::Skip)
}

#[derive(Debug)]
enum Change {
    Goto(Addr),
    Call(Addr),
    Skip,
}

impl Change {
    /// Goes to `to`, which sees every register as it is.
    fn goto(at: &PointContext<'_>, out: &mut Output<'_>, to: Addr) -> Result<(), Refusal> {
        if at.features.moves && !at.reaches(to) {
            return Err(Refusal::NoRoom(at.addr()));
        }
        out.asm().jump(to);
        Ok(())
    }
}

impl Generate for Change {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        // Whoever comes next may look at anything.
        Effects { reads: GprSet::ALL, reads_flags: true, ..Effects::default() }
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let unfit = |why: &str| Refusal::Unfit { at: at.addr(), why: why.to_owned() };
        if at.placement != Placement::Before {
            return Err(unfit("control is sent elsewhere before an instruction only"));
        }
        let calls = matches!(at.insn.flow(), Flow::Call(_) | Flow::IndirectCall);
        match *self {
            Change::Goto(to) => Change::goto(at, out, to),
            Change::Call(_) | Change::Skip if !calls => Err(unfit("there is no call")),
            Change::Skip => Change::goto(at, out, at.insn.end()),
            Change::Call(to) if at.features.shadow_stack => {
                out.call(at, to)?;
                Change::goto(at, out, at.insn.end())
            }
            Change::Call(to) => {
                // The callee returns to where the program expects it: the stack looks as behind the call that was there.
                out.asm().lea_rsp(-8);
                out.asm().push(Gpr::Rax);
                out.load_address(at, Gpr::Rax, at.insn.end())?;
                out.asm().mov_store(Gpr::Rsp, 8, Gpr::Rax);
                out.asm().pop(Gpr::Rax);
                Change::goto(at, out, to)
            }
        }
    }
}
