//! In which order the bytes of edits may change while others run them: rounds of writes.
//!
//! A writer that cannot replace all bytes of an edit at once puts traps on its heads, changes the other bytes, and then the
//! heads. That is not enough where a jump's displacement has the head of another instruction among its bytes (a
//! springboard that reaches into a call or into the next springboard): while that inner head is a trap, or not yet what it
//! will be, the outer jump leads elsewhere.
//!
//! What has to hold after each round, and in any order of the writes within one:
//!
//! 1. Every head is its old instruction, a trap, or its new instruction, with all its bytes in place.
//! 2. Heads become traps from the outermost to the innermost jump before the change: when an inner one does, no thread can
//!    fetch the outer jump any more. (All cores are serialized between rounds, or stand still.)
//! 3. The other bytes change while every head is a trap: nobody fetches them. A thread that had fetched a head before has gone
//!    on by then.
//! 4. Heads become new instructions from the innermost to the outermost jump after the change: when the outer one does, every
//!    byte of its displacement is in place.
//! 5. A head that is a trap before and after is one all the time.
//!
//! Backwards it is the same with old and new exchanged.

use incise_isa::Addr;
use incise_isa::native::{SPRINGBOARD_LEN, TRAP};

use crate::{Bytes, Edit};

/// The bytes of every edit, in the order of the edits.
pub(crate) type State = Vec<Bytes>;

/// The states that `edits` (ascending) go through: the first has all old bytes, the last all new ones. Neighbours differ.
pub(crate) fn states(edits: &[Edit]) -> Vec<State> {
    let heads = heads(edits);
    let before = depths(&heads, |head| head.old);
    let after = depths(&heads, |head| head.new);
    let mut states: Vec<State> = vec![edits.iter().map(|edit| edit.old).collect()];
    let mut now = states[0].clone();
    let mut next = |state: &State| {
        if states.last() != Some(state) {
            states.push(state.clone());
        }
    };
    for depth in 0..=deepest(&before) {
        for (head, _) in heads.iter().zip(&before).filter(|(_, of)| **of == depth) {
            set(&mut now[head.edit], head.offset, TRAP);
        }
        next(&now);
    }
    for (edit, bytes) in edits.iter().zip(&mut now) {
        for offset in (0..edit.new.len()).filter(|offset| edit.heads & (1 << offset) == 0) {
            set(bytes, offset, edit.new[offset]);
        }
    }
    next(&now);
    for depth in (0..=deepest(&after)).rev() {
        for (head, _) in heads.iter().zip(&after).filter(|(_, of)| **of == depth) {
            set(&mut now[head.edit], head.offset, head.new);
        }
        next(&now);
    }
    states
}

/// Whether some jump, before or after the change, has the head of another instruction among its bytes that is no trap.
pub(crate) fn is_nested(edits: &[Edit]) -> bool {
    let heads = heads(edits);
    deepest(&depths(&heads, |head| head.old)) > 0 || deepest(&depths(&heads, |head| head.new)) > 0
}

struct Head {
    at: Addr,
    old: u8,
    new: u8,
    edit: usize,
    offset: usize,
}

/// All heads, ascending.
fn heads(edits: &[Edit]) -> Vec<Head> {
    let of = |(index, edit): (usize, &Edit)| {
        let edit = *edit;
        let head = move |offset: usize| {
            let (old, new) = (edit.old[offset], edit.new[offset]);
            Head { at: edit.at + offset as u64, old, new, edit: index, offset }
        };
        edit.head_offsets().map(head)
    };
    edits.iter().enumerate().flat_map(of).collect()
}

/// Of each head, how many jumps there are one inside the other that have it among their bytes.
fn depths(heads: &[Head], byte: impl Fn(&Head) -> u8) -> Vec<usize> {
    let mut depths = vec![0; heads.len()];
    for (index, inner) in heads.iter().enumerate().filter(|(_, inner)| byte(inner) != TRAP) {
        let outer = (0..index).rev().take_while(|&outer| inner.at < heads[outer].at + SPRINGBOARD_LEN as u64);
        let outer = outer.filter(|&outer| matches!(byte(&heads[outer]), 0xE8 | 0xE9));
        depths[index] = outer.map(|outer| depths[outer] + 1).max().unwrap_or(0);
    }
    depths
}

