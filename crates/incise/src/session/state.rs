//! What all sessions of one program share.

use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_patch::{Data, Engine, InstanceId};
use incise_snippet::tree::BlockId;
use incise_space::{AddressSpace, SpaceError};
use rustc_hash::FxHashMap;

use crate::callback::NoCallbacks;
use crate::compiled::Cache;
use crate::images::Images;
use crate::program::Program;

/// A program, its probes, and what is known of it.
pub(super) struct State<S> {
    pub space: S,
    /// Name of the process under /proc; nothing for a program that does not run.
    pub pid: Option<String>,
    /// The process that `self` is.
    pub process: i32,
    pub engine: Engine,
    /// Which session put an instance in.
    pub owners: FxHashMap<InstanceId, u64>,
    pub program: Program,
    /// The memory of blocks that compiled programs use.
    pub blocks: FxHashMap<BlockId, Data>,
    /// The code of programs.
    pub code: Cache,
    /// The memory map that `program` was read from.
    pub map: MemoryMap,
    pub images: Images,
}

impl<S: AddressSpace> State<S> {
    pub fn new(space: S, pid: &str) -> Result<State<S>, SpaceError> {
        let mut state = State { pid: Some(pid.to_owned()), ..State::still(space, Program::default()) };
        state.refresh()?;
        Ok(state)
    }

    /// Of a program that does not run, so that its modules are always the same.
    pub fn still(space: S, program: Program) -> State<S> {
        let (engine, owners, images) = (Engine::new(), Default::default(), Images::default());
        let map = MemoryMap::default();
        State {
            space,
            pid: None,
            process: own_pid(),
            engine,
            owners,
            program,
            blocks: FxHashMap::default(),
            code: Cache::default(),
            map,
            images,
        }
    }

    /// Looks at the modules again, and forgets what was in those that were unloaded. Returns the memory map.
    pub fn refresh(&mut self) -> Result<MemoryMap, SpaceError> {
        let map = self.space.mappings()?;
        let Some(pid) = &self.pid else { return Ok(map) };
        if map.is(&self.map) {
            return Ok(map);
        }
        let memory = |at: Addr, into: &mut [u8]| self.space.read(at, into).is_ok();
        let mut program = Program::of_map(&map, pid, &mut self.images, &memory);
        program.learn_from(&self.program);
        let gone: Vec<_> = self.program.gone_in(&program).map(|module| module.range.clone()).collect();
        if !gone.is_empty() {
            gone.into_iter().for_each(|range| self.engine.forget(range));
            self.owners.retain(|instance, _| self.engine.contains(*instance));
        }
        self.program = program;
        self.map = map.clone();
        Ok(map)
    }

    /// Notices that this is a forked child of the process that used the state last.
    pub fn notice_fork(&mut self) {
        if self.pid.as_deref() == Some("self") && self.process != own_pid() {
            self.process = own_pid();
            self.engine = std::mem::take(&mut self.engine).into_child();
        }
    }
}

/// Not by the C library's function, which may be probed: what a session does itself should not be counted.
fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

/// The state of a session, locked.
pub(super) struct Locked<'a, S> {
    pub state: MutexGuard<'a, State<S>>,
    /// A callback on this thread could need the lock, or find the state half changed.
    pub _quiet: NoCallbacks,
}

impl<S> Deref for Locked<'_, S> {
    type Target = State<S>;
    fn deref(&self) -> &State<S> {
        &self.state
    }
}

impl<S> DerefMut for Locked<'_, S> {
    fn deref_mut(&mut self) -> &mut State<S> {
        &mut self.state
    }
}
