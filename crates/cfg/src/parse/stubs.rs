//! Which import a linkage stub leads to.

use incise_image::{Image, LinkAddr, SlotTarget};
use incise_isa::Addr;
use incise_isa::native::{Flow, decode};

/// Name of the import that the entry of a procedure linkage table at `entry` leads to; `None` if none is there.
/// `file` are the contents `image` was parsed from.
pub fn import_of_stub<'a>(image: &'a Image, file: &[u8], entry: LinkAddr) -> Option<&'a str> {
    /// No stub is longer, in instructions.
    const LONGEST: usize = 3;
    image.plt().iter().find(|range| range.contains(&entry))?;
    let mut at = entry;
    for _ in 0..LONGEST {
        let insn = decode(image.bytes_at(file, at, 8)?, Addr(at.0)).ok()?;
        if insn.flow() == Flow::IndirectJump {
            let slot = LinkAddr(insn.ip_relative_target()?.0);
            let found = image.slots().iter().find(|s| s.at == slot)?;
            let SlotTarget::Import(index) = found.target else { return None };
            return image.imports().nth(index as usize);
        }
        at = at + insn.len() as u64;
    }
    None
}
