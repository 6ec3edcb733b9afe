//! Local liveness: what may still be read behind an address, found by a forward scan of straight code.
//!
//! The scan follows direct jumps inside the bytes it is given, and stops at anything that decides or
//! leaves: a branch, a call, a return, a system call, the end of the bytes, bytes that do not decode.
//! What is not proven dead by then is live. Faults count as going on: a signal handler may see the
//! value of a dead register or flag.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory};

use super::flags::{STATUS_FLAGS, overwritten_flags, read_flags};
use super::register_use::{is_opaque, register_bits};
use super::{Gpr, GprSet, Insn};
use crate::Addr;

/// How many instructions a scan looks at.
const LIMIT: usize = 32;

/// A bit for each general-purpose register, by its number, but for `rsp`.
const ALL_BUT_RSP: u32 = 0xFFFF & !(1 << Gpr::Rsp.number());

/// What may be read before it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Live {
    /// Any of the status flags CF, PF, AF, ZF, SF, OF. The direction flag is not among them.
    pub flags: bool,
    /// General-purpose registers; `rsp` always is.
    pub gprs: GprSet,
    /// Any vector register.
    pub vector: bool,
    /// Bit `n` stands for vector register `n` with all its bits (`xmm`, `ymm`, `zmm`). One is dead only
    /// if an instruction with VEX or EVEX encoding overwrites all of it.
    pub vectors: u32,
}

impl Live {
    /// Nothing known: everything may be read.
    pub const ALL: Live = Live { flags: true, gprs: GprSet::ALL, vector: true, vectors: u32::MAX };
}

/// What may be read before it is written, from `at` on; `code` are the bytes that begin there.
pub fn live_before(code: &[u8], at: Addr) -> Live {
    let mut state = State {
        flags: Pending::new(STATUS_FLAGS),
        gprs: Pending::new(ALL_BUT_RSP),
        vectors: Pending::new(u32::MAX),
    };
    let mut factory = InstructionInfoFactory::new();
    scan(code, at, LIMIT, |insn| {
        state.step(insn, &mut factory);
        state.flags.undecided | state.gprs.undecided != 0
    });
    let dead: GprSet = Gpr::ALL.into_iter().filter(|&gpr| state.gprs.dead & 1 << gpr.number() != 0).collect();
    let vectors = !state.vectors.dead;
    Live { flags: state.flags.dead != STATUS_FLAGS, gprs: dead.complement(), vector: vectors != 0, vectors }
}

/// Whether any status flag may be read before it is written, from `at` on; `code` are the bytes that
/// begin there. The same as [`Live::flags`], but faster.
pub fn flags_live_before(code: &[u8], at: Addr) -> bool {
    let mut flags = Pending::new(STATUS_FLAGS);
    scan(code, at, LIMIT, |insn| flags.step_flags(insn));
    flags.dead != STATUS_FLAGS
}

/// The same, where the first instructions of `code` are already decoded: they are `insns`, in a row.
pub fn flags_live_through(insns: &[Insn], code: &[u8]) -> bool {
    let mut flags = Pending::new(STATUS_FLAGS);
    let mut len = 0;
    let insns = &insns[..insns.len().min(LIMIT)];
    for insn in insns {
        let decoded = insn.iced();
        if decoded.flow_control() != FlowControl::Next || is_opaque(decoded) {
            break;
        }
        len += insn.len();
        if !flags.step_flags(decoded) {
            return flags.dead != STATUS_FLAGS;
        }
    }
    let Some(at) = insns.first().map(Insn::addr) else { return true };
    let rest = code.get(len..).unwrap_or_default();
    scan(rest, at + len as u64, LIMIT - insns.len(), |insn| flags.step_flags(insn));
    flags.dead != STATUS_FLAGS
}

/// As [`flags_live_before`], in a program that hands no flags over at calls and returns (psABI x86-64, 3.2.1): what is undecided
/// there is dead.
pub fn flags_live_before_call(code: &[u8], at: Addr) -> bool {
    let mut flags = Pending::new(STATUS_FLAGS);
    let end = scan(code, at, LIMIT, |insn| flags.step_flags(insn));
    let hands_over = |insn: Instruction| {
        insn.is_call_near()
            || insn.is_call_near_indirect()
            || matches!(insn.code(), Code::Retnq | Code::Retnq_imm16)
    };
    let read = flags.undecided | flags.dead != STATUS_FLAGS;
    read || flags.undecided != 0 && !end.is_some_and(hands_over)
}

/// Whether code that begins at `at` reads a status flag before it overwrites it, as far as it is certain to run.
pub fn reads_flags(code: &[u8], at: Addr) -> bool {
    let mut flags = Pending::new(STATUS_FLAGS);
    let end = scan(code, at, LIMIT, |insn| flags.step_flags(insn));
    let reads = |insn: Instruction| read_flags(&insn) & flags.undecided != 0;
    flags.undecided | flags.dead != STATUS_FLAGS || end.is_some_and(reads)
}

