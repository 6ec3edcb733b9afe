//! Mnemonics: which encoding forms a name stands for.

use std::collections::HashMap;
use std::sync::OnceLock;

use iced_x86::{Code, DecoderOptions, EncodingKind, Mnemonic};

/// What a mnemonic, with its suffix, says.
#[derive(Clone, Debug, Default)]
pub(super) struct Meaning {
    /// The forms it may be.
    pub codes: Vec<Code>,
    /// Bytes of the memory operand, or of the operation, from a suffix of AT&T syntax.
    pub width: Option<u32>,
    /// It says that the immediate or address has 64 bits (`movabs`).
    pub absolute: bool,
    /// A suffix was taken off a name that is known as it stands.
    pub shortened: bool,
    /// It says that the target is far (`ljmp`).
    pub far: bool,
    /// Bytes of the destination, where the mnemonic names two widths (`movzbl`).
    pub destination: Option<u32>,
}

/// The forms that this crate decodes, by lower-case mnemonic.
fn index() -> &'static HashMap<String, Vec<Code>> {
    static INDEX: OnceLock<HashMap<String, Vec<Code>>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index: HashMap<String, Vec<Code>> = HashMap::new();
        for code in Code::values().filter(|code| exists(*code)) {
            index.entry(format!("{:?}", code.mnemonic()).to_ascii_lowercase()).or_default().push(code);
        }
        index
    })
}

/// Whether the decoder knows the form in 64-bit mode, on processors of today.
fn exists(code: Code) -> bool {
    let info = code.op_code();
    info.is_instruction()
        && info.mode64()
        && info.decoder_option() == DecoderOptions::NONE
        && (info.intel_decoder64() || info.amd_decoder64())
        && info.encoding() != EncodingKind::D3NOW
        && info.encoding() != EncodingKind::MVEX
        || code.op_code().encoding() == EncodingKind::D3NOW && info.mode64()
}

/// All mnemonics.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    index().keys().map(String::as_str)
}

/// Spellings of conditions that the decoder does not use.
const CONDITIONS: [(&str, &str); 14] = [
    ("c", "b"),
    ("nae", "b"),
    ("nb", "ae"),
    ("nc", "ae"),
    ("z", "e"),
    ("nz", "ne"),
    ("na", "be"),
    ("nbe", "a"),
    ("pe", "p"),
    ("po", "np"),
    ("nge", "l"),
    ("nl", "ge"),
    ("ng", "le"),
    ("nle", "g"),
];

/// Other names of mnemonics.
const ALIASES: [(&str, &str); 41] = [
    ("sal", "shl"),
    ("retn", "ret"),
    ("xlat", "xlatb"),
    ("int03", "int3"),
    ("icebp", "int1"),
    ("fwait", "wait"),
    ("movabs", "mov"),
    ("loopz", "loope"),
    ("loopnz", "loopne"),
    ("cltq", "cdqe"),
    ("cwtl", "cwde"),
    ("cbtw", "cbw"),
    ("cwtd", "cwd"),
    ("cltd", "cdq"),
    ("cqto", "cqo"),
    ("pushf", "pushfq"),
    ("popf", "popfq"),
    ("iret", "iretq"),
    ("lret", "retf"),
    ("pushfw", "pushf"),
    ("popfw", "popf"),
    ("iretw", "iret"),
    ("iretl", "iretd"),
    ("retfw", "retf"),
    ("ud2a", "ud2"),
    ("ud2b", "ud1"),
    ("pcmpestrmq", "pcmpestrm64"),
    ("pcmpestriq", "pcmpestri64"),
    ("vpcmpestrmq", "vpcmpestrm64"),
    ("vpcmpestriq", "vpcmpestri64"),
    ("prefetch_exclusive", "prefetch"),
    ("insl", "insd"),
    ("outsl", "outsd"),
    ("lodsl", "lodsd"),
    ("stosl", "stosd"),
    ("scasl", "scasd"),
    ("movsl", "movsd"),
    ("cmpsl", "cmpsd"),
    ("fcmovnae", "fcmovb"),
    ("fcmovz", "fcmove"),
    ("fcmovnz", "fcmovne"),
];

