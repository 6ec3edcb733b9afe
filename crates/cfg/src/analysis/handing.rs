//! Whether a program hands status flags over at calls and returns.

use std::ops::Range;

use incise_image::{Image, LinkAddr};
use incise_isa::Addr;
use incise_isa::native::reads_flags;

use crate::graph::Cfg;
use crate::graph::edge::EdgeKind;

/// Whether any code of a program wants status flags that were handed over at a call or at a return, which no calling convention knows of
/// (psABI x86-64, 3.2.1: only the direction flag has a meaning there): code that runs behind a call, or where a call leads to, reads
/// one before it overwrites it. Outside of the blocks of `cfg`, and everywhere if there is no graph of the whole program, all bytes
/// count that may be a direct call. `file` are the contents `image` was parsed from.
pub fn hands_flags_over(cfg: Option<&Cfg>, image: &Image, file: &[u8]) -> bool {
    let wants = |at: LinkAddr| reads_flags(ahead(image, file, at), Addr(at.0));
    let Some(cfg) = cfg.filter(|cfg| cfg.whole) else {
        let text = image.text();
        let is_code = |at: LinkAddr| text.iter().any(|range| range.contains(&at));
        return text.iter().any(|range| {
            let mut calls = calls(image, file, range.clone());
            calls.any(|(target, behind)| is_code(target) && (wants(target) || wants(behind)))
        });
    };
    let handed = |kind| matches!(kind, EdgeKind::Call | EdgeKind::CallFallThrough);
    cfg.blocks().any(|block| block.incoming().any(|edge| handed(edge.kind())) && wants(block.start()))
        || image.text().iter().flat_map(|text| cfg.holes(text.clone())).any(|hole| {
            let mut calls = calls(image, file, hole);
            calls.any(|(target, behind)| cfg.function_at(target).is_some() && wants(behind))
        })
}

/// Bytes at `at` and behind it, as many as tell.
fn ahead<'f>(image: &Image, file: &'f [u8], at: LinkAddr) -> &'f [u8] {
    const MOST: u64 = 64;
    let segment = image.segments().iter().map(|segment| segment.range()).find(|range| range.contains(&at));
    let len = segment.map_or(0, |range| range.end.0 - at.0).min(MOST);
    image.bytes_at(file, at, len).unwrap_or(&[])
}

/// Everything in `range` that may be a direct call: what it would call, and where that would come back to.
fn calls<'a>(
    image: &Image,
    file: &'a [u8],
    range: Range<LinkAddr>,
) -> impl Iterator<Item = (LinkAddr, LinkAddr)> + use<'a> {
    const CALL: u8 = 0xE8;
    const LEN: usize = 5;
    let bytes = image.bytes_at(file, range.start, range.end.0 - range.start.0).unwrap_or(&[]);
    bytes.windows(LEN).enumerate().filter_map(move |(offset, field)| {
        let [CALL, a, b, c, d] = *field else { return None };
        let behind = range.start.0 + (offset + LEN) as u64;
        let target = behind.wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into());
        Some((LinkAddr(target), LinkAddr(behind)))
    })
}
