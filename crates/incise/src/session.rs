//! A session: one program, its probes, and the transactions that change them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use incise_image::PatternError;
use incise_isa::Addr;
use incise_patch::{
    Atomicity, Batch as Draft, CommitError, CounterId, Engine, InstanceId, Policy, Position, Report, Snippet,
    TrapPolicy,
};
use incise_space::own::OwnSpace;
use incise_space::{AddressSpace, SpaceError};

use crate::point::{Found, Point, Query};
use crate::program::{Images, Program};

/// Why something could not be found or done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pattern is malformed or matches nothing.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The address space could not do it.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A transaction changed nothing.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The probes in one process: the one this code runs in, unless another address space is given.
///
/// A session can be cloned, and one of the own process used from any thread; all clones are the same session.
/// Dropping it leaves the probes in place: [`Session::remove_all`] takes them out.
///
/// In another process, whose [`Tracer`](incise_space::remote::Tracer) the caller keeps going:
///
/// ```no_run
/// use incise::space::remote::{ProcessId, Tracer};
/// use incise::{Query, Session};
///
/// let (mut tracer, pid) = Tracer::attach(ProcessId(4711))?;
/// let session = Session::over(tracer.space(pid)?, &pid.to_string())?;
/// let reads = session.counter("reads");
/// let mut batch = session.batch();
/// for point in &session.find(Query::functions("libc!read"))? {
///     batch.push_back(point, reads.increment());
/// }
/// batch.commit()?;
/// let never = std::sync::atomic::AtomicBool::new(false);
/// tracer.next_event(Some(std::time::Duration::from_secs(1)), &never)?;
/// println!("{} reads", reads.read());
/// session.remove_all()?;
/// # Ok::<(), incise::Error>(())
/// ```
pub struct Session<S: AddressSpace = OwnSpace> {
    state: Arc<Mutex<State<S>>>,
}

impl<S: AddressSpace> Clone for Session<S> {
    fn clone(&self) -> Session<S> {
        Session { state: Arc::clone(&self.state) }
    }
}

struct State<S> {
    space: S,
    /// Name of the process under /proc.
    pid: String,
    engine: Engine,
    program: Program,
    images: Images,
}

impl<S: AddressSpace> State<S> {
    /// Looks at the modules again, and forgets what was in those that were unloaded.
    fn refresh(&mut self) -> Result<(), SpaceError> {
        let program = Program::read(&self.space, &self.pid, &mut self.images)?;
        self.program.gone_in(&program).for_each(|module| self.engine.forget(module.range.clone()));
        self.program = program;
        Ok(())
    }
}

impl Session {
    /// The process this code runs in.
    ///
    /// # Errors
    /// If /proc is not there, or memory cannot be changed.
    pub fn own() -> Result<Session, Error> {
        Session::with(OwnSpace::new()?)
    }

    /// The same, with a space that was set up differently.
    ///
    /// # Errors
    /// As for [`Session::own`].
    pub fn with(space: OwnSpace) -> Result<Session, Error> {
        Session::over(space, "self")
    }
}