/// Shows `visit` the instructions that are certain to run from `at` on, at most `limit`, until it says `false`. Returns the one at which
/// that is no longer so.
fn scan(
    code: &[u8],
    at: Addr,
    limit: usize,
    mut visit: impl FnMut(&Instruction) -> bool,
) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, code, at.0, DecoderOptions::NONE);
    let mut insn = Instruction::default();
    for _ in 0..limit {
        if !decoder.can_decode() {
            return None;
        }
        decoder.decode_out(&mut insn);
        match insn.flow_control() {
            FlowControl::Next if is_opaque(&insn) => return Some(insn),
            FlowControl::Next => {
                if !visit(&insn) {
                    return None;
                }
            }
            FlowControl::UnconditionalBranch => {
                let offset = Addr(insn.near_branch_target()).offset_from(at);
                let Some(offset) = usize::try_from(offset).ok().filter(|&offset| offset < code.len()) else {
                    return Some(insn);
                };
                if decoder.set_position(offset).is_err() {
                    return Some(insn);
                }
                decoder.set_ip(insn.near_branch_target());
            }
            _ => return Some(insn),
        }
    }
    None
}

/// Members of a set, one bit each, that are not yet known to be live, and those known to be dead.
struct Pending {
    undecided: u32,
    dead: u32,
}

impl Pending {
    fn new(members: u32) -> Pending {
        Pending { undecided: members, dead: 0 }
    }

    /// An instruction reads `read` and then overwrites `written`.
    fn step(&mut self, read: u32, written: u32) {
        self.undecided &= !read;
        self.dead |= self.undecided & written;
        self.undecided &= !written;
    }

    /// The same for the status flags. Whether more instructions have to be looked at: one live flag is enough.
    fn step_flags(&mut self, insn: &Instruction) -> bool {
        self.step(read_flags(insn), overwritten_flags(insn));
        self.undecided != 0 && self.undecided | self.dead == STATUS_FLAGS
    }
}

struct State {
    flags: Pending,
    gprs: Pending,
    vectors: Pending,
}

