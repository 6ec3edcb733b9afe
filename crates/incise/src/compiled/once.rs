//! Programs that run once, now: in a thread of another process wherever it stands, or in this one.

use std::arch::x86_64::__cpuid_count;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr};
use incise_patch::{Generated, Position};
use incise_snippet::compile::frame;
use incise_snippet::tree::{Fault, Program, Replaced, Type};
use incise_space::own::OwnSpace;
use incise_space::remote::{RemoteSpace, StoppedThread};
use incise_space::{AddressSpace, DataMapping, SpaceError};

use super::{CompileError, Compiled, Holds, Tables};
use crate::program::Program as InProcess;
use crate::session::{Error, Session};
use crate::trace::place;

/// How a run that was to be made once ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ran {
    /// With a value: its bits, with the sign it has.
    Value(u64),
    /// Without one.
    Nothing,
    /// Early.
    Fault(Fault),
}

/// A run in another process that is going on, or over.
pub struct Once {
    shared: DataMapping,
    /// The thread that runs it.
    pub thread: StoppedThread,
}

/// Chooses a thread of a process whose threads are all stopped.
pub(crate) type Choose<'a> =
    &'a dyn Fn(&mut RemoteSpace, &InProcess) -> Result<Option<StoppedThread>, SpaceError>;

/// Offsets in the memory that is shared with the run: whether it is over, its value, its status; the frame.
const VALUE: u64 = 8;
const STATUS: u64 = 16;
const FRAME: u64 = 256;
/// Bytes of the stack that the run has.
const STACK: u64 = 1 << 18;
const PAGE: u64 = 4096;

impl Once {
    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Ran> {
        let word = |offset: u64| self.shared.words()[(offset / 8) as usize].load(Ordering::Acquire);
        (word(0) != 0).then(|| match word(STATUS) as u32 as usize {
            0 => Ran::Nothing,
            1 => Ran::Value(word(VALUE)),
            status => Ran::Fault(Fault::ALL[status.wrapping_sub(16).min(Fault::ALL.len() - 1)]),
        })
    }
}

impl Session<RemoteSpace> {
    /// Has a stopped thread of the process run a program, before it goes on with what it does. `make` makes the program for that
    /// thread; its registers are those it is stopped with. The thread runs on a stack of ours, and all others run on too:
    /// keep the tracer going until [`Once::outcome`] tells that it is over.
    ///
    /// # Errors
    /// [`Error::Compile`], [`Error::Space`], and those of `make`: then nothing runs.
    pub fn start_once(
        &self,
        make: impl FnMut(&StoppedThread) -> Result<Program, Error>,
    ) -> Result<Once, Error> {
        let any = |space: &mut RemoteSpace, _: &InProcess| space.divertible().map(Some);
        let started = self.start_once_where(&any, make)?;
        started.ok_or_else(|| SpaceError::Gone { pid: self.with_space(|space| space.pid()).0 }.into())
    }

    /// The same for a thread that `choose` chooses, if there is one: all are stopped when it is asked.
    pub(crate) fn start_once_where(
        &self,
        choose: Choose<'_>,
        make: impl FnMut(&StoppedThread) -> Result<Program, Error>,
    ) -> Result<Option<Once>, Error> {
        self.with_space(RemoteSpace::stop)?;
        let started = self.start_stopped(choose, make);
        self.with_space(RemoteSpace::resume);
        started
    }

    fn start_stopped(
        &self,
        choose: Choose<'_>,
        mut make: impl FnMut(&StoppedThread) -> Result<Program, Error>,
    ) -> Result<Option<Once>, Error> {
        let chosen = self.with_engine(|_, space, program| Ok(choose(space, program)?))?;
        if chosen.is_none() {
            return Ok(None);
        }
        let (at, shared) = self.with_space(|space| {
            let at = place(space, 2 * PAGE + STACK)?;
            space.map_code(at, PAGE)?;
            let shared = space.map_data(at + PAGE, PAGE)?;
            space.map_private(at + 2 * PAGE, STACK)?;
            Ok::<_, SpaceError>((at, shared))
        })?;
        let mut chosen = self.with_engine(|_, space, program| Ok(choose(space, program)?))?;
        while let Some(thread) = chosen {
            let program = make(&thread)?;
            let Compiled { code: Holds::Called(code), .. } = self.called(&program, &Tables)? else {
                return Err(CompileError::Internal("it is not called".to_owned()).into());
            };
            let started = self.with_engine(|engine, space, program| {
                let main = program.modules().iter().find(|module| module.main);
                let near = main.map_or(Addr(1 << 32), |module| module.range.start);
                engine.place(space, &Generated(code.clone()), near)?;
                // Making memory may have let it go on to a signal.
                let now = choose(space, program)?;
                if now != chosen {
                    return Ok(Err(now));
                }
                let entry = code.entry().ok_or(SpaceError::Occupied { at: near, len: 0 })?;
                for (index, word) in frame_of(&thread).into_iter().enumerate() {
                    shared.words()[FRAME as usize / 8 + index].store(word, Ordering::Release);
                }
                let stack = at + 2 * PAGE + STACK;
                let code = diverted(entry, at + PAGE, stack, thread.registers[4]);
                Ok(Ok(space.divert(&thread, at, &code)?))
            })?;
            match started {
                Ok(()) => return Ok(Some(Once { shared, thread })),
                Err(now) => chosen = now,
            }
        }
        Ok(None)
    }
}

