//! Where the symbols of stripped files are kept: separate debug files.

use object::LittleEndian;

use crate::elf::bytes::LE;
use crate::elf::layout::Layout;

/// What `.gnu_debuglink` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DebugLink {
    /// File name of the debug file, without a directory.
    pub name: String,
    /// CRC-32 of the debug file's contents.
    pub crc: u32,
}

/// Reads `.gnu_debuglink`: a name, zeros up to a multiple of four, the checksum.
pub(crate) fn debug_link(layout: &Layout<'_>) -> Option<DebugLink> {
    let bytes = layout.section(".gnu_debuglink")?.bytes;
    let name = bytes.text(0).filter(|name| !name.is_empty() && !name.contains('/'))?;
    let raw_len = bytes.string(0, bytes.data().len())?.len() as u64;
    let crc = bytes.read::<object::U32<LittleEndian>>((raw_len + 1).next_multiple_of(4))?;
    Some(DebugLink { name, crc: crc.get(LE) })
}

/// Paths where the debug file of the program at `path` may be, best first, in the order gdb looks
/// (gdb manual, 18.3): by build-id, then by link name beside the program, in `.debug`, and under each of
/// `roots` (usually `/usr/lib/debug`).
pub fn debug_file_candidates(
    path: &str,
    build_id: Option<&[u8]>,
    link: Option<&DebugLink>,
    roots: &[&str],
) -> Vec<String> {
    let mut candidates = Vec::new();
    if let Some((first, rest)) = build_id.and_then(|id| id.split_first()).filter(|(_, rest)| !rest.is_empty())
    {
        let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        candidates.extend(roots.iter().map(|root| format!("{root}/.build-id/{first:02x}/{rest}.debug")));
    }
    if let Some(DebugLink { name, .. }) = link {
        let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory);
        let beside = format!("{directory}/{name}");
        // A file that names itself (a debug file) is not its own debug file.
        candidates.extend((beside != path).then_some(beside));
        candidates.push(format!("{directory}/.debug/{name}"));
        let absolute = roots.iter().filter(|_| path.starts_with('/'));
        candidates.extend(absolute.map(|root| format!("{root}{directory}/{name}")));
    }
    candidates
}
