//! Programs rewritten with counters: they do what they did, the counts are right and survive a kill, tools find
//! nothing to complain of, and the original comes back bit for bit.

mod counting;
mod kinds;
mod real;
mod support;
mod tools;
mod unwinding;
mod writing;
