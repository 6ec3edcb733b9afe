//! What a script knows while it runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use incise_image::suggest;
use incise_patch::Snippet;
use incise_snippet::data::tables::{HEADER, map_layout};
use incise_snippet::interpret;
use incise_snippet::language::ast::{Place, ProbeKind, ScriptSyntax, UsdtSyntax};
use incise_snippet::language::{Action, Compiler, Diagnostic, Diagnostics, MapInfo};
use incise_snippet::show::{entries, print_map};
use incise_snippet::tree::Fault;
use incise_space::remote::{ProcessId, RemoteSpace};

use super::frames::Frames;
use super::memory::Memory;
use super::names::{Symbols, shown};
use super::scope::{PointScope, Shared, ToolScope};
use super::texts::Texts;
use super::tool::Tool;
use super::wanted::{Group, Wanted, wanted};
use super::{ScriptError, ScriptEvent, ScriptPoint};
use crate::count::{Found, Search};
use crate::point::PointKind;
use crate::program::Program;
use crate::session::Error;

/// Where events go.
pub(super) type Sink = Box<dyn FnMut(&ScriptEvent<'_>) -> io::Result<()>>;

/// What a script has in one process and its forked children.
pub(super) struct Part {
    pub memory: Memory,
    pub texts: RefCell<Option<Texts>>,
    pub frames: Frames,
}

pub(super) struct State {
    pub name: String,
    pub source: String,
    pub script: ScriptSyntax,
    pub shared: Shared,
    pub dry_run: bool,
    compiler: Compiler,
    pub searches: Vec<Search>,
    groups: Vec<Group>,
    /// Probes of programmers that are wanted, each with its group.
    pub wanted_usdt: Vec<(UsdtSyntax, usize)>,
    /// The searches for those in the process at hand.
    pub usdt_searches: Vec<Search>,
    /// Why one that is wanted is not there and cannot come.
    pub no_usdt: Option<Diagnostics>,
    /// Those that were found, as they are written.
    usdt_found: HashSet<String>,
    /// The program runs already: it has what it has.
    pub attached: bool,
    pub parts: Vec<Part>,
    pub of: HashMap<ProcessId, usize>,
    /// Records with their times, until nothing older can come.
    waiting: Vec<(u64, Box<[u64]>)>,
    /// The latest time of a record at the look before.
    seen: u64,
    pub intervals: Vec<(usize, Duration, Instant)>,
    /// Clauses that were compiled at a point.
    pub compiled: Vec<bool>,
    /// The first thing that is wrong with each clause.
    pub wrong: BTreeMap<usize, Diagnostics>,
    /// A probe whose module is a function.
    pub slip: Option<Diagnostics>,
    /// Why the script cannot go on.
    pub failed: Option<Error>,
    /// Points at which a clause could not be compiled.
    pub left_out: usize,
    /// Rows of unwind tables that found no room, in the process where those were most.
    pub rows_left_out: usize,
    sink: Sink,
    pub symbols: Symbols,
    /// The script asked for its end.
    pub over: bool,
}

/// The first of many names.
fn some(names: &[String]) -> String {
    const MOST: usize = 12;
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    format!("{}{more}", names[..names.len().min(MOST)].join(", "))
}

impl State {
    pub(super) fn new(
        name: &str,
        source: &str,
        script: ScriptSyntax,
        shared: Shared,
        dry_run: bool,
        sink: Sink,
    ) -> State {
        let Wanted { searches, usdt, groups } = wanted(&script);
        let now = Instant::now();
        let intervals = script.clauses.iter().enumerate().flat_map(|(index, clause)| {
            clause.probes.iter().filter_map(move |probe| match probe.kind {
                ProbeKind::Interval(every) => Some((index, every, now + every)),
                _ => None,
            })
        });
        State {
            name: name.to_owned(),
            source: source.to_owned(),
            compiler: Compiler::new(&script.structures),
            searches,
            groups,
            wanted_usdt: usdt,
            usdt_searches: Vec::new(),
            no_usdt: None,
            usdt_found: HashSet::new(),
            attached: false,
            parts: Vec::new(),
            of: HashMap::new(),
            waiting: Vec::new(),
            seen: 0,
            intervals: intervals.collect(),
            compiled: vec![false; script.clauses.len()],
            wrong: BTreeMap::new(),
            slip: None,
            failed: None,
            left_out: 0,
            rows_left_out: 0,
            sink,
            symbols: Symbols::default(),
            over: false,
            script,
            shared,
            dry_run,
        }
    }

    /// Whether anything is to be probed.
    pub(super) fn has_points(&self) -> bool {
        !self.searches.is_empty() || !self.wanted_usdt.is_empty()
    }

    /// Looks for probes of programmers in a process, and has it prepare them.
    pub(super) fn look_for_usdt(&mut self, program: &Program, pid: ProcessId, space: &mut RemoteSpace) {
        if self.wanted_usdt.is_empty() {
            return;
        }
        let mut usdt = self.shared.usdt.borrow_mut();
        self.usdt_searches = usdt.searches(&self.wanted_usdt, program);
        if !self.dry_run {
            usdt.raise(&self.wanted_usdt, program, pid, space);
        }
        self.no_usdt = None;
        for probe in self.script.clauses.iter().flat_map(|clause| &clause.probes) {
            let ProbeKind::Usdt(wanted) = &probe.kind else { continue };
            if !usdt.searches(&[(wanted.clone(), 0)], program).is_empty() {
                self.usdt_found.insert(probe.text.clone());
                continue;
            }
            // A library that is to have it may still come.
            let names = usdt.names(wanted, program);
            let may_come = wanted.module.is_none() || !usdt.is_there(wanted, program);
            if may_come && !self.attached {
                continue;
            }
            let error = Diagnostic::error(probe.span, "the program has no such probe");
            let near = suggest::nearest(&wanted.name, names.iter().filter_map(|name| name.split(':').nth(1)));
            let mut wrong = Diagnostics::new(&self.name, &self.source);
            wrong.push(match (&near[..], &names[..]) {
                ([], []) => error
                    .help("what is meant has no notes of <sys/sdt.h>; probe functions: function:MODULE:NAME"),
                ([], names) => error.help(format!("there are {}", some(names))),
                (near, _) => error.did_you_mean(near),
            });
            self.no_usdt.get_or_insert(wrong);
        }
    }

    /// Probes of programmers that no program had.
    fn usdt_not_found(&self) -> Vec<String> {
        let probes = self.script.clauses.iter().flat_map(|clause| &clause.probes);
        let wanted = probes.filter(|probe| matches!(probe.kind, ProbeKind::Usdt(_)));
        wanted.map(|probe| probe.text.clone()).filter(|text| !self.usdt_found.contains(text)).collect()
    }

    pub(super) fn has_intervals(&self) -> bool {
        !self.intervals.is_empty()
    }

    /// The part of a process; the first one is there before any process, for what `begin` puts into maps.
    pub(super) fn part(&mut self, index: usize) -> &mut Part {
        while self.parts.len() <= index {
            let (memory, texts, frames) =
                (Memory::default(), RefCell::new(None), Frames::new(self.shared.rows));
            self.parts.push(Part { memory, texts, frames });
        }
        &mut self.parts[index]
    }

    /// Runs the clauses of `begin` or `end`.
    pub(super) fn run_tool(&mut self, which: &ProbeKind) -> Result<(), Error> {
        for index in 0..self.script.clauses.len() {
            if self.script.clauses[index].probes.iter().any(|probe| probe.kind == *which) {
                self.run_clause(index)?;
            }
        }
        Ok(())
    }

    /// Whether the clauses that run in the tool later are right; in a dry run, shows them.
    pub(super) fn check_tool(&mut self) -> Result<(), Error> {
        for index in 0..self.script.clauses.len() {
            let clause = &self.script.clauses[index];
            let later = |kind: &ProbeKind| matches!(kind, ProbeKind::End | ProbeKind::Interval(_));
            if !clause.probes.iter().any(|probe| later(&probe.kind)) {
                continue;
            }
            if self.dry_run {
                self.run_clause(index)?;
                continue;
            }
            let scope = ToolScope(&self.shared);
            let program = self.compiler.clause(&self.name, &self.source, clause, &scope);
            program.map_err(ScriptError::Source)?;
        }
        Ok(())
    }

    pub(super) fn run_clause(&mut self, index: usize) -> Result<(), Error> {
        let clause = &self.script.clauses[index];
        let scope = ToolScope(&self.shared);
        let program = self.compiler.clause(&self.name, &self.source, clause, &scope);
        let program = program.map_err(ScriptError::Source)?;
        if self.dry_run {
            let event = ScriptEvent::Clause { probe: &clause.probes[0].text, program: &program };
            return (self.sink)(&event).map_err(Error::Output);
        }
        let last = self.of.values().copied().max().unwrap_or(0);
        let memory = &mut self.part(last).memory;
        let mut tool = Tool { memory, records: Vec::new() };
        // What ended early has done what it did.
        let _ = interpret::run(&program, &mut tool);
        for (id, fields) in tool.records {
            self.act(id, &fields)?;
        }
        Ok(())
    }

    /// Does what a record asks for.
    fn act(&mut self, id: u16, fields: &[u64]) -> Result<(), Error> {
        let Some(info) = self.compiler.output().records.get(usize::from(id)) else { return Ok(()) };
        let symbols = |at: u64| self.symbols.name(at);
        if let (Some(text), values) = shown(info, fields, &symbols) {
            let event = ScriptEvent::Printf { text: &text, values: &values };
            return (self.sink)(&event).map_err(Error::Output);
        }
        let result = match &info.action {
            Action::Printf(_) | Action::PrintValue | Action::Time(_) => Ok(()),
            Action::Exit => {
                self.over = true;
                Ok(())
            }
            Action::Print { map, top, divide } => {
                let (map, top, divide) = (*map, *top, *divide);
                return self.print(map, top, divide);
            }
            Action::Clear(map) => {
                let map = self.compiler.output().maps[*map].map.clone();
                if let Some(layout) = map_layout(&map) {
                    self.parts
                        .iter_mut()
                        .for_each(|part| part.memory.with(map.block(), |words| layout.clear(words)));
                }
                Ok(())
            }
            Action::Zero(map) => {
                self.zero(*map);
                Ok(())
            }
        };
        result.map_err(Error::Output)
    }

    /// Sets every value of a map to 0; the keys stay.
    fn zero(&mut self, map: usize) {
        let map = self.compiler.output().maps[map].map.clone();
        let Some(layout) = map_layout(&map) else { return };
        for part in &mut self.parts {
            let keys: Vec<Vec<u64>> =
                part.memory.read(&map).map(|(found, _)| found.into_keys().collect()).unwrap_or_default();
            part.memory.with(map.block(), |words| {
                layout.clear(words);
                use incise_snippet::data::Aggregate;
                let shown = matches!(
                    layout.aggregate(),
                    Aggregate::Last | Aggregate::Sum | Aggregate::Min | Aggregate::Max
                );
                for entry in keys.iter().filter(|_| shown).filter_map(|key| layout.entry(words, key, false)) {
                    layout.aggregate().add(entry, 0);
                }
            });
        }
    }

    /// Keys and values of a map, over all processes.
    fn contents(&self, map: &MapInfo) -> (BTreeMap<Vec<u64>, Vec<u64>>, u64) {
        let mut all: BTreeMap<Vec<u64>, Vec<u64>> = BTreeMap::new();
        let mut dropped = 0;
        let Some(layout) = map_layout(&map.map) else { return (all, 0) };
        for (found, lost) in self.parts.iter().filter_map(|part| part.memory.read(&map.map)) {
            dropped += lost;
            for (key, value) in found {
                match all.get_mut(&key) {
                    Some(into) => layout.aggregate().merge(into, &value),
                    None => drop(all.insert(key, value)),
                }
            }
        }
        (all, dropped)
    }

    fn print(&mut self, index: usize, top: Option<u64>, divide: Option<u64>) -> Result<(), Error> {
        let Some(info) = self.compiler.output().maps.get(index) else { return Ok(()) };
        let Some(layout) = map_layout(&info.map) else { return Ok(()) };
        let kind = layout.aggregate();
        let entries = entries(info, kind, &self.contents(info).0);
        let symbols = |at: u64| self.symbols.name(at);
        let text = print_map(info, kind, &entries, top, divide, &symbols);
        let most = top.map_or(entries.len(), |top| usize::try_from(top).unwrap_or(usize::MAX));
        let shown = &entries[entries.len().saturating_sub(most)..];
        let event = ScriptEvent::Map {
            name: &info.name,
            ty: &info.value,
            kind,
            entries: shown,
            text: &text,
            symbols: &symbols,
        };
        (self.sink)(&event).map_err(Error::Output)
    }

    /// Looks at the rings; at the `end`, takes all that is there.
    pub(super) fn drain(&mut self, end: bool) -> Result<(), Error> {
        let Some(ring) = self.shared.ring.get().cloned() else { return Ok(()) };
        let waiting = &mut self.waiting;
        for part in &mut self.parts {
            part.memory.drain(&ring, &mut |words| waiting.push((words[1], words.into())));
        }
        self.waiting.sort_by_key(|(time, _)| *time);
        // What comes at the next look may be older than what came now, but not older than what came before.
        let latest = self.waiting.last().map_or(self.seen, |(time, _)| *time);
        let ready = match end {
            true => self.waiting.len(),
            false => self.waiting.partition_point(|(time, _)| *time <= self.seen),
        };
        self.seen = latest.max(self.seen);
        let ready: Vec<_> = self.waiting.drain(..ready).collect();
        for (_, words) in ready {
            self.act(words[0] as u16, &words[HEADER..])?;
        }
        (self.sink)(&ScriptEvent::Pause).map_err(Error::Output)
    }

    /// The end: what is left in rings, the clauses of `end`, the maps.
    pub(super) fn finish(&mut self) -> Result<super::ScriptTotals, Error> {
        self.shared.usdt.borrow_mut().lower();
        self.drain(true)?;
        if !self.dry_run || !self.has_points() {
            self.run_tool(&ProbeKind::End)?;
        }
        if !self.dry_run {
            for index in 0..self.compiler.output().maps.len() {
                self.print(index, None, None)?;
            }
        }
        (self.sink)(&ScriptEvent::Pause).map_err(Error::Output)?;
        let dropped = self.compiler.output().maps.iter().map(|map| self.contents(map).1).sum();
        let mut faults: BTreeMap<usize, (Fault, u64)> = BTreeMap::new();
        for (fault, count) in self.parts.iter().flat_map(|part| part.memory.faults()) {
            faults.entry(fault as usize).or_insert((fault, 0)).1 += count;
        }
        Ok(super::ScriptTotals {
            lost: self.parts.iter().map(|part| part.memory.lost()).sum(),
            dropped,
            faults: faults.into_values().collect(),
            left_out: self.left_out,
            rows_left_out: self.rows_left_out,
            not_found: self.usdt_not_found(),
        })
    }

    pub(super) fn at_point(&mut self, found: &Found<'_>) -> Result<Option<Snippet>, Error> {
        let group = self.groups[found.group];
        let clause = &self.script.clauses[group.clause];
        let index = self.of.get(&found.pid).copied().unwrap_or(0);
        let Part { texts, frames, .. } = &self.parts[index];
        // An instruction that was asked for by its offset is no entry.
        let inside =
            found.point.kind == PointKind::BeforeInstruction && found.point.addr != found.point.function;
        let place = if inside { Place::Instruction } else { group.place };
        let scope = PointScope {
            shared: &self.shared,
            point: found.point,
            program: found.program,
            memory: found.memory,
            place,
            frames,
            texts: Some(texts),
            anywhere: false,
        };
        let program = match self.compiler.clause(&self.name, &self.source, clause, &scope) {
            Ok(program) => program,
            Err(diagnostics) => {
                self.left_out += 1;
                self.wrong.entry(group.clause).or_insert(diagnostics);
                return Ok(None);
            }
        };
        self.compiled[group.clause] = true;
        if self.dry_run {
            let point = ScriptPoint { point: found.point, line: None };
            let probe = &clause.probes[0].text;
            let event = ScriptEvent::Point { probe, point: &point, program: &program };
            (self.sink)(&event).map_err(Error::Output)?;
            return Ok(None);
        }
        let compiled = self.parts[index].memory.compiled(&program)?;
        Ok(Some(compiled.snippet()))
    }
}
