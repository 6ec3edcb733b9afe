//! Where a process reports: that modules came or went, that it is put together, that an implementation of an indirect function is
//! chosen.

use std::collections::BTreeSet;

use incise_isa::Addr;
use incise_patch::{Atomicity, Batch, Policy, Position, Snippet};
use incise_space::AddressSpace;

use super::Process;
use crate::count::resolvers::{Passage, Passed, head_of};
use crate::count::tally::Tally;
use crate::session::Error;

/// Offset of `r_state` in `struct r_debug` (System V gABI, dynamic linking; glibc's link.h): version, map, brk.
const STATE: u64 = 24;

/// What glibc's dynamic linker calls in itself when it has relocated the program, just before libc's first code
/// runs (rtld.c, `dl_main`), and later for each new thread.
const RELOCATED: &str = "_dl_allocate_tls_init";

impl Process {
    /// Puts gates where the process has its modules mapped and relocated. Without one (a static program without
    /// symbols) everything is there from the start.
    pub(in crate::count) fn set_gates(
        &mut self,
        space: &mut dyn AddressSpace,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let fixed = self.program.modules().first().filter(|module| module.image.is_static());
        // A static program has a copy of the linker's functions, but starts without them.
        let linker = self.program.modules().iter().filter(|_| fixed.is_none()).find_map(|module| {
            let state = module.to_addr(module.image.debug_state()?);
            let debug = module.image.r_debug().map(|debug| module.to_addr(debug));
            let relocated = module.image.function(RELOCATED).map(|link| module.to_addr(link));
            Some((state, debug, relocated))
        });
        let mut early = None;
        let gate = match linker {
            Some((state, debug, relocated)) => {
                self.debug = debug;
                // Attached to a running program: its modules are there.
                self.loaded =
                    self.program.modules().iter().any(|module| {
                        !module.main && module.image.debug_state().is_none() && !module.is_vdso()
                    });
                early = relocated.filter(|_| !self.loaded);
                Some(state)
            }
            // In a static program indirect functions are resolved just before this.
            None => fixed.and_then(|module| {
                let of = |name| module.image.function(name).map(|link| module.to_addr(link));
                of("__libc_setup_tls").or_else(|| of("main"))
            }),
        };
        let Some(gate) = gate else {
            self.loaded = true;
            return Ok(());
        };
        let mut batch = Batch::default();
        batch.insert(gate, Snippet::Gate, Position::First);
        self.early = early.map(|at| (at, batch.insert(at, Snippet::Gate, Position::First)));
        let report = self.engine.commit(space, &self.program, &batch, Policy::default())?;
        tally.note(&report);
        self.gate = Some(gate);
        Ok(())
    }

    /// Where the process reports.
    pub(in crate::count) fn gates(&self) -> impl Iterator<Item = Addr> + '_ {
        self.gate.into_iter().chain(self.early.map(|(at, _)| at)).chain(self.resolvers.gates())
    }

    /// Where it reported and does not any more, since this was asked last.
    pub(in crate::count) fn gates_gone(&mut self) -> Vec<Addr> {
        self.resolvers.take_gone()
    }

    /// Takes the gate at `at` away, if it is the early one: then it is told, and the program is put together.
    pub(in crate::count) fn open_early_gate(
        &mut self,
        space: &mut dyn AddressSpace,
        at: Addr,
    ) -> Result<bool, Error> {
        let Some((_, gate)) = self.early.take_if(|(early, _)| *early == at) else { return Ok(false) };
        self.engine.commit(space, &self.program, &Batch::removal(vec![gate]), Policy::default())?;
        Ok(true)
    }

    /// Whether the dynamic linker's list of modules is whole.
    pub(in crate::count) fn is_consistent(&self, space: &dyn AddressSpace) -> bool {
        let Some(debug) = self.debug else { return true };
        let mut state = [0; 4];
        space.read(debug + STATE, &mut state).is_err() || u32::from_le_bytes(state) == 0
    }

    /// Puts a gate at the resolver of each indirect function whose implementation is not known: a slot that is bound lazily
    /// names it only when the first call is made. Takes those away of functions that are known by now.
    pub(in crate::count) fn watch_resolvers(
        &mut self,
        space: &mut dyn AddressSpace,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let wanted: BTreeSet<Addr> = self.unresolved.iter().map(|(_, ifunc)| ifunc.resolver).collect();
        let Some(batch) = self.resolvers.watch(&wanted, &|at| head_of(space, at)) else { return Ok(()) };
        self.commit_gates(space, &batch, tally)
    }

    fn commit_gates(
        &mut self,
        space: &mut dyn AddressSpace,
        batch: &Batch,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let policy = Policy { atomicity: Atomicity::BestEffort, ..Policy::default() };
        let report = self.engine.commit(space, &self.program, batch, policy)?;
        tally.note(&report);
        Ok(())
    }

    /// Whether the gate at `at` is one of [`watch_resolvers`](Self::watch_resolvers).
    pub(in crate::count) fn is_of_resolvers(&self, at: Addr) -> bool {
        self.resolvers.gates().any(|gate| gate == at)
    }

    /// A thread has come to a resolver, or behind the call of one. Whether an implementation is known now.
    pub(in crate::count) fn pass_resolver(
        &mut self,
        space: &mut dyn AddressSpace,
        passage: &Passage,
        tally: &mut Tally,
    ) -> Result<bool, Error> {
        let mut bytes = [0; 8];
        let back = space.read(passage.rsp, &mut bytes).map(|()| Addr(u64::from_le_bytes(bytes)));
        match self.resolvers.pass(passage, back.ok()) {
            Passed::Enters(Some(batch)) => self.commit_gates(space, &batch, tally).map(|()| false),
            Passed::Enters(None) => Ok(false),
            Passed::Returns(decided) => Ok(decided),
        }
    }
}
