//! A whole machine state, loaded before code that changes none of it, and stored behind.
//!
//! # Safety
//! The harness puts back what belongs to the caller.

use std::arch::{asm, global_asm};

use super::Rng;

/// A machine state: what the program has in its registers at the point.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Machine {
    pub xsave: [u8; 4096],
    /// rax rcx rdx rbx (unused) rbp rsi rdi r8 ... r15.
    pub gregs: [u64; 16],
    pub flags: u64,
    /// The red zone of the function called, from its lowest address up.
    red_zone: [u64; 16],
    pub host_rsp: u64,
}

global_asm!(
    ".pushsection .text.incise_registers, \"ax\", @progbits",
    // Instructions that change nothing, of many lengths.
    ".balign 16",
    ".hidden identity",
    ".globl identity",
    ".type identity, @function",
    "identity:",
    "nop dword ptr [rax + rax]",
    "nop",
    "lea rbx, [rbx]",
    "mov r8, r8",
    "xchg r9, r9",
    "nop",
    "lea rsp, [rsp]",
    "xchg rax, rax",
    "bswap rcx",
    "bswap rcx",
    "movaps xmm3, xmm3",
    "jmp 2f",
    "2: nop",
    "ret",
    ".size identity, . - identity",
    // machine_run(rdi: *mut Machine): loads it, calls identity, stores it.
    ".balign 16",
    ".hidden machine_run",
    ".globl machine_run",
    "machine_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + machine_at], rdi",
    "mov [rdi + {HOST_RSP}], rsp",
    // x87, SSE, AVX, AVX-512: other components may need more memory than there is (AMX).
    "mov eax, 0xE7",
    "xor edx, edx",
    "xrstor64 [rdi]",
    "mov ecx, 16",
    "2: mov rax, [rdi + rcx * 8 + {RED_ZONE} - 8]",
    "mov [rsp + rcx * 8 - 144], rax",
    "dec ecx",
    "jnz 2b",
    "push qword ptr [rdi + {FLAGS}]",
    "popfq",
    "mov rax, [rdi + {GREGS}]",
    "mov rcx, [rdi + {GREGS} + 8]",
    "mov rdx, [rdi + {GREGS} + 16]",
    "mov rbx, [rdi + {GREGS} + 24]",
    "mov rbp, [rdi + {GREGS} + 40]",
    "mov rsi, [rdi + {GREGS} + 48]",
    "mov r8, [rdi + {GREGS} + 64]",
    "mov r9, [rdi + {GREGS} + 72]",
    "mov r10, [rdi + {GREGS} + 80]",
    "mov r11, [rdi + {GREGS} + 88]",
    "mov r12, [rdi + {GREGS} + 96]",
    "mov r13, [rdi + {GREGS} + 104]",
    "mov r14, [rdi + {GREGS} + 112]",
    "mov r15, [rdi + {GREGS} + 120]",
    "mov rdi, [rdi + {GREGS} + 56]",
    "call [rip + machine_calls]",
    "mov [rip + machine_rdi], rdi",
    "mov rdi, [rip + machine_at]",
    "mov [rdi + {GREGS}], rax",
    "mov [rdi + {GREGS} + 8], rcx",
    "mov [rdi + {GREGS} + 16], rdx",
    "mov [rdi + {GREGS} + 24], rbx",
    "mov [rdi + {GREGS} + 40], rbp",
    "mov [rdi + {GREGS} + 48], rsi",
    "mov [rdi + {GREGS} + 64], r8",
    "mov [rdi + {GREGS} + 72], r9",
    "mov [rdi + {GREGS} + 80], r10",
    "mov [rdi + {GREGS} + 88], r11",
    "mov [rdi + {GREGS} + 96], r12",
    "mov [rdi + {GREGS} + 104], r13",
    "mov [rdi + {GREGS} + 112], r14",
    "mov [rdi + {GREGS} + 120], r15",
    "mov rax, [rip + machine_rdi]",
    "mov [rdi + {GREGS} + 56], rax",
    "pushfq",
    "pop qword ptr [rdi + {FLAGS}]",
    "push 2",
    "popfq",
    "mov rax, rsp",
    "sub rax, [rdi + {HOST_RSP}]",
    "jz 3f",
    "ud2",
    "3: mov ecx, 16",
    "4: mov rax, [rsp + rcx * 8 - 144]",
    "mov [rdi + rcx * 8 + {RED_ZONE} - 8], rax",
    "dec ecx",
    "jnz 4b",
    "mov eax, 0xE7",
    "xor edx, edx",
    "xsave64 [rdi]",
    "fninit",
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "pop rax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    ".pushsection .bss.incise_registers, \"aw\", @nobits",
    ".balign 8",
    "machine_at: .zero 8",
    "machine_rdi: .zero 8",
    ".globl machine_calls",
    ".hidden machine_calls",
    "machine_calls: .zero 8",
    ".popsection",
    GREGS = const std::mem::offset_of!(Machine, gregs),
    FLAGS = const std::mem::offset_of!(Machine, flags),
    RED_ZONE = const std::mem::offset_of!(Machine, red_zone),
    HOST_RSP = const std::mem::offset_of!(Machine, host_rsp),
);

