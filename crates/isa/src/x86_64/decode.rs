//! Decoding: bytes to [`Insn`].

use std::fmt;

use iced_x86::{
    Decoder, DecoderError, DecoderOptions, Formatter, Instruction, Mnemonic, NasmFormatter, Register,
};

use crate::Addr;

/// The longest instruction, in bytes (AMD APM vol. 3, 1.1).
pub const MAX_INSN_LEN: usize = 15;

/// The bytes of at most one instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawBytes {
    bytes: [u8; MAX_INSN_LEN],
    len: u8,
}

impl RawBytes {
    /// The first [`MAX_INSN_LEN`] of `bytes`.
    #[inline]
    pub fn new(bytes: &[u8]) -> RawBytes {
        let mut raw = [0; MAX_INSN_LEN];
        if let Some(full) = bytes.first_chunk::<MAX_INSN_LEN>() {
            raw = *full;
        } else {
            raw[..bytes.len()].copy_from_slice(bytes);
        }
        RawBytes { bytes: raw, len: bytes.len().min(MAX_INSN_LEN) as u8 }
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes, to be changed in place.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for RawBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for RawBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.as_slice().iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// Why bytes are not an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no instruction of 64-bit mode.
    #[error("{at}: {bytes} is not an instruction")]
    Invalid {
        /// Where they are.
        at: Addr,
        /// The bytes that were looked at.
        bytes: RawBytes,
    },
    /// The bytes end inside an instruction, or before it can be told that they are none.
    #[error("{at}: the bytes end inside an instruction")]
    Truncated {
        /// Where the instruction begins.
        at: Addr,
    },
}

impl DecodeError {
    /// The address of the bytes.
    pub fn addr(&self) -> Addr {
        match *self {
            DecodeError::Invalid { at, .. } | DecodeError::Truncated { at } => at,
        }
    }
}

/// One decoded instruction, with its address and its bytes.
#[derive(Clone, Copy)]
pub struct Insn {
    inner: Instruction,
    raw: RawBytes,
}

/// Decodes the instruction at the start of `bytes`, which lie at `at`.
///
/// Bytes behind it are ignored; fewer than [`MAX_INSN_LEN`] bytes are enough if the instruction is
/// shorter.
#[inline]
pub fn decode(bytes: &[u8], at: Addr) -> Result<Insn, DecodeError> {
    let mut decoder = Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE);
    let inner = decoder.decode();
    if inner.is_invalid() {
        return Err(match decoder.last_error() {
            DecoderError::NoMoreBytes => DecodeError::Truncated { at },
            _ => DecodeError::Invalid { at, bytes: RawBytes::new(bytes) },
        });
    }
    Ok(Insn::new(inner, bytes))
}

impl Insn {
    /// What was decoded at the start of `bytes`.
    #[inline]
    pub(super) fn new(inner: Instruction, bytes: &[u8]) -> Insn {
        let mut raw = RawBytes::new(bytes);
        raw.len = inner.len() as u8;
        Insn { inner, raw }
    }

    /// Where the instruction is.
    #[inline]
    pub fn addr(&self) -> Addr {
        Addr(self.inner.ip())
    }