impl<S: AddressSpace> Session<S> {
    /// The process that `space` is, by its name under /proc: a number, or `self`.
    ///
    /// # Errors
    /// [`Error::Space`] if its memory map cannot be read.
    #[allow(clippy::arc_with_non_send_sync, reason = "the session of a traced process stays with its tracer")]
    pub fn over(space: S, pid: &str) -> Result<Session<S>, Error> {
        let mut images = Images::default();
        let program = Program::read(&space, pid, &mut images)?;
        let state = State { space, pid: pid.to_owned(), engine: Engine::new(), program, images };
        Ok(Session { state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        // A panic under the lock cannot leave a transaction half-done: commit returns before it adopts.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The points a query names, in the modules that are loaded now.
    ///
    /// # Errors
    /// [`Error::Pattern`] if a pattern is malformed or matches nothing.
    pub fn find(&self, query: Query) -> Result<Vec<Point>, Error> {
        Ok(self.look(query)?.points)
    }

    /// As [`find`](Self::find), and the indirect functions whose implementation is not decided.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub fn look(&self, query: Query) -> Result<Found, Error> {
        let state = &mut *self.state();
        state.refresh()?;
        let memory = |at: Addr, into: &mut [u8]| state.space.read(at, into).is_ok();
        Ok(query.run(&state.program, &memory)?)
    }

    /// A counter, zero. `name` is for reports.
    pub fn counter(&self, name: impl Into<String>) -> Counter<S> {
        let id = self.state().engine.counter();
        Counter { session: self.clone(), id, name: name.into() }
    }

    /// An empty transaction.
    pub fn batch(&self) -> Batch<S> {
        Batch { session: self.clone(), draft: Draft::default(), policy: Policy::default() }
    }

    /// The instances at an address, in the order they run.
    pub fn instances_at(&self, at: Addr) -> Vec<InstanceId> {
        self.state().engine.instances_at(at).collect()
    }

    /// How many instances there are.
    pub fn instance_count(&self) -> usize {
        self.state().engine.len()
    }

    /// The original address a trampoline address stands for.
    pub fn translate(&self, ip: Addr) -> Option<Addr> {
        self.state().engine.translate(ip)
    }

    /// Takes all probes out, in one transaction, and gives back what memory no thread is in. Returns the bytes
    /// of trampolines that had to stay.
    ///
    /// # Errors
    /// [`Error::Commit`] if code could not be changed back; then all of it is as it was.
    pub fn remove_all(&self) -> Result<u64, Error> {
        let state = &mut *self.state();
        let batch = state.engine.removal(state.engine.instances().collect());
        state.engine.commit(&mut state.space, &state.program, &batch, Policy::default())?;
        Ok(state.engine.release(&mut state.space)?)
    }

    /// Frees the trampolines of removed probes that no thread is in.
    ///
    /// # Errors
    /// [`Error::Space`] if the threads cannot be looked at.
    pub fn reclaim(&self) -> Result<(), Error> {
        let state = &mut *self.state();
        Ok(state.engine.reclaim(&mut state.space)?)
    }
}

/// A quadword that probes increment.
pub struct Counter<S: AddressSpace = OwnSpace> {
    session: Session<S>,
    id: CounterId,
    name: String,
}

impl<S: AddressSpace> Clone for Counter<S> {
    fn clone(&self) -> Counter<S> {
        Counter { session: self.session.clone(), id: self.id, name: self.name.clone() }
    }
}

impl<S: AddressSpace> Counter<S> {
    /// The snippet that adds one: atomic, so exact under any number of threads.
    pub fn increment(&self) -> Snippet {
        Snippet::Counter(self.id)
    }

    /// The value now.
    pub fn read(&self) -> u64 {
        self.session.state().engine.read(self.id)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A transaction: insertions and removals that become visible at once.
///
/// All or nothing, with a trap where only a trap fits, unless told otherwise.
pub struct Batch<S: AddressSpace = OwnSpace> {
    session: Session<S>,
    draft: Draft,
    policy: Policy,
}

impl<S: AddressSpace> Batch<S> {
    /// What can be patched is, the rest is reported.
    pub fn best_effort(mut self) -> Batch<S> {
        self.policy.atomicity = Atomicity::BestEffort;
        self
    }

    /// What to do where only a trap fits.
    pub fn traps(mut self, traps: TrapPolicy) -> Batch<S> {
        self.policy.traps = traps;
        self
    }

    /// Runs `snippet` at `point`, after those that are there.
    pub fn push_back(&mut self, point: &Point, snippet: Snippet) -> InstanceId {
        self.insert(point.addr, snippet, Position::Last)
    }

    /// Runs `snippet` at `point`, before those that are there.
    pub fn push_front(&mut self, point: &Point, snippet: Snippet) -> InstanceId {
        self.insert(point.addr, snippet, Position::First)
    }

    /// Runs `snippet` before the instruction at `at`.
    pub fn insert(&mut self, at: Addr, snippet: Snippet, position: Position) -> InstanceId {
        self.session.state().engine.insert(&mut self.draft, at, snippet, position)
    }

    /// Takes an instance out.
    pub fn remove(&mut self, instance: InstanceId) {
        self.session.state().engine.remove(&mut self.draft, instance);
    }

    /// Lets an instance rest, or run again.
    pub fn enable(&mut self, instance: InstanceId, enabled: bool) {
        self.session.state().engine.switch(&mut self.draft, instance, enabled);
    }

    /// Makes it so.
    ///
    /// # Errors
    /// [`CommitError`]: then nothing was changed.
    pub fn commit(self) -> Result<Report, Error> {
        let state = &mut *self.session.state();
        state.refresh()?;
        Ok(state.engine.commit(&mut state.space, &state.program, &self.draft, self.policy)?)
    }
}
