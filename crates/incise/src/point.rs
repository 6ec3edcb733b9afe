//! Places to put snippets, and how they are asked for.

use incise_image::{
    FunctionKind, MemoryReader, Module, Pattern, PatternError, Target, find, implementations,
};
use incise_isa::Addr;
use incise_isa::native::Syntax;
use incise_patch::{Place, Placement};

use crate::boundary::around;
use crate::filter::Filter;
use crate::flow::{PointView, inside};
use crate::program::Program;
use crate::range::in_range;

/// Where in the control flow a point is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum PointKind {
    /// The first instruction of a function.
    #[default]
    FunctionEntry,
    /// Before what leaves a function: a return, a tail call; on its way out, where that is conditional. A function
    /// that is left by longjmp(3) or an exception does not come by: see [`PointKind::NoReturn`].
    FunctionExit,
    /// While a function runs: at its entry, where its calls come back, and where each pass of its loops begins. It never runs
    /// for long without coming by one.
    FunctionDuring,
    /// Before a call that does not come back: exit(3), longjmp(3), a `throw`, and where an exception goes on behind a cleanup of
    /// the function. One that it has no cleanup and no handler for leaves it without running any of its code.
    NoReturn,
    /// The first instruction of a block: of code that is entered at its start only, and left at its end only.
    BlockEntry,
    /// Before the last instruction of a block, which decides where to go on.
    BlockExit,
    /// Before a call.
    BeforeCall,
    /// Behind a call that came back: see [`Placement::Returned`].
    AfterCall,
    /// Before one instruction.
    BeforeInstruction,
    /// Behind one instruction that goes on to the next, and behind a call that came back. Branches, jumps and returns
    /// have no such point: where they go are edges.
    AfterInstruction,
    /// On an edge between two blocks of a function, calls left out: a conditional branch that is taken or not, a jump,
    /// one target of a jump table, the way from one block into the next.
    Edge,
    /// On an edge by which control enters a loop.
    LoopEntry,
    /// On an edge by which control leaves a loop.
    LoopExit,
    /// The first instruction of a loop's header: each pass, the first included. Where the condition is tested there,
    /// the pass that finds it false counts too.
    LoopIteration,
    /// On an edge that leads from inside a loop back to its header: a pass that another one follows.
    LoopIterationEnd,
}

impl PointKind {
    /// All kinds, with their names: lower case with dashes.
    pub const NAMES: [(&'static str, PointKind); 15] = [
        ("entry", PointKind::FunctionEntry),
        ("exit", PointKind::FunctionExit),
        ("during", PointKind::FunctionDuring),
        ("no-return", PointKind::NoReturn),
        ("block", PointKind::BlockEntry),
        ("block-exit", PointKind::BlockExit),
        ("call", PointKind::BeforeCall),
        ("after-call", PointKind::AfterCall),
        ("instruction", PointKind::BeforeInstruction),
        ("after-instruction", PointKind::AfterInstruction),
        ("edge", PointKind::Edge),
        ("loop-entry", PointKind::LoopEntry),
        ("loop-exit", PointKind::LoopExit),
        ("loop-iteration", PointKind::LoopIteration),
        ("loop-iteration-end", PointKind::LoopIterationEnd),
    ];

    /// The kind that is called `name`.
    pub fn named(name: &str) -> Option<PointKind> {
        PointKind::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Its name in [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        PointKind::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// A place in a program's control flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Point {
    /// What kind of place.
    pub kind: PointKind,
    /// The instruction.
    pub addr: Addr,
    /// The entry of the function it is in.
    pub function: Addr,
    /// On which way in or out of the instruction.
    pub placement: Placement,
    /// For a point on an edge: the instruction it leaves, and the one it leads to.
    pub edge: Option<(Addr, Addr)>,
    /// File name of the module, such as `libc.so.6`.
    pub module: String,
    /// The name that was asked for; for an indirect function its own, not its implementation's.
    pub name: String,
    /// The function as its programmer wrote it (C++ and Rust names demangled).
    pub display_name: String,
    /// For an indirect function, the symbol of the implementation the program uses.
    pub implementation: Option<String>,
    /// All symbols of the function.
    pub names: Vec<String>,
}

impl Point {
    /// The instruction and the way in or out of it.
    pub fn place(&self) -> Place {
        Place { at: self.addr, placement: self.placement }
    }
}

/// An indirect function whose implementation is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unresolved {
    /// File name of the module.
    pub module: String,
    /// The name that was asked for.
    pub name: String,
    /// Address of the resolver.
    pub resolver: Addr,
    target: Target,
}

/// What a query found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The points, module by module, ascending.
    pub points: Vec<Point>,
    /// Indirect functions that nothing in the program refers to (yet): which implementation a call would
    /// reach is decided when something does.
    pub unresolved: Vec<Unresolved>,
    /// Functions that may have more points of the kind that was asked for.
    pub incomplete: Vec<Incomplete>,
}

/// A function whose points could not all be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incomplete {
    /// File name of the module.
    pub module: String,
    /// The function as its programmer wrote it.
    pub function: String,
    /// Its entry.
    pub addr: Addr,
    /// What is not known.
    pub why: String,
}

