//! Ctrl-C sets a flag instead of ending the command, and a mapped file that is cut short ends it with a message.
//!
//! # Safety
//! Handlers store to an atomic, or call open(2), read(2), write(2), _exit(2) and signal(2): all are async-signal-safe.

#![allow(unsafe_code, reason = "installs a signal handler")]

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by a signal that asks for the end of the count.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupted(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

extern "C" fn noted(_: i32) {}

/// Routes SIGTERM and, if `attached`, SIGINT to [`INTERRUPTED`]. A program that was launched gets Ctrl-C from the
/// terminal itself, and its end is ours. Signals that are ignored (as a shell has it for what runs in
/// the background) stay so for a program that is launched, which inherits them.
pub(crate) fn catch(attached: bool) {
    let on_interrupt = if attached { interrupted } else { noted };
    for (signal, handler) in
        [(libc::SIGTERM, interrupted as extern "C" fn(i32)), (libc::SIGINT, on_interrupt)]
    {
        // SAFETY: zeroed is a valid sigaction; the handlers are async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            if attached || action.sa_sigaction != libc::SIG_IGN {
                action = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

/// What is told, behind the name of the file, when there is nothing to read behind a mapping of it.
const CUT_SHORT: &[u8] = b" was cut short while it was read: try again when nothing writes to it any more\n";

/// Finds the name of the file that is mapped at an address, in what /proc/self/maps says (proc_pid_maps(5)), byte by byte.
#[derive(Default)]
struct NameOfMapping {
    at: u64,
    bounds: [u64; 2],
    /// How many of the bounds of this line were read; 3 inside the name.
    part: usize,
}

impl NameOfMapping {
    /// Whether `byte`, the next one, belongs to the name.
    fn takes(&mut self, byte: u8) -> bool {
        match (self.part, byte) {
            (_, b'\n') => (self.bounds, self.part) = ([0; 2], 0),
            (0, b'-') | (1, b' ') => self.part += 1,
            (0 | 1, digit) => {
                let digit = (digit as char).to_digit(16).unwrap_or(0);
                self.bounds[self.part] = self.bounds[self.part] << 4 | u64::from(digit);
            }
            (2, b'/') => self.part = 3,
            _ => {}
        }
        self.part == 3 && (self.bounds[0]..self.bounds[1]).contains(&self.at)
    }
}

/// Writes the name of the file that is mapped at `at` to standard error. Nothing but async-signal-safe calls are made.
fn write_name_of_mapping(at: u64) {
    let tell = |bytes: &[u8]| {
        // SAFETY: the bytes are valid.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    };
    // SAFETY: the path ends with a zero byte.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let (mut name, mut told) = (NameOfMapping { at, ..NameOfMapping::default() }, false);
    let mut chunk = [0_u8; 256];
    // SAFETY: as many bytes may be written to the array.
    while let Ok(len @ 1..) = usize::try_from(unsafe { libc::read(maps, chunk.as_mut_ptr().cast(), 256) }) {
        for &byte in &chunk[..len] {
            if name.takes(byte) {
                tell(&[byte]);
                told = true;
            }
        }
    }
    if !told {
        tell(b"a file");
    }
}

extern "C" fn cut_short(_: i32, about: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t; the calls are async-signal-safe.
    unsafe {
        if (*about).si_code == libc::BUS_ADRERR {
            libc::write(libc::STDERR_FILENO, c"incise: ".as_ptr().cast(), 8);
            write_name_of_mapping((*about).si_addr() as u64);
            libc::write(libc::STDERR_FILENO, CUT_SHORT.as_ptr().cast(), CUT_SHORT.len());
            libc::_exit(crate::FAILED.into());
        }
        // Sent by somebody, or an error of the memory: as if nobody had asked for it.
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        if (*about).si_code <= 0 {
            libc::raise(libc::SIGBUS);
        }
    }
}

/// Has this process end with a message where the kernel says by SIGBUS that a mapped file has become shorter. What is traced
/// goes on as it does whenever this process ends.
pub(crate) fn tell_of_files_cut_short() {
    // SAFETY: zeroed is a valid sigaction; the handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = cut_short as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Ends this process by the signal that ended the program, so that a shell sees the same; without dumping core.
pub(crate) fn die(signal: i32) -> std::process::ExitCode {
    // SAFETY: plain system calls; the limit is a valid structure.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    std::process::ExitCode::from((128 + signal) as u8)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};

    use super::*;

    #[test]
    fn the_name_of_a_mapping_is_that_behind_its_bounds() {
        let maps = b"5000-6000 r--p 00000000 00:00 0 \n6000-7000 r--p 00001000 fe:01 77   /usr/bin/a b\n\
            7000-8000 rw-p 00000000 00:00 0          [heap]\n8000-9000 r--p 00000000 fe:01 78   /x\n";
        let name = |at| {
            let mut name = NameOfMapping { at, ..NameOfMapping::default() };
            let taken = maps.iter().filter(|byte| name.takes(**byte)).map(|byte| char::from(*byte));
            taken.collect::<String>()
        };
        assert_eq!([name(0x6000), name(0x6fff), name(0x8fff)], ["/usr/bin/a b", "/usr/bin/a b", "/x"]);
        assert_eq!([name(0x5000), name(0x7000), name(0x9000)], ["", "", ""]);
    }

    #[test]
    fn a_file_that_is_cut_short_ends_the_command_with_one_line() {
        let path = std::env::temp_dir().join(format!("incise-cut-short-{}", std::process::id()));
        std::fs::write(&path, [1; 8192]).expect("a file");
        let file = File::options().read(true).write(true).open(&path).expect("opens");
        // SAFETY: the kernel chooses unused addresses.
        let mapped = unsafe {
            libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        assert_ne!(mapped, libc::MAP_FAILED);
        file.set_len(0).expect("cut short");
        std::fs::remove_file(&path).expect("removed");
        let mut ends = [0; 2];
        let mut status = 0;
        // SAFETY: the child calls only what is async-signal-safe; the descriptors are ours.
        let mut told = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
            let child = libc::fork();
            if child == 0 {
                libc::dup2(ends[1], libc::STDERR_FILENO);
                tell_of_files_cut_short();
                libc::_exit(mapped.cast::<u8>().add(4096).read_volatile().into());
            }
            libc::close(ends[1]);
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            File::from_raw_fd(ends[0])
        };
        let mut text = String::new();
        told.read_to_string(&mut text).expect("text");
        let name = path.display();
        let expected = format!("incise: {name} (deleted){}", String::from_utf8_lossy(CUT_SHORT));
        assert_eq!(text, expected);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, i32::from(crate::FAILED)));
    }
}
