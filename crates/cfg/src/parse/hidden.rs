//! Looking for functions in code that nothing known leads to, round by round.

use std::ops::Range;

use crate::graph::edge::{EdgeKind, Reason};
use crate::parse::body::{IMPORT, LocalEdge, NEW_ENTRY, TAIL};
use crate::parse::code::{NONE, Off};
use crate::parse::context::Context;
use crate::parse::gaps::{self, Barren, Evidence, Gap};
use crate::parse::program::{Known, Parser};
use crate::parse::returning::Returning;
use crate::parse::runs::Scratch;
use crate::parse::traverse::traverse;
use crate::x86_64::skip_padding;

impl Parser<'_> {
    /// Entries in code that nothing is known of; `barren` remembers from round to round where there are none.
    pub(crate) fn hidden(
        &self,
        known: &[Known],
        entries: &[Off],
        returning: &Returning,
        barren: &mut Barren,
    ) -> Vec<(Off, u8)> {
        if self.context.is_told() {
            return Vec::new();
        }
        let code = &self.context.code;
        let mut covered: Vec<Range<Off>> = self.context.unwind.all().iter().map(|f| f.start..f.end).collect();
        let described = covered.len();
        // Ends of functions that may have more code than is known.
        let mut open: Vec<Off> = Vec::new();
        for (index, function) in known.iter().enumerate() {
            let Some(body) = &function.body else { continue };
            let reached = body.blocks.iter().enumerate().filter(|(b, _)| returning.is_reached(index, *b));
            let before = covered.len();
            covered.extend(reached.map(|(_, block)| block.start..block.end));
            if body.unresolved.iter().any(|(_, reason)| *reason == Reason::IndirectJump) {
                open.extend(covered[before..].iter().map(|range| range.end));
            }
        }
        open.sort_unstable();
        let mut sorted = covered.clone();
        sorted.sort_unstable_by_key(|r| (r.start, r.end));
        let mut gaps: Vec<Gap> = Vec::new();
        for text in code.ranges().filter(|r| !self.context.in_plt(r.start)) {
            let mut at = text.start;
            let first = sorted.partition_point(|r| r.end <= text.start);
            let inside = sorted[first..].iter().take_while(|r| r.start < text.end);
            for range in inside.cloned().chain(std::iter::once(text.end..text.end)) {
                if at < range.start && skip_padding(code, at..range.start).is_some() {
                    gaps.push(Gap {
                        range: at..range.start,
                        after_complete: open.binary_search(&at).is_err(),
                    });
                }
                at = at.max(range.end);
            }
        }
        if gaps.is_empty() {
            return Vec::new();
        }
        // Where unwind tables describe nearly all code, reading it again to find a rest is not worth it.
        let total: u64 = code.ranges().map(|r| r.len() as u64).sum();
        let known: u64 = self.context.unwind.all().iter().map(|f| u64::from(f.end - f.start)).sum();
        let in_code = match known >= total / 5 * 4 {
            true => Vec::new(),
            false => gaps::named_in_code(&self.context, covered.drain(described..)),
        };
        let (in_variables, in_data) = gaps::named_in_data(&self.context);
        let named = Named { in_variables: &in_variables, in_code: &in_code, in_data: &in_data };
        let all = [Evidence::Variable, Evidence::Code, Evidence::Data, Evidence::Place];
        let steps: Vec<_> =
            [true, false].into_iter().flat_map(|certain| all.map(|evidence| (evidence, certain))).collect();
        let mut look = |gaps: &[Gap], step: (Evidence, bool), entries: &[Off]| {
            let mut found = named.look(&self.context, gaps, step, barren);
            found.retain(|(at, _)| entries.binary_search(at).is_err());
            found
        };
        let mut found = steps.iter().enumerate().map(|(index, step)| (index, look(&gaps, *step, entries)));
        let Some((last, mut found)) = found.find(|(_, new)| !new.is_empty()) else {
            return Vec::new();
        };
        // What is left of a gap behind a function is looked at here and now: hand-written code would take a round for each of
        // its functions. Where instructions tell, what is found there has to be read first.
        let mut chain = Chain::new(&self.context, entries, returning);
        let mut fresh = found.clone();
        while in_code.is_empty()
            && let Some(rest) = chain.left(&gaps, &fresh)
        {
            let steps = steps[..=last].iter();
            let Some(next) = steps.map(|step| look(&rest, *step, &chain.entries)).find(|new| !new.is_empty())
            else {
                break;
            };
            found.extend_from_slice(&next);
            (gaps, fresh) = (rest, next);
        }
        found.sort_unstable();
        found
    }
}

