use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, LittleEndian, Operation, Register, RegisterRule, UnwindContext,
    UnwindSection,
};
use incise_isa::Addr;
use incise_isa::native::{Assembler, Gpr};

use super::{Expressed, Piece, Row, piece, table};
use crate::Displaced;

const AT: Addr = Addr(0x7f00_0000_1000);
const ORIGINAL: Addr = Addr(0x5555_0000_2000);
/// Where a table that is relative lies.
const TABLE: Addr = Addr(0x7f00_0010_0000);

/// The caller that the table tells for an address in a trampoline: rip, what is added to rsp, where registers are from there.
type Caller = Option<(u64, i64, Vec<(u16, i64)>)>;

fn caller(bytes: &[u8], expressed: Expressed, ip: Addr) -> Caller {
    let frames = EhFrame::new(bytes, LittleEndian);
    let base = match expressed {
        Expressed::Absolute | Expressed::Debug => 0,
        Expressed::Relative(at) => at.0,
    };
    let bases = BaseAddresses::default().set_eh_frame(base);
    let entry = frames.fde_for_address(&bases, ip.0, EhFrame::cie_from_offset).ok()?;
    assert!(entry.is_signal_trampoline());
    let mut context = UnwindContext::new();
    let row = entry.unwind_info_for_address(&frames, &bases, &mut context, ip.0).expect("a row");
    let CfaRule::RegisterAndOffset { register: Register(7), offset } = *row.cfa() else { panic!("no rsp") };
    let (mut rip, mut saved) = (None, Vec::new());
    for (register, rule) in row.registers() {
        match (register.0, rule) {
            (16, RegisterRule::ValExpression(expression)) => {
                let expression = expression.get(&frames).expect("an expression");
                let mut operations = expression.operations(entry.cie().encoding());
                rip = Some(match operations.next().expect("well-formed").expect("one") {
                    Operation::UnsignedConstant { value } => value,
                    Operation::RegisterOffset { register: Register(16), offset, .. } => {
                        ip.0.wrapping_add_signed(offset)
                    }
                    other => panic!("{other:?}"),
                });
                assert_eq!(operations.next(), Ok(None));
            }
            (16, RegisterRule::Undefined) => return None,
            (register, RegisterRule::Offset(offset)) => saved.push((register, *offset)),
            other => panic!("{other:?}"),
        }
    }
    saved.sort_unstable();
    Some((rip?, offset, saved))
}

/// What the rows say themselves.
fn told(pieces: &[Piece], ip: Addr) -> Caller {
    let piece = pieces.iter().find(|piece| piece.range.contains(&ip))?;
    let row: &Row = &piece.rows[piece.rows.partition_point(|row| row.at <= ip) - 1];
    let number = |gpr: &Gpr| match gpr {
        Gpr::Rax => 0,
        Gpr::Rdx => 1,
        Gpr::Rcx => 2,
        Gpr::Rbx => 3,
        other => u16::from(other.number()),
    };
    let mut saved: Vec<_> = row.saved.iter().map(|(gpr, at)| (number(gpr), *at)).collect();
    saved.sort_unstable();
    Some((row.original?.0, row.stack, saved))
}

fn assembled(at: Addr, build: impl FnOnce(&mut Assembler)) -> Vec<u8> {
    let mut asm = Assembler::new(at);
    build(&mut asm);
    asm.into_bytes()
}

/// A counter that keeps flags, before `push rbx` and before a `nop`.
fn counted() -> (Vec<Piece>, Range<Addr>) {
    let counter = |asm: &mut Assembler| {
        asm.skip_red_zone();
        asm.push(Gpr::Rax);
        asm.save_flags();
        asm.lock_inc(AT + 0x10_0000).expect("in reach");
        asm.restore_flags();
        asm.pop(Gpr::Rax);
        asm.unskip_red_zone();
    };
    let mut landing = AT;
    let mut pieces = Vec::new();
    for (index, insn) in [0x53, 0x90].into_iter().enumerate() {
        let mut code = assembled(landing, counter);
        let copy = code.len() as u16;
        code.push(insn);
        let displaced = Displaced {
            landing,
            len: code.len() as u32,
            original: ORIGINAL + index as u64,
            original_len: 1,
            copy,
            copied: 1,
        };
        pieces.push(piece(&displaced, &code, &|to| to));
        landing = landing + code.len() as u64;
    }
    (pieces, AT..landing)
}

#[test]
fn each_instruction_of_a_trampoline_has_the_original_one_for_its_caller() {
    let (pieces, range) = counted();
    for expressed in [Expressed::Absolute, Expressed::Relative(TABLE)] {
        let table = table(&pieces, expressed);
        assert_eq!(table.entries.len(), 1, "one description for what follows upon another");
        for ip in pieces.iter().flat_map(|piece| &piece.rows).map(|row| row.at) {
            assert_eq!(caller(&table.bytes, expressed, ip), told(&pieces, ip), "{ip}");
        }
        assert_eq!(caller(&table.bytes, expressed, range.end), None);
    }
    // In the middle of the counter rax waits below the red zone, and rsp is below it.
    let table = table(&pieces, Expressed::Absolute);
    let middle = pieces[1].rows[4].at;
    assert_eq!(
        caller(&table.bytes, Expressed::Absolute, middle),
        Some((ORIGINAL.0 + 1, 136, vec![(0, -136)])),
    );
}

#[test]
fn behind_the_copy_the_caller_is_the_next_instruction() {
    let code = [0x53, 0x90];
    let displaced =
        Displaced { landing: AT, len: 2, original: ORIGINAL, original_len: 1, copy: 0, copied: 1 };
    let rows = piece(&displaced, &code, &|to| to).rows;
    let originals: Vec<_> = rows.iter().map(|row| (row.at, row.original)).collect();
    assert_eq!(originals, [(AT, Some(ORIGINAL)), (AT + 1, Some(ORIGINAL + 1))]);
    // What `push` itself has done is the program's.
    assert_eq!(rows[1].stack, 0);
}

#[test]
fn what_is_not_known_ends_the_backtrace() {
    // mov rsp, rax: no code of ours. Then nop, and the copy.
    let code = [0x48, 0x89, 0xC4, 0x90, 0x90];
    let displaced =
        Displaced { landing: AT, len: 5, original: ORIGINAL, original_len: 1, copy: 4, copied: 1 };
    let pieces = [piece(&displaced, &code, &|to| to)];
    let table = table(&pieces, Expressed::Absolute);
    assert_eq!(caller(&table.bytes, Expressed::Absolute, AT), Some((ORIGINAL.0, 0, vec![])));
    assert_eq!(caller(&table.bytes, Expressed::Absolute, AT + 3), None);
    // The copy itself is known again.
    assert_eq!(caller(&table.bytes, Expressed::Absolute, AT + 4), Some((ORIGINAL.0, 0, vec![])));
}
