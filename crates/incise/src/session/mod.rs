//! A session: one program, its probes, and the transactions that change them.

mod batch;
mod counter;
mod error;
mod state;

pub use batch::Batch;
pub use counter::Counter;
pub use error::Error;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use incise_image::MemoryReader;
use incise_isa::Addr;
use incise_patch::{Batch as Draft, Data, Engine, InstanceId, Instrumentation, Policy};
use incise_snippet::tree::Block;
use incise_space::own::{self, OwnSpace};
use incise_space::{AddressSpace, SpaceError};

use crate::callback::NoCallbacks;
use crate::compiled::Cache;
use crate::point::{Found, Point, Query};
use crate::program::Program;
use crate::source::CfgSource;
use state::{Locked, State};

/// The probes in one process: the one this code runs in, unless another address space is given.
///
/// A session can be cloned, and one of the own process used from any thread; all clones are the same session.
/// Dropping it leaves the probes in place: [`Session::remove_all`] takes them out. All sessions of the own
/// process work on the same code, so they share what they know of it, and a lock; each removes its own probes only.
///
/// Callbacks are not made for what a thread does inside a method of its session: see
/// [`callback::skipped`](crate::callback::skipped). A session that is used after fork(2) in the child is one of the
/// child; its probes are there, and their counters are shared with the parent.
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
    /// Tells its instances from those of other sessions of the same space.
    owner: u64,
    /// How this session wants code to be changed.
    settings: Option<Settings<S>>,
}

#[derive(Clone, Copy)]
struct Settings<S> {
    wanted: own::Builder,
    put_in_force: fn(&mut S, own::Builder),
}

impl<S: AddressSpace> Clone for Session<S> {
    fn clone(&self) -> Session<S> {
        let settings = self.settings.as_ref().map(|Settings { wanted, put_in_force }| Settings {
            wanted: *wanted,
            put_in_force: *put_in_force,
        });
        Session { state: Arc::clone(&self.state), owner: self.owner, settings }
    }
}

/// The state of this process, which all its sessions share.
static PROCESS: Mutex<Option<Arc<Mutex<State<OwnSpace>>>>> = Mutex::new(None);

/// Sessions made so far.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

fn next_owner() -> u64 {
    SESSIONS.fetch_add(1, Ordering::Relaxed)
}

impl Session {
    /// The process this code runs in.
    ///
    /// # Errors
    /// If /proc is not there, or memory cannot be changed.
    pub fn own() -> Result<Session, Error> {
        Session::with(OwnSpace::new()?)
    }

    /// The same, with a space that was set up differently: this session changes code as that is set up.
    ///
    /// # Errors
    /// As for [`Session::own`].
    pub fn with(space: OwnSpace) -> Result<Session, Error> {
        let _quiet = NoCallbacks::new();
        let put_in_force = OwnSpace::configure;
        let settings = Some(Settings { wanted: space.settings(), put_in_force });
        let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match &*process {
            Some(state) => Arc::clone(state),
            None => Arc::clone(process.insert(Arc::new(Mutex::new(State::new(space, "self")?)))),
        };
        Ok(Session { state, owner: next_owner(), settings })
    }
}

impl<S: AddressSpace> Session<S> {
    /// The process that `space` is, by its name under /proc: its number.
    ///
    /// # Errors
    /// [`Error::Space`] if its memory map cannot be read.
    #[allow(clippy::arc_with_non_send_sync, reason = "the session of a traced process stays with its tracer")]
    pub fn over(space: S, pid: &str) -> Result<Session<S>, Error> {
        let state = Arc::new(Mutex::new(State::new(space, pid)?));
        Ok(Session { state, owner: next_owner(), settings: None })
    }

    /// A program that does not run.
    #[allow(clippy::arc_with_non_send_sync, reason = "as above")]
    pub(crate) fn still(space: S, program: Program) -> Session<S> {
        let state = Arc::new(Mutex::new(State::still(space, program)));
        Session { state, owner: next_owner(), settings: None }
    }

    /// The memory of a block.
    pub(crate) fn data(&self, block: &Block) -> Data {
        let new = || Data::new(block.size(), block.align(), block.initial());
        self.state().blocks.entry(block.id()).or_insert_with(new).clone()
    }

    /// Looks at what the program consists of now, and at its memory.
    pub(crate) fn with_program<R>(
        &self,
        work: impl FnOnce(&Program, &dyn MemoryReader) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let state = &mut *self.state();
        state.refresh()?;
        let memory = |at: Addr, into: &mut [u8]| state.space.read(at, into).is_ok();
        work(&state.program, &memory)
    }

