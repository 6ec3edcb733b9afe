//! Values that were read from quadwords.

use std::fmt::Write as _;

use super::Symbols;
use crate::language::Type;

/// A value of a field or key.
#[derive(Clone, PartialEq, Debug)]
pub enum Shown {
    /// A signed integer or a bool.
    Signed(i64),
    /// An unsigned integer.
    Unsigned(u64),
    /// A float.
    Float(f64),
    /// An address.
    Pointer(u64),
    /// An address that is shown by its symbol.
    Symbol(u64),
    /// A text; what is no UTF-8 in it is replaced.
    Text(String),
    /// Return addresses, the innermost first.
    Frames(Vec<u64>),
}

/// The value of a type that `words` begin with, and how many of them it takes.
pub fn decode(ty: &Type, words: &[u64]) -> (Shown, usize) {
    let first = words.first().copied().unwrap_or(0);
    let shown = match ty {
        Type::Int { signed: false, .. } => Shown::Unsigned(first),
        Type::Float => Shown::Float(f32::from_bits(first as u32).into()),
        Type::Double => Shown::Float(f64::from_bits(first)),
        Type::Pointer(_) => Shown::Pointer(first),
        Type::Symbol => Shown::Symbol(first),
        Type::Inet => Shown::Text(std::net::Ipv4Addr::from((first as u32).to_le_bytes()).to_string()),
        Type::Time(_) => Shown::Unsigned(first),
        Type::Text(len) => {
            let count = usize::from(*len).div_ceil(8);
            let bytes: Vec<u8> = words.iter().take(count).flat_map(|word| word.to_le_bytes()).collect();
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()).min((*len).into());
            return (Shown::Text(String::from_utf8_lossy(&bytes[..end]).into_owned()), count);
        }
        Type::Frames(count) => {
            let all = words.iter().copied().take((*count).into());
            return (Shown::Frames(all.take_while(|at| *at != 0).collect()), (*count).into());
        }
        _ => Shown::Signed(first as i64),
    };
    (shown, 1)
}

impl Shown {
    /// Its bits as an integer.
    pub fn bits(&self) -> u64 {
        match self {
            Shown::Signed(value) => *value as u64,
            Shown::Unsigned(value) | Shown::Pointer(value) | Shown::Symbol(value) => *value,
            Shown::Float(value) => *value as i64 as u64,
            Shown::Text(_) | Shown::Frames(_) => 0,
        }
    }

    /// As it is shown without a format.
    pub fn text(&self, symbols: &dyn Symbols) -> String {
        match self {
            Shown::Signed(value) => value.to_string(),
            Shown::Unsigned(value) => value.to_string(),
            Shown::Float(value) => format!("{value}"),
            Shown::Pointer(value) => format!("{value:#x}"),
            Shown::Symbol(at) => symbols.symbol(*at),
            Shown::Text(text) => text.clone(),
            Shown::Frames(frames) => {
                let mut text = String::from("\n");
                for at in frames {
                    let _ = writeln!(text, "    {}", symbols.symbol(*at));
                }
                text
            }
        }
    }
}
