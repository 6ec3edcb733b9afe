//! Finds the points that patterns name and no probe is at yet, and puts probes in.

use incise_isa::Addr;
use incise_patch::{Atomicity, Batch, CounterId, MachineCode, Place, Policy, Position, Snippet, Tactic};
use incise_space::AddressSpace;

use super::{Process, Wanted};
use crate::count::following::{Following, Gets};
use crate::count::ledger;
use crate::count::probes::{Found, Search};
use crate::count::tally::Tally;
use crate::count::{CountOptions, Probes};
use crate::flow::{Implied, inside};
use crate::point::{Point, PointKind};
use crate::script::ScriptError;
use crate::session::Error;

/// A point, its counter if it has one, and what it gets.
type Placed = (Point, Option<CounterId>, Gets);

impl Process {
    /// Puts counters where the patterns match and none is yet. `strict`: a pattern that matches nothing is an
    /// error, unless what it names may still be loaded.
    pub(in crate::count) fn put_in(
        &mut self,
        space: &mut dyn AddressSpace,
        options: &CountOptions,
        probes: &mut Option<Box<dyn Probes>>,
        tally: &mut Tally,
        strict: bool,
    ) -> Result<(), Error> {
        if !self.loaded && probes.as_ref().is_some_and(|probes| probes.wait_for_libraries()) {
            return Ok(());
        }
        let searches = match probes {
            Some(probes) => probes.searches(options),
            None => Search::each(options, &[options.points]),
        };
        let several = searches.iter().any(|search| search.kind != PointKind::FunctionExit);
        let kinds = searches.iter().any(|search| search.kind != searches[0].kind);
        let infers = !options.exact && self.from_start && probes.is_none() && self.guards.is_none();
        let mut implied = Vec::new();
        let points = self.find(space, options, &searches, tally, strict, infers.then_some(&mut implied))?;
        if points.iter().any(|(group, point)| self.installed.contains(&(point.place(), *group))) {
            implied.clear();
        }
        let mut following = Following::new(implied);
        let mut batch = Batch::default();
        let mut placed = Vec::new();
        let mut before: Option<Point> = None;
        // How many probes depend on the condition, and why others cannot.
        let (mut guarded, mut wrong) = (0, None);
        for (group, point) in points {
            if !self.installed.insert((point.place(), group)) {
                continue;
            }
            let gets = following.offer(&point);
            if let Gets::Way | Gets::Nothing = gets {
                if let Gets::Way = gets {
                    batch.insert(point.place(), Snippet::Code(MachineCode::default()), Position::Last);
                    placed.push((point, None, gets));
                }
                before = None;
                continue;
            }
            let function = self.key(Place::from(point.function));
            let memory = |at: Addr, into: &mut [u8]| space.read(at, into).is_ok();
            let (pid, program) = (self.pid, &self.program);
            let (function_of, point_of) = (function.clone(), &point);
            let found =
                Found { pid, function: function_of, point: point_of, group, program, memory: &memory };
            let (mut snippet, counter) = match probes {
                Some(probes) => match probes.snippet(&found) {
                    Some(snippet) => (snippet, None),
                    None => continue,
                },
                None => {
                    let counter = self.engine.counter();
                    (Snippet::Counter(counter), Some(counter))
                }
            };
            if let Some(guards) = &mut self.guards {
                match guards.guard(&found, snippet.clone()) {
                    Ok(guard) => (snippet, guarded) = (guard, guarded + 1),
                    Err(error) => {
                        wrong.get_or_insert(error);
                        if !kinds {
                            let (key, addr) = (self.key(point.place()), point.addr);
                            let reason = "the condition has no meaning there".to_owned();
                            tally.refuse(key, &point.module, &point.display_name, addr, reason);
                            continue;
                        }
                    }
                }
            }
            let place = match counter {
                // One that is not always incremented says nothing about the next.
                Some(_) if self.guards.is_none() && !options.exact && matches!(gets, Gets::Counter) => {
                    ledger::place(&point, before.as_ref())
                }
                _ => point.place(),
            };
            let instance = batch.insert(place, snippet, Position::Last);
            if counter.is_none() {
                self.inside.entry(function).or_default().push(instance);
            }
            before = Some(point.clone()).filter(|_| matches!(gets, Gets::Counter));
            placed.push((point, counter, gets));
        }
        if let Some(wrong) = wrong.filter(|_| guarded == 0 && strict) {
            return Err(ScriptError::Source(wrong).into());
        }
        if let Some(probes) = probes {
            probes.offered(self.pid, strict)?;
        }
        self.engine.set_instrumentation(options.layout);
        self.commit_points(space, options, (&batch, &placed), tally, &mut following, several)?;
        let mut tell = |point: &Point| tally.entry(self.key(point.place()), point, Tactic::Inferred);
        let (inferred, others) = following.finish(&mut tell);
        inferred.into_iter().for_each(|inferred| self.own.infer(inferred));
        // What would follow from a counter that could not be put in.
        let (mut batch, mut placed) = (Batch::default(), Vec::new());
        for point in others {
            let counter = self.engine.counter();
            batch.insert(point.place(), Snippet::Counter(counter), Position::Last);
            placed.push((point, Some(counter), Gets::Counter));
        }
        self.commit_points(space, options, (&batch, &placed), tally, &mut Following::default(), several)
    }

