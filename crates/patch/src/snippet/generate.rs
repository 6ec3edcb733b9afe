//! Snippets that generate their code at each point, for what is needed there.

use std::fmt;

use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr, GprSet, Insn, Live};
use incise_space::{Features, SpaceError};

use crate::snippet::placement::Placement;
use crate::snippet::placer::Placer;
use crate::snippet::{CounterId, CounterPlace};
use crate::tactic::Refusal;
use crate::trampoline::generated::VectorFrame;
use crate::trampoline::literals::Literals;
use crate::trampoline::lower::in_reach;

/// A snippet that generates code. The trampoline keeps what the code changes and the program still needs; the code
/// only has to say what it changes.
///
/// It may be asked several times for one point, and must give code of the same length each time for the same
/// [`PointContext::here`].
///
/// ```
/// use incise_isa::native::{Gpr, GprSet};
/// use incise_patch::{CounterId, Effects, Generate, Output, PointContext, Refusal};
///
/// /// Adds the first argument of a function to a counter.
/// #[derive(Debug)]
/// struct Sum(CounterId);
///
/// impl Generate for Sum {
///     fn effects(&self, _: &PointContext<'_>) -> Effects {
///         let clobbers = GprSet::of(&[Gpr::Rax]);
///         Effects { reads: GprSet::of(&[Gpr::Rdi]), clobbers, flags: true, ..Effects::default() }
///     }
///
///     fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
///         out.load_address(at, Gpr::Rax, at.counter(self.0))?;
///         out.asm().raw(&[0xF0, 0x48, 0x01, 0x38]); // lock add [rax], rdi
///         Ok(())
///     }
///
///     fn counters(&self) -> &[CounterId] {
///         std::slice::from_ref(&self.0)
///     }
/// }
/// ```
pub trait Generate: fmt::Debug + Send + Sync {
    /// What the code reads and changes at a point.
    fn effects(&self, at: &PointContext<'_>) -> Effects;

    /// Appends the code. It runs off its end.
    ///
    /// At its start every general register, the flags (unless they are kept and `rax` is not read: see
    /// [`Effects::reads`]) and every vector register have the program's values; only `rsp` is
    /// [`Output::stack_offset`] lower. At its end `rsp` has to be what it was at the start.
    ///
    /// # Errors
    /// [`Refusal`]: the point is not patched.
    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal>;

    /// Places what it needs beside its code at each point, such as functions and data, near a point where it is about to be
    /// inserted. Called in a transaction, before anything is planned; what was placed in the same
    /// [`Placer::generation`] is still there.
    ///
    /// # Errors
    /// [`SpaceError`]: the transaction changes nothing.
    fn place(&self, _: &mut Placer<'_>) -> Result<(), SpaceError> {
        Ok(())
    }

    /// The counters it refers to: they get memory near the point.
    fn counters(&self) -> &[CounterId] {
        &[]
    }

    /// Whether it changes its counters by [`Output::count`] only: then each thread may count by itself.
    fn only_counts(&self) -> bool {
        false
    }
}

/// What generated code reads and changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// General registers whose value in the program it reads: other snippets leave them alone, even where the program
    /// does not need them any more.
    pub reads: GprSet,
    /// General registers it changes, which the program shall not notice.
    pub clobbers: GprSet,
    /// General registers it changes for the program; `rsp` cannot be one.
    pub writes: GprSet,
    /// It reads the status flags of the program.
    pub reads_flags: bool,
    /// It changes arithmetic flags, which the program shall not notice.
    pub flags: bool,
    /// Vector state it changes, which the program shall not notice.
    pub vectors: Vectors,
    /// It writes to the stack below `rsp`.
    pub stack: bool,
}

impl Effects {
    /// Those of code that calls a function with the system's calling convention, compiled for any processor.
    pub const CALL: Effects = Effects {
        reads: GprSet::EMPTY,
        clobbers: incise_isa::native::abi::CALLER_SAVED,
        writes: GprSet::EMPTY,
        reads_flags: false,
        flags: true,
        vectors: Vectors::All,
        stack: true,
    };
}

/// Vector registers, `mxcsr` with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Vectors {
    /// None.
    #[default]
    None,
    /// The low 128 bits of the registers whose bits are set, by instructions that leave the upper bits alone (legacy
    /// SSE). Arithmetic runs in the default mode: nearest, exceptions masked.
    Sse(u16),
    /// All that this processor has.
    All,
}

/// The point that code is generated for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PointContext<'a> {
    /// The probed instruction.
    pub insn: &'a Insn,
    /// On which way in or out of it the code runs.
    pub placement: Placement,
    /// What the program may still read behind the code.
    pub live: Live,
    /// What the space allows.
    pub features: Features,
    /// Where the trampoline is about to be.
    pub here: Addr,
    pub(crate) counters: &'a [CounterPlace],
}