impl Incomplete {
    pub(crate) fn new(entry: &Point, why: &str) -> Incomplete {
        let (module, function) = (entry.module.clone(), entry.display_name.clone());
        Incomplete { module, function, addr: entry.addr, why: why.to_owned() }
    }
}

/// Which points are wanted: names or addresses, in which modules.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub(crate) patterns: Vec<String>,
    module: Option<String>,
    kind: Option<PointKind>,
    filter: Option<Filter>,
    /// Also where no instruction begins.
    anywhere: bool,
}

impl Query {
    /// Functions whose names match `pattern`: a name or glob (`str*`), `MODULE!NAME`, `NAME+OFFSET`,
    /// `*0xADDRESS`; or the instructions of a range: `NAME+FROM..NAME+TO`, `*0xFROM..*0xTO`.
    pub fn functions(pattern: impl Into<String>) -> Query {
        Query { patterns: vec![pattern.into()], ..Query::default() }
    }

    /// As [`functions`](Self::functions), and addresses in the middle of an instruction are found too.
    pub(crate) fn anywhere(pattern: &str) -> Query {
        Query { anywhere: true, ..Query::functions(pattern) }
    }

    /// Also what `pattern` matches.
    pub fn or(mut self, pattern: impl Into<String>) -> Query {
        self.patterns.push(pattern.into());
        self
    }

    /// Only in modules whose file name matches (`libc` means `libc.so.6` too).
    pub fn module(mut self, pattern: impl Into<String>) -> Query {
        self.module = Some(pattern.into());
        self
    }

    /// The points of this kind in the functions that are named; their entries by default. An address or an offset
    /// inside a function always is one [`PointKind::BeforeInstruction`].
    ///
    /// ```no_run
    /// use incise::{PointKind, Query, Session};
    ///
    /// let session = Session::own()?;
    /// // Where the functions of a library are left.
    /// let found = session.look(Query::functions("libz!deflate*").kind(PointKind::FunctionExit))?;
    /// println!("{} exits, {} functions may have more", found.points.len(), found.incomplete.len());
    /// # Ok::<(), incise::Error>(())
    /// ```
    pub fn kind(mut self, kind: PointKind) -> Query {
        self.kind = Some(kind);
        self
    }

