//! How an [`OwnSpace`] is set up.

use super::{OwnSpace, Pages};
use crate::SpaceError;

/// How live code is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Writer {
    /// The one that suits the change: see [`OwnSpace`].
    #[default]
    Auto,
    /// Byte by byte, with traps in between.
    Poke,
    /// Page by page, by replacing mappings.
    Swap,
}

/// Who is told how to unwind out of trampolines. (Frames above a probe need none of it: calls are made from where they were,
/// and callbacks have the probed instruction for their caller. It is for what stops or interrupts a thread in a
/// trampoline.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Unwinding {
    /// gdb, of transactions that are small: larger ones take half as long again with it.
    #[default]
    Auto,
    /// Nobody: nothing is encoded.
    Nobody,
    /// gdb, through its interface for just-in-time compilers.
    Debuggers,
    /// The unwinder of this process too, by `__register_frame`: exceptions, backtraces and cancellation that begin in a
    /// signal handler over a trampoline go on into the program. From then on libgcc before 13 takes a lock each time it
    /// looks for a frame: `backtrace` in a signal handler may wait for itself if it interrupts an unwinding.
    Everybody,
}

/// Settings of an [`OwnSpace`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Builder {
    pub(super) writer: Writer,
    pub(super) pages: Pages,
    pub(super) original_in_handlers: bool,
    pub(super) unwinding: Unwinding,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            writer: Writer::Auto,
            pages: Pages::Placed,
            original_in_handlers: false,
            unwinding: Unwinding::Auto,
        }
    }
}

impl Builder {
    /// Who is told how to unwind out of trampolines. Default: [`Unwinding::Auto`].
    pub fn unwinding(mut self, unwinding: Unwinding) -> Builder {
        self.unwinding = unwinding;
        self
    }

    /// Whether signal handlers see the original instruction pointer and registers where a signal arrives in a trampoline or
    /// is raised by a displaced instruction. For that, each [`apply`](crate::AddressSpace::apply) puts a gate before the handlers
    /// that are installed then, which is what sigaction(2) tells to be the handler from there on. Default: no.
    pub fn original_in_handlers(mut self, original: bool) -> Builder {
        self.original_in_handlers = original;
        self
    }

    /// Which writer to use. Default: [`Writer::Auto`].
    pub fn writer(mut self, writer: Writer) -> Builder {
        self.writer = writer;
        self
    }

    /// How the pages of changed code are made; [`Pages::MemoryFile`] also means never to write through
    /// /proc/self/mem, so there is no poke then. Default: the fastest that this process is allowed.
    pub fn pages(mut self, pages: Pages) -> Builder {
        self.pages = pages;
        self
    }

    /// The space.
    ///
    /// # Errors
    /// None is known; a machine on which code cannot be changed says so when it is tried.
    pub fn build(self) -> Result<OwnSpace, SpaceError> {
        Ok(OwnSpace::with(self))
    }
}
