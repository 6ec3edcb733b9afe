//! Graphs of functions that are changed: edges lead elsewhere, blocks are split, code is put in and taken out. What was changed
//! becomes a transaction like any other, in a process or in a file, and can be taken back.
//!
//! ```
//! use incise::{Addr, Session};
//! use incise_cfg::EdgeKind;
//!
//! #[inline(never)]
//! extern "C" fn clamped(n: u64) -> u64 {
//!     if std::hint::black_box(n) > 100 {
//!         return std::hint::black_box(100);
//!     }
//!     n
//! }
//!
//! let session = Session::own()?;
//! let mut graph = session.graph(Addr(clamped as *const () as u64))?;
//! // Whatever the comparison says, control goes on behind it.
//! let taken = graph.cfg().edges().find(|edge| edge.kind() == EdgeKind::Taken).expect("a branch");
//! let behind = taken.source().end();
//! let taken = taken.id();
//! graph.redirect(taken, behind)?;
//! let change = graph.commit()?;
//! // A compiler may have put either side there.
//! let (small, large) = (clamped(7), clamped(700));
//! assert!((small, large) == (7, 700) || (small, large) == (100, 100));
//! change.revert()?;
//! assert_eq!((clamped(7), clamped(700)), (7, 100));
//! # Ok::<(), incise::Error>(())
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use incise_cfg::{Cfg, Draft, DraftError, Edge, EdgeId, EdgeKind, Function, ParseError};
use incise_image::{LinkAddr, Module};
use incise_isa::Addr;
use incise_patch::{InstanceId, Place, Placement, Position, Report, Snippet};
use incise_space::AddressSpace;
use incise_space::own::OwnSpace;

use super::goto;
use crate::flow::contents;
use crate::session::{Error, Session};
use crate::source::Binary;

/// Why a graph cannot be changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// No module with a file is there, or the file is another one by now.
    #[error("no function of a file that is mapped is at {0}")]
    NoFile(Addr),
    /// No code is there.
    #[error("no code is at {0}")]
    NoCode(Addr),
    /// The graph could not be had.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The graph does not have what was to be changed.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The graph has no such edge.
    #[error("the graph has no edge of this number")]
    NoEdge(EdgeId),
    /// No code of the function decides for such an edge.
    #[error("the {kind} edge from {from} cannot be changed: other code decides where it leads")]
    NotOurs {
        /// The instruction it leaves.
        from: LinkAddr,
        /// Its kind.
        kind: EdgeKind,
    },
}

/// The graph of a function, and how it is to be changed.
///
/// The graph shows redirected edges, split blocks and what was taken out; code that was put in has no address in the
/// program, so it does not show. Nothing happens to the program before [`commit`](Self::commit).
pub struct Graph<S: AddressSpace = OwnSpace> {
    session: Session<S>,
    module: Module,
    file: Vec<u8>,
    entry: LinkAddr,
    cfg: Cfg,
    changes: BTreeMap<Place, Changes>,
}

/// What shall happen on one way in or out of an instruction.
#[derive(Default)]
struct Changes {
    code: Vec<Snippet>,
    /// Then control goes here.
    goto: Option<LinkAddr>,
}

impl<S: AddressSpace> Session<S> {
    /// The graph of the function whose entry is at `entry`, from the [source](crate::source) of the session.
    ///
    /// # Errors
    /// [`Error::Graph`].
    pub fn graph(&self, entry: Addr) -> Result<Graph<S>, Error> {
        let found = self.with_program(|program, _| {
            let module = program.modules().iter().find(|module| module.range.contains(&entry));
            let module = module.ok_or(GraphError::NoFile(entry))?.clone();
            let file = contents(&module, program.pid()).ok_or(GraphError::NoFile(entry))?;
            let link = module.to_link(entry).ok_or(GraphError::NoFile(entry))?;
            let binary = Binary { path: &module.path, image: &module.image, file: &file };
            let cfg = program.cfg_source().open(binary).and_then(|graphs| graphs.function(link));
            let cfg = cfg.map_err(GraphError::from)?;
            let cfg = cfg.filter(|cfg| cfg.function_at(link).is_some()).ok_or(GraphError::NoCode(entry))?;
            Ok((module, file, link, Cfg::clone(&cfg)))
        })?;
        let (module, file, entry, cfg) = found;
        Ok(Graph { session: self.clone(), module, file, entry, cfg, changes: BTreeMap::new() })
    }
}

impl<S: AddressSpace> Graph<S> {
    /// The graph as it is now.
    pub fn cfg(&self) -> &Cfg {
        &self.cfg
    }