/// Addresses of code that are named somewhere, ascending.
struct Named<'n> {
    in_variables: &'n [Off],
    in_code: &'n [Off],
    in_data: &'n [Off],
}

impl Named<'_> {
    fn look(
        &self,
        context: &Context<'_>,
        gaps: &[Gap],
        (evidence, certain): (Evidence, bool),
        barren: &mut Barren,
    ) -> Vec<(Off, u8)> {
        match evidence {
            Evidence::Variable => gaps::by_name(context, gaps, self.in_variables, evidence, certain),
            Evidence::Code => gaps::by_name(context, gaps, self.in_code, evidence, certain),
            Evidence::Data => gaps::by_name(context, gaps, self.in_data, evidence, certain),
            Evidence::Place => gaps::by_place(context, gaps, certain, barren),
        }
    }
}

/// Functions found one behind the other in one round.
struct Chain<'c, 'a> {
    context: &'c Context<'a>,
    /// Those known before the round, with what they do.
    before: &'c [Off],
    returning: &'c Returning,
    /// All known by now, ascending.
    entries: Vec<Off>,
    scratch: Scratch,
}

impl<'c, 'a> Chain<'c, 'a> {
    fn new(context: &'c Context<'a>, before: &'c [Off], returning: &'c Returning) -> Chain<'c, 'a> {
        Chain { context, before, returning, entries: before.to_vec(), scratch: Scratch::default() }
    }

    /// What of `gaps` lies behind the functions at `fresh`. Nothing where that is not certain: one of them leads to what has to
    /// be followed first, or may not come back from a call.
    fn left(&mut self, gaps: &[Gap], fresh: &[(Off, u8)]) -> Option<Vec<Gap>> {
        for &(at, _) in fresh {
            let place = self.entries.binary_search(&at).err()?;
            self.entries.insert(place, at);
        }
        let mut rest = Vec::new();
        for &(at, _) in fresh {
            let gap = gaps.iter().find(|gap| gap.range.contains(&at))?;
            let body = traverse(self.context, &self.entries, at, &mut self.scratch);
            if !body.edges.iter().all(|edge| self.is_settled(edge)) {
                return None;
            }
            let end = body.blocks.iter().map(|block| block.end).filter(|end| gap.range.contains(end)).max();
            let end = end.unwrap_or(gap.range.end);
            // Another one of `fresh` may be next.
            let next = fresh.iter().map(|(next, _)| *next).filter(|next| *next >= end).min();
            let range = end..next.map_or(gap.range.end, |next| next.min(gap.range.end));
            let unresolved = body.unresolved.iter().any(|(_, reason)| *reason == Reason::IndirectJump);
            if !range.is_empty() && skip_padding(&self.context.code, range.clone()).is_some() {
                rest.push(Gap { range, after_complete: !unresolved });
            }
        }
        Some(rest)
    }

    /// Whether an edge leads to known code, and a call comes back.
    fn is_settled(&self, edge: &LocalEdge) -> bool {
        if edge.flags & NEW_ENTRY != 0 {
            return false;
        }
        if edge.kind != EdgeKind::Call || edge.target == NONE || edge.flags & TAIL == 0 {
            return edge.flags & IMPORT == 0 || self.returning.import_returns(edge.target);
        }
        let known = self.before.binary_search(&edge.target);
        known.is_ok_and(|index| self.returning.returns.get(index) == Some(&true))
    }
}