    /// Puts in what each point gets.
    fn commit_points(
        &mut self,
        space: &mut dyn AddressSpace,
        options: &CountOptions,
        (batch, placed): (&Batch, &[Placed]),
        tally: &mut Tally,
        following: &mut Following,
        several: bool,
    ) -> Result<(), Error> {
        if placed.is_empty() {
            return Ok(());
        }
        let policy = Policy { atomicity: Atomicity::BestEffort, traps: options.traps };
        let report = self.engine.commit(space, &self.program, batch, policy)?;
        tally.note(&report);
        tally.mappings = tally.mappings.max(report.mappings);
        for ((point, counter, gets), entry) in placed.iter().zip(&report.entries) {
            if let Gets::Way = gets {
                continue;
            }
            let key = self.key(point.place());
            match Tally::outcome(&entry.outcome) {
                Ok(tactic) => {
                    tally.accept(&key);
                    let aside = point.kind == PointKind::FunctionExit && several;
                    if !aside {
                        let index = tally.entry(key, point, tactic);
                        if let Some(counter) = counter {
                            let index = self.own.push(index, entry.instance, *counter, point.addr);
                            if let Gets::BlockCounter(block) = gets {
                                following.is_counted(*block, index);
                            }
                        }
                    }
                }
                Err(reason) => tally.refuse(key, &point.module, &point.display_name, point.addr, reason),
            }
        }
        self.own.renew(&self.engine, &mut |entry, hits| tally.add(entry, hits));
        Ok(())
    }

    /// The points in modules that were not looked at before, and those of indirect functions decided since. `implied` gets which need no
    /// counter.
    fn find(
        &mut self,
        space: &dyn AddressSpace,
        options: &CountOptions,
        searches: &[Search],
        tally: &mut Tally,
        strict: bool,
        mut implied: Option<&mut Vec<Implied>>,
    ) -> Result<Vec<(usize, Point)>, Error> {
        let memory = |at: Addr, into: &mut [u8]| space.read(at, into).is_ok();
        let modules = self.program.modules();
        let finds = |search: &Search| search.query().run(&self.program, &memory);
        // Every pattern has to name something, wherever it was found before.
        for search in searches.iter().filter(|_| strict) {
            let Err(error) = finds(search) else { continue };
            match search.otherwise.as_deref().map(finds) {
                Some(Ok(_)) => {}
                _ if options.may_come(&error) => tally.await_match(&search.pattern, error),
                _ => return Err(error.into()),
            }
        }
        let mut points: Vec<(Wanted, Point)> = Vec::new();
        self.unresolved.retain(|(wanted, ifunc)| {
            let mut used = ifunc.resolve(&self.program, &memory);
            if used.is_empty() {
                used.extend(ifunc.decided(&self.program, self.resolvers.chosen(ifunc.resolver)));
            }
            let stays = used.is_empty();
            points.extend(used.into_iter().map(|point| (*wanted, point)));
            stays
        });
        let fresh =
            |index: &usize| self.searched.insert((modules[*index].path.clone(), modules[*index].bias));
        let fresh: Vec<usize> = (0..modules.len()).filter(fresh).collect();
        for search in searches.iter().filter(|_| !fresh.is_empty()) {
            let other = search.otherwise.as_deref().filter(|_| finds(search).is_err());
            let chosen = other.unwrap_or(search);
            let Ok(found) = chosen.query().run_in(&self.program, &fresh, &memory) else { continue };
            tally.matched(&search.pattern);
            let wanted = (chosen.group, chosen.kind);
            let of = |point: &Point| chosen.places || point.kind == PointKind::FunctionEntry;
            points.extend(found.points.into_iter().filter(of).map(|point| (wanted, point)));
            tally.incomplete.extend(found.incomplete);
            self.unresolved.extend(found.unresolved.into_iter().map(|ifunc| (wanted, ifunc)));
        }
        let mut by_kind: Vec<(Wanted, Vec<Point>)> = Vec::new();
        for (wanted, point) in points {
            match by_kind.iter_mut().find(|(known, _)| *known == wanted) {
                Some((_, points)) => points.push(point),
                None => by_kind.push((wanted, vec![point])),
            }
        }
        let mut all = Vec::new();
        for ((group, kind), points) in by_kind {
            let filter = options.filter.as_ref();
            let implied = implied.as_deref_mut();
            let found = inside(points, kind, filter, &self.program, &mut tally.incomplete, implied);
            all.extend(found.into_iter().map(|point| (group, point)));
        }
        Ok(all)
    }
}
