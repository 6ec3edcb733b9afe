//! Additions to a variable of which each CPU has its own value, without `lock`: restartable sequences (linux/rseq.h).
//!
//! ```text
//! look:   mov cpu, fs:[area + CPU_ID]      ; early in a thread's life there is none: a fault leads to `slow`
//!         cmp cpu, CPUS ; jae slow         ; nor where it is not registered: its number is negative then
//! retry:  lea cpu, [rip + descriptor] ; mov fs:[area + CS], cpu
//! start:  mov cpu, fs:[area + CPU_ID]
//!         shl cpu, 7 ; add [base + cpu + RESTARTED], value
//! behind: mov fs:[area + CS], 0 ; jmp done
//!         ud1 edi, [rip + SIGNATURE]       ; what the kernel wants to see before `abort`
//! abort:  jmp retry
//! slow:   lock add [base + CPUS * STRIDE], value
//! done:
//! ```
//!
//! A thread that is interrupted between `start` and `behind` goes on at `abort`, so that what it adds to is its CPU's alone. The last
//! instruction of the sequence is the addition: once that is made, it is over. The descriptor is taken back before the code can be.
//! Where the area is not known the cell of the CPU is added to with `lock`, as code that is called does.

use super::emit::{Emitter, Unfit};
use super::value::Where;
use crate::tree::{CPUS, RESTARTED, STRIDE};

/// Offsets in `struct rseq` (linux/rseq.h).
const CPU_ID: i32 = 4;
const CS: i32 = 8;
/// What the C library registers areas with, on x86-64 (sysdeps/unix/sysv/linux/x86/bits/rseq.h).
const SIGNATURE: u32 = 0x5305_3053;
/// Not below (AMD APM vol. 3, table B-1).
const NOT_BELOW: u8 = 3;

impl Emitter<'_> {
    /// Adds to the quadword of this CPU.
    pub(super) fn add_per_cpu(&mut self, block: usize, value: i32) -> Result<(), Unfit> {
        let (base, cpu) = (self.scratch()?, self.scratch()?);
        self.address_of(block, base)?;
        let (c, b) = (cpu.number(), base.number());
        let fs = |opcode: u8, wide: u8, register: u8, offset: i32| {
            let rex = 0x40 | wide | (register >> 3) << 2;
            let mut code = vec![0x64, rex, opcode, 0x04 | (register & 7) << 3, 0x25];
            code.extend_from_slice(&offset.to_le_bytes());
            code
        };
        let add = |lock: bool, displacement: u64| {
            let mut code = if lock { vec![0xF0] } else { Vec::new() };
            code.extend([0x48 | (c >> 3) << 1 | b >> 3, 0x81, 0x84, (c & 7) << 3 | b & 7]);
            code.extend_from_slice(&(displacement as i32).to_le_bytes());
            code.extend_from_slice(&value.to_le_bytes());
            code
        };
        let shift = [0x48 | c >> 3, 0xC1, 0xE0 | c & 7, STRIDE.trailing_zeros() as u8];
        let area = self.target.rseq.filter(|_| !self.target.moves);
        match area {
            Some(area) => {
                let look = self.asm.bytes().len();
                self.asm.raw(&fs(0x8B, 0, c, area + CPU_ID));
                let slow = self.above_cpus(c);
                let retry = self.asm.bytes().len();
                self.asm.raw(&[0x48 | (c >> 3) << 2, 0x8D, 0x05 | (c & 7) << 3, 0, 0, 0, 0]);
                let descriptor = self.asm.bytes().len() - 4;
                self.asm.raw(&fs(0x89, 8, c, area + CS));
                let start = self.asm.here();
                let section = [fs(0x8B, 0, c, area + CPU_ID), shift.to_vec(), add(false, RESTARTED)].concat();
                self.asm.raw(&section);
                let mut clear = fs(0xC7, 8, 0, area + CS);
                clear.extend([0; 4]);
                self.asm.raw(&clear);
                let done = self.jump();
                self.asm.raw(&[0x0F, 0xB9, 0x3D]);
                self.asm.raw(&SIGNATURE.to_le_bytes());
                let abort = self.asm.here();
                let back = self.jump();
                self.asm.set(back - 4, &((retry as i64 - back as i64) as i32).to_le_bytes());
                // struct rseq_cs: version and flags, start, length, where to go on.
                let words = [0, start.0, section.len() as u64, abort.0];
                let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.begun.literals.push((descriptor, bytes));
                self.begun.faults.push((look, self.asm.bytes().len()));
                self.join(slow);
                self.add_shared(b, value);
                self.join(done);
            }
            None => {
                // The limit of the kernel's segment for it (arch/x86/include/asm/segment.h, CPUNODE).
                self.asm.mov_imm(cpu, 0x7B);
                self.asm.raw(&[0x40 | ((c >> 3) * 5), 0x0F, 0x03, 0xC0 | ((c & 7) * 9)]);
                self.asm.raw(&[0x40 | c >> 3, 0x81, 0xE0 | c & 7, 0xFF, 0x0F, 0, 0]);
                let slow = self.above_cpus(c);
                self.asm.raw(&shift);
                self.asm.raw(&add(true, 0));
                let done = self.jump();
                self.join(slow);
                self.add_shared(b, value);
                self.join(done);
            }
        }
        self.release(Where::Own(cpu));
        self.release(Where::Own(base));
        Ok(())
    }

    /// A jump that is taken if there is no such CPU.
    fn above_cpus(&mut self, cpu: u8) -> usize {
        self.asm.raw(&[0x40 | cpu >> 3, 0x81, 0xF8 | cpu & 7]);
        self.asm.raw(&(CPUS as u32).to_le_bytes());
        self.branch(NOT_BELOW)
    }

    /// `lock add [base + what threads without a CPU share], value`
    fn add_shared(&mut self, base: u8, value: i32) {
        self.asm.raw(&[0xF0, 0x48 | base >> 3, 0x81, 0x80 | base & 7]);
        if base & 7 == 4 {
            self.asm.raw(&[0x24]);
        }
        self.asm.raw(&((CPUS * STRIDE) as i32).to_le_bytes());
        self.asm.raw(&value.to_le_bytes());
    }
}
