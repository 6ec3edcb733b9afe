//! Parsing: whole programs on all cores, or single functions on demand.
//!
//! Functions are followed independently of each other, against a set of entries that does not change
//! meanwhile; what they find is joined between rounds, in the order of addresses. So the result does not
//! depend on how many threads there are, or which of them is faster.

use std::sync::atomic::{AtomicUsize, Ordering};

use incise_image::{Image, LinkAddr};

use crate::body::{Body, NEW_ENTRY, TAIL};
use crate::code::{NONE, Off};
use crate::context::{Context, source};
use crate::edge::{EdgeKind, ParseError};
use crate::graph::Cfg;
use crate::join::{Joined, join};
use crate::returning::{Returning, solve};
use crate::traverse::{Scratch, traverse};

/// Most rounds of following functions that other functions call.
const MOST_ROUNDS: usize = 64;

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
    context: Context<'a>,
}

/// A function that is known.
struct Known {
    entry: Off,
    source: u8,
    body: Option<Body>,
}

impl<'a> Parser<'a> {
    /// Prepares to parse. `file` are the contents `image` was parsed from. Reads the unwind tables and
    /// symbols, and no code.
    ///
    /// # Errors
    /// [`ParseError::TooFarApart`].
    pub fn new(image: &'a Image, file: &'a [u8]) -> Result<Parser<'a>, ParseError> {
        Ok(Parser { context: Context::new(image, file)? })
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
        for _ in 0..MOST_ROUNDS {
            self.follow(&mut known, options);
            let entries: Vec<Off> = known.iter().map(|k| k.entry).collect();
            let bodies: Vec<&Body> = known.iter().filter_map(|k| k.body.as_ref()).collect();
            let returning = solve(context, &entries, &bodies);
            let new = self.called(&known, &entries, &returning);
            if new.is_empty() {
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
                return join(context, &joined, &returning);
            }
            add(&mut known, new);
        }
        Err(ParseError::TooMany { what: "rounds" })
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
        let holds = |range: std::ops::Range<Off>| {
            new[new.partition_point(|n| n.0 <= range.start)..].first().is_some_and(|n| n.0 < range.end)
        };
        if body.blocks.iter().any(|b| begins(b.start) || holds(b.start..b.end)) {
            function.body = None;
        }
    }
    known.extend(new.into_iter().map(|(entry, source)| Known { entry, source, body: None }));
    known.sort_by_key(|k| k.entry);
}
