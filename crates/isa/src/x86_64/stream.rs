//! Decoding many instructions of one piece of code.

use iced_x86::{Decoder, DecoderError, DecoderOptions};

use super::Insn;
use super::decode::{DecodeError, RawBytes};
use crate::Addr;

/// Instructions of one piece of code, in any order. The same as [`decode`](super::decode()), but quicker for many.
pub struct InsnStream<'c> {
    decoder: Decoder<'c>,
    code: &'c [u8],
    start: Addr,
}

impl<'c> InsnStream<'c> {
    /// Of `code`, which lies at `start`.
    pub fn new(code: &'c [u8], start: Addr) -> InsnStream<'c> {
        InsnStream { decoder: Decoder::with_ip(64, code, start.0, DecoderOptions::NONE), code, start }
    }

    /// The instruction that begins `offset` bytes behind the start.
    ///
    /// # Errors
    /// As for [`decode`](super::decode()).
    #[inline]
    pub fn at(&mut self, offset: usize) -> Result<Insn, DecodeError> {
        let at = self.start + offset as u64;
        if self.decoder.set_position(offset).is_err() {
            return Err(DecodeError::Truncated { at });
        }
        self.decoder.set_ip(at.0);
        let inner = self.decoder.decode();
        let bytes = &self.code[offset..];
        if inner.is_invalid() {
            return Err(match self.decoder.last_error() {
                DecoderError::NoMoreBytes => DecodeError::Truncated { at },
                _ => DecodeError::Invalid { at, bytes: RawBytes::new(bytes) },
            });
        }
        Ok(Insn::new(inner, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    #[test]
    fn every_offset_is_as_if_decoded_alone() {
        let code = hex("55 48 89 e5 06 e8 01 02 03 04 48 8d 05 10 00 00 00 74 fe c5 fc 77 0f 38 f0 00 48 8b");
        let start = Addr(0x7000);
        let mut stream = InsnStream::new(&code, start);
        for offset in (0..=code.len() + 1).chain((0..code.len()).rev()) {
            let alone = decode(code.get(offset..).unwrap_or_default(), start + offset as u64);
            let text = |insn: Insn| format!("{insn:?}, {:?}", insn.flow());
            match (stream.at(offset), alone) {
                (Err(DecodeError::Invalid { at, .. }), Err(DecodeError::Invalid { at: expected, .. })) => {
                    assert_eq!(at, expected);
                }
                (found, expected) => assert_eq!(found.map(text), expected.map(text), "{offset}"),
            }
        }
    }
}