    /// Only points that `accepts` accepts; several filters have to accept. It must not use the session that looks.
    ///
    /// ```
    /// use incise::{PointKind, PointView, Query, Session};
    ///
    /// let session = Session::own()?;
    /// // Where functions are left.
    /// let exits = session.find(Query::functions("libc!bsearch").kind(PointKind::FunctionExit))?;
    /// // The ends of blocks that go on in one of two ways.
    /// let two_successors = |view: &PointView| view.out_degree() == Some(2);
    /// let ends = Query::functions("libc!bsearch").kind(PointKind::BlockExit);
    /// let decisions = session.find(ends.clone().filter(two_successors))?;
    /// assert!(exits.len() >= 1 && decisions.len() >= 2 && decisions.len() < session.find(ends)?.len());
    /// # Ok::<(), incise::Error>(())
    /// ```
    pub fn filter(self, accepts: impl Fn(&PointView<'_>) -> bool + Send + Sync + 'static) -> Query {
        self.only(Filter::new(accepts))
    }

    /// As [`filter`](Self::filter), with one that was made before, perhaps of text.
    pub fn only(mut self, filter: Filter) -> Query {
        self.filter = Some(match self.filter {
            Some(before) => before.and(filter),
            None => filter,
        });
        self
    }

    /// Finds the points in `program`; `memory` tells which implementations of indirect functions are in use.
    ///
    /// # Errors
    /// A pattern that is malformed or that nothing matches; an address in the middle of an instruction.
    pub fn run(&self, program: &Program, memory: &dyn MemoryReader) -> Result<Found, PatternError> {
        let all: Vec<usize> = (0..program.modules().len()).collect();
        let mut found = self.run_in(program, &all, memory)?;
        let kind = self.kind.unwrap_or_default();
        found.points = inside(found.points, kind, self.filter.as_ref(), program, &mut found.incomplete, None);
        Ok(found)
    }

    /// The entries and instructions in some of the program's modules, given by index.
    pub(crate) fn run_in(
        &self,
        program: &Program,
        chosen: &[usize],
        memory: &dyn MemoryReader,
    ) -> Result<Found, PatternError> {
        let patterns =
            self.patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let modules = program.modules();
        let part: Vec<Module> = chosen.iter().map(|&index| modules[index].clone()).collect();
        let (mut found, mut ranges) = (Found::default(), Vec::new());
        for mut target in find(&part, &patterns, self.module.as_deref())? {
            target.module = chosen[target.module];
            let module = &modules[target.module];
            let inside = || around(program, target.addr).filter(|_| !self.anywhere);
            if target.addr != target.start
                && let Some(insn) = inside()
            {
                return Err(PatternError::InsideInstruction {
                    pattern: target.name,
                    at: target.addr,
                    start: insn.addr(),
                    instruction: insn.text_in(Syntax::Intel),
                });
            }
            if let Some(end) = target.end {
                ranges.extend(in_range(program, module, &target, end, &mut found.incomplete));
                continue;
            }
            if target.kind == FunctionKind::Plain || target.addr != target.start {
                found.points.push(point(module, &target));
                continue;
            }
            let unresolved = Unresolved {
                module: module.name.clone(),
                name: target.name.clone(),
                resolver: target.start,
                target,
            };
            let used = unresolved.resolve(program, memory);
            if used.is_empty() {
                found.unresolved.push(unresolved);
            }
            found.points.extend(used);
        }
        merge(&mut found.points);
        if !ranges.is_empty() {
            found.points.extend(ranges);
            // An entry still stands for what is to be found in its function.
            let entry = |point: &Point| point.kind == PointKind::FunctionEntry;
            found.points.sort_by_key(|point| (point.place(), !entry(point)));
            let only_entries = self.kind.unwrap_or_default() == PointKind::FunctionEntry;
            found.points.dedup_by(|later, first| {
                later.place() == first.place() && (only_entries || entry(later) == entry(first))
            });
        }
        Ok(found)
    }
}

impl Unresolved {
    /// The implementations that the program uses now.
    pub(crate) fn resolve(&self, program: &Program, memory: &dyn MemoryReader) -> Vec<Point> {
        let modules = program.modules();
        let Some(index) = modules.iter().position(|module| module.range.contains(&self.resolver)) else {
            return Vec::new();
        };
        let target = Target { module: index, ..self.target.clone() };
        let used = implementations(modules, &target, memory).into_iter();
        used.map(|addr| chosen(program, index, &target, addr)).collect()
    }

    /// The implementation that the resolver was seen to choose, if it is code of some module.
    pub(crate) fn decided(&self, program: &Program, implementation: Option<Addr>) -> Option<Point> {
        let modules = program.modules();
        let index = modules.iter().position(|module| module.range.contains(&self.resolver))?;
        let target = Target { module: index, ..self.target.clone() };
        let at = implementation.filter(|at| modules.iter().any(|module| module.is_text(*at)))?;
        Some(chosen(program, index, &target, at))
    }
}

/// The point at the implementation `addr` of `target`, which is in the module `index`.
fn chosen(program: &Program, index: usize, target: &Target, addr: Addr) -> Point {
    let home = &program.modules()[index];
    let module = program.module_at(addr).unwrap_or(home);
    let symbol = module.function_at(addr).filter(|(_, offset)| *offset == 0);
    let implementation = symbol.map(|(function, _)| module.image.name(function).to_owned());
    Point { addr, function: addr, implementation, ..point(home, target) }
}

fn point(module: &Module, target: &Target) -> Point {
    let inside = target.addr != target.start;
    Point {
        kind: if inside { PointKind::BeforeInstruction } else { PointKind::FunctionEntry },
        addr: target.addr,
        function: target.start,
        placement: Placement::Before,
        edge: None,
        module: module.name.clone(),
        name: target.name.clone(),
        display_name: target.display_name().into_owned(),
        implementation: None,
        names: target.names.clone(),
    }
}

/// One point per place: the implementation of an indirect function that also matched by its own name takes
/// the name the programmer calls it by.
fn merge(points: &mut Vec<Point>) {
    points.sort_by_key(|point| (point.place(), point.implementation.is_none()));
    points.dedup_by(|later, first| {
        let same = later.place() == first.place();
        if same {
            for name in later.names.drain(..) {
                if !first.names.contains(&name) {
                    first.names.push(name);
                }
            }
        }
        same
    });
}
