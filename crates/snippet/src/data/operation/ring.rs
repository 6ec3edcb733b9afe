//! Taking a slot of a ring; how that works is told where the layout is.

use super::super::ring::{HEAD, RingLayout};
use super::cpu;

/// Takes a slot of the ring of this CPU. In: `r11` the memory with the rings. Out: `r10` the slot, 0 if the record was dropped;
/// `r11` the ring's head. Changes `rax`, `r9`, flags.
pub fn ring_reserve(layout: RingLayout) -> String {
    let RingLayout { rings, slots, slot } = layout;
    let ring = if rings == 0 {
        format!("add r11, {HEAD}\n")
    } else {
        let mask = layout.rings() - 1;
        format!("{}and r9d, {mask}\nshl r9d, 7\nlea r11, [r11+r9+{HEAD}]\n", cpu("r9"))
    };
    let mask = layout.slots() - 1;
    format!(
        "{ring}\
         81: mov rax, [r11]
         mov r10d, eax
         and r10d, {mask}
         shl r10, {slot}
         add r10, [r11+16]
         add r10, r11
         mov r9, rax
         shr r9, {slots}
         add r9, r9
         sub r9, [r10]
         jnz 82f
         lea r9, [rax+1]
         lock cmpxchg [r11], r9
         jne 81b
         jmp 84f
         # The turn is read once: a slot that becomes free now must not be passed by.
         82: js 85f
         # Full: a record of an earlier lap that was not read.
         test r9b, 1
         jnz 83f
         # Not finished in an earlier lap, or free for a later one: passed by; or others were here meanwhile.
         85: lea r9, [rax+1]
         lock cmpxchg [r11], r9
         jne 81b
         83: lock inc qword ptr [r11+8]
         xor r10d, r10d
         84:
        "
    )
}

/// Finishes the record in the slot `r10`. Changes flags.
pub fn ring_commit() -> String {
    "inc qword ptr [r10]\n".to_owned()
}
