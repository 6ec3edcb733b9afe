//! Liveness against the processor: what is called dead or not read is changed, and the outcome of the
//! instruction must not change.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod bench;
mod random;

use std::collections::BTreeSet;

use bench::{Bench, State};
use iced_x86::{Code, FlowControl, InstructionInfoFactory, Mnemonic, OpKind, Register};
use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr, Insn, decode, flag_use, live_before};
use random::Random;

const AT: Addr = Addr(0x1000);
const STATUS_FLAGS: [u64; 6] = [0x1, 0x4, 0x10, 0x40, 0x80, 0x800];

/// Whether the instruction can run on its own between two states of registers and flags, and does the
/// same each time.
fn is_pure(insn: &Insn, factory: &mut InstructionInfoFactory) -> bool {
    let iced = insn.iced();
    let info = factory.info(iced);
    let repeatable = !matches!(
        iced.mnemonic(),
        Mnemonic::Cpuid
            | Mnemonic::Rdtsc
            | Mnemonic::Rdtscp
            | Mnemonic::Rdrand
            | Mnemonic::Rdseed
            | Mnemonic::Rdpmc
            | Mnemonic::Rdpru
            | Mnemonic::Rdpid
    );
    let contained = !matches!(
        iced.mnemonic(),
        Mnemonic::Wrfsbase
            | Mnemonic::Wrgsbase
            | Mnemonic::Wrpkru
            | Mnemonic::Umwait
            | Mnemonic::Tpause
            | Mnemonic::Mwaitx
            | Mnemonic::Clui
            | Mnemonic::Stui
    ) && !matches!(iced.code(), Code::Enclu | Code::Getsecd | Code::Getsecq);
    iced.flow_control() == FlowControl::Next
        && !iced.is_privileged()
        && (0..iced.op_count())
            .all(|i| matches!(iced.op_kind(i), OpKind::Register) || is_immediate(iced.op_kind(i)))
        && info.used_memory().is_empty()
        && info.used_registers().iter().all(|used| used.register().full_register() != Register::RSP)
        && !iced.op0_register().is_segment_register()
        && repeatable
        && contained
}

fn is_immediate(kind: OpKind) -> bool {
    (OpKind::Immediate8..=OpKind::Immediate32to64).contains(&kind)
}

/// The registers that `code` is said to overwrite before it reads them.
fn dead_before(code: &[u8]) -> Vec<Gpr> {
    live_before(code, AT).gprs.complement().iter().collect()
}

/// The registers that the instruction is said not to read: overwritten behind it, they are dead.
fn unread(insn: &Insn) -> Vec<Gpr> {
    let reads = |register: &Gpr| {
        let mut asm = Assembler::new(AT);
        asm.raw(insn.bytes());
        asm.mov_imm(*register, 0);
        live_before(asm.bytes(), AT).gprs.contains(*register)
    };
    Gpr::ALL.into_iter().filter(|register| *register != Gpr::Rsp && !reads(register)).collect()
}

#[test]
fn what_is_called_dead_has_no_effect() {
    let mut random = Random(0x5EED);
    let mut bench = Bench::new().expect("memory for code and data");
    let mut factory = InstructionInfoFactory::new();
    let mut codes = BTreeSet::new();
    let (mut flags_checked, mut registers_checked) = (0u32, 0u32);
    for _ in 0..200_000 {
        let Some(insn) = decode(&random.register_form(), AT).ok().filter(|insn| is_pure(insn, &mut factory))
        else {
            continue;
        };
        bench.load(&insn);
        let state = State::random(&mut random);
        let Some(plain) = bench.run(&state) else { continue };
        codes.insert(format!("{:?}", insn.iced().code()));
        let claim = flag_use(&insn);
        for flag in STATUS_FLAGS.into_iter().filter(|flag| claim.read & flag == 0) {
            let other = bench.run(&State { flags: state.flags ^ flag, ..state });
            let ignored = if claim.overwritten & flag == 0 { flag } else { 0 };
            let same = other
                .is_some_and(|other| other.gprs == plain.gprs && (other.flags ^ plain.flags) & !ignored == 0);
            assert!(same, "{insn:?}: flag {flag:#x}, {claim:?}\n{state:x?}\n{plain:x?}\n{other:x?}");
            flags_checked += 1;
        }
        let dead = dead_before(insn.bytes());
        for register in unread(&insn) {
            let number = usize::from(register.number());
            let mut changed = state;
            changed.gprs[number] = random.next();
            let other = bench.run(&changed);
            let same = other.is_some_and(|mut other| {
                if !dead.contains(&register) {
                    other.gprs[number] = plain.gprs[number];
                }
                other == plain
            });
            assert!(same, "{insn:?}: {register}, dead {dead:?}\n{changed:x?}\n{plain:x?}\n{other:x?}");
            registers_checked += 1;
        }
    }
    println!("{} forms, {flags_checked} flags, {registers_checked} registers", codes.len());
    assert!(codes.len() > 400, "{} forms", codes.len());
}

#[test]
fn the_bench_sees_effects() {
    let mut bench = Bench::new().expect("memory for code and data");
    let mut run = |bytes: &[u8], state: &State| {
        bench.load(&decode(bytes, AT).expect("an instruction"));
        bench.run(state)
    };
    let mut state = State { gprs: [7; 16], flags: 0x1 };
    // adc eax, ecx
    assert_eq!(run(&[0x11, 0xC8], &state).map(|end| end.gprs[0]), Some(15));
    // cmp eax, ecx: ZF and PF.
    assert_eq!(run(&[0x39, 0xC8], &state).map(|end| end.flags), Some(0x44));
    // shl eax, cl by nothing keeps CF.
    state.gprs[1] = 0;
    assert_eq!(run(&[0xD3, 0xE0], &state), Some(state));
    // ud2
    assert_eq!(run(&[0x0F, 0x0B], &state), None);
}
