//! Instructions of the program, one after the other.

use incise_isa::Addr;
use incise_isa::native::{Insn, InsnStream};

use crate::code::Code;
use crate::tactic::Refusal;

/// Decodes original instructions as [`Code::insn`] does, but quicker where many lie closely.
pub(crate) struct Reader<'c, 'a> {
    code: &'c Code<'a>,
    /// Where the piece of code begins that was read last.
    start: Addr,
    len: u64,
    stream: InsnStream<'c>,
}

impl<'c, 'a> Reader<'c, 'a> {
    pub(crate) fn new(code: &'c Code<'a>) -> Reader<'c, 'a> {
        Reader { code, start: Addr(0), len: 0, stream: InsnStream::new(&[], Addr(0)) }
    }

    /// The original instruction at `at`.
    pub(crate) fn insn(&mut self, at: Addr) -> Result<Insn, Refusal> {
        let mut offset = at.0.wrapping_sub(self.start.0);
        if offset >= self.len {
            let (start, bytes) = self.code.piece(at).ok_or(Refusal::NotExecutable(at))?;
            (self.start, self.len) = (start, bytes.len() as u64);
            self.stream = InsnStream::new(bytes, start);
            offset = at.0 - start.0;
        }
        if self.code.is_writable(at) {
            return Err(Refusal::Writable(at));
        }
        self.stream.at(offset as usize).map_err(|_| Refusal::Undecodable(at))
    }
}