    /// The function in it; nothing once its first block was taken out and nothing is left of it.
    pub fn function(&self) -> Option<Function<'_>> {
        self.cfg.function_at(self.entry)
    }

    /// Where a link address is in the program.
    pub fn addr(&self, at: LinkAddr) -> Addr {
        self.module.to_addr(at)
    }

    /// The link address of an address.
    pub fn link(&self, at: Addr) -> Option<LinkAddr> {
        self.module.to_link(at)
    }

    /// Splits the block that holds the instruction at `at`, which begins the second part.
    ///
    /// # Errors
    /// [`GraphError::Draft`] if no instruction of the graph begins there.
    pub fn split(&mut self, at: LinkAddr) -> Result<(), GraphError> {
        let mut draft = Draft::of(&self.cfg);
        draft.split(at, &self.module.image, &self.file)?;
        self.cfg = draft.build();
        Ok(())
    }

    /// Lets an edge lead to `to`, which should be where a block begins: of this function or of any other code of the file.
    ///
    /// # Errors
    /// [`GraphError`], if there is no such edge, or it is a call, a return or an exception.
    pub fn redirect(&mut self, edge: EdgeId, to: LinkAddr) -> Result<(), GraphError> {
        let edge = self.cfg.edge(edge).ok_or(GraphError::NoEdge(edge))?;
        let place = self.place(edge)?;
        let mut draft = Draft::of(&self.cfg);
        draft.redirect(edge, to)?;
        self.cfg = draft.build();
        self.changes.entry(place).or_default().goto = Some(to);
        Ok(())
    }

    /// Runs `code` on an edge, behind what was put there before.
    ///
    /// # Errors
    /// As for [`redirect`](Self::redirect).
    pub fn insert_on(&mut self, edge: EdgeId, code: impl Into<Snippet>) -> Result<(), GraphError> {
        let place = self.place(self.cfg.edge(edge).ok_or(GraphError::NoEdge(edge))?)?;
        self.changes.entry(place).or_default().code.push(code.into());
        Ok(())
    }

    /// Runs `code` before the instruction at `at`, behind what was put there before.
    ///
    /// # Errors
    /// [`GraphError::Draft`] if no instruction of the graph begins there.
    pub fn insert(&mut self, at: LinkAddr, code: impl Into<Snippet>) -> Result<(), GraphError> {
        Draft::of(&self.cfg).split(at, &self.module.image, &self.file)?;
        let place = Place::before(self.module.to_addr(at));
        self.changes.entry(place).or_default().code.push(code.into());
        Ok(())
    }

    /// Takes the instructions of `range` out: control that comes to any block in it goes on behind it.
    ///
    /// # Errors
    /// [`GraphError::Draft`] if no instruction of the graph begins at either end.
    pub fn remove(&mut self, range: Range<LinkAddr>) -> Result<(), GraphError> {
        let mut draft = Draft::of(&self.cfg);
        draft.split(range.start, &self.module.image, &self.file)?;
        draft.split(range.end, &self.module.image, &self.file)?;
        let split = draft.clone().build();
        let inside: Vec<LinkAddr> =
            split.blocks().map(|block| block.start()).filter(|at| range.contains(at)).collect();
        for at in inside {
            draft.remove(at, range.end)?;
            let place = Place::before(self.module.to_addr(at));
            self.changes.entry(place).or_default().goto = Some(range.end);
        }
        self.cfg = draft.build();
        Ok(())
    }

    /// The way in or out of an instruction by which control goes along an edge.
    fn place(&self, edge: Edge<'_>) -> Result<Place, GraphError> {
        let (from, kind) = (edge.source().last(), edge.kind());
        let none = GraphError::NotOurs { from, kind };
        let (at, placement) = match kind {
            EdgeKind::Taken | EdgeKind::Direct => (from, Placement::Taken),
            EdgeKind::NotTaken | EdgeKind::FallThrough => (from, Placement::After),
            EdgeKind::CallFallThrough => (edge.source().end(), Placement::Returned),
            EdgeKind::Indirect => {
                let to = self.original_target(edge).ok_or(none)?;
                (from, Placement::Toward(self.module.to_addr(to)))
            }
            EdgeKind::Call | EdgeKind::Return | EdgeKind::Catch => return Err(none),
        };
        Ok(Place { at: self.module.to_addr(at), placement })
    }

    /// Where the program goes along an indirect edge, which may have been redirected.
    fn original_target(&self, edge: Edge<'_>) -> Option<LinkAddr> {
        let now = edge.target_addr()?;
        let from = self.module.to_addr(edge.source().last());
        let mut redirected =
            self.changes.iter().filter(|(place, change)| place.at == from && change.goto == Some(now));
        match redirected.next().map(|(place, _)| place.placement) {
            Some(Placement::Toward(to)) => self.module.to_link(to),
            _ => Some(now),
        }
    }

    /// Makes it so: all of it, or nothing.
    ///
    /// # Errors
    /// [`Error::Commit`]: then nothing was changed.
    pub fn commit(self) -> Result<GraphChange<S>, Error> {
        let mut batch = self.session.batch();
        let mut instances = Vec::new();
        for (place, change) in &self.changes {
            for code in &change.code {
                instances.push(batch.insert(*place, code.clone(), Position::Last));
            }
            if let Some(to) = change.goto {
                instances.push(batch.insert(*place, goto(self.module.to_addr(to)), Position::Last));
            }
        }
        let report = batch.commit()?;
        Ok(GraphChange { session: self.session, instances, report })
    }
}

/// A graph that was changed in the program.
pub struct GraphChange<S: AddressSpace = OwnSpace> {
    session: Session<S>,
    instances: Vec<InstanceId>,
    /// How each place was patched.
    pub report: Report,
}

impl<S: AddressSpace> GraphChange<S> {
    /// What was inserted, to be removed alone or with others.
    pub fn instances(&self) -> &[InstanceId] {
        &self.instances
    }

    /// Takes it back.
    ///
    /// # Errors
    /// [`Error::Commit`]: then it stays.
    pub fn revert(self) -> Result<(), Error> {
        let mut batch = self.session.batch();
        self.instances.iter().for_each(|&instance| batch.remove(instance));
        batch.commit()?;
        Ok(())
    }
}