    /// How far from its thread pointer each thread of the target has its area for restartable sequences, if the C library tells.
    pub(crate) fn rseq_offset(&self) -> Option<i32> {
        let state = &mut *self.state();
        state.refresh().ok()?;
        state.program.modules().iter().find_map(|module| {
            let at = module.to_addr(module.image.rseq_offset()?);
            let mut bytes = [0; 8];
            state.space.read(at, &mut bytes).ok()?;
            // Before the dynamic linker has set it there are no areas.
            i32::try_from(i64::from_le_bytes(bytes)).ok().filter(|offset| *offset != 0)
        })
    }

    /// Works on all there is.
    pub(crate) fn with_engine<R>(
        &self,
        work: impl FnOnce(&mut Engine, &mut S, &Program) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let state = &mut *self.state();
        work(&mut state.engine, &mut state.space, &state.program)
    }

    /// Works on what programs were compiled to.
    pub(crate) fn with_code<R>(&self, work: impl FnOnce(&mut Cache) -> R) -> R {
        work(&mut self.state().code)
    }

    /// Works on the address space itself.
    pub(crate) fn with_space<R>(&self, work: impl FnOnce(&mut S) -> R) -> R {
        work(&mut self.state().space)
    }

    fn state(&self) -> Locked<'_, S> {
        let _quiet = NoCallbacks::new();
        // A panic under the lock cannot leave a transaction half-done: commit returns before it adopts.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.notice_fork();
        if let Some(settings) = &self.settings {
            (settings.put_in_force)(&mut state.space, settings.wanted);
        }
        Locked { state, _quiet }
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
        let (draft, policy) = (Draft::default(), Policy::default());
        Batch { session: self.clone(), draft, removed: Vec::new(), policy }
    }

    /// Sets how probed functions are laid out, from the next transaction on; what is in place stays until it is touched. All
    /// sessions of the own process share it.
    ///
    /// ```
    /// use incise::{Layout, Session};
    ///
    /// let session = Session::own()?;
    /// session.set_instrumentation(Layout::InLine);
    /// # Ok::<(), incise::Error>(())
    /// ```
    pub fn set_instrumentation(&self, instrumentation: impl Instrumentation + 'static) {
        self.state().engine.set_instrumentation(instrumentation);
    }

    /// From now on, graphs of programs come from `source`, for all sessions of the own process; by default from the user's
    /// store, or else from the parser.
    pub fn set_cfg_source(&self, source: impl CfgSource + 'static) {
        self.state().program.set_cfg_source(source);
    }

    /// The instances at an address, in the order they run.
    pub fn instances_at(&self, at: Addr) -> Vec<InstanceId> {
        self.state().engine.instances_at(at).collect()
    }

    /// How many instances there are of this session.
    pub fn instance_count(&self) -> usize {
        self.state().owners.values().filter(|owner| **owner == self.owner).count()
    }

    /// The original instruction for an address in a trampoline: that whose snippets or copy lie there, or the next one
    /// behind them. Trampolines of removed probes count, as long as they are kept for threads inside.
    pub fn translate(&self, ip: Addr) -> Option<Addr> {
        let state = self.state();
        state.space.original_ip(ip).or_else(|| state.engine.translate(ip))
    }

    /// Lets an instance rest, or run again, as often and as quickly as wanted.
    ///
    /// The first time, the trampoline gets a switch, in a transaction. From then on this changes one byte of it, through
    /// /proc/PID/mem: nothing is planned, no thread is stopped or interrupted, and no memory is taken. The code stays patched
    /// while the instance rests, and runs two short jumps at the point; [`Batch::enable`] takes it out as a removal does.
    ///
    /// Threads that come to the point after the return find it so, as soon as their processors have noticed.
    ///
    /// # Errors
    /// [`Error::Commit`], [`Error::Space`]: then nothing was changed.
    pub fn switch(&self, instance: InstanceId, on: bool) -> Result<(), Error> {
        let state = &mut *self.state();
        match state.engine.switch(&mut state.space, instance, on) {
            Ok(true) => return Ok(()),
            // It takes a transaction each time then.
            Ok(false) | Err(SpaceError::Unsuitable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let map = state.refresh()?;
        let mut draft = Draft::default();
        draft.give_switch(instance, on);
        state.engine.commit_in(&mut state.space, &map, &state.program, &draft, Policy::default())?;
        Ok(())
    }

    /// Takes all probes of this session out, in one transaction, and gives back what memory no thread is in.
    /// Returns the bytes of trampolines that had to stay. Counters keep their values.
    ///
    /// # Errors
    /// [`Error::Commit`] if code could not be changed back; then all of it is as it was.
    pub fn remove_all(&self) -> Result<u64, Error> {
        let state = &mut *self.state();
        let own = state.owners.iter().filter(|(_, owner)| **owner == self.owner);
        let mut own: Vec<InstanceId> = own.map(|(id, _)| *id).collect();
        // As they were inserted: near instances are near in memory.
        own.sort_unstable();
        let batch = Draft::removal(own);
        state.engine.commit(&mut state.space, &state.program, &batch, Policy::default())?;
        state.owners.retain(|_, owner| *owner != self.owner);
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