/// The name that the index knows, for one of its other spellings.
fn canonical(name: &str) -> Option<String> {
    if let Some((_, known)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some((*known).to_owned());
    }
    if let Some(condition) = name.strip_prefix("cmp").and_then(|rest| rest.strip_suffix("xadd")) {
        let known = match condition {
            "a" => "nbe",
            "ae" => "nb",
            "e" => "z",
            "ne" => "nz",
            "g" => "nle",
            "ge" => "nl",
            other => other,
        };
        return Some(format!("cmp{known}xadd"));
    }
    ["j", "set", "cmov"].iter().find_map(|prefix| {
        let condition = name.strip_prefix(prefix)?;
        let (_, known) = CONDITIONS.iter().find(|(alias, _)| *alias == condition)?;
        Some(format!("{prefix}{known}"))
    })
}

fn codes(name: &str) -> &'static [Code] {
    let known = canonical(name);
    let found = known.as_deref().and_then(|known| index().get(known)).or_else(|| index().get(name));
    found.map_or(&[], Vec::as_slice)
}

/// Floating-point instructions on integers in memory, whose suffixes mean other widths.
fn suffix_width(name: &str, suffix: &str) -> Option<u32> {
    let integer = name.starts_with("fi");
    Some(match suffix {
        "b" => 1,
        "w" => 2,
        "s" if integer => 2,
        "s" if name.starts_with('f') => 4,
        "l" if name.starts_with('f') && !integer => 8,
        "l" => 4,
        "q" | "ll" => 8,
        "t" if name.starts_with('f') => 10,
        "x" => 16,
        "y" => 32,
        "z" => 64,
        _ => return None,
    })
}

/// String instructions by the name that leaves the width to the operands.
fn string_codes(name: &str) -> Vec<Code> {
    const NAMES: [&str; 7] = ["movs", "cmps", "stos", "lods", "scas", "ins", "outs"];
    use iced_x86::OpCodeOperandKind as Kind;
    let is_string = |code: &&Code| {
        let kinds = code.op_code().op_kinds();
        kinds.iter().any(|kind| matches!(kind, Kind::es_rDI | Kind::seg_rSI))
    };
    let all = ["b", "w", "d", "q"].iter().flat_map(|width| codes(&format!("{name}{width}")));
    if NAMES.contains(&name) { all.filter(is_string).copied().collect() } else { Vec::new() }
}

/// What `name` may mean. In AT&T syntax there may be several meanings: `movsd` with or without a suffix.
pub(super) fn meanings(name: &str, att: bool) -> Vec<Meaning> {
    let mut meanings = Vec::new();
    let mut plain = codes(name).to_vec();
    plain.extend(string_codes(name));
    if name == "nop" {
        plain.extend_from_slice(codes("reservednop"));
    }
    if att {
        let others = codes(name).iter().filter_map(|code| swapped(*code));
        let others: Vec<String> = others.map(|other| format!("{other:?}").to_ascii_lowercase()).collect();
        let others = others.iter().flat_map(|other| codes(other)).copied();
        plain.extend(others.filter(|code| swapped(*code).is_some()));
    }
    // `pushf` has 64 bits in both syntaxes, whatever the decoder calls it.
    if !plain.is_empty() {
        let absolute = name == "movabs";
        let width = match name {
            "pushf" | "popf" | "iret" => Some(8),
            "pushfw" | "popfw" | "iretw" => Some(2),
            _ => None,
        };
        meanings.push(Meaning { codes: plain, absolute, width, ..Meaning::default() });
    }
    if !att {
        return meanings;
    }
    let shortened = index().contains_key(name);
    for len in [1, 2] {
        let Some(cut) = name.len().checked_sub(len).filter(|cut| name.is_char_boundary(*cut)) else {
            continue;
        };
        let (stem, suffix) = name.split_at(cut);
        let Some(width) = suffix_width(stem, suffix) else { continue };
        let found = codes(stem);
        if !found.is_empty() {
            let absolute = stem == "movabs";
            let meaning = Meaning {
                codes: found.to_vec(),
                shortened,
                width: Some(width),
                absolute,
                ..Meaning::default()
            };
            meanings.push(meaning);
        }
    }
    meanings.extend(extending(name));
    let (far, width) = match name {
        "ljmp" => ("jmp", None),
        "ljmpl" => ("jmp", Some(6)),
        "ljmpw" => ("jmp", Some(4)),
        "ljmpq" => ("jmp", Some(10)),
        "lcall" => ("call", None),
        "lcalll" => ("call", Some(6)),
        "lcallw" => ("call", Some(4)),
        "lcallq" => ("call", Some(10)),
        _ => ("", None),
    };
    if !far.is_empty() {
        meanings.push(Meaning { codes: codes(far).to_vec(), width, far: true, ..Meaning::default() });
    }
    if let Some(suffix) = name.strip_prefix("lret") {
        let width = suffix_width("lret", suffix).or((suffix.is_empty()).then_some(4));
        meanings.push(Meaning { codes: codes("retf").to_vec(), width, ..Meaning::default() });
    }
    meanings
}

