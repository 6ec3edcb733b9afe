//! Where a program keeps the id of its thread.

use incise_isa::Addr;
use incise_space::AddressSpace;
use incise_space::remote::RemoteSpace;

/// How far behind the thread pointer to look.
const REACH: usize = 4096;
/// Offset of `tid` in glibc's `struct pthread`, whose address is the thread pointer; the same since 2.4 (nptl/descr.h).
const GLIBC: usize = 720;

/// The offset of a thread's id from its thread pointer, if it is known yet. C libraries keep it in the thread's descriptor: it is
/// looked for there.
pub(crate) fn id_offset(space: &mut RemoteSpace) -> Option<u64> {
    let (tid, pointer) = space.thread_pointer().ok()?;
    if pointer == Addr(0) {
        return None;
    }
    // The number in the program's own namespace may be another.
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let tid: u32 = ids.split_whitespace().next_back()?.parse().ok()?;
    let mut memory = vec![0; REACH];
    // Fewer bytes may be there.
    while space.read(pointer, &mut memory).is_err() {
        memory.truncate(memory.len() / 2);
        if memory.len() < 64 {
            return None;
        }
    }
    let holds = |at: &usize| memory.get(*at..at + 4).is_some_and(|word| word == tid.to_le_bytes());
    let found = std::iter::once(GLIBC).chain((0..memory.len()).step_by(4)).find(holds);
    found.map(|at| at as u64)
}
