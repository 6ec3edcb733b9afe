//! How a thread that is in a trampoline looks to its program: the registers of the original code.
//!
//! A signal handler of the program gets the interrupted registers in its frame. What it must see there, and
//! may change, are the original instruction pointer and the program's own registers: [`View::of`]. When it returns, the
//! thread goes on in the middle of the trampoline if the handler has left the instruction pointer alone, so that what a
//! snippet has done is not done again: [`View::back`]. If the handler has changed it, or nobody is there to put it back, the
//! thread goes on in the original code, which is right too.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Flow, Gpr, Undo, decode, undo};

use crate::Displaced;

/// Registers as a signal frame holds them: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags (kernel
/// ABI: asm/sigcontext.h).
pub(crate) type FrameRegisters = [u64; 18];

const RAX: usize = 13;
const RCX: usize = 14;
const RSP: usize = 15;
const RIP: usize = 16;
const FLAGS: usize = 17;

fn index(register: Gpr) -> usize {
    match register {
        Gpr::Rdi => 8,
        Gpr::Rsi => 9,
        Gpr::Rbp => 10,
        Gpr::Rbx => 11,
        Gpr::Rdx => 12,
        Gpr::Rax => RAX,
        Gpr::Rcx => RCX,
        Gpr::Rsp => RSP,
        extended => usize::from(extended.number()) - 8,
    }
}

/// The trampolines of a process.
#[derive(Clone, Default)]
pub(crate) struct Trampolines(BTreeMap<Addr, Displaced>);

impl Trampolines {
    /// Notes what lies in memory from now on.
    pub(crate) fn note(&mut self, displaced: &[Displaced]) {
        for new in displaced {
            if self.0.is_empty() {
                break;
            }
            let range = new.landing..new.landing + u64::from(new.len);
            while let Some((&at, _)) = self.0.range(range.clone()).next() {
                self.0.remove(&at);
            }
        }
        let new = displaced.iter().map(|new| (new.landing, *new));
        // Many are sorted first, which costs less than to look for the place of each.
        if displaced.len() > self.0.len() / 8 {
            self.0.append(&mut new.collect());
        } else {
            self.0.extend(new);
        }
    }

    /// Whether `ip` is in one.
    pub(crate) fn contains(&self, ip: Addr) -> bool {
        self.find(ip).is_some()
    }

    /// Forgets what lies in `range`: it is no trampoline any more.
    pub(crate) fn forget(&mut self, range: Range<Addr>) {
        self.0.extract_if(range, |_, _| true).for_each(drop);
    }

    /// The original instruction that a thread at `ip` is at.
    pub(crate) fn original_ip(&self, ip: Addr, memory: &dyn ProgramMemory) -> Option<Addr> {
        self.place(ip, memory).map(|place| place.ip)
    }

    /// Those that lie in `range`.
    pub(crate) fn within(&self, range: &Range<Addr>) -> impl Iterator<Item = Displaced> + '_ {
        let end = range.end;
        self.0
            .range(range.clone())
            .map(|(_, displaced)| *displaced)
            .filter(move |displaced| displaced.landing + u64::from(displaced.len) <= end)
    }

    fn find(&self, ip: Addr) -> Option<&Displaced> {
        let (_, found) = self.0.range(..=ip).next_back()?;
        (ip.offset_from(found.landing) < i64::from(found.len)).then_some(found)
    }

    /// Where the program is when a thread is at `ip`, and what to undo to get there.
    fn place(&self, ip: Addr, memory: &dyn ProgramMemory) -> Option<Place> {
        let found = self.find(ip)?;
        let code = memory.code(found.landing, found.len as usize)?;
        let code = &*code;
        let offset = ip.offset_from(found.landing) as usize;
        let (copy, behind) = (usize::from(found.copy), usize::from(found.copy) + usize::from(found.copied));
        let plain = |ip, undo| Place { ip, undo, system_call: false };
        if found.original_len == 0 {
            let to = way_out(found, code, ip).map(|to| self.original(to)).unwrap_or(found.original);
            return Some(plain(to, undo(code, found.landing, ip)?));
        }
        if found.copy == u16::MAX {
            return None;
        }
        let next = found.original + u64::from(found.original_len);
        if offset <= copy {
            return Some(plain(found.original, undo(code, found.landing, ip)?));
        }
        if offset >= behind {
            let from = found.landing + behind as u64;
            return Some(plain(next, undo(&code[behind..], from, ip)?));
        }
        const SYSCALL: [u8; 2] = [0x0F, 0x05];
        let copied = &code[copy..behind];
        if copied.starts_with(&SYSCALL) && offset == copy + SYSCALL.len() {
            return Some(Place { ip: next, undo: Undo::default(), system_call: true });
        }
        let first = decode(copied, found.landing + copy as u64).ok()?;
        if let Flow::Branch(_) = first.flow()
            && let Flow::Jump(to) = decode(&code[offset..], ip).ok()?.flow()
        {
            // The branch has been decided; what follows are jumps (a counter must not count twice).
            return Some(plain(self.original(to), Undo::default()));
        }
        Some(plain(found.original, undo(copied, found.landing + copy as u64, ip)?))
    }

    /// The original address for one that a jump in a trampoline leads to.
    pub(crate) fn original(&self, to: Addr) -> Addr {
        self.find(to).map_or(to, |found| found.original)
    }
}

