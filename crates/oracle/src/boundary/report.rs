//! What the boundary oracle found.

use std::fmt;

use serde::Serialize;

/// What differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// The patched code came by an instruction that the original did not come to.
    Where {
        /// The last instruction that both came to.
        original: u64,
        /// Where the patched code came by.
        patched: u64,
    },
    /// A register, at an instruction.
    Register {
        /// Its name.
        name: &'static str,
        /// The instruction, which has not run.
        at: u64,
    },
    /// The patched code faults otherwise than the original does, or elsewhere.
    Fault {
        /// Where the original faults.
        at: u64,
    },
    /// The patched code faults and the original does not.
    NoFault,
    /// Vector or x87 state.
    Vectors,
    /// Memory that registers point to, or the stack.
    Memory {
        /// The first byte.
        address: u64,
    },
    /// The program's own data, written from the boundary or a later one.
    Own {
        /// The first byte.
        address: u64,
        /// The last boundary entered before it was looked at.
        last: u64,
    },
}

/// A boundary where patched code behaves otherwise than the original.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Link address of the instruction that was entered.
    pub boundary: u64,
    /// What differs.
    pub difference: Difference,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entered at {:#x}: ", self.boundary)?;
        match self.difference {
            Difference::Where { original, patched } => {
                write!(f, "behind {original:#x} the patched code comes by {patched:#x}")
            }
            Difference::Register { name, at } => write!(f, "{name} differs at {at:#x}"),
            Difference::Fault { at } => {
                write!(f, "the original faults at {at:#x}, the patched code otherwise")
            }
            Difference::NoFault => write!(f, "only the patched code faults"),
            Difference::Vectors => write!(f, "vector or x87 state differs"),
            Difference::Memory { address } => write!(f, "memory differs at {address:#x}"),
            Difference::Own { address, last } => {
                write!(f, "(or later, up to {last:#x}) the program's data differ at {address:#x}")
            }
        }
    }
}

/// What was done, and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Boundaries that were entered in both processes.
    pub entered: usize,
    /// Boundaries whose instruction differs by nature each time: system calls, clocks.
    pub unsteady: usize,
    /// Boundaries at which all registers were compared, behind those entered.
    pub compared: usize,
    /// Faults that were compared.
    pub faults: usize,
    /// Traps that led to their landings.
    pub traps: usize,
    /// Runs that were given up inside a long instruction.
    pub unfinished: usize,
    /// Runs at whose end registers differed that the code behind overwrites before it reads them.
    pub dead: usize,
    /// Boundaries from which the original reads code, or memory below the red zone, or loses its stack: what differs
    /// then differs by nature.
    pub strayed: usize,
    /// Calls that faulted and had pushed their return address.
    pub pushed_early: usize,
    /// Differences.
    pub findings: Vec<Finding>,
}

impl Tally {
    /// Adds what another part found.
    pub fn add(&mut self, other: Tally) {
        self.entered += other.entered;
        self.unsteady += other.unsteady;
        self.compared += other.compared;
        self.faults += other.faults;
        self.traps += other.traps;
        self.unfinished += other.unfinished;
        self.dead += other.dead;
        self.strayed += other.strayed;
        self.pushed_early += other.pushed_early;
        self.findings.extend(other.findings);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            entered,
            unsteady,
            compared,
            faults,
            traps,
            unfinished,
            dead,
            strayed,
            pushed_early,
            findings,
        } = self;
        write!(
            f,
            "{entered} boundaries entered, {compared} compared behind them, {faults} faults, {traps} traps; \
             {unfinished} unfinished, {unsteady} not repeatable, {strayed} strayed, \
             {dead} ended with dead registers changed, {pushed_early} calls pushed early; {} differences",
            findings.len()
        )
    }
}
