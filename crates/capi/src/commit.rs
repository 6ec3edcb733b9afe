//! The commit: what is queued becomes one transaction.

use std::collections::HashMap;

use incise::{Atomicity, Batch, CommitError, Counter, Entry, InstanceId, Query, Report, Snippet};

use crate::data::Snippets;
use crate::error::Error;
use crate::library::{Active, Library, Parts, Queued};
use crate::operation::{Change, Operation, What};
use crate::options::Reported;
use crate::resolve::{Lookup, Site};
use crate::results::Outcome;

/// What a commit did.
#[derive(Default)]
pub struct Committed {
    /// What the options say shall be reported.
    pub outcomes: Vec<Outcome>,
    /// Why nothing was changed, if so.
    pub error: Option<Error>,
}

impl Committed {
    fn failed(error: Error) -> Committed {
        Committed { outcomes: Vec::new(), error: Some(error) }
    }

    /// Nothing was changed because of `outcomes`, all of which are errors.
    fn refused(outcomes: Vec<Outcome>) -> Committed {
        let error = outcomes.iter().find_map(|outcome| {
            let first = Box::new(outcome.done.as_ref().err()?.clone());
            Some(Error::Transaction { failed: outcomes.len(), place: place(outcome), first })
        });
        Committed { outcomes, error }
    }
}

/// How a place is called in a message.
fn place(outcome: &Outcome) -> String {
    let Site { addr, module, function } = &outcome.site;
    match (function.is_empty(), addr.0) {
        (_, 0) => format!("cookie {}", outcome.cookie),
        (true, _) => format!("cookie {} at {addr}", outcome.cookie),
        (false, _) => format!("{module}!{function} at {addr}"),
    }
}

impl Library {
    /// Does what is queued. The queue is empty then.
    ///
    /// # Errors
    /// The library is not set up.
    pub fn commit(&mut self) -> Result<Committed, Error> {
        let active = self.active.as_mut().ok_or(Error::NotInit)?;
        let queue = std::mem::take(&mut active.queue);
        if queue.is_empty() {
            return Ok(Committed::default());
        }
        Ok(active.commit(&mut self.parts, queue).unwrap_or_else(Committed::failed))
    }
}

/// A transaction being put together.
struct Transaction {
    batch: Batch,
    /// The insertions by the instances they would be.
    insertions: HashMap<InstanceId, (u64, Site)>,
    removals: Vec<u64>,
    counters: Vec<(u64, Counter)>,
    /// Operations that failed before the batch could be tried.
    failed: Vec<Outcome>,
}

impl Active {
    fn commit(&mut self, parts: &mut Parts, queue: Vec<Queued>) -> Result<Committed, Error> {
        let mut snippets = self.snippets.take();
        let committed = self.commit_with(parts, queue, &mut snippets);
        self.snippets = snippets;
        committed
    }

