//! What follows from a graph: dominators, loops, liveness, which blocks need counters, hints for planners.

pub(crate) mod balance;
pub(crate) mod dominators;
mod flow;
pub(crate) mod handing;
pub(crate) mod hints;
pub(crate) mod liveness;
pub(crate) mod loops;
