//! An independent count: the kernel's uprobes, all of them in one link, each adding to its own entry of a map.
//!
//! The kernel finds the places by file and offset, with nothing of ours involved. It counts in every process that
//! maps the file, so tests give it private copies. Needs root and Linux 6.6 (multi-uprobe links).
//!
//! # Safety
//! bpf(2) gets attributes laid out as in `linux/bpf.h`, with pointers to memory that outlives the call.

#![allow(unsafe_code, reason = "bpf(2) has no safe form in libc")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;

const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_KPROBE: u32 = 2;
const TRACE_UPROBE_MULTI: u32 = 48;

/// Counters at places in files.
pub struct Uprobes {
    map: OwnedFd,
    program: OwnedFd,
    links: Vec<OwnedFd>,
    len: u32,
}

impl Uprobes {
    /// Room for `len` counters, none of which is anywhere yet.
    ///
    /// # Errors
    /// If the kernel has no such thing, or not for us.
    pub fn new(len: usize) -> io::Result<Uprobes> {
        let len = u32::try_from(len.max(1)).map_err(io::Error::other)?;
        let mut attributes = Attributes::default();
        attributes.set(0, &MAP_TYPE_ARRAY).set(4, &4u32).set(8, &8u32).set(12, &len);
        let map = attributes.open(MAP_CREATE)?;
        let code = program(map.as_raw_fd());
        let mut attributes = Attributes::default();
        attributes.set(0, &PROG_TYPE_KPROBE).set(4, &(code.len() as u32)).set(8, &(code.as_ptr() as u64));
        attributes.set(16, &(c"GPL".as_ptr() as u64)).set(68, &TRACE_UPROBE_MULTI);
        let program = attributes.open(PROG_LOAD)?;
        Ok(Uprobes { map, program, links: Vec::new(), len })
    }

    /// Puts counters `first`, `first + 1`, ... at `offsets` of `file`.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn attach(&mut self, file: &Path, offsets: &[u64], first: usize) -> io::Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let path = CString::new(file.as_os_str().as_bytes())?;
        let cookies: Vec<u64> = (first as u64..).take(offsets.len()).collect();
        let mut attributes = Attributes::default();
        attributes.set(0, &self.program.as_raw_fd()).set(8, &TRACE_UPROBE_MULTI);
        attributes.set(16, &(path.as_ptr() as u64)).set(24, &(offsets.as_ptr() as u64));
        attributes.set(40, &(cookies.as_ptr() as u64)).set(48, &(offsets.len() as u32));
        self.links.push(attributes.open(LINK_CREATE)?);
        Ok(())
    }

    /// All counters; they are zero afterwards.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn take(&mut self) -> io::Result<Vec<u64>> {
        (0..self.len)
            .map(|key| {
                let (mut value, zero) = (0u64, 0u64);
                let mut attributes = Attributes::default();
                attributes.set(0, &self.map.as_raw_fd()).set(8, &(&raw const key as u64));
                attributes.set(16, &(&raw mut value as u64)).call(MAP_LOOKUP)?;
                attributes.set(16, &(&raw const zero as u64)).call(MAP_UPDATE)?;
                Ok(value)
            })
            .collect()
    }
}

/// `union bpf_attr`.
#[derive(Default)]
struct Attributes([u64; 18]);

impl Attributes {
    fn set<T: Number>(&mut self, offset: usize, value: &T) -> &mut Attributes {
        let (word, shift) = (offset / 8, offset % 8 * 8);
        let mask = T::MASK << shift;
        self.0[word] = self.0[word] & !mask | (value.bits() << shift) & mask;
        self
    }

    fn call(&self, command: i32) -> io::Result<i32> {
        // SAFETY: the attributes are as large as told; what they point to lives, see the callers.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), size_of_val(&self.0)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }

    fn open(&self, command: i32) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: a new descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// What an attribute may be.
trait Number {
    const MASK: u64;
    fn bits(&self) -> u64;
}

impl Number for u32 {
    const MASK: u64 = u32::MAX as u64;
    fn bits(&self) -> u64 {
        u64::from(*self)
    }
}

impl Number for i32 {
    const MASK: u64 = u32::MAX as u64;
    fn bits(&self) -> u64 {
        u64::from(*self as u32)
    }
}

impl Number for u64 {
    const MASK: u64 = u64::MAX;
    fn bits(&self) -> u64 {
        *self
    }
}

/// `map[cookie]++`, in the kernel's instruction set (Documentation/bpf/standardization/instruction-set.rst).
fn program(map: i32) -> [u64; 12] {
    const HELPER_LOOKUP: i32 = 1;
    const HELPER_COOKIE: i32 = 174;
    let insn = |code: u8, dst: u8, src: u8, offset: i16, value: i32| {
        u64::from(code)
            | u64::from(src << 4 | dst) << 8
            | u64::from(offset as u16) << 16
            | u64::from(value as u32) << 32
    };
    [
        insn(0x85, 0, 0, 0, HELPER_COOKIE), // r0 = cookie(r1 = context)
        insn(0x63, 10, 0, -4, 0),           // *(u32 *)(r10 - 4) = r0
        insn(0xBF, 2, 10, 0, 0),            // r2 = r10
        insn(0x07, 2, 0, 0, -4),            // r2 -= 4
        insn(0x18, 1, 1, 0, map),           // r1 = map
        insn(0, 0, 0, 0, 0),
        insn(0x85, 0, 0, 0, HELPER_LOOKUP), // r0 = &map[*r2]
        insn(0x15, 0, 0, 2, 0),             // if r0 == 0 goto out
        insn(0xB7, 1, 0, 0, 1),             // r1 = 1
        insn(0xDB, 0, 1, 0, 0),             // lock *(u64 *)r0 += r1
        insn(0xB7, 0, 0, 0, 0),             // out: r0 = 0
        insn(0x95, 0, 0, 0, 0),             // exit
    ]
}