/// The memory of the process.
pub(crate) trait ProgramMemory {
    /// Bytes of a trampoline.
    fn code(&self, at: Addr, len: usize) -> Option<Cow<'_, [u8]>>;
    /// A quadword of a stack.
    fn quadword(&self, at: Addr) -> Option<u64>;
}

struct Place {
    ip: Addr,
    undo: Undo,
    /// The thread is just behind a system call, which has put that address into rcx.
    system_call: bool,
}

/// Where the first jump from `ip` on leads that leaves the detour.
pub(crate) fn way_out(detour: &Displaced, code: &[u8], ip: Addr) -> Option<Addr> {
    const FAR_JUMP: [u8; 6] = [0xFF, 0x25, 0, 0, 0, 0];
    let inside = detour.landing..detour.landing + u64::from(detour.len);
    let mut at = ip;
    loop {
        let rest = code.get(at.offset_from(detour.landing) as usize..)?;
        let insn = decode(rest, at).ok()?;
        match insn.flow() {
            Flow::Jump(to) if !inside.contains(&to) => return Some(to),
            Flow::IndirectJump if insn.bytes() == FAR_JUMP => {
                return rest[insn.len()..].first_chunk().map(|to| Addr(u64::from_le_bytes(*to)));
            }
            _ => at = insn.end(),
        }
    }
}

/// What a handler is shown instead of what is so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View {
    /// The registers of the thread in the trampoline.
    real: FrameRegisters,
    /// Those of the original program.
    pub shown: FrameRegisters,
    undo: Undo,
}

impl View {
    /// For a thread with these registers; `None` if it is in no trampoline, or the program's registers cannot be told.
    pub(crate) fn of(
        trampolines: &Trampolines,
        real: &FrameRegisters,
        memory: &dyn ProgramMemory,
    ) -> Option<View> {
        let Place { ip, undo, system_call } = trampolines.place(Addr(real[RIP]), memory)?;
        let load = |offset: i64| memory.quadword(Addr(real[RSP].wrapping_add_signed(offset)));
        let mut shown = *real;
        shown[RIP] = ip.0;
        shown[RSP] = real[RSP].wrapping_add_signed(undo.stack);
        if system_call {
            shown[RCX] = ip.0;
        }
        for (register, offset) in undo.saved() {
            shown[index(register)] = load(offset)?;
        }
        shown[FLAGS] = undo.flags.restored(real[FLAGS], real[RAX], load)?;
        Some(View { real: *real, shown, undo })
    }

    /// The instruction pointer that is so.
    pub(crate) fn real_ip(&self) -> Addr {
        Addr(self.real[RIP])
    }

    /// The registers to go on with when a handler returns that was shown this and leaves `now`; `store` writes the
    /// quadwords of those that wait on the stack. `None` if it goes on with `now`, because it wants to go on elsewhere.
    pub(crate) fn back(
        &self,
        now: &FrameRegisters,
        store: &mut dyn FnMut(Addr, u64),
    ) -> Option<FrameRegisters> {
        if now[RIP] != self.shown[RIP] || now[RSP] != self.shown[RSP] {
            return None;
        }
        let mut back = *now;
        for (register, real) in back.iter_mut().zip(self.real.iter().zip(&self.shown)) {
            if *register == *real.1 {
                *register = *real.0;
            }
        }
        for (register, offset) in self.undo.saved() {
            let index = index(register);
            store(Addr(self.real[RSP].wrapping_add_signed(offset)), now[index]);
            back[index] = self.real[index];
        }
        Some(back)
    }
}
