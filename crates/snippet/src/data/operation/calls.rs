//! Which calls are going on: for the time from the entry of a function to its exit.

/// A table of calls that are going on, by stack pointer: the address of the return address.
///
/// Each page of stack that calls are made on gets a page of the table; an entry for each 16 bytes: the time stamp of the entry,
/// and a *check* that says which function and which return address. So a call is found at once, however deep the recursion, on any stack
/// (of threads, signal handlers, coroutines), and what longjmp(3) or an exception left there is overwritten by the next
/// call at the same place. Stacks belong to one thread each, so nobody else touches an entry; only
/// pages are claimed, by one compare and exchange. The memory has to be private to a process: forked children have the same stacks.
///
/// The memory is for each page its number on the stack, 0 if it is free; then, from a multiple of 4096 on, the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallsLayout {
    pages: u8,
}

/// How many pages are looked at.
const PROBES: u32 = 32;

/// 2^32 divided by the golden ratio, made odd (Knuth, vol. 3, 6.4); negative as the instruction has it.
const SPREAD: i32 = 0x9E37_79B9_u32 as i32;

impl CallsLayout {
    /// For at least `pages` pages of stack (at most 2^20).
    pub fn new(pages: usize) -> CallsLayout {
        CallsLayout { pages: pages.clamp(512, 1 << 20).next_power_of_two().trailing_zeros() as u8 }
    }

    /// Size of its memory: whole pages. Those that are not used are never touched.
    pub fn bytes(self) -> u64 {
        self.pages_at() + (4096 << self.pages)
    }

    fn pages_at(self) -> u64 {
        (8u64 << self.pages).next_multiple_of(4096)
    }

    /// `r11 = entry of the stack pointer r9`, or a jump to `none`. In: `r11` the table. Changes `rax`, `rdx`, `r9`, `r10`,
    /// flags.
    fn entry(self, claim: bool, none: &str) -> String {
        let (mask, pages) = ((1u64 << self.pages) - 1, self.pages_at());
        let index =
            format!("mov r10, r9\nshr r10, 12\nimul eax, r10d, {SPREAD}\nshr eax, {}\n", 32 - self.pages);
        let free = if claim {
            format!(
                "mov rdx, rax
                 xor eax, eax
                 lock cmpxchg [r11+rdx*8], r10
                 mov rax, rdx
                 je 94f
                 mov edx, {PROBES}
                 jmp 91b
                "
            )
        } else {
            format!("jmp {none}\n")
        };
        let probes = format!("mov edx, {PROBES}\n");
        format!(
            "{index}\
             cmp [r11+rax*8], r10
             je 94f
             {probes}\
             91: cmp [r11+rax*8], r10
             je 94f
             cmp qword ptr [r11+rax*8], 0
             jne 92f
             {free}\
             92: inc eax
             and eax, {mask}
             dec edx
             jnz 91b
             jmp {none}
             94: shl rax, 12
             add r11, rax
             and r9d, 0xff0
             lea r11, [r11+r9+{pages}]
            "
        )
    }

    /// A call begins. In: `r11` the table, `r9` the stack pointer, `r8` the check. Out: `rax` not 0, or 0 if there is no page for it.
    /// Changes `rdx`, `r9`, `r10`, `r11`, flags.
    pub fn enter(self) -> String {
        format!(
            "{}\
             mov [r11+8], r8
             rdtsc
             shl rdx, 32
             or rax, rdx
             mov [r11], rax
             jmp 98f
             97: xor eax, eax
             98:
            ",
            self.entry(true, "97f")
        )
    }

    /// A call ends. In: as for [`enter`](Self::enter). Out: `rax` the ticks it took, -1 if it was not seen to begin. Changes `rcx`,
    /// `rdx`, `r9`, `r10`, `r11`, flags.
    pub fn exit(self) -> String {
        format!(
            "rdtsc
             shl rdx, 32
             or rax, rdx
             mov rcx, rax
             {}\
             cmp [r11+8], r8
             jne 97f
             mov rax, rcx
             mov qword ptr [r11+8], 0
             xor edx, edx
             sub rax, [r11]
             cmovs rax, rdx
             jmp 98f
             97: or rax, -1
             98:
            ",
            self.entry(false, "97f")
        )
    }
}
