//! What is recorded at the entry and the exit of a function.
//!
//! A record, as quadwords: time stamp; thread id, and above it the point (twice the function, one more at an exit); stack pointer (the
//! address of the return address); at an entry the arguments, at an exit the value of `rax`. Where stacks are wanted, an entry goes on
//! with `rbp`, a number of quadwords, and so many quadwords of the stack, from the stack pointer on.

use std::sync::Arc;

use incise_isa::native::{Gpr, GprSet, abi};
use incise_patch::{Effects, Generate, Output, PointContext, Refusal};
use incise_snippet::data::RingLayout;
use incise_snippet::data::operation::{ring_commit, ring_reserve};

use super::template::{POINT, STACK, Template};

/// Quadwords before the arguments.
pub(crate) const FIXED: usize = 3;

/// What records hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub layout: RingLayout,
    /// Up to six.
    pub arguments: usize,
    /// Whether what is left of the slot behind them is filled with the stack.
    pub stack: bool,
}

impl Shape {
    /// Where `rbp` is.
    pub(crate) fn rbp(self) -> usize {
        FIXED + self.arguments.max(1)
    }

    /// Where it is told how many quadwords of the stack follow.
    pub(crate) fn count(self) -> usize {
        self.rbp() + 1
    }

    /// Quadwords in the memory of a slot that come before those of the stack: its turn, and these.
    pub(crate) const fn before_stack(arguments: usize) -> usize {
        1 + FIXED + if arguments == 0 { 1 } else { arguments } + 2
    }
}

/// What a record is made with, for one set of rings.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    entry: Arc<Template>,
    exit: Arc<Template>,
    arguments: usize,
    /// Where the stack is read, and where to go on if it ends there.
    read: Option<(usize, usize)>,
}

/// Reads a quadword of the stack.
const READ: &str = "mov rax, [rdx+r11*8]";

impl Recorder {
    /// For rings at address `at`. `thread`: how far the thread's id is behind the thread pointer, if every thread has one. `end`: the
    /// first thread's stack ends there.
    pub(crate) fn new(shape: Shape, at: u64, thread: Option<u64>, end: u64) -> Recorder {
        let Shape { layout, arguments, stack } = shape;
        let mut values = String::new();
        for (index, register) in abi::ARGUMENTS[..arguments].iter().enumerate() {
            let slot = 8 * (1 + FIXED + index);
            values += &match register {
                Gpr::R9 => format!("mov rax, [rsp]\nmov [r10+{slot}], rax\n"),
                register => format!("mov [r10+{slot}], {register}\n"),
            };
        }
        let all = arguments == abi::ARGUMENTS.len();
        let (push, pop) = if all { ("push r9\n", "pop r9\n") } else { ("", "") };
        let copy = if stack { copy_stack(shape, end) } else { String::new() };
        let entry = Template::new(&code(layout, at, push, &values, thread, &copy, pop));
        let value = format!("mov [r10+{}], rcx\n", 8 * (1 + FIXED));
        let exit = Template::new(&code(layout, at, "mov rcx, rax\n", &value, thread, "", ""));
        let read = entry.find(READ).zip(entry.find(&copied(shape))).filter(|_| stack);
        Recorder { entry: Arc::new(entry), exit: Arc::new(exit), arguments, read }
    }

    /// The snippet for a point of function `function`.
    pub(crate) fn snippet(&self, function: u32, exit: bool) -> Record {
        Record { recorder: self.clone(), point: function << 1 | u32::from(exit), exit }
    }
}

/// The slot is taken first and the time read then, so that no record is older than its slot.
fn code(
    layout: RingLayout,
    at: u64,
    before: &str,
    values: &str,
    thread: Option<u64>,
    last: &str,
    after: &str,
) -> String {
    format!(
        "{before}\
         mov r11, {at}
         {reserve}\
         test r10, r10
         jz 9f
         {values}\
         rdtsc
         shl rdx, 32
         or rax, rdx
         mov [r10+8], rax
         {thread}\
         mov dword ptr [r10+20], {POINT}
         lea rax, [rsp+{STACK}]
         mov [r10+24], rax
         {last}\
         {commit}\
         9: {after}nop
        ",
        reserve = ring_reserve(layout),
        thread = thread_id(thread),
        commit = ring_commit(),
    )
}

/// Puts the thread's id into the record. If it is not known yet where that is, the word of the ring's head will say; early in the
/// life of a program there is no thread pointer.
fn thread_id(known: Option<u64>) -> String {
    if let Some(offset) = known {
        return format!("mov eax, fs:[{offset}]\nmov [r10+16], eax\n");
    }
    "rdfsbase rax
     mov rdx, [r11+24]
     test rax, rax
     jz 8f
     mov eax, [rax+rdx]
     8: mov [r10+16], eax
    "
    .to_owned()
}

/// Tells how much of the stack was copied.
fn copied(shape: Shape) -> String {
    format!("mov [r10+{}], r11", 8 * (1 + shape.count()))
}

/// Copies the stack: as much as there is room for, not beyond the thread's descriptor, below which the C library puts the stack of each
/// thread but the first one, nor beyond `end`. What still cannot be read ends the copy.
fn copy_stack(shape: Shape, end: u64) -> String {
    let (rbp, stack) = (8 * (1 + shape.rbp()), 8 * (2 + shape.count()));
    let most = shape.layout.words() - shape.count() - 1;
    let copied = copied(shape);
    format!(
        "mov [r10+{rbp}], rbp
         lea rdx, [rsp+{STACK}]
         mov r9d, {most}
         mov rax, {end}
         sub rax, rdx
         shr rax, 3
         cmp rax, r9
         cmovb r9, rax
         rdfsbase rax
         sub rax, rdx
         shr rax, 3
         cmp rax, r9
         cmovb r9, rax
         xor r11d, r11d
         6: cmp r11, r9
         jae 7f
         {READ}
         mov [r10+r11*8+{stack}], rax
         inc r11
         jmp 6b
         7: {copied}
        "
    )
}

/// A snippet that leaves a record.
#[derive(Debug)]
pub(crate) struct Record {
    recorder: Recorder,
    point: u32,
    exit: bool,
}

impl Record {
    fn pushes(&self) -> bool {
        !self.exit && self.recorder.arguments == abi::ARGUMENTS.len()
    }
}

impl Generate for Record {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        let mut clobbers = GprSet::of(&[Gpr::Rax, Gpr::Rdx, Gpr::R9, Gpr::R10, Gpr::R11]);
        let reads = if self.exit {
            clobbers.insert(Gpr::Rcx);
            GprSet::of(&[Gpr::Rax])
        } else {
            let mut reads = GprSet::of(&abi::ARGUMENTS[..self.recorder.arguments]);
            if self.recorder.read.is_some() {
                reads.insert(Gpr::Rbp);
            }
            reads
        };
        Effects { reads, clobbers, flags: true, stack: self.pushes(), ..Effects::default() }
    }

    fn generate(&self, _: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let template = if self.exit { &self.recorder.exit } else { &self.recorder.entry };
        let stack = out.stack_offset() + if self.pushes() { 8 } else { 0 };
        let code = template.fill(&[(POINT, self.point), (STACK, stack as u32)]);
        let at = out.position();
        out.asm().raw(&code);
        if let Some((read, go_on)) = self.recorder.read.filter(|_| !self.exit) {
            out.fault(at + read, at + go_on);
        }
        Ok(())
    }
}
