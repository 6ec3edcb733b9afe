//! The words of `--points`.

use clap::ValueEnum;
use incise::PointKind;

/// Which points of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Points {
    /// Its first instruction.
    Entry,
    /// Before its returns and tail calls.
    Exit,
    /// While it runs: its entry, where calls come back, each pass of a loop.
    During,
    /// Before each call that does not come back: exit, longjmp, throw, the rest of an exception.
    NoReturn,
    /// The first instruction of each block.
    Block,
    /// The last instruction of each block.
    BlockExit,
    /// Before each call it makes.
    Call,
    /// Behind each call it makes, when that comes back.
    AfterCall,
    /// Every instruction; exact but where a fault or a signal handler takes a thread out of a run of instructions for
    /// good: the rest of the run counts too.
    Instruction,
    /// Behind every instruction that goes on to the next, and every call that comes back.
    AfterInstruction,
    /// Each way from one block to another.
    Edge,
    /// Each way into a loop.
    LoopEntry,
    /// Each way out of a loop.
    LoopExit,
    /// Each pass of a loop, where it begins.
    LoopIteration,
    /// Each pass of a loop that another one follows, on its way back.
    LoopIterationEnd,
}

impl From<Points> for PointKind {
    fn from(points: Points) -> PointKind {
        match points {
            Points::Entry => PointKind::FunctionEntry,
            Points::Exit => PointKind::FunctionExit,
            Points::During => PointKind::FunctionDuring,
            Points::NoReturn => PointKind::NoReturn,
            Points::Block => PointKind::BlockEntry,
            Points::BlockExit => PointKind::BlockExit,
            Points::Call => PointKind::BeforeCall,
            Points::AfterCall => PointKind::AfterCall,
            Points::Instruction => PointKind::BeforeInstruction,
            Points::AfterInstruction => PointKind::AfterInstruction,
            Points::Edge => PointKind::Edge,
            Points::LoopEntry => PointKind::LoopEntry,
            Points::LoopExit => PointKind::LoopExit,
            Points::LoopIteration => PointKind::LoopIteration,
            Points::LoopIterationEnd => PointKind::LoopIterationEnd,
        }
    }
}

/// Which points of all functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CoveragePoints {
    /// Every instruction.
    Instruction,
    /// The first instruction of each block.
    Block,
    /// The first instruction of each function.
    Function,
}

impl CoveragePoints {
    pub(crate) fn plural(self) -> &'static str {
        match self {
            CoveragePoints::Instruction => "instructions",
            CoveragePoints::Block => "blocks",
            CoveragePoints::Function => "entries",
        }
    }
}

impl From<CoveragePoints> for PointKind {
    fn from(points: CoveragePoints) -> PointKind {
        match points {
            CoveragePoints::Instruction => PointKind::BeforeInstruction,
            CoveragePoints::Block => PointKind::BlockEntry,
            CoveragePoints::Function => PointKind::FunctionEntry,
        }
    }
}
