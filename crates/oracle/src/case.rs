//! What one trial runs: code, where it runs, and the machine state it starts from.

use iced_x86::Code;

use crate::layout::Place;

/// How a copy lies in relation to what its original refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// All targets are within rel32 of the copy.
    Near,
    /// No target is: the copy is 64 GiB or more above.
    Far,
    /// No target is: the copy is in the first 2 GiB, the original is not.
    FarBelow,
    /// The copy begins within a few bytes of 2 GiB above its target.
    EdgeAbove,
    /// The copy begins within a few bytes of 2 GiB below its target.
    EdgeBelow,
}

impl Reach {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Reach::Near => "near",
            Reach::Far => "far",
            Reach::FarBelow => "far-below",
            Reach::EdgeAbove => "edge-above",
            Reach::EdgeBelow => "edge-below",
        }
    }
}

/// Machine code at an address, with the offset of each original instruction in it.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Where it runs.
    pub at: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offset in `bytes` at which the code for each original instruction begins, ascending.
    pub starts: Vec<u16>,
}

impl Body {
    /// The address behind the last byte.
    pub fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// Which original instruction `pc` belongs to, and how far into its code it is.
    pub fn locate(&self, pc: u64) -> Option<(usize, u64)> {
        let offset = pc.checked_sub(self.at).filter(|&offset| offset < self.bytes.len() as u64)?;
        let index = self.starts.partition_point(|&start| u64::from(start) <= offset).checked_sub(1)?;
        Some((index, offset - u64::from(self.starts[index])))
    }
}

/// A displaced version of the original.
#[derive(Clone, Debug)]
pub struct Displaced {
    /// How it lies.
    pub reach: Reach,
    /// The code.
    pub body: Body,
    /// Branches of the original to the first address must arrive at the second.
    pub moved: Option<(u64, u64)>,
    /// Each original instruction became exactly one: faults show the original's registers too.
    pub one_to_one: bool,
}

/// Bytes put into memory before a run.
#[derive(Clone, Debug)]
pub struct Poke {
    /// Where.
    pub at: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// The machine state a trial starts from. General registers are in hardware numbering.
#[derive(Clone, Debug)]
pub struct Start {
    /// rax rcx rdx rbx rsp rbp rsi rdi r8-r15.
    pub gpr: [u64; 16],
    /// rflags.
    pub flags: u64,
    /// Base of fs.
    pub fs_base: u64,
    /// Base of gs.
    pub gs_base: u64,
    /// SSE control and status.
    pub mxcsr: u32,
    /// x87 control word.
    pub x87_control: u16,
    /// x87 status word.
    pub x87_status: u16,
    /// x87 tag word in its short form: bit n is set if register n is in use.
    pub x87_tags: u8,
    /// Offsets into the tape of what fills low data, high data, low stack, high stack, vectors.
    pub windows: [usize; 5],
    /// Memory set afterwards.
    pub pokes: Vec<Poke>,
    /// Vector registers set to chosen values (indexes of gathers and scatters).
    pub vectors: Vec<(u8, [u8; 64])>,
}

/// One trial: an original and its copies, all run from the same state.
#[derive(Clone, Debug)]
pub struct Case {
    /// The encoding form under test.
    pub form: Code,
    /// The neighbourhood.
    pub place: Place,
    /// The original.
    pub original: Body,
    /// The copies; at most [`crate::outcome::MAX_COPIES`] are run.
    pub copies: Vec<Displaced>,
    /// The state.
    pub start: Start,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_located_in_the_instruction_it_belongs_to() {
        let body = Body { at: 0x100, bytes: vec![0; 10], starts: vec![0, 4, 9] };
        assert_eq!(body.locate(0x100), Some((0, 0)));
        assert_eq!(body.locate(0x103), Some((0, 3)));
        assert_eq!(body.locate(0x104), Some((1, 0)));
        assert_eq!(body.locate(0x109), Some((2, 0)));
        assert_eq!(body.locate(0x10a), None);
        assert_eq!(body.locate(0xff), None);
    }
}