    /// Its length in bytes, 1 to [`MAX_INSN_LEN`].
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "no instruction is empty")]
    pub fn len(&self) -> usize {
        usize::from(self.raw.len)
    }

    /// The address behind it.
    #[inline]
    pub fn end(&self) -> Addr {
        self.addr() + u64::from(self.raw.len)
    }

    /// Its bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.raw.as_slice()
    }

    pub(crate) fn raw(&self) -> RawBytes {
        self.raw
    }

    /// Whether it is a `nop` of any length (`90`, `66 90`, `0f 1f`). `endbr64`, `pause` and the hint
    /// space that newer processors give a meaning to are not.
    pub fn is_nop(&self) -> bool {
        self.inner.mnemonic() == Mnemonic::Nop
    }

    /// Whether it is `endbr64`.
    pub fn is_endbr(&self) -> bool {
        self.inner.mnemonic() == Mnemonic::Endbr64
    }

    /// The addresses behind its `lock` and `rep` prefixes: hand-written code jumps over a prefix where it is not needed, so
    /// another instruction may begin there.
    pub fn behind_prefixes(&self) -> impl Iterator<Item = Addr> {
        let skippable = self.inner.has_lock_prefix() || self.inner.is_string_instruction();
        let prefixes =
            self.bytes().iter().take_while(move |&&b| skippable && matches!(b, 0xF0 | 0xF2 | 0xF3));
        let at = self.addr();
        prefixes.enumerate().map(move |(index, _)| at + index as u64 + 1)
    }

    /// The address that a memory operand relative to the instruction pointer stands for, before the
    /// base of a segment (`fs:`, `gs:`) is added. With prefix 67 it is truncated to 32 bits.
    #[inline]
    pub fn ip_relative_target(&self) -> Option<Addr> {
        match self.inner.memory_base() {
            Register::RIP | Register::EIP => Some(Addr(self.inner.memory_displacement64())),
            _ => None,
        }
    }

    /// The mnemonic, in lower case.
    pub fn mnemonic_text(&self) -> String {
        format!("{:?}", self.inner.mnemonic()).to_ascii_lowercase()
    }

    /// The instruction as text, in Intel order (NASM's dialect).
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut formatter = NasmFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_space_after_operand_separator(true);
        formatter.format(&self.inner, &mut text);
        text
    }

    /// The decoder's own view, for tests and oracles.
    #[doc(hidden)]
    #[inline]
    pub fn iced(&self) -> &Instruction {
        &self.inner
    }
}

impl fmt::Debug for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] {}", self.addr(), self.raw, self.text())
    }
}

impl fmt::Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::testing::hex;

    fn insn(bytes: &str) -> Insn {
        decode(&hex(bytes), Addr(0x1000)).expect("an instruction")
    }

    #[test]
    fn an_instruction_knows_where_it_is_and_ignores_what_follows() {
        let insn = insn("48 8b 05 10 00 00 00 cc cc cc");
        assert_eq!((insn.addr(), insn.len(), insn.end()), (Addr(0x1000), 7, Addr(0x1007)));
        assert_eq!(insn.bytes(), hex("48 8b 05 10 00 00 00"));
        assert_eq!(insn.ip_relative_target(), Some(Addr(0x1017)));
        assert_eq!(insn.text(), "mov rax, [rel 0x1017]");
        assert_eq!(insn.mnemonic_text(), "mov");
    }

    #[test]
    fn the_end_of_the_bytes_and_bad_bytes_are_told_apart() {
        let at = Addr(0x1000);
        assert_eq!(decode(&[], at).unwrap_err(), DecodeError::Truncated { at });
        assert_eq!(decode(&hex("48 8b 05"), at).unwrap_err(), DecodeError::Truncated { at });
        let bytes = hex("06 00");
        assert_eq!(
            decode(&bytes, at).unwrap_err(),
            DecodeError::Invalid { at, bytes: RawBytes::new(&bytes) }
        );
        let too_long = [0x66; 16];
        assert!(matches!(decode(&too_long, at), Err(DecodeError::Invalid { .. })));
        assert_eq!(decode(&bytes, at).unwrap_err().to_string(), "0x1000: 06 00 is not an instruction");
    }

    #[test]
    fn nops_are_told_from_what_looks_like_them() {
        for nop in ["90", "66 90", "0f 1f 00", "66 2e 0f 1f 84 00 00 00 00 00", "66 66 66 90"] {
            assert!(insn(nop).is_nop(), "{nop}");
        }
        for other in ["f3 90", "41 90", "f3 0f 1e fa", "89 ff", "0f 0d 00"] {
            assert!(!insn(other).is_nop(), "{other}");
        }
        assert!(insn("f3 0f 1e fa").is_endbr());
        assert!(!insn("f3 0f 1e fb").is_endbr());
    }

    #[test]
    fn prefix_67_truncates_the_address() {
        let insn = decode(&hex("67 8b 05 00 00 00 00"), Addr(0x7f00_0000_1000)).expect("an instruction");
        assert_eq!(insn.ip_relative_target(), Some(Addr(0x1007)));
        assert_eq!(decode(&hex("8b 00"), Addr(0)).expect("an instruction").ip_relative_target(), None);
    }
}