fn deepest(depths: &[usize]) -> usize {
    depths.iter().copied().max().unwrap_or(0)
}

fn set(bytes: &mut Bytes, offset: usize, byte: u8) {
    let mut copy = bytes.to_vec();
    copy[offset] = byte;
    *bytes = Bytes::new(&copy);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(old: &[u8], new: &[u8], heads: u16) -> Edit {
        Edit { at: Addr(0x1000), old: Bytes::new(old), new: Bytes::new(new), heads }
    }

    fn all(edit: Edit) -> Vec<Vec<u8>> {
        states(&[edit]).iter().map(|state| state[0].to_vec()).collect()
    }

    #[test]
    fn a_plain_jump_takes_three_rounds() {
        let states = all(edit(&[0x48, 0x89, 0xe5, 0x31, 0xc0], &[0xe9, 1, 2, 0xcc, 3], 0b1001));
        let expected = [
            vec![0x48, 0x89, 0xe5, 0x31, 0xc0],
            vec![0xcc, 0x89, 0xe5, 0xcc, 0xc0],
            vec![0xcc, 1, 2, 0xcc, 3],
            vec![0xe9, 1, 2, 0xcc, 3],
        ];
        assert_eq!(states, expected);
    }

    #[test]
    fn a_jump_into_a_call_comes_after_the_call_and_goes_before_it() {
        let code = [0x90, 0x0f, 0x1f, 0x00, 0xe8, 1, 2, 3, 4];
        let jump = [0xe9, 5, 6, 7, 0xe8, 8, 9, 10, 11];
        let expected = [
            code.to_vec(),
            vec![0xcc, 0x0f, 0x1f, 0x00, 0xcc, 1, 2, 3, 4],
            vec![0xcc, 5, 6, 7, 0xcc, 8, 9, 10, 11],
            vec![0xcc, 5, 6, 7, 0xe8, 8, 9, 10, 11],
            jump.to_vec(),
        ];
        assert_eq!(all(edit(&code, &jump, 0b1_0001)), expected);
        let mut backwards = all(edit(&jump, &code, 0b1_0001));
        backwards.reverse();
        assert_eq!(backwards, expected);
        assert!(is_nested(&[edit(&code, &jump, 0b1_0001)]) && is_nested(&[edit(&jump, &code, 0b1_0001)]));
        assert!(!is_nested(&[edit(&code, &code, 0b1_0001)]));
    }

    #[test]
    fn jumps_in_jumps_in_several_edits() {
        let outer = Edit { at: Addr(0x1000), ..edit(&[0x90; 3], &[0xe9, 1, 2], 1) };
        let middle = Edit { at: Addr(0x1003), ..edit(&[0x90; 4], &[0xe9, 3, 4, 5], 1) };
        let inner = Edit { at: Addr(0x1007), ..edit(&[0x90; 5], &[0xe9, 6, 7, 8, 9], 1) };
        let states = states(&[outer, middle, inner]);
        let heads: Vec<Vec<u8>> =
            states.iter().map(|state| state.iter().map(|bytes| bytes[0]).collect()).collect();
        let expected = [
            vec![0x90, 0x90, 0x90],
            vec![0xcc, 0xcc, 0xcc],
            vec![0xcc, 0xcc, 0xcc],
            vec![0xcc, 0xcc, 0xe9],
            vec![0xcc, 0xe9, 0xe9],
            vec![0xe9, 0xe9, 0xe9],
        ];
        assert_eq!(heads, expected);
    }

    #[test]
    fn what_stays_a_trap_is_one_all_the_time() {
        let edit = edit(&[0xcc, 1], &[0xcc, 2], 1);
        assert!(states(&[edit]).iter().all(|state| state[0][0] == 0xcc));
        assert_eq!(states(&[edit]).len(), 2);
    }
}
