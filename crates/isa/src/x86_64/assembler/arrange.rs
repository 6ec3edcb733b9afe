//! Which written operand is which operand of a form: some may be left out, or be said twice.

use iced_x86::{Code, Mnemonic, OpCodeOperandKind as Kind, Register};

use super::operand::{Operand, What};

/// Which written operand is which operand of the form; `None` for one that the form implies.
pub(super) fn arrange(code: Code, kinds: &[Kind], written: &[Operand]) -> Option<Vec<Option<usize>>> {
    let (have, want) = (written.len(), kinds.len());
    if have == want {
        return Some((0..have).map(Some).collect());
    }
    if have > want {
        return without_extra(code, want, written);
    }
    // `imul eax, 5` is `imul eax, eax, 5`.
    if code.mnemonic() == Mnemonic::Imul
        && want == 3
        && have == 2
        && matches!(written[1].what, What::Value(_))
    {
        return Some(vec![Some(0), Some(0), Some(1)]);
    }
    if have == 0 && kinds.iter().all(|kind| is_implied(*kind)) {
        return Some(vec![None; want]);
    }
    if have + 1 != want {
        return None;
    }
    let may_miss = |kind: &Kind| {
        let accumulator = matches!(kind, Kind::al | Kind::ax | Kind::eax | Kind::rax);
        let string = kinds.iter().any(|kind| matches!(kind, Kind::es_rDI | Kind::seg_rSI));
        matches!(kind, Kind::imm8_const_1 | Kind::st0 | Kind::seg_rDI) || accumulator && string
    };
    let left_out = kinds.iter().position(may_miss)?;
    let mut next = 0..;
    Some((0..want).map(|index| if index == left_out { None } else { next.next() }).collect())
}

/// The same where more is written than the form has: registers that it implies.
fn without_extra(code: Code, want: usize, written: &[Operand]) -> Option<Vec<Option<usize>>> {
    let register = |index: usize| match written.get(index)?.what {
        What::Register(named) => Some(named),
        _ => None,
    };
    let info = code.op_code();
    if want == 0 {
        // `clzero rax`, `vmrun eax`: the register tells the width of the address.
        let width = 8 * register(0)?.size() as u32;
        let takes = matches!(
            code.mnemonic(),
            Mnemonic::Clzero
                | Mnemonic::Vmrun
                | Mnemonic::Vmload
                | Mnemonic::Vmsave
                | Mnemonic::Invlpga
                | Mnemonic::Skinit
                | Mnemonic::Pvalidate
                | Mnemonic::Invlpgb
        );
        let address =
            register(0)?.full_register() == Register::RAX && matches!(info.address_size(), 0 | 64 | 32);
        let fits =
            info.address_size() == width || info.address_size() == 0 && code.mnemonic() == Mnemonic::Skinit;
        return (takes && address && fits).then(Vec::new);
    }
    if written.len() != want + 1 {
        return None;
    }
    let name = format!("{:?}", code.mnemonic());
    let extra = if info.require_op_mask_register() {
        (0..written.len()).find(|index| register(*index).is_some_and(Register::is_k))?
    } else if matches!(
        code.mnemonic(),
        Mnemonic::Blendvps | Mnemonic::Blendvpd | Mnemonic::Pblendvb | Mnemonic::Sha256rnds2
    ) {
        (register(want)? == Register::XMM0).then_some(want)?
    } else if name.starts_with('F') {
        let stores = ["Fst", "Fist", "Fbstp"].iter().any(|stem| name.starts_with(stem));
        let extra = usize::from(stores);
        (register(extra)? == Register::ST0).then_some(extra)?
    } else {
        return None;
    };
    Some((0..written.len()).filter(|index| *index != extra).map(Some).collect())
}

/// Whether an operand of this kind can be left out where all are.
fn is_implied(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::seg_rSI
            | Kind::es_rDI
            | Kind::seg_rDI
            | Kind::seg_rBX_al
            | Kind::st0
            | Kind::sti_opcode
            | Kind::al
            | Kind::ax
            | Kind::eax
            | Kind::rax
            | Kind::dx
    )
}
