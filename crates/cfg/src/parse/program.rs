//! Parsing: whole programs on all cores, or single functions on demand.
//!
//! Functions are followed independently of each other, against a set of entries that does not change
//! meanwhile; what they find is joined between rounds, in the order of addresses. So the result does not
//! depend on how many threads there are, or which of them is faster.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use incise_image::{Image, LinkAddr};

use crate::graph::Cfg;
use crate::graph::edge::{EdgeKind, ParseError};
use crate::parse::body::{Body, IMPORT, LocalEdge, NEW_ENTRY, TAIL};
use crate::parse::code::{NONE, Off};
use crate::parse::context::{Context, source};
use crate::parse::gaps::Barren;
use crate::parse::join::{Joined, join};
use crate::parse::padding;
use crate::parse::returning::{Returning, Unknown, solve};
use crate::parse::runs::Scratch;
use crate::parse::traverse::traverse;

/// Most rounds of looking for functions that nothing leads to. Twice as many for what other functions
/// call.
const MOST_ROUNDS: usize = 1000;

/// Functions a thread takes at a time.
const CHUNK: usize = 16;

/// How to parse.
#[derive(Clone, Copy)]
pub struct Options<'o> {
    /// Number of threads; 0 and 1 both mean the calling one alone.
    pub threads: usize,
    /// Called now and then, on any thread, with the number of functions done and of those known so far.
    pub progress: Option<&'o (dyn Fn(usize, usize) + Sync)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { threads: 1, progress: None }
    }
}

/// Parses one program.
pub struct Parser<'a> {
    pub(crate) context: Context<'a>,
    /// What [`Context::entries`] found.
    named: OnceLock<Vec<(Off, u8)>>,
    /// Where these begin.
    starts: OnceLock<Vec<Off>>,
}

/// A function that is known.
pub(crate) struct Known {
    pub entry: Off,
    pub source: u8,
    pub body: Option<Body>,
}

