//! Changes of what functions, calls and graphs do: snippets that send control elsewhere. Taking them out, alone or with others in a
//! transaction, gives the program back as it was.
//!
//! ```
//! use incise::{Addr, Position, Session, changing};
//!
//! #[inline(never)]
//! extern "C" fn old(n: u64) -> u64 {
//!     std::hint::black_box(n) + 1
//! }
//! extern "C" fn new(n: u64) -> u64 {
//!     n * 10
//! }
//!
//! let session = Session::own()?;
//! let mut batch = session.batch();
//! let entry = Addr(old as *const () as u64);
//! let replaced = batch.insert(entry, changing::replace_by(Addr(new as *const () as u64)), Position::Last);
//! batch.commit()?;
//! assert_eq!(old(4), 40);
//! let mut batch = session.batch();
//! batch.remove(replaced);
//! batch.commit()?;
//! assert_eq!(old(4), 5);
//! # Ok::<(), incise::Error>(())
//! ```

mod graph;
mod library;
mod safe;
mod unload;

pub use graph::{Graph, GraphChange, GraphError};
pub(crate) use library::load_until;
pub use library::{Library, LoadError, load};
pub use unload::unload;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use incise_isa::Addr;
use incise_isa::native::{Assembler, Flow, Gpr, GprSet};
use incise_patch::{Effects, Generate, Generated, Output, Placement, Placer, PointContext, Refusal, Snippet};
use incise_space::SpaceError;

/// At the entry of a function: another one, with the same arguments, runs in its place and returns to its caller. Snippets behind
/// it at the point do not run.
pub fn replace_by(function: Addr) -> Snippet {
    Snippet::generated(Change::Goto(function))
}

/// A function in whose place another one runs, which can call it: see [`wrap`].
#[derive(Clone, Debug)]
pub struct Wrapped(Arc<Wrap>);

/// At the entry of `function`: `by`, another function of the program, runs in its place, and can call the original by the address that
/// [`Wrapped::original`] tells once this is installed.
///
/// A call by that address is known by a number in `r11`, which no function expects its caller to set (psABI x86-64, 3.2.3). So the
/// address can be called at any time, also when the wrapper was taken out; the few bytes at it stay in the program for good.
///
/// ```
/// use incise::{Addr, Position, Session, changing};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// static ORIGINAL: AtomicU64 = AtomicU64::new(0);
///
/// #[inline(never)]
/// extern "C" fn price(n: u64) -> u64 {
///     std::hint::black_box(n) + 1
/// }
/// extern "C" fn doubled(n: u64) -> u64 {
///     // SAFETY: `ORIGINAL` is the address of a function of this type before anybody comes here.
///     let original: extern "C" fn(u64) -> u64 =
///         unsafe { std::mem::transmute(ORIGINAL.load(Ordering::Acquire) as usize) };
///     original(n) * 2
/// }
///
/// let session = Session::own()?;
/// let (function, by) = (Addr(price as *const () as u64), Addr(doubled as *const () as u64));
/// let wrapped = changing::wrap(function, by);
/// // What is called by nobody yet can be told where the original is.
/// let mut batch = session.batch();
/// let instance = batch.insert(function, wrapped.told(&ORIGINAL), Position::Last);
/// batch.commit()?;
/// assert_eq!(price(4), 10);
/// let mut batch = session.batch();
/// batch.remove(instance);
/// batch.commit()?;
/// assert_eq!((price(4), doubled(4)), (5, 10));
/// # Ok::<(), incise::Error>(())
/// ```
pub fn wrap(function: Addr, by: Addr) -> Wrapped {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    // Spread over all 64 bits: no number that programs have in registers.
    let number = (NUMBERS.fetch_add(1, Ordering::Relaxed) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 << 63;
    Wrapped(Arc::new(Wrap { function, by, number, original: Mutex::new(None), told: Mutex::new(None) }))
}

impl Wrapped {
    /// The snippet for the entry of the function.
    pub fn snippet(&self) -> Snippet {
        Snippet::Generated(Generated(self.0.clone()))
    }

    /// The same, for the own process: `original` is set before anybody can come to the wrapper.
    pub fn told(&self, original: &'static AtomicU64) -> Snippet {
        *self.0.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        self.snippet()
    }

    /// Where the original can be called, once the wrapper was installed.
    pub fn original(&self) -> Option<Addr> {
        self.0.original.lock().unwrap_or_else(PoisonError::into_inner).map(|(_, at)| at)
    }
}

#[derive(Debug)]
struct Wrap {
    function: Addr,
    by: Addr,
    number: u64,
    original: Mutex<Option<(u64, Addr)>>,
    told: Mutex<Option<&'static AtomicU64>>,
}

impl Wrap {
    /// `mov r11, number ; jmp function`
    fn code(&self) -> Vec<u8> {
        let mut asm = Assembler::new(Addr(0));
        asm.mov_imm(Gpr::R11, self.number);
        asm.raw(&[0xFF, 0x25, 0, 0, 0, 0]);
        asm.raw(&self.function.0.to_le_bytes());
        asm.into_bytes()
    }
}

impl Generate for Wrap {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        Effects { reads: GprSet::ALL, reads_flags: true, ..Effects::default() }
    }

    /// Flags and `r11` have no meaning at the entry of a function: nothing is kept.
    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        if at.placement != Placement::Before {
            let why = "functions are wrapped at their entries".to_owned();
            return Err(Refusal::Unfit { at: at.addr(), why });
        }
        out.compare_literal(Gpr::R11, self.number);
        out.asm().raw(&[0x0F, 0x84, 0, 0, 0, 0]);
        let from = out.position();
        Change::goto(at, out, self.by)?;
        let distance = (out.position() - from) as u32;
        out.asm().set(from - 4, &distance.to_le_bytes());
        // The number is used up: what the original calls is not taken for a call of the original.
        out.asm().mov_imm(Gpr::R11, 0);
        Ok(())
    }

    fn place(&self, placer: &mut Placer<'_>) -> Result<(), SpaceError> {
        let mut original = self.original.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = placer.generation();
        let at = match *original {
            Some((known, at)) if known == generation => at,
            _ => {
                let code = self.code();
                placer.keep();
                placer.code(code.len(), |_| (code, Vec::new()))?
            }
        };
        *original = Some((generation, at));
        if let Some(told) = *self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            told.store(at.0, Ordering::Release);
        }
        Ok(())
    }
}