impl PointContext<'_> {
    /// The address of the probed instruction.
    pub fn addr(&self) -> Addr {
        self.insn.addr()
    }

    /// Where a counter is that [`Generate::counters`] tells of.
    ///
    /// # Panics
    /// For any other counter.
    pub fn counter(&self, counter: CounterId) -> Addr {
        self.place_of(counter).at
    }

    fn place_of(&self, counter: CounterId) -> CounterPlace {
        let found = self.counters.iter().find(|place| place.id == counter);
        *found.unwrap_or_else(|| panic!("{counter:?} is not among the snippet's counters"))
    }

    /// Whether every instruction of the trampoline reaches `to` by a 32-bit displacement.
    pub fn reaches(&self, to: Addr) -> bool {
        in_reach(&Assembler::new(self.here), to)
    }
}

/// Where generated code goes.
pub struct Output<'a> {
    pub(crate) asm: &'a mut Assembler,
    pub(crate) literals: &'a mut Literals,
    pub(crate) stack_offset: i32,
    pub(crate) vectors: &'a VectorFrame,
}

/// A value for an argument of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Argument {
    /// What a register holds now; of `rsp`, the program's.
    Register(Gpr),
    /// A number. An address must not be given so where code moves.
    Immediate(u64),
}

/// `mov [rsp-8], rsp`: overwrites the return address of a call that has returned. A later frame may come to lie over it
/// without writing there, and who looks for threads in this trampoline would take the rest for a thread that returns.
pub(crate) const FORGET_RETURN: [u8; 5] = [0x48, 0x89, 0x64, 0x24, 0xF8];

