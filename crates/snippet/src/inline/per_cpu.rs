//! Additions to a variable of which each CPU has its own value, without `lock`: restartable sequences (linux/rseq.h).
//!
//! ```text
//! retry:  lea cpu, [rip + descriptor]
//!         mov fs:[area + CS], cpu          ; early in a thread's life there is no area: a fault leads to `none`
//! start:  mov cpu, fs:[area + CPU_ID]
//!         cmp cpu, CPUS ; jae slow         ; nor where it is not registered: its number is negative then
//!         shl cpu, 7 ; add cpu, [rip + base] ; add [cpu + RESTARTED], value
//! behind: mov fs:[area + CS], 0 ; jmp done
//!         ud1 edi, [rip + SIGNATURE]       ; what the kernel wants to see before `abort`
//! abort:  jmp retry
//! slow:   mov fs:[area + CS], 0
//! none:   lock add [base + CPUS * STRIDE], value
//! done:
//! ```
//!
//! A thread that is interrupted between `start` and `behind` goes on at `abort`, so that what it adds to is its CPU's alone. The last
//! instruction of the sequence is the addition: once that is made, it is over. The descriptor is taken back before the code can be.
//! Where the area is not known the cell of the CPU is added to with `lock`, as code that is called does.

use super::emit::{Emitter, Unfit};
use super::value::Where;
use crate::data::operation::has_rdpid;
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
        match self.target.rseq.filter(|_| !self.target.moves) {
            Some(area) => self.add_restartably(area, block, value),
            None => self.add_by_number(block, value),
        }
    }

    /// The same in a restartable sequence, with one register.
    fn add_restartably(&mut self, area: i32, block: usize, value: i32) -> Result<(), Unfit> {
        let cpu = self.scratch()?;
        let c = cpu.number();
        let fs = |opcode: u8, wide: u8, register: u8, offset: i32| {
            let rex = 0x40 | wide | (register >> 3) << 2;
            let mut code = vec![0x64, rex, opcode, 0x04 | (register & 7) << 3, 0x25];
            code.extend_from_slice(&offset.to_le_bytes());
            code
        };
        let mut clear = fs(0xC7, 8, 0, area + CS);
        clear.extend([0; 4]);
        // A register and what lies behind the code, by its distance.
        let beside = |opcode: u8| [0x48 | (c >> 3) << 2, opcode, 0x05 | (c & 7) << 3, 0, 0, 0, 0];
        let retry = self.asm.bytes().len();
        self.asm.raw(&beside(0x8D));
        let descriptor = self.asm.bytes().len() - 4;
        let enter = self.asm.bytes().len();
        self.asm.raw(&fs(0x89, 8, c, area + CS));
        let start = self.asm.here();
        self.asm.raw(&fs(0x8B, 0, c, area + CPU_ID));
        let slow = self.above_cpus(c);
        self.asm.raw(&[0x48 | c >> 3, 0xC1, 0xE0 | c & 7, STRIDE.trailing_zeros() as u8]);
        self.asm.raw(&beside(0x03));
        let base = self.asm.bytes().len() - 4;
        self.asm.raw(&[0x48 | c >> 3, 0x81, 0x80 | c & 7]);
        if c & 7 == 4 {
            self.asm.raw(&[0x24]);
        }
        self.asm.raw(&(RESTARTED as i32).to_le_bytes());
        self.asm.raw(&value.to_le_bytes());
        let length = self.asm.here().offset_from(start) as u64;
        self.asm.raw(&clear);
        let done = self.jump();
        self.asm.raw(&[0x0F, 0xB9, 0x3D]);
        self.asm.raw(&SIGNATURE.to_le_bytes());
        let abort = self.asm.here();
        let back = self.jump();
        self.asm.set(back - 4, &((retry as i64 - back as i64) as i32).to_le_bytes());
        self.join(slow);
        self.asm.raw(&clear);
        self.begun.faults.push((enter, self.asm.bytes().len()));
        self.release(Where::Own(cpu));
        self.add(block, (CPUS * STRIDE) as i32, value)?;
        self.join(done);
        // struct rseq_cs: version and flags, start, length, where to go on.
        let words = [0, start.0, length, abort.0];
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.begun.literals.push((descriptor, bytes));
        self.begun.literals.push((base, self.target.blocks[block].0.to_le_bytes().to_vec()));
        Ok(())
    }

    /// The same by the number of the CPU, with `lock`: the thread may be on another one meanwhile.
    fn add_by_number(&mut self, block: usize, value: i32) -> Result<(), Unfit> {
        let (base, cpu) = (self.scratch()?, self.scratch()?);
        self.address_of(block, base)?;
        let (c, b) = (cpu.number(), base.number());
        if has_rdpid() && !self.target.moves {
            self.asm.raw(&[0xF3, 0x40 | c >> 3, 0x0F, 0xC7, 0xF8 | c & 7]);
        } else {
            // The limit of the kernel's segment for it (arch/x86/include/asm/segment.h, CPUNODE).
            self.asm.mov_imm(cpu, 0x7B);
            self.asm.raw(&[0x40 | ((c >> 3) * 5), 0x0F, 0x03, 0xC0 | ((c & 7) * 9)]);
        }
        self.asm.raw(&[0x40 | c >> 3, 0x81, 0xE0 | c & 7, 0xFF, 0x0F, 0, 0]);
        let slow = self.above_cpus(c);
        self.asm.raw(&[0x48 | c >> 3, 0xC1, 0xE0 | c & 7, STRIDE.trailing_zeros() as u8]);
        // lock add [base + cpu], value
        self.asm.raw(&[0xF0, 0x48 | (c >> 3) << 1 | b >> 3, 0x81, 0x84, (c & 7) << 3 | b & 7, 0, 0, 0, 0]);
        self.asm.raw(&value.to_le_bytes());
        let done = self.jump();
        self.join(slow);
        self.add_shared(b, value);
        self.join(done);
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
