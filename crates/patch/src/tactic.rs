//! How a springboard fits at a site, and why one may not.

use std::fmt;

use incise_isa::Addr;
use incise_isa::native::RelocateError;

use crate::snippet::placement::Placement;

/// The way a site was patched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tactic {
    /// The site is padding made for patching: nothing is displaced, or a short jump leads into the padding.
    Nop,
    /// The site is a direct call or jump whose target was changed.
    Retarget,
    /// One instruction of five bytes or more became a jump.
    Jump,
    /// The last instruction before padding: the jump covers unreachable bytes.
    Tail,
    /// Several instructions share a jump; every interior head is a trap byte inside it.
    Group,
    /// The jump's upper bytes are those of the instructions behind it, which stay where they are.
    Pun,
    /// A short jump to a jump inside a neighbouring instruction, which is displaced.
    Evict,
    /// A trap byte.
    Trap,
    /// Nothing is there: how often it runs follows from what runs at other sites.
    Inferred,
}

impl Tactic {
    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Tactic::Nop => "nop",
            Tactic::Retarget => "retarget",
            Tactic::Jump => "jump",
            Tactic::Tail => "tail",
            Tactic::Group => "group",
            Tactic::Pun => "pun",
            Tactic::Evict => "evict",
            Tactic::Trap => "trap",
            Tactic::Inferred => "inferred",
        }
    }
}

impl fmt::Display for Tactic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What to do where only a trap fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TrapPolicy {
    /// Refuse the site.
    Forbid,
    /// Trap there (a hit costs microseconds), and say so in the report.
    #[default]
    Fallback,
    /// Trap everywhere, also where a jump would fit.
    Force,
}

/// Why a site could not be patched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing executable is mapped there.
    #[error("{0} is not in executable memory")]
    NotExecutable(Addr),
    /// The bytes are no instruction.
    #[error("no instruction can be decoded at {0}")]
    Undecodable(Addr),
    /// The address lies inside an instruction that is already displaced.
    #[error("{at} lies inside the instruction at {head}, which is already patched")]
    NotABoundary {
        /// The address asked for.
        at: Addr,
        /// Where the instruction that holds it begins.
        head: Addr,
    },
    /// An instruction that has to move cannot run elsewhere.
    #[error("the instruction cannot run elsewhere: {0}")]
    Immovable(#[from] RelocateError),
    /// Code between the addresses of a restartable sequence must stay where it is (rseq(2)).
    #[error("{0} is in a restartable sequence, which must run in place")]
    RestartableSequence(Addr),
    /// The dynamic linker writes to this code when it loads the module, and would write over a springboard.
    #[error("the dynamic linker writes to the code at {0}")]
    Relocated(Addr),
    /// The program may write to this code: what is displaced would stay what it was.
    #[error("the code at {0} is writable: the program may change it")]
    Writable(Addr),
    /// The program copies this code and runs the copy, where a jump would lead nowhere.
    #[error("the program copies the code at {0} elsewhere and runs the copy")]
    Copied(Addr),
    /// The code is part of what runs snippets, such as a trampoline.
    #[error("the code at {0} is what runs the probes")]
    Machinery(Addr),
    /// The entry is an `endbr64`, which is never overwritten, and the instruction behind it is a loop's head.
    #[error("the instruction behind the endbr64 at {0} is also the head of a loop")]
    LoopBehindEndbr(Addr),
    /// No jump fits, and traps are forbidden.
    #[error("no jump fits at {at}: {why}; only a trap would, and the trap policy forbids it")]
    TrapForbidden {
        /// The site.
        at: Addr,
        /// What keeps a jump from fitting.
        why: Obstacle,
    },
    /// No free memory from which the site can be reached.
    #[error("no free memory within reach of {0}")]
    NoRoom(Addr),
    /// The instruction has no such way in or out: only a conditional branch can be taken, only an indirect jump goes
    /// toward one of several addresses, and behind a jump or a call nothing follows.
    #[error("the instruction at {at} has no way `{placement}`")]
    NoSuchWay {
        /// The instruction.
        at: Addr,
        /// The way that was asked for.
        placement: Placement,
    },
    /// The snippet may change vector registers, and how many the processor has is not known before the program runs.
    #[error("the vector registers of the program cannot be kept at {0}: it may run on another processor")]
    NoVectorState(Addr),
    /// The snippet is not for this point.
    #[error("the snippet cannot run at {at}: {why}")]
    Unfit {
        /// The point.
        at: Addr,
        /// What it lacks.
        why: String,
    },
    /// The code is not there any more: its module was unloaded or replaced.
    #[error("the code at {0} was unmapped or replaced")]
    Gone(Addr),
}

impl Refusal {
    /// The reason without addresses: the same for all sites that are refused for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Refusal::NotExecutable(_) => "not in executable memory",
            Refusal::Undecodable(_) => "no instruction can be decoded",
            Refusal::NotABoundary { .. } => "inside an instruction that is patched",
            Refusal::Immovable(_) => "the instruction cannot run elsewhere",
            Refusal::RestartableSequence(_) => "in a restartable sequence",
            Refusal::Relocated(_) => "the dynamic linker writes to this code",
            Refusal::Writable(_) => "the code is writable",
            Refusal::Copied(_) => "the program copies this code",
            Refusal::Machinery(_) => "part of what runs the probes",
            Refusal::LoopBehindEndbr(_) => "behind the endbr64 is the head of a loop",
            Refusal::TrapForbidden { why, .. } => match why {
                Obstacle::BranchTarget(_) => "no jump fits: it would cover a branch target",
                Obstacle::FunctionEntry(_) => "no jump fits: another function begins there",
                Obstacle::Immovable(_) => "no jump fits: what it would cover cannot be displaced",
                Obstacle::PathEnd(_) => "no jump fits: what it would cover may be data",
                Obstacle::NoPlace => "no jump fits: no free place for its trampoline",
            },
            Refusal::NoRoom(_) => "no free memory within reach",
            Refusal::NoSuchWay { .. } => "no such way in or out of the instruction",
            Refusal::NoVectorState(_) => "the vector registers cannot be kept",
            Refusal::Unfit { .. } => "the snippet cannot run there",
            Refusal::Gone(_) => "the code was unmapped or replaced",
        }
    }
}

/// What keeps a jump from fitting at a site.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Obstacle {
    /// A jump leads to an instruction the springboard would cover.
    BranchTarget(Addr),
    /// Another function begins there.
    FunctionEntry(Addr),
    /// Bytes behind the site cannot be displaced.
    Immovable(Addr),
    /// Nothing falls through to the bytes behind the site, and they are no padding: they may be data.
    PathEnd(Addr),
    /// The trap bytes inside the jump leave no free place for a trampoline.
    NoPlace,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::BranchTarget(at) => write!(f, "{at}, which it would cover, is a branch target"),
            Obstacle::FunctionEntry(at) => write!(f, "another function begins at {at}"),
            Obstacle::Immovable(at) => write!(f, "the code at {at} cannot be displaced"),
            Obstacle::PathEnd(at) => write!(f, "{at}, which it would cover, may be data"),
            Obstacle::NoPlace => write!(f, "no free place for its trampoline"),
        }
    }
}