    fn commit_with(
        &mut self,
        parts: &mut Parts,
        queue: Vec<Queued>,
        snippets: &mut Option<Snippets>,
    ) -> Result<Committed, Error> {
        let lookup = Lookup::new(&self.space, &mut parts.images)?;
        let best_effort = self.options.atomicity == Atomicity::BestEffort;
        let mut batch = self.session.batch().traps(self.options.traps);
        if best_effort {
            batch = batch.best_effort();
        }
        let mut transaction = Transaction {
            batch,
            insertions: HashMap::new(),
            removals: Vec::new(),
            counters: Vec::new(),
            failed: Vec::new(),
        };
        for queued in queue {
            self.add(parts, &lookup, &mut transaction, snippets, queued);
        }
        if !best_effort && !transaction.failed.is_empty() {
            return Ok(Committed::refused(transaction.failed));
        }
        let Transaction { batch, insertions, removals, counters, failed } = transaction;
        let outcome_of = |entry: Entry, error: fn(incise::Refusal) -> Error, cookie: u64| Outcome {
            cookie: insertions.get(&entry.instance).map_or(cookie, |(cookie, _)| *cookie),
            site: match insertions.get(&entry.instance) {
                Some((_, site)) => site.clone(),
                None => lookup.describe(entry.at),
            },
            done: match entry.outcome {
                incise::Outcome::Installed(tactic) => Ok(tactic),
                incise::Outcome::Refused(refusal) => Err(error(refusal)),
            },
        };
        let report: Report = match batch.commit() {
            Ok(report) => report,
            Err(incise::Error::Commit(CommitError::Refused(entries))) => {
                let cookie = |entry: &Entry| self.installed.cookies.get(&entry.instance).copied();
                let refused = entries.into_iter().map(|entry| {
                    let cookie = cookie(&entry).unwrap_or_default();
                    outcome_of(entry, Error::Refused, cookie)
                });
                return Ok(Committed::refused(refused.collect()));
            }
            Err(error) => return Err(error.into()),
        };
        removals.into_iter().for_each(|cookie| self.installed.take_all(cookie));
        let mut outcomes = failed;
        for entry in report.entries {
            let instance = entry.instance;
            let outcome = match insertions.get(&instance) {
                Some(_) => outcome_of(entry, Error::Refused, 0),
                // Not of this transaction: it was there before, and had to go.
                None => outcome_of(entry, Error::Lost, self.installed.take(instance).unwrap_or_default()),
            };
            if outcome.done.is_ok() {
                self.installed.add(outcome.cookie, instance);
            }
            if outcome.done.is_err() || self.options.reported == Reported::All {
                outcomes.push(outcome);
            }
        }
        // In the order they were queued.
        outcomes.sort_by_key(|outcome| outcome.cookie);
        let installed = &self.installed.instances;
        self.counters.extend(counters.into_iter().filter(|(cookie, _)| installed.contains_key(cookie)));
        Ok(Committed { outcomes, error: None })
    }

    /// A snippet in text as code for a site.
    fn compiled(&self, snippets: &mut Option<Snippets>, text: &str, site: &Site) -> Result<Snippet, Error> {
        let points = self.session.find(Query::functions(format!("*{:#x}", site.addr.0)))?;
        let point = points.first().ok_or_else(|| Error::Snippet("there is no code".to_owned()))?;
        let snippets = snippets.get_or_insert_with(|| Snippets::new(self.session.language()));
        Ok(snippets.language.program(text, point)?.snippet())
    }

    /// Adds an operation to a transaction.
    fn add(
        &self,
        parts: &mut Parts,
        lookup: &Lookup<'_>,
        to: &mut Transaction,
        snippets: &mut Option<Snippets>,
        queued: Queued,
    ) {
        let Queued { cookie, operation } = queued;
        match operation {
            Operation::Change(change) => {
                for &instance in self.installed.instances.get(&cookie).into_iter().flatten() {
                    match change {
                        Change::Remove => to.batch.remove(instance),
                        Change::Disable => to.batch.enable(instance, false),
                        Change::Enable => to.batch.enable(instance, true),
                    }
                }
                if change == Change::Remove {
                    to.removals.push(cookie);
                }
            }
            Operation::Insert { what, place, position } => {
                let sites = match lookup.sites(&place) {
                    Ok(sites) => sites,
                    Err(error) => {
                        to.failed.push(Outcome::nowhere(cookie, error));
                        return;
                    }
                };
                let snippet = match what {
                    What::Probe { probe, user_data } => {
                        parts.records.snippet(probe, user_data, self.options.vector)
                    }
                    What::Snippet(text) => {
                        for site in sites {
                            match self.compiled(snippets, &text, &site) {
                                Ok(snippet) => {
                                    let instance = to.batch.insert(site.addr, snippet, position);
                                    to.insertions.insert(instance, (cookie, site));
                                }
                                Err(error) => {
                                    to.failed.push(Outcome { cookie, site, done: Err(error) });
                                }
                            }
                        }
                        return;
                    }
                    What::Tree(program) => match self.session.program(&program) {
                        Ok(compiled) => compiled.snippet(),
                        Err(error) => {
                            to.failed.push(Outcome::nowhere(cookie, error.into()));
                            return;
                        }
                    },
                    What::Counter => {
                        let counter = self.session.counter(format!("cookie {cookie}"));
                        let snippet = counter.increment();
                        to.counters.push((cookie, counter));
                        snippet
                    }
                };
                for site in sites {
                    let instance = to.batch.insert(site.addr, snippet.clone(), position);
                    to.insertions.insert(instance, (cookie, site));
                }
            }
        }
    }
}