/// `movzbl` and its like: both widths are in the name.
fn extending(name: &str) -> Option<Meaning> {
    let (mnemonic, rest) = [("movz", "movzx"), ("movs", "movsx")]
        .iter()
        .find_map(|(stem, known)| Some((*known, name.strip_prefix(stem)?)))?;
    let mut letters = rest.chars();
    let from = suffix_width("", &letters.next()?.to_string())?;
    let to = letters.next().map(|letter| letter.to_string());
    let to = match to {
        Some(letter) => Some(suffix_width("", &letter)?),
        None => None,
    };
    if letters.next().is_some() || from > 4 {
        return None;
    }
    let mnemonic = if from == 4 { "movsxd" } else { mnemonic };
    Some(Meaning {
        codes: codes(mnemonic).to_vec(),
        width: Some(from),
        destination: to,
        ..Meaning::default()
    })
}

/// AT&T writes the operands of these as Intel does.
pub(super) fn is_in_order(name: &str) -> bool {
    name.starts_with("enter")
}

/// AT&T's name for a floating-point form whose subtraction or division the AT&T assembler swapped, and all have
/// swapped since: the destination is not st(0).
pub(super) fn swapped(code: Code) -> Option<Mnemonic> {
    Some(match code {
        Code::Fsub_sti_st0 => Mnemonic::Fsubr,
        Code::Fsubr_sti_st0 => Mnemonic::Fsub,
        Code::Fdiv_sti_st0 => Mnemonic::Fdivr,
        Code::Fdivr_sti_st0 => Mnemonic::Fdiv,
        Code::Fsubp_sti_st0 => Mnemonic::Fsubrp,
        Code::Fsubrp_sti_st0 => Mnemonic::Fsubp,
        Code::Fdivp_sti_st0 => Mnemonic::Fdivrp,
        Code::Fdivrp_sti_st0 => Mnemonic::Fdivp,
        _ => return None,
    })
}

/// Every form of the same mnemonic, spelled as in the manuals: `ADD r/m32, imm8`.
pub(super) fn forms(codes: &[Code]) -> Vec<String> {
    let mut forms: Vec<String> = Vec::new();
    for code in codes {
        let form = code.op_code().instruction_string().to_owned();
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    forms
}

/// The mnemonics nearest to `name`.
pub(super) fn nearest(name: &str) -> Vec<&'static str> {
    let mut near: Vec<(usize, &str)> = all()
        .map(|known| (distance(name.as_bytes(), known.as_bytes()), known))
        .filter(|(distance, known)| *distance <= 1 + name.len().min(known.len()) / 4)
        .collect();
    near.sort();
    near.truncate(3);
    near.into_iter().map(|(_, known)| known).collect()
}

/// Characters to insert, drop, change or exchange with their neighbour to get from one word to the other.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let change = row[j] + usize::from(a[i] != b[j]);
            let mut least = change.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}
