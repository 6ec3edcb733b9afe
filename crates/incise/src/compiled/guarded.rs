//! A snippet that runs only where a program returns something that is not zero.
//!
//! In line, what is guarded is put between the two halves of the condition's code. A condition that is called is followed by a
//! test of what it returned; registers that what is guarded reads are kept over the call.

use std::sync::Arc;

use incise_isa::native::{Gpr, GprSet};
use incise_patch::{
    CounterId, Effects, Generate, Generated, Output, Placer, PointContext, Refusal, Snippet, Vectors,
};
use incise_space::SpaceError;

use super::code::Code;
use super::inline::InLine;

/// The condition.
#[derive(Clone, Debug)]
pub(super) enum Holds {
    InLine(Arc<InLine>),
    Called(Arc<Code>),
}

/// What is guarded.
#[derive(Debug)]
enum Then {
    Count(CounterId),
    Generated(Generated),
}

/// The snippet.
#[derive(Debug)]
pub(super) struct Guarded {
    holds: Holds,
    then: Then,
}

impl Guarded {
    /// Nothing if `then` is no snippet that can be guarded, or the condition never returns anything.
    pub(super) fn new(holds: Holds, then: Snippet) -> Option<Guarded> {
        let returns = match &holds {
            Holds::InLine(inline) => inline.returns(),
            Holds::Called(code) => !code.replaces(),
        };
        if !returns {
            return None;
        }
        let then = match then {
            Snippet::Counter(id) => Then::Count(id),
            Snippet::Generated(snippet) => Then::Generated(snippet),
            Snippet::Code(_) | Snippet::Gate | Snippet::Callback { .. } => return None,
        };
        Some(Guarded { holds, then })
    }

    fn condition(&self) -> &dyn Generate {
        match &self.holds {
            Holds::InLine(inline) => &**inline,
            Holds::Called(code) => &**code,
        }
    }

    fn then(&self) -> Option<&dyn Generate> {
        match &self.then {
            Then::Count(_) => None,
            Then::Generated(snippet) => Some(&*snippet.0),
        }
    }

    fn then_effects(&self, at: &PointContext<'_>) -> Effects {
        let counting = Effects { flags: true, ..Effects::default() };
        self.then().map_or(counting, |then| then.effects(at))
    }

    fn condition_effects(&self, at: &PointContext<'_>, then: &Effects) -> Effects {
        match &self.holds {
            Holds::InLine(inline) => inline.effects_around(at, then.reads.union(then.writes)),
            Holds::Called(code) => code.effects(at),
        }
    }

    /// Registers that are kept over a condition that is called.
    fn kept(&self, condition: &Effects, then: &Effects) -> Vec<Gpr> {
        match self.holds {
            Holds::InLine(_) => Vec::new(),
            Holds::Called(_) => condition.clobbers.intersection(then.reads).iter().collect(),
        }
    }

    fn run(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        match &self.then {
            Then::Count(id) => out.count(at, *id),
            Then::Generated(snippet) => snippet.0.generate(at, out),
        }
    }
}

impl Generate for Guarded {
    fn effects(&self, at: &PointContext<'_>) -> Effects {
        let then = self.then_effects(at);
        let condition = self.condition_effects(at, &then);
        Effects {
            reads: condition.reads.union(then.reads),
            clobbers: condition.clobbers.union(then.clobbers),
            writes: then.writes,
            reads_flags: condition.reads_flags || then.reads_flags,
            flags: true,
            vectors: match (condition.vectors, then.vectors) {
                (Vectors::None, other) | (other, Vectors::None) => other,
                (Vectors::Sse(a), Vectors::Sse(b)) => Vectors::Sse(a | b),
                _ => Vectors::All,
            },
            stack: condition.stack || then.stack,
        }
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let then = self.then_effects(at);
        let condition = self.condition_effects(at, &then);
        let unfit = |why: &str| Refusal::Unfit { at: at.addr(), why: why.to_owned() };
        if then.reads_flags {
            return Err(unfit("a condition changes the flags that the snippet reads"));
        }
        match &self.holds {
            Holds::InLine(inline) => {
                let untouched = then.reads.union(then.writes);
                inline.around(at, untouched, out, &mut |out| self.run(at, out))
            }
            Holds::Called(_) if condition.writes != GprSet::EMPTY => {
                Err(unfit("a condition sets no registers"))
            }
            Holds::Called(code) => {
                let kept = self.kept(&condition, &then);
                kept.iter().for_each(|register| out.push(*register));
                code.generate(at, out)?;
                // test rax, rax
                out.asm().raw(&[0x48, 0x85, 0xC0]);
                kept.iter().rev().for_each(|register| out.pop(*register));
                // jz, over what is guarded
                out.asm().raw(&[0x0F, 0x84, 0, 0, 0, 0]);
                let from = out.position();
                self.run(at, out)?;
                let distance = (out.position() - from) as u32;
                out.asm().set(from - 4, &distance.to_le_bytes());
                Ok(())
            }
        }
    }

    fn place(&self, placer: &mut Placer<'_>) -> Result<(), SpaceError> {
        self.condition().place(placer)?;
        self.then().map_or(Ok(()), |then| then.place(placer))
    }

    fn counters(&self) -> &[CounterId] {
        match &self.then {
            Then::Count(id) => std::slice::from_ref(id),
            Then::Generated(snippet) => snippet.0.counters(),
        }
    }

    fn only_counts(&self) -> bool {
        match &self.then {
            Then::Count(_) => true,
            Then::Generated(snippet) => snippet.0.only_counts(),
        }
    }
}