/// Before a call: another function is called in place of the one that would be.
///
/// # Errors
/// In the transaction: [`Refusal::Unfit`] where there is no call.
pub fn call_instead(function: Addr) -> Snippet {
    Snippet::generated(Change::Call(function))
}

/// Before a call: it is left out. What it would have returned is not set.
///
/// # Errors
/// In the transaction: [`Refusal::Unfit`] where there is no call.
pub fn leave_out_call() -> Snippet {
    Snippet::generated(Change::Skip)
}

/// On any way in or out of an instruction: control goes to `to`, which sees every register as it is. On the way of an edge
/// it redirects that; before an instruction it leaves out what lies between. Snippets behind it there do not run.
pub fn goto(to: Addr) -> Snippet {
    Snippet::generated(Change::Goto(to))
}

/// Code that becomes the program's own, on any way in or out of an instruction: what it does to registers, flags and the
/// stack stays. It has to be position-independent and to run off its end.
pub fn code(bytes: impl Into<Arc<[u8]>>) -> Snippet {
    Snippet::generated(Change::Code(bytes.into()))
}

#[derive(Debug)]
enum Change {
    Goto(Addr),
    Code(Arc<[u8]>),
    Call(Addr),
    Skip,
}

impl Change {
    /// Goes to `to`, which sees every register as it is.
    fn goto(at: &PointContext<'_>, out: &mut Output<'_>, to: Addr) -> Result<(), Refusal> {
        if at.features.moves && !at.reaches(to) {
            return Err(Refusal::NoRoom(at.addr()));
        }
        out.asm().jump(to);
        Ok(())
    }
}

impl Generate for Change {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        // Whoever comes next may look at anything.
        Effects { reads: GprSet::ALL, reads_flags: true, ..Effects::default() }
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let unfit = |why: &str| Refusal::Unfit { at: at.addr(), why: why.to_owned() };
        let calls = matches!(at.insn.flow(), Flow::Call(_) | Flow::IndirectCall);
        match *self {
            Change::Goto(to) => Change::goto(at, out, to),
            Change::Code(ref bytes) => {
                out.asm().raw(bytes);
                Ok(())
            }
            Change::Call(_) | Change::Skip if !calls || at.placement != Placement::Before => {
                Err(unfit("there is no call"))
            }
            Change::Skip => Change::goto(at, out, at.insn.end()),
            Change::Call(to) if at.features.shadow_stack => {
                out.call(at, to)?;
                Change::goto(at, out, at.insn.end())
            }
            Change::Call(to) => {
                // The callee returns to where the program expects it: the stack looks as behind the call that was there.
                out.asm().lea_rsp(-8);
                out.asm().push(Gpr::Rax);
                out.load_address(at, Gpr::Rax, at.insn.end())?;
                out.asm().mov_store(Gpr::Rsp, 8, Gpr::Rax);
                out.asm().pop(Gpr::Rax);
                Change::goto(at, out, to)
            }
        }
    }
}