impl State {
    fn step(&mut self, insn: &Instruction, factory: &mut InstructionInfoFactory) {
        self.flags.step(read_flags(insn), overwritten_flags(insn));
        let (gprs, vectors) = register_bits(insn, factory);
        self.gprs.step(gprs.0, gprs.1);
        self.vectors.step(vectors.0, vectors.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    const AT: Addr = Addr(0x1000);

    fn live(code: &str) -> Live {
        let code = hex(code);
        let live = live_before(&code, AT);
        assert_eq!(live.flags, flags_live_before(&code, AT), "{code:02x?}");
        let mut insns = Vec::new();
        let mut rest = &code[..];
        while let Ok(insn) = decode(rest, AT + (code.len() - rest.len()) as u64) {
            insns.push(insn);
            rest = &rest[insn.len()..];
            assert_eq!(live.flags, flags_live_through(&insns, &code), "{code:02x?}, {} decoded", insns.len());
        }
        live
    }

    /// The registers that are dead before `code`.
    fn dead(code: &str) -> Vec<Gpr> {
        live(code).gprs.complement().iter().collect()
    }

    #[test]
    fn nothing_known_is_all_live() {
        // No code, a bad byte, ret, call, jmp rax, jcc, syscall, int3, ud2, hlt, in, xabort.
        for code in [
            "",
            "06",
            "c3",
            "e8 00 00 00 00",
            "ff e0",
            "70 00",
            "0f 05",
            "cc",
            "0f 0b",
            "f4",
            "ec",
            "c6 f8 01",
        ] {
            assert_eq!(live(code), Live::ALL, "{code}");
            if !code.is_empty() {
                // cmp and mov eax, 1 come too late.
                assert_eq!(live(&format!("{code} 39 c0 b8 01 00 00 00")), Live::ALL, "{code}");
            }
        }
    }

    #[test]
    fn arithmetic_kills_the_flags() {
        // sub, cmp, add, neg, test, xor, and; ucomisd; popcnt; sahf alone does not kill OF.
        for code in ["48 83 ec 08", "39 c8", "83 c0 01", "f7 d8", "85 c0", "31 c0", "48 21 c8", "66 0f 2e c1"]
        {
            assert!(!live(code).flags, "{code}");
        }
        assert!(!live("f3 0f b8 c0").flags);
        assert!(live("9e").flags);
    }

    #[test]
    fn flags_are_followed_one_by_one() {
        // inc keeps CF; clc kills only CF; both kill all.
        assert!(live("ff c0").flags);
        assert!(live("f8").flags);
        assert!(!live("ff c0 f8").flags);
        // bt writes CF only, inc the others.
        assert!(!live("0f a3 c8 ff c0").flags);
        // mov in between does not matter, nor does what is behind the decision.
        assert!(!live("48 89 c1 39 c8 74 00").flags);
    }

    #[test]
    fn readers_keep_the_flags_live() {
        // adc, sbb eax, eax, setz, cmovz, rcl by one, pushf, lahf, cmc, each before a cmp.
        for reader in ["11 c8", "19 c0", "0f 94 c0", "0f 44 c1", "d1 d0", "9c", "9f", "f5"] {
            assert!(live(&format!("{reader} 39 c8")).flags, "{reader}");
        }
    }

    #[test]
    fn a_write_that_may_not_happen_kills_nothing() {
        // shl eax, cl; shl eax, 0; shl eax, 32; shld eax, ecx, cl; repe cmpsb; repne scasb. `inc` and
        // `clc` would kill the rest if they did.
        for code in ["d3 e0", "c1 e0 00", "c1 e0 20", "0f a5 c8", "f3 a6", "f2 ae"] {
            assert!(live(code).flags, "{code}");
        }
        // shl eax, 1 writes all but AF; undefined flags do not count: shl eax, 4 leaves OF and AF.
        assert!(live("d1 e0").flags);
        assert!(live("c1 e0 04 f8").flags);
        assert!(!live("a6").flags);
        // div leaves all of them undefined; tzcnt may run as bsf.
        assert!(live("f7 f1").flags);
        assert!(live("f3 0f bc c1 ff c0").flags);
    }

    #[test]
    fn direct_jumps_are_followed_inside_the_bytes() {
        // jmp +2 over an adc to a cmp; jmp out; jmp to itself.
        assert!(!live("eb 02 11 c8 39 c8").flags);
        assert!(live("eb 10 39 c8").flags);
        assert!(live("eb f0 39 c8").flags);
        assert!(live("eb fe").flags);
        // The instruction pointer is right behind the jump: a second one, back to the cmp.
        assert!(!live("eb 02 39 c8 eb fc").flags);
    }

    #[test]
    fn a_register_is_dead_if_all_of_it_is_overwritten_first() {
        assert_eq!(dead("b8 01 00 00 00"), [Gpr::Rax]);
        assert_eq!(dead("48 8b 07"), [Gpr::Rax]);
        assert_eq!(dead("31 c0"), [Gpr::Rax]);
        assert_eq!(dead("0f a2"), [Gpr::Rdx, Gpr::Rbx]);
        // Parts: mov al, 1; mov ax, 1; mov ah, 1. Reads: add, mov rax, [rax], xchg, cmov.
        for code in ["b0 01", "66 b8 01 00", "b4 01", "83 c0 01", "48 8b 00", "0f 44 c0", "48 0f 44 c1"] {
            assert_eq!(dead(code), [], "{code}");
        }
        // Read before written: mov [rcx], rax; mov eax, 1; mov ecx, 1.
        assert_eq!(dead("48 89 01 b8 01 00 00 00 b9 01 00 00 00"), []);
        // The stack pointer never is: mov rsp, rbp.
        assert_eq!(dead("48 89 ec"), []);
        // rep movsb may copy nothing.
        assert_eq!(dead("f3 a4"), []);
    }

    #[test]
    fn a_vector_register_is_dead_if_all_of_it_is_overwritten_first() {
        // vmovaps xmm3, xmm1 clears the upper part, movaps does not; a mask keeps parts.
        assert_eq!(live("c5 f8 28 d9").vectors, !(1 << 3));
        assert_eq!(live("0f 28 d9").vectors, u32::MAX);
        assert_eq!(live("62 f1 7c 49 28 d9").vectors, u32::MAX);
        assert_eq!(live("62 f1 7c 48 28 d9").vectors, !(1 << 3));
        // vzeroall leaves zmm16 to zmm31; behind xsave [rdi] all are live.
        assert_eq!(live("c5 fc 77").vectors, 0xFFFF_0000);
        assert_eq!(live("0f ae 27 c5 fc 77").vectors, u32::MAX);
        assert!(live("c5 fc 77").vector);
    }

    #[test]
    fn calls_and_returns_end_flags_where_they_hand_none_over() {
        let live = |code: &str| flags_live_before_call(&hex(code), AT);
        // ret; ret 8; mov, then call; call rax; cmp, then adc.
        for code in ["c3", "c2 08 00", "89 c1 e8 00 00 00 00", "ff d0", "39 c8 11 c8"] {
            assert!(!live(code), "{code}");
        }
        // adc, then ret; jmp rax; jcc; syscall; retf; iret; call far; a call out of 64-bit mode's own; nothing.
        for code in ["11 c8 c3", "ff e0", "70 00", "0f 05", "cb", "48 cf", "ff 18", ""] {
            assert!(live(code), "{code}");
        }
    }

    #[test]
    fn code_that_wants_flags_is_told() {
        let reads = |code: &str| reads_flags(&hex(code), AT);
        // jc; pop rbp, then jc; setz; adc; inc (keeps CF), then jc.
        for code in ["72 00", "5d 72 00", "0f 94 c0", "11 c8", "ff c0 72 00"] {
            assert!(reads(code), "{code}");
        }
        // test, then jz; inc, then jz; jrcxz; ret; a call.
        for code in ["85 c0 74 00", "ff c0 74 00", "e3 00", "c3", "e8 00 00 00 00", ""] {
            assert!(!reads(code), "{code}");
        }
    }

    #[test]
    fn the_scan_has_an_end() {
        let nops = "90 ".repeat(LIMIT);
        assert!(live(&format!("{nops} 39 c8")).flags);
        assert!(!live(&format!("{} 39 c8", &nops[3..])).flags);
    }
}
