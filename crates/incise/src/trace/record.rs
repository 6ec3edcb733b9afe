//! What is recorded at the entry and the exit of a function.
//!
//! A record, as quadwords: time stamp; thread id, and above it the point (twice the function, one more at an exit); stack pointer (the
//! address of the return address); at an entry the arguments, at an exit the value of `rax`.

use std::sync::Arc;

use incise_isa::native::{Gpr, GprSet, abi};
use incise_patch::{Effects, Generate, Output, PointContext, Refusal};
use incise_snippet::data::RingLayout;
use incise_snippet::data::operation::{ring_commit, ring_reserve};

use super::template::{POINT, STACK, Template};

/// Quadwords before the arguments.
pub(crate) const FIXED: usize = 3;

/// What a record is made with, for one set of rings.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    entry: Arc<Template>,
    exit: Arc<Template>,
    arguments: usize,
}

impl Recorder {
    /// For rings at address `at`, of records with `arguments` arguments (up to six). `thread`: how far the thread's id is behind the
    /// thread pointer, if every thread has one.
    pub(crate) fn new(layout: RingLayout, at: u64, arguments: usize, thread: Option<u64>) -> Recorder {
        let arguments = arguments.min(abi::ARGUMENTS.len());
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
        let entry = code(layout, at, push, &values, pop, thread);
        let exit =
            code(layout, at, "mov rcx, rax\n", &format!("mov [r10+{}], rcx\n", 8 * (1 + FIXED)), "", thread);
        Recorder { entry: Arc::new(Template::new(&entry)), exit: Arc::new(Template::new(&exit)), arguments }
    }

    /// The snippet for a point of function `function`.
    pub(crate) fn snippet(&self, function: u32, exit: bool) -> Record {
        Record { recorder: self.clone(), point: function << 1 | u32::from(exit), exit }
    }
}

/// The slot is taken first and the time read then, so that no record is older than its slot.
fn code(layout: RingLayout, at: u64, before: &str, values: &str, after: &str, thread: Option<u64>) -> String {
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
            GprSet::of(&abi::ARGUMENTS[..self.recorder.arguments])
        };
        Effects { reads, clobbers, flags: true, stack: self.pushes(), ..Effects::default() }
    }

    fn generate(&self, _: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let template = if self.exit { &self.recorder.exit } else { &self.recorder.entry };
        let stack = out.stack_offset() + if self.pushes() { 8 } else { 0 };
        let code = template.fill(&[(POINT, self.point), (STACK, stack as u32)]);
        out.asm().raw(&code);
        Ok(())
    }
}
