//! Whether an instruction begins at an address: told from the code as the file has it, before any patch.

use std::path::PathBuf;

use incise_isa::Addr;
use incise_isa::native::{Insn, decode};
use incise_patch::Facts;
use incise_space::MappedFile;
use incise_space::file::{FileError, Record};

use crate::Program;

/// Functions with more bytes are not looked at.
const LARGEST: u64 = 1 << 20;

/// The instruction that has `at` in its middle, as decoding its function from the start tells. None where a branch of the
/// function leads to `at` (a jump over a `lock` prefix), and where the original code or the function is not known.
pub(crate) fn around(program: &Program, at: Addr) -> Option<Insn> {
    let function = program.function(at).filter(|function| function.start != at)?;
    let code = original(program, function.start, function.end.offset_from(function.start) as u64)?;
    let (mut here, mut inside) = (function.start, None);
    while here < function.end {
        let rest = code.get(here.offset_from(function.start) as usize..)?;
        // What does not decode is data, or the start was none.
        let insn = decode(rest, here).ok()?;
        if insn.flow().target() == Some(at) || here == at {
            return None;
        }
        if here < at && at < insn.end() {
            inside = Some(insn);
        }
        here = insn.end();
    }
    inside
}

/// `len` bytes of a module's code as they were before any patch, also where a rewritten file has others.
fn original(program: &Program, at: Addr, len: u64) -> Option<Vec<u8>> {
    let module = program.module_at(at).filter(|module| !module.deleted && len <= LARGEST)?;
    let path = match program.process() {
        Some(pid) => PathBuf::from(format!("/proc/{pid}/root{}", module.path)),
        None => PathBuf::from(&module.path),
    };
    let file = MappedFile::open(&path).ok()?;
    let link = module.to_link(at)?;
    let mut code = module.image.bytes_at(file.as_ref(), link, len)?.to_vec();
    match Record::find(&path, file.as_ref()) {
        Ok(record) => record.restore(module.image.link_to_file(link)?, &mut code),
        Err(FileError::NoRecord { .. }) => {}
        // What was changed is not known.
        Err(_) => return None,
    }
    Some(code)
}
