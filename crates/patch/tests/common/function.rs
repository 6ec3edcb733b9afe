//! A small function, and counters at its instructions.

use incise_isa::Addr;
use incise_isa::native::decode;
use incise_patch::{Atomicity, Batch, Engine, NoFacts, Outcome, Policy, Position, Snippet, TrapPolicy};

use super::FakeSpace;

pub const TEXT: u64 = 0x7f00_1234_5000;
pub const BEST: Policy = Policy { atomicity: Atomicity::BestEffort, traps: TrapPolicy::Fallback };

/// push rbp; mov rbp,rsp; push r15; push rbx; sub rsp,8; mov eax,[rip+0x100]; test eax,eax; jne +2; nop; nop;
/// add rsp,8; pop rbx; pop r15; pop rbp; ret; int3...
pub const FUNCTION: &[u8] = &[
    0x55, 0x48, 0x89, 0xE5, 0x41, 0x57, 0x53, 0x48, 0x83, 0xEC, 0x08, 0x8B, 0x05, 0x00, 0x01, 0x00, 0x00,
    0x85, 0xC0, 0x75, 0x02, 0x90, 0x90, 0x48, 0x83, 0xC4, 0x08, 0x5B, 0x41, 0x5F, 0x5D, 0xC3, 0xCC, 0xCC,
    0xCC, 0xCC, 0xCC, 0xCC,
];

pub fn heads(code: &[u8], at: u64) -> Vec<u64> {
    let mut heads = Vec::new();
    let mut offset = 0;
    while offset < code.len() && code[offset] != 0xCC {
        heads.push(at + offset as u64);
        offset += decode(&code[offset..], Addr(at + offset as u64)).expect("good code").len();
    }
    heads
}

pub fn count_at(engine: &mut Engine, space: &mut FakeSpace, sites: &[u64], policy: Policy) -> Vec<Outcome> {
    let mut batch = Batch::default();
    for &site in sites {
        let counter = engine.counter();
        batch.insert(Addr(site), Snippet::Counter(counter), Position::Last);
    }
    let report = engine.commit(space, &NoFacts, &batch, policy).expect("a best-effort commit");
    report.entries.into_iter().map(|entry| entry.outcome).collect()
}

pub fn remove_all(engine: &mut Engine, space: &mut FakeSpace) {
    let batch = Batch::removal(engine.instances().collect::<Vec<_>>());
    engine.commit(space, &NoFacts, &batch, BEST).expect("removal");
}