unsafe extern "C" {
    pub fn identity();
    fn machine_run(machine: *mut Machine);
    static mut machine_calls: usize;
}

/// Arithmetic flags, direction, alignment check, identification.
const FLAGS: u64 = 0x0024_0CD5;

// AMD APM vol. 1, 11.5.2: the legacy region, the header, and the extended components in standard form.
const MXCSR: usize = 24;
const XSTATE_BV: usize = 512;

impl Machine {
    /// A state with anything in it, as far as this processor has it.
    pub fn random(rng: &mut Rng) -> Machine {
        let flags = rng.next() & FLAGS | 2;
        let mut machine = Machine { xsave: [0; 4096], gregs: [0; 16], flags, red_zone: [0; 16], host_rsp: 0 };
        machine.gregs.iter_mut().chain(&mut machine.red_zone).for_each(|word| *word = rng.next());
        machine.gregs[4] = 0;
        // x87, SSE, AVX, AVX-512 (opmask, upper halves, upper registers).
        let components = supported() & 0b1110_0111;
        let mut ranges = vec![32..160, 160..416];
        for component in [2, 5, 6, 7].into_iter().filter(|n| components & 1 << n != 0) {
            // SAFETY: processors with XSAVE have the leaf.
            let leaf = std::arch::x86_64::__cpuid_count(0xD, component);
            ranges.push(leaf.ebx as usize..(leaf.ebx + leaf.eax) as usize);
        }
        for byte in ranges.into_iter().flatten() {
            machine.xsave[byte] = rng.next() as u8;
        }
        // The upper six bytes of each x87 register are not stored.
        (0..8).for_each(|n| machine.xsave[32 + 16 * n + 10..48 + 16 * n].fill(0));
        machine.xsave[0..2].copy_from_slice(&0x037Fu16.to_le_bytes());
        machine.xsave[2..4].copy_from_slice(&((rng.next() as u16 & 7) << 11).to_le_bytes());
        machine.xsave[4] = rng.next() as u8; // which x87 registers are in use
        let mxcsr = 0x1F80 | (rng.next() as u32 & 0xE03F);
        machine.xsave[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
        machine.xsave[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&components.to_le_bytes());
        machine
    }

    /// The state behind code that must not change it.
    pub fn run(&self) -> Machine {
        self.run_through(identity as *const () as usize)
    }

    /// The state behind a function, which has to return.
    pub fn run_through(&self, function: usize) -> Machine {
        let mut after = self.clone();
        // SAFETY: the harness puts back what belongs to us; one test runs at a time.
        unsafe {
            machine_calls = function;
            machine_run(&mut after);
        }
        after
    }

    /// What differs in `other`.
    pub fn differences(&self, other: &Machine) -> Vec<String> {
        let mut list = Vec::new();
        for (n, (before, after)) in self.gregs.iter().zip(&other.gregs).enumerate() {
            if before != after {
                list.push(format!("register {n}: {before:x} {after:x}"));
            }
        }
        if (self.flags ^ other.flags) & FLAGS != 0 {
            list.push(format!("flags: {:x} {:x}", self.flags, other.flags));
        }
        for (n, (before, after)) in self.red_zone.iter().zip(&other.red_zone).enumerate() {
            if before != after {
                list.push(format!("red zone {n}: {before:x} {after:x}"));
            }
        }
        // Not the instruction and data pointers of the x87 unit, nor the mask of mxcsr.
        let skipped = |at: usize| (6..24).contains(&at) || (28..32).contains(&at) || (416..576).contains(&at);
        for at in (0..4096).filter(|&at| !skipped(at) && self.xsave[at] != other.xsave[at]) {
            list.push(format!("state byte {at}: {:x} {:x}", self.xsave[at], other.xsave[at]));
        }
        list
    }
}

fn supported() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every processor with AVX has it; without, the program says so by a fault.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}