/// The frame of a thread that is at no instruction.
fn frame_of(thread: &StoppedThread) -> Vec<u64> {
    let mut frame = vec![0; frame::SIZE as usize / 8];
    for gpr in Gpr::ALL {
        frame[frame::gpr(gpr) as usize / 8] = thread.registers[usize::from(gpr.number())];
    }
    frame[frame::FLAGS as usize / 8] = thread.flags & 0x8D5;
    frame
}

/// What the thread runs: the stack is changed, vector state kept, the function called, its results stored.
fn diverted(entry: Addr, shared: Addr, stack: Addr, rsp: u64) -> Vec<u8> {
    // CPUID 0xD, 0: EBX is the size of all state that is enabled (Intel SDM vol. 1, 13.2).
    let state = __cpuid_count(0xD, 0).ebx.next_multiple_of(64) as i32;
    // With the two quadwords that are pushed, a multiple of 64.
    let room = state + 48;
    let mut asm = Assembler::new(Addr(0));
    asm.mov_imm(Gpr::Rsp, stack.0);
    asm.raw(&[0x9C]);
    asm.push(Gpr::Rbp);
    asm.lea_rsp(-room);
    let all = |asm: &mut Assembler| {
        asm.mov_imm(Gpr::Rax, u32::MAX.into());
        asm.mov_imm(Gpr::Rdx, u32::MAX.into());
    };
    all(&mut asm);
    // xsave64 [rsp]; the stack is new, so that the header is zero; cld
    asm.raw(&[0x48, 0x0F, 0xAE, 0x24, 0x24, 0xFC]);
    // The mode of vector arithmetic that compiled code expects, beside the saved state.
    asm.store_imm32(state, 0x1F80);
    asm.load_mxcsr(state);
    asm.mov_imm(Gpr::Rdi, shared.0 + FRAME);
    asm.mov_imm(Gpr::Rax, entry.0);
    asm.raw(&[0xFF, 0xD0]);
    asm.mov_imm(Gpr::Rcx, shared.0);
    asm.mov_store(Gpr::Rcx, VALUE as i32, Gpr::Rax);
    asm.mov_store(Gpr::Rcx, STATUS as i32, Gpr::Rdx);
    all(&mut asm);
    // xrstor64 [rsp]
    asm.raw(&[0x48, 0x0F, 0xAE, 0x2C, 0x24]);
    asm.lea_rsp(room);
    asm.pop(Gpr::Rbp);
    asm.raw(&[0x9D]);
    asm.mov_imm(Gpr::Rcx, shared.0);
    asm.mov_imm(Gpr::Rax, 1);
    asm.mov_store(Gpr::Rcx, 0, Gpr::Rax);
    asm.mov_imm(Gpr::Rsp, rsp);
    asm.into_bytes()
}

/// Where programs run once in this process.
#[inline(never)]
extern "C" fn here(missing: &AtomicBool) -> u64 {
    missing.store(true, Ordering::Relaxed);
    std::hint::black_box(0)
}

impl Session<OwnSpace> {
    /// Runs a program once, now, on this thread. Its registers are those of some place in this function.
    ///
    /// # Errors
    /// [`Error::Compile`], [`Error::Commit`].
    ///
    /// ```
    /// use incise::{Ran, Session};
    /// use incise::snippet::{Program, Stmt, Type, constant};
    ///
    /// let session = Session::own()?;
    /// let sum = constant(Type::U64, 20).add(22);
    /// assert_eq!(session.once(&Program::new([Stmt::give(sum)])?)?, Ran::Value(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn once(&self, program: &Program) -> Result<Ran, Error> {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = self.called(&program.replacing(Replaced::Function, Type::U64), &Tables)?;
        let mut batch = self.batch();
        let instance = batch.insert(Addr(here as *const () as u64), &compiled, Position::First);
        batch.commit()?;
        let missing = AtomicBool::new(false);
        let value = std::hint::black_box(here as extern "C" fn(&AtomicBool) -> u64)(&missing);
        let mut batch = self.batch();
        batch.remove(instance);
        batch.commit()?;
        let fault = Fault::ALL.into_iter().find(|fault| compiled.faults(*fault) > 0);
        Ok(match fault {
            Some(fault) => Ran::Fault(fault),
            None if missing.into_inner() => Ran::Nothing,
            None => Ran::Value(value),
        })
    }
}