impl Output<'_> {
    /// The assembler. Its `here()` is where the next byte lies.
    pub fn asm(&mut self) -> &mut Assembler {
        self.asm
    }

    /// How many bytes `rsp` is below the program's: at the start of the code, and here if only [`push`](Self::push) and
    /// [`pop`](Self::pop) changed it since.
    pub fn stack_offset(&self) -> i32 {
        self.stack_offset
    }

    /// Pushes a register. What is written behind finds the program's stack all the same.
    pub fn push(&mut self, register: Gpr) {
        self.asm.push(register);
        self.stack_offset += 8;
    }

    /// Pops a register.
    pub fn pop(&mut self, register: Gpr) {
        self.asm.pop(register);
        self.stack_offset -= 8;
    }

    /// Adds one to a counter of the snippet, for all threads. Flags change.
    ///
    /// # Errors
    /// [`Refusal::NoRoom`] where the counter is out of reach.
    ///
    /// # Panics
    /// For a counter that [`Generate::counters`] does not tell of.
    pub fn count(&mut self, at: &PointContext<'_>, counter: CounterId) -> Result<(), Refusal> {
        let place = at.place_of(counter);
        let counted = match place.by_thread {
            true => self.asm.inc_gs(place.at),
            false => self.asm.lock_inc(place.at),
        };
        counted.map_err(|_| Refusal::NoRoom(at.addr()))
    }

    /// Where the program's value of a vector register is kept, counted from `rsp` at the start of the code. It gets back what is
    /// there then; if it is not kept, what the code leaves in it.
    pub fn kept_vector(&self, number: u8) -> Option<i32> {
        self.vectors.slot(number)
    }

    /// The offset of the next byte, for [`fault`](Self::fault).
    pub fn position(&self) -> usize {
        self.asm.bytes().len()
    }

    /// If the instruction that begins at position `load` faults (SIGSEGV, SIGBUS, SIGFPE), the thread goes on at
    /// position `fixup` of the same code, with every register as before the instruction.
    pub fn fault(&mut self, load: usize, fixup: usize) {
        self.literals.faults.push((load as u32, fixup as u32));
    }

    /// Fills in the 8-bit displacement that ends at position `end`, so that it leads to the next byte.
    ///
    /// # Panics
    /// If it is more than 127 bytes away.
    pub fn join8(&mut self, end: usize) {
        let distance = self.position() - end;
        let distance = i8::try_from(distance).expect("a short distance");
        self.asm.set(end - 1, &[distance as u8]);
    }

    /// Takes the stack, and the mode of vector arithmetic, back to what the program had; registers that were kept are forgotten. For
    /// code that leaves the trampoline. The stack has to be as at the start.
    pub fn leave(&mut self) {
        self.vectors.restore_mode(self.asm);
        if self.stack_offset != 0 {
            self.asm.lea_rsp(self.stack_offset);
        }
    }

    /// `cmp register, [data]`: a quadword that lies behind the code.
    pub fn compare_literal(&mut self, register: Gpr, value: u64) {
        let rex = 0x48 | (register.number() >> 3) << 2;
        let modrm = 0x05 | (register.number() & 7) << 3;
        self.literals.refer(self.asm, &[rex, 0x3B, modrm], &value.to_le_bytes());
    }

    /// `register = [data]`: a quadword that lies behind the code.
    pub fn load_literal(&mut self, register: Gpr, value: u64) {
        let rex = 0x48 | (register.number() >> 3) << 2;
        let modrm = 0x05 | (register.number() & 7) << 3;
        self.literals.refer(self.asm, &[rex, 0x8B, modrm], &value.to_le_bytes());
    }

    /// Puts `bytes` behind the code, and fills in the 32-bit displacement at position `field`, the last four bytes of its
    /// instruction, so that it leads there.
    pub fn literal(&mut self, field: usize, bytes: &[u8]) {
        self.literals.point(field, bytes);
    }

    /// `register = address of` a copy of `bytes` behind the code.
    pub fn lea_literal(&mut self, register: Gpr, bytes: &[u8]) {
        let rex = 0x48 | (register.number() >> 3) << 2;
        let modrm = 0x05 | (register.number() & 7) << 3;
        self.literals.refer(self.asm, &[rex, 0x8D, modrm], bytes);
    }

    /// `register = to`, an address in the target.
    ///
    /// # Errors
    /// [`Refusal::NoRoom`] where code moves and `to` is out of reach.
    pub fn load_address(&mut self, at: &PointContext<'_>, register: Gpr, to: Addr) -> Result<(), Refusal> {
        if in_reach(self.asm, to) {
            let rex = 0x48 | (register.number() >> 3) << 2;
            let modrm = 0x05 | (register.number() & 7) << 3;
            self.asm.relative(&[rex, 0x8D, modrm], to);
        } else if at.features.moves {
            return Err(Refusal::NoRoom(at.addr()));
        } else {
            self.asm.mov_imm(register, to.0);
        }
        Ok(())
    }

    /// Calls `to`, with the stack as it is.
    ///
    /// # Errors
    /// As for [`load_address`](Self::load_address).
    pub fn call(&mut self, at: &PointContext<'_>, to: Addr) -> Result<(), Refusal> {
        if at.features.moves && !in_reach(self.asm, to) {
            return Err(Refusal::NoRoom(at.addr()));
        }
        self.literals.call(self.asm, to);
        self.asm.raw(&FORGET_RETURN);
        Ok(())
    }

    /// Calls a function with the system's calling convention: sets its (at most six) arguments, aligns the stack and
    /// clears the direction flag. The result is in `rax`. [`Effects::CALL`] are its effects, the registers of
    /// `arguments` are to be added to what is read; for a function that is known to touch less, fewer.
    ///
    /// ```text
    ///     push rsp ; push [rsp] ; and rsp, -16 ; push rax ; pushfq
    ///     test byte [rsp+1], 4 ; jz 1f ; cld
    /// 1:  call to
    ///     test byte [rsp+1], 4 ; jz 2f ; std
    /// 2:  mov rsp, [rsp+24]
    /// ```
    ///
    /// # Errors
    /// As for [`load_address`](Self::load_address).
    pub fn call_function(
        &mut self,
        at: &PointContext<'_>,
        to: Addr,
        arguments: &[Argument],
    ) -> Result<(), Refusal> {
        self.set_arguments(arguments);
        let asm = &mut *self.asm;
        asm.push(Gpr::Rsp);
        asm.push_load(Gpr::Rsp, 0);
        asm.raw(&[0x48, 0x83, 0xE4, 0xF0]);
        asm.push(Gpr::Rax);
        asm.raw(&[0x9C]);
        asm.raw(&[0xF6, 0x44, 0x24, 0x01, 0x04, 0x74, 0x01, 0xFC]);
        self.call(at, to)?;
        self.asm.raw(&[0xF6, 0x44, 0x24, 0x01, 0x04, 0x74, 0x01, 0xFD]);
        self.asm.mov_load(Gpr::Rsp, Gpr::Rsp, 24);
        Ok(())
    }

    /// Moves values to where a function expects its arguments, all at once.
    fn set_arguments(&mut self, arguments: &[Argument]) {
        let targets = &incise_isa::native::abi::ARGUMENTS[..arguments.len()];
        let moves = targets.iter().zip(arguments);
        let mut pushed = Vec::new();
        for (target, argument) in moves.clone() {
            match argument {
                Argument::Register(source) if source == target => {}
                // A register that no move changes can be read at any time.
                Argument::Register(source) if *source != Gpr::Rsp && targets.contains(source) => {
                    self.asm.push(*source);
                    pushed.push(*target);
                }
                _ => {}
            }
        }
        for &target in pushed.iter().rev() {
            self.asm.pop(target);
        }
        for (target, argument) in moves {
            match *argument {
                Argument::Register(Gpr::Rsp) => self.asm.lea(*target, Gpr::Rsp, self.stack_offset),
                Argument::Register(source) if !targets.contains(&source) => self.asm.mov(*target, source),
                Argument::Register(_) => {}
                Argument::Immediate(value) => self.asm.mov_imm(*target, value),
            }
        }
    }
}
