//! A process that has nothing but given memory, and is run instruction by instruction.
//!
//! # Safety
//! Between fork(2) and its first trap the child makes system calls only, with arguments that were prepared before. All
//! memory it has is files that this process may map too; [`View`] owns its mapping and reads and writes it while the
//! child stands still. ptrace(2) is given pointers to values of the sizes it fills.

#![allow(unsafe_code, reason = "fork, shared memory, ptrace")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use crate::native::seal;

/// General registers, as ptrace(2) has them.
pub(super) type Registers = libc::user_regs_struct;

/// The most bytes of vector and x87 state.
const XSTATE_MAX: usize = 16 << 10;
/// ELF note of the extended state (Linux: NT_X86_XSTATE).
const NT_X86_XSTATE: usize = 0x202;

/// Memory of a child: a file, where it is mapped, and with what protection.
pub(super) struct Region {
    pub at: u64,
    pub len: u64,
    pub protection: i32,
    pub file: File,
}

impl Region {
    /// Zeros.
    pub(super) fn new(at: u64, len: u64, protection: i32) -> io::Result<Region> {
        // SAFETY: the name is a C string.
        let number = unsafe { libc::memfd_create(c"incise-oracle".as_ptr(), libc::MFD_CLOEXEC) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        let file = unsafe { File::from_raw_fd(number) };
        file.set_len(len)?;
        Ok(Region { at, len, protection, file })
    }

    /// Writes at an address inside.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at - self.at)
    }

    /// Maps it here.
    pub(super) fn view(&self) -> io::Result<View> {
        let (prot, len) = (libc::PROT_READ | libc::PROT_WRITE, self.len as usize);
        // SAFETY: unused addresses, chosen by the kernel.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), len, prot, libc::MAP_SHARED, self.file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(View { bytes: at.cast(), len, at: self.at })
    }
}

/// A child's memory, mapped here.
pub(super) struct View {
    bytes: *mut u8,
    len: usize,
    /// Its address in the child.
    pub at: u64,
}

impl View {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped as long as this lives; the child stands still.
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }

    /// The eight bytes at an address in the child, as a number.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.at)?).ok()?;
        self.bytes().get(offset..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: mapped by `Region::view`, and no slice is left.
        unsafe { libc::munmap(self.bytes.cast(), self.len) };
    }
}

/// Why a child stopped, other than behind one instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub signal: i32,
    pub code: i32,
    pub address: u64,
}

/// A traced process; killed when dropped.
pub(super) struct Child {
    pid: libc::pid_t,
    regs: Registers,
}

impl Child {
    /// Starts one that has the memory of `regions` besides its copy of this process's.
    pub(super) fn start(regions: &[&Region]) -> io::Result<Child> {
        // SAFETY: the child goes to `live` at once.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => live(regions),
            -1 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        // SAFETY: all zeros is a value of it.
        let mut child = Child { pid, regs: unsafe { std::mem::zeroed() } };
        let status = child.wait()?;
        if !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) != libc::SIGTRAP {
            let step = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 };
            return Err(io::Error::other(format!("a process could not take its memory ({step})")));
        }
        child.request(libc::PTRACE_SETOPTIONS, 0, libc::PTRACE_O_EXITKILL as usize)?;
        child.regs = child.registers()?;
        Ok(child)
    }

    /// Registers with the segments of the process and everything else zero.
    pub(super) fn blank(&self) -> Registers {
        // SAFETY: all zeros is a value of it.
        let zero: Registers = unsafe { std::mem::zeroed() };
        let Registers { cs, ss, ds, es, fs, gs, .. } = self.regs;
        Registers { cs, ss, ds, es, fs, gs, orig_rax: u64::MAX, ..zero }
    }

    pub(super) fn registers(&self) -> io::Result<Registers> {
        // SAFETY: all zeros is a value of it; the kernel fills it.
        let mut regs: Registers = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, (&raw mut regs) as usize)?;
        Ok(regs)
    }

    pub(super) fn set_registers(&self, regs: &Registers) -> io::Result<()> {
        self.request(libc::PTRACE_SETREGS, 0, ptr::from_ref(regs) as usize)
    }

    /// Vector and x87 state, without the addresses of the last x87 instruction.
    pub(super) fn xstate(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; XSTATE_MAX];
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.request(libc::PTRACE_GETREGSET, NT_X86_XSTATE, (&raw mut vector) as usize)?;
        bytes.truncate(vector.iov_len);
        // FXSAVE: FOP, FIP.
        bytes[6..16].fill(0);
        Ok(bytes)
    }

    pub(super) fn set_xstate(&self, bytes: &[u8]) -> io::Result<()> {
        let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.request(libc::PTRACE_SETREGSET, NT_X86_XSTATE, (&raw mut vector) as usize)
    }

    /// Runs one instruction, or one round of a repeated one.
    pub(super) fn step(&self) -> io::Result<Option<Fault>> {
        /// Linux: the trap flag made this SIGTRAP.
        const TRAP_TRACE: i32 = 2;
        self.request(libc::PTRACE_SINGLESTEP, 0, 0)?;
        let status = self.wait()?;
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::other(format!("a process ended: wait status {status:#x}")));
        }
        // SAFETY: all zeros is a value of it; the kernel fills it, with the address in place for faults.
        let (info, address) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            self.request(libc::PTRACE_GETSIGINFO, 0, (&raw mut info) as usize)?;
            (info, info.si_addr() as u64)
        };
        if info.si_signo == libc::SIGTRAP && info.si_code == TRAP_TRACE {
            return Ok(None);
        }
        Ok(Some(Fault { signal: info.si_signo, code: info.si_code, address }))
    }

    fn wait(&self) -> io::Result<i32> {
        let mut status = 0;
        // SAFETY: a place for the status.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
        if waited == self.pid { Ok(status) } else { Err(io::Error::last_os_error()) }
    }

    fn request(&self, request: libc::c_uint, address: usize, data: usize) -> io::Result<()> {
        // SAFETY: the callers pass pointers to what the request reads or fills.
        let done = unsafe { libc::ptrace(request, self.pid, address, data) };
        if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), libc::__WALL);
        }
    }
}

/// The child, up to its first trap.
fn live(regions: &[&Region]) -> ! {
    // SAFETY: system calls; the addresses were free, or nothing is mapped.
    unsafe {
        for (number, region) in regions.iter().enumerate() {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
            let at = region.at as *mut libc::c_void;
            let (len, file) = (region.len as usize, region.file.as_raw_fd());
            if libc::mmap(at, len, region.protection, flags, file, 0) != at {
                libc::_exit(100 + (number as i32).min(100));
            }
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == -1 || !seal() {
            libc::_exit(99);
        }
        std::arch::asm!("int3", options(noreturn));
    }
}
