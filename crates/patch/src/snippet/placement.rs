//! On which way in or out of an instruction a snippet runs.

use std::fmt;

use incise_isa::Addr;
use incise_isa::native::{Flow, Insn};

use crate::tactic::Refusal;

/// On which way in or out of an instruction a snippet runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Placement {
    /// Before it, whichever way control came and goes.
    #[default]
    Before,
    /// Behind it, where it goes on behind itself; behind a conditional branch, where that is not taken. A call does
    /// not go on by itself: see [`Placement::Returned`].
    After,
    /// On the way to its target, where a branch is taken.
    Taken,
    /// Before an indirect jump, if it goes to this address now.
    Toward(Addr),
    /// Before the instruction behind a call, if control comes from the return of that call: not where a branch leads
    /// there. Told by the return address, which still lies below the stack pointer. A `ret` that also frees
    /// arguments, longjmp(3) and exceptions leave no such trace, and do not count.
    Returned,
    /// Before it, wherever control comes from; but where the planner lets the instruction before it run into it in one
    /// trampoline, not from there. [`Engine::runs_into`](crate::Engine::runs_into) tells whether it does.
    Entered,
}

impl Placement {
    /// Whether `insn` has this way.
    pub(crate) fn check(self, insn: &Insn) -> Result<(), Refusal> {
        let flow = insn.flow();
        let has = match self {
            Placement::Before | Placement::Returned | Placement::Entered => true,
            Placement::After => {
                matches!(flow, Flow::Next | Flow::Branch(_) | Flow::Begin(_) | Flow::Syscall)
            }
            Placement::Taken => matches!(flow, Flow::Jump(_) | Flow::Branch(_) | Flow::Begin(_)),
            Placement::Toward(_) => flow == Flow::IndirectJump,
        };
        if has { Ok(()) } else { Err(Refusal::NoSuchWay { at: insn.addr(), placement: self }) }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placement::Before => f.write_str("before"),
            Placement::After => f.write_str("after"),
            Placement::Taken => f.write_str("taken"),
            Placement::Toward(to) => write!(f, "toward {to}"),
            Placement::Returned => f.write_str("returned"),
            Placement::Entered => f.write_str("entered"),
        }
    }
}

/// An instruction and a way in or out of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The instruction.
    pub at: Addr,
    /// The way.
    pub placement: Placement,
}

impl Place {
    /// Before the instruction at `at`.
    pub const fn before(at: Addr) -> Place {
        Place { at, placement: Placement::Before }
    }
}

impl From<Addr> for Place {
    fn from(at: Addr) -> Place {
        Place::before(at)
    }
}
