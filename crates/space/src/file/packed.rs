//! Bytes made smaller (zlib, RFC 1950): what a file carries that no program reads.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

/// No more bytes than so many times the packed ones are unpacked: a small file cannot expand to any amount.
const MOST: usize = 64;

/// What the first byte of packed bytes says: as they are, or by zlib.
const PLAIN: u8 = 0;
const ZLIB: u8 = 1;

/// `ch_type` and alignment of a compressed section (gABI, "Section Compression").
const ELFCOMPRESS_ZLIB: u32 = 1;
const ALIGN: u64 = 8;

fn zlib(bytes: &[u8], out: Vec<u8>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(out, Compression::best());
    // Writing to memory does not fail.
    drop(encoder.write_all(bytes));
    encoder.finish().unwrap_or_default()
}

/// The bytes, made smaller if they can be.
pub(super) fn packed(bytes: &[u8]) -> Vec<u8> {
    let small = zlib(bytes, vec![ZLIB]);
    if small.len() <= bytes.len() && bytes.len() <= small.len() * MOST {
        return small;
    }
    [&[PLAIN], bytes].concat()
}

/// What [`packed`] was given; `None` if it did not make this.
pub(super) fn unpacked(bytes: &[u8]) -> Option<Vec<u8>> {
    let (kind, rest) = bytes.split_first()?;
    match *kind {
        PLAIN => Some(rest.to_vec()),
        ZLIB => {
            let most = bytes.len().saturating_mul(MOST);
            let mut whole = Vec::new();
            ZlibDecoder::new(rest).take(most as u64 + 1).read_to_end(&mut whole).ok()?;
            (whole.len() <= most).then_some(whole)
        }
        _ => None,
    }
}

/// The contents of a section with the flag `SHF_COMPRESSED`; `None` if these would not be smaller.
pub(super) fn section(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut head = ELFCOMPRESS_ZLIB.to_le_bytes().to_vec();
    head.extend([0; 4]);
    head.extend((bytes.len() as u64).to_le_bytes());
    head.extend(ALIGN.to_le_bytes());
    Some(zlib(bytes, head)).filter(|small| small.len() < bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        let text = b"strip_trailing_ifs_whitespace, strip_leading_ifs_whitespace".repeat(3);
        let noise: Vec<u8> = (0..200u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for bytes in [&text[..], &noise, b"", &[0; 100_000]] {
            assert_eq!(unpacked(&packed(bytes)).as_deref(), Some(bytes));
            assert!(packed(bytes).len() <= bytes.len() + 1);
        }
        assert!(packed(&text).len() < text.len() / 2);
    }

    #[test]
    fn damage_is_an_error_and_nothing_expands_without_bound() {
        assert_eq!(unpacked(b""), None);
        assert_eq!(unpacked(&[7, 1, 2]), None);
        let mut cut = packed(&b"one and two and three and four and five".repeat(4));
        cut.truncate(cut.len() / 2);
        assert_eq!(unpacked(&cut), None);
        assert_eq!(unpacked(&zlib(&vec![0; 1 << 24], vec![ZLIB])), None, "a thousand times as large");
    }
}