impl<'a> Parser<'a> {
    /// Prepares to parse. `file` are the contents `image` was parsed from. Reads the unwind tables and
    /// symbols, and no code.
    ///
    /// # Errors
    /// [`ParseError::TooFarApart`].
    pub fn new(image: &'a Image, file: &'a [u8]) -> Result<Parser<'a>, ParseError> {
        Ok(Parser { context: Context::new(image, file)?, named: OnceLock::new(), starts: OnceLock::new() })
    }

    /// Parses the whole program. The result is the same for any number of threads.
    ///
    /// # Errors
    /// [`ParseError::TooMany`].
    pub fn parse(&self, options: &Options<'_>) -> Result<Cfg, ParseError> {
        let context = &self.context;
        let mut known: Vec<Known> = context
            .entries()
            .into_iter()
            .map(|(entry, source)| Known { entry, source, body: None })
            .collect();
        let mut barren = Barren::default();
        for round in 0.. {
            self.follow(&mut known, options);
            if round == 0 && self.demote(&mut known) {
                self.follow(&mut known, options);
            }
            let entries: Vec<Off> = known.iter().map(|k| k.entry).collect();
            let bodies: Vec<&Body> = known.iter().filter_map(|k| k.body.as_ref()).collect();
            let returning = solve(context, &entries, &bodies, Unknown::Waits);
            let mut new = self.called(&known, &entries, &returning);
            if new.is_empty() && round < MOST_ROUNDS {
                new = self.hidden(&known, &entries, &returning, &mut barren);
            }
            // Each function that is called adds a round at most; what has no end is a fault of ours.
            if new.is_empty() || round >= 2 * MOST_ROUNDS {
                let joined: Vec<Joined<'_>> = known
                    .iter()
                    .filter_map(|k| {
                        Some(Joined {
                            entry: k.entry,
                            source: k.source,
                            body: k.body.as_ref()?,
                            wanted: true,
                        })
                    })
                    .collect();
                return join(context, &joined, &returning, true);
            }
            add(&mut known, new);
        }
        Ok(Cfg::default())
    }

    /// Takes out entries that only an unwind description speaks for, and that are no functions but parts
    /// which compilers put elsewhere: one function branches to them on a condition, and nobody else refers
    /// to them. Functions that have to be followed again lose their bodies; whether there are any.
    fn demote(&self, known: &mut Vec<Known>) -> bool {
        let candidates: Vec<Off> =
            known.iter().filter(|k| k.source == source::UNWIND).map(|k| k.entry).collect();
        // By candidate: who refers to it, and whether it may be a part.
        let mut seen: Vec<(Option<usize>, bool, bool)> = vec![(None, true, false); candidates.len()];
        for (index, function) in known.iter().enumerate() {
            for edge in function.body.iter().flat_map(|body| &body.edges) {
                let Ok(place) = candidates.binary_search(&edge.target) else { continue };
                let (by, possible, branch) = &mut seen[place];
                let jumps = edge.flags == TAIL && edge.kind != EdgeKind::Call;
                // Code behind a call that does not come back runs into what is next.
                if edge.kind != EdgeKind::CallFallThrough {
                    *possible &=
                        jumps && by.is_none_or(|by| by == index) && edge.kind != EdgeKind::FallThrough;
                    *branch |= matches!(edge.kind, EdgeKind::Taken);
                    *by = Some(index);
                }
            }
        }
        let parts: Vec<(Off, usize)> = candidates
            .iter()
            .zip(&seen)
            .filter_map(|(&at, &(by, possible, branch))| by.filter(|_| possible && branch).map(|by| (at, by)))
            .collect();
        for &(_, by) in &parts {
            known[by].body = None;
        }
        let mut again = !parts.is_empty();
        known.retain(|k| parts.binary_search_by_key(&k.entry, |p| p.0).is_err());
        // A part may itself have been what another one was followed to.
        again &= known.iter().any(|k| k.body.is_none());
        again
    }

    /// Follows the functions that have no body yet.
    fn follow(&self, known: &mut [Known], options: &Options<'_>) {
        let entries: Vec<Off> = known.iter().map(|k| k.entry).collect();
        let open: Vec<usize> = (0..known.len()).filter(|&i| known[i].body.is_none()).collect();
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(known.len() - open.len()));
        let work = || {
            let mut scratch = Scratch::default();
            let mut found: Vec<(usize, Body)> = Vec::new();
            loop {
                let first = next.fetch_add(CHUNK, Ordering::Relaxed);
                let Some(chunk) = open.get(first..open.len().min(first + CHUNK)).filter(|c| !c.is_empty())
                else {
                    return found;
                };
                for &index in chunk {
                    found.push((index, traverse(&self.context, &entries, entries[index], &mut scratch)));
                }
                if let Some(progress) = options.progress {
                    progress(done.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len(), entries.len());
                }
            }
        };
        let threads = options.threads.min(open.len().div_ceil(CHUNK)).max(1);
        let found: Vec<Vec<(usize, Body)>> = if threads == 1 {
            vec![work()]
        } else {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                let join = |worker: std::thread::ScopedJoinHandle<'_, _>| match worker.join() {
                    Ok(found) => found,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                workers.into_iter().map(join).collect()
            })
        };
        for (index, body) in found.into_iter().flatten() {
            known[index].body = Some(body);
        }
    }

    /// Entries that reached code calls, or jumps to as to a function, and that are not known yet.
    fn called(&self, known: &[Known], entries: &[Off], returning: &Returning) -> Vec<(Off, u8)> {
        let mut new = Vec::new();
        for (index, known) in known.iter().enumerate() {
            let Some(body) = &known.body else { continue };
            for block in (0..body.blocks.len()).filter(|&b| returning.is_reached(index, b)) {
                for edge in body.edges_of(block) {
                    let calls = edge.kind == EdgeKind::Call && edge.flags == TAIL && edge.target != NONE;
                    if (calls || edge.flags & NEW_ENTRY != 0)
                        && entries.binary_search(&edge.target).is_err()
                        && self.context.code.insn(edge.target).is_some()
                    {
                        new.push((edge.target, source::CALLED));
                    }
                }
            }
        }
        new.sort_unstable();
        new.dedup();
        new
    }

    /// Parses the function at `at` alone; `None` if no code is there. Callees are looked at only as far as it
    /// takes to tell whether they return, and not beyond a bound: calls of functions behind it count as
    /// returning, so that the graph may have edges that [`parse`](Self::parse) knows are never taken, and
    /// none less. Calls and tail calls lead to addresses, not to blocks.
    ///
    /// # Errors
    /// [`ParseError::TooMany`].
    pub fn function(&self, at: LinkAddr) -> Result<Option<Cfg>, ParseError> {
        self.function_within(at, (5, 1500))
    }

    /// As [`function`](Self::function), but no callee is looked at: all calls count as returning.
    ///
    /// # Errors
    /// As for [`function`](Self::function).
    pub fn function_alone(&self, at: LinkAddr) -> Result<Option<Cfg>, ParseError> {
        self.function_within(at, (0, 1))
    }

    /// `bounds`: how deep calls are followed, and how many functions at most.
    fn function_within(&self, at: LinkAddr, bounds: (usize, usize)) -> Result<Option<Cfg>, ParseError> {
        let context = &self.context;
        let Some(entry) = context.code.offset(at.0).filter(|&at| context.code.insn(at).is_some()) else {
            return Ok(None);
        };
        let named = self.named();
        let entries = match self.starts().binary_search(&entry) {
            Ok(_) => Cow::Borrowed(self.starts()),
            Err(place) => {
                let mut entries = self.starts().to_vec();
                entries.insert(place, entry);
                Cow::Owned(entries)
            }
        };
        let source_of = |at: Off| {
            let known = named.binary_search_by_key(&at, |n| n.0).ok().and_then(|i| named.get(i));
            known.map_or(source::CALLED, |n| n.1)
        };
        let mut scratch = Scratch::default();
        let mut known = vec![Known { entry, source: source_of(entry), body: None }];
        for depth in 0.. {
            for function in known.iter_mut().filter(|k| k.body.is_none()) {
                function.body = Some(traverse(context, &entries, function.entry, &mut scratch));
            }
            let here: Vec<Off> = known.iter().map(|k| k.entry).collect();
            let bodies: Vec<&Body> = known.iter().filter_map(|k| k.body.as_ref()).collect();
            let returning = solve(context, &here, &bodies, Unknown::Returns);
            let new = self.callees(&known, &here, &returning);
            if depth >= bounds.0 || new.is_empty() || known.len() + new.len() > bounds.1 {
                let joined: Vec<Joined<'_>> = known
                    .iter()
                    .filter_map(|k| {
                        let wanted = k.entry == entry;
                        Some(Joined { entry: k.entry, source: k.source, body: k.body.as_ref()?, wanted })
                    })
                    .collect();
                return join(context, &joined, &returning, false).map(Some);
            }
            known.extend(new.into_iter().map(|at| Known { entry: at, source: source_of(at), body: None }));
            known.sort_by_key(|k| k.entry);
        }
        Ok(None)
    }

    /// Where the functions of [`named`](Self::named) begin.
    fn starts(&self) -> &[Off] {
        self.starts.get_or_init(|| self.named().iter().map(|(at, _)| *at).collect())
    }

    fn named(&self) -> &[(Off, u8)] {
        self.named.get_or_init(|| self.context.entries())
    }

    /// Functions that reached code calls or jumps to, and that are not among `here`.
    fn callees(&self, known: &[Known], here: &[Off], returning: &Returning) -> Vec<Off> {
        let mut new = Vec::new();
        for (index, function) in known.iter().enumerate() {
            let Some(body) = &function.body else { continue };
            for block in (0..body.blocks.len()).filter(|&b| returning.is_reached(index, b)) {
                let leaves = |e: &&LocalEdge| e.flags & (TAIL | NEW_ENTRY) != 0 && e.flags & IMPORT == 0;
                let targets = body.edges_of(block).iter().filter(leaves).map(|e| e.target);
                new.extend(targets.filter(|&at| at != NONE && here.binary_search(&at).is_err()));
            }
        }
        new.sort_unstable();
        new.dedup();
        new.retain(|&at| self.context.code.insn(at).is_some());
        new
    }

    /// The bytes of `range` that lie in no block of `cfg` and only fill up, between functions and behind what does not
    /// come back.
    pub fn padding_in(&self, cfg: &Cfg, range: Range<LinkAddr>) -> u64 {
        let code = &self.context.code;
        let inside = code.ranges().map(|text| {
            let offset = |at: LinkAddr| at.0.saturating_sub(code.base().0).min(u64::from(Off::MAX)) as Off;
            let (start, end) = (text.start.max(offset(range.start)), text.end.min(offset(range.end)));
            if start < end { padding::bytes(code, cfg, start..end) } else { 0 }
        });
        inside.sum()
    }

    /// The functions the file itself names: those of [`parse`](Self::parse) that need no code to be read.
    pub fn known_entries(&self) -> Vec<LinkAddr> {
        self.context.entries().into_iter().map(|(at, _)| self.context.code.link(at)).collect()
    }
}

/// Adds functions, and has those followed again that ran into them.
fn add(known: &mut Vec<Known>, new: Vec<(Off, u8)>) {
    for function in known.iter_mut() {
        let Some(body) = &function.body else { continue };
        let begins = |at: Off| at != function.entry && new.binary_search_by_key(&at, |n| n.0).is_ok();
        let holds = |range: Range<Off>| {
            new[new.partition_point(|n| n.0 <= range.start)..].first().is_some_and(|n| n.0 < range.end)
        };
        if body.blocks.iter().any(|b| begins(b.start) || holds(b.start..b.end)) {
            function.body = None;
        }
    }
    known.extend(new.into_iter().map(|(entry, source)| Known { entry, source, body: None }));
    known.sort_by_key(|k| k.entry);
}
