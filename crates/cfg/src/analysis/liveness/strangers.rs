//! Functions that code outside of the graph may call directly.

use incise_image::{Image, LinkAddr};

use crate::graph::Cfg;

/// For each function, whether code that lies in no block may branch to it, as far as bytes tell: everything
/// there that could be a near branch counts. All, if the graph is not of the whole program.
pub(super) fn find(cfg: &Cfg, image: &Image, file: &[u8]) -> Vec<bool> {
    let mut found = vec![!cfg.whole; cfg.functions().len()];
    if !cfg.whole {
        return found;
    }
    for text in image.text() {
        for hole in cfg.holes(text.clone()) {
            let bytes = image.bytes_at(file, hole.start, hole.end.0 - hole.start.0).unwrap_or(&[]);
            branches(bytes, hole.start, |target| {
                if let Some(function) = cfg.function_at(target) {
                    found[function.id().0 as usize] = true;
                }
            });
        }
    }
    found
}

/// Calls `found` with the target of everything in `bytes` that may be a near branch or call (AMD APM vol. 3,
/// E8, E9, 0F 80-8F rel32).
fn branches(bytes: &[u8], start: LinkAddr, mut found: impl FnMut(LinkAddr)) {
    for (offset, field) in bytes.windows(5).enumerate() {
        let [opcode, a, b, c, d] = *field else { continue };
        let is_wide = matches!(opcode, 0x80..=0x8f) && offset > 0 && bytes[offset - 1] == 0x0f;
        if matches!(opcode, 0xe8 | 0xe9) || is_wide {
            let behind = start.0.wrapping_add(offset as u64 + 5);
            found(LinkAddr(behind.wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into())));
        }
    }
}
