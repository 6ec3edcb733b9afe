//! Starts a program as a tracee that is stopped before its first instruction.
//!
//! # Safety
//! Between fork and exec the child, a copy of a process that may have had other threads, calls only
//! async-signal-safe functions (signal-safety(7)) and allocates nothing; everything it needs was made before.
//! The constructor that runs before `main` makes one system call and stores the result in an atomic.

#![allow(unsafe_code, reason = "forks")]

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::procfs::{self, ProgramKind};
use super::ptrace::{self, Status, Stop, Tid};
use crate::SpaceError;

/// How a program is started; by default as a shell would.
#[derive(Debug, Default)]
pub struct LaunchOptions {
    /// The environment, if not that of this process.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// The working directory, if not that of this process.
    pub current_dir: Option<PathBuf>,
    /// Standard input, output and error, where they are not those of this process.
    pub stdio: [Option<OwnedFd>; 3],
}

/// SIGPIPE was ignored when this process was started (and not by Rust's runtime).
static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Runs before Rust's runtime, which ignores SIGPIPE.
extern "C" fn remember_sigpipe() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the action.
    let ignored = unsafe {
        libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    };
    SIGPIPE_IGNORED.store(ignored, Ordering::Relaxed);
}

// SAFETY: a constructor, called with the C ABI once, by the program's start-up code.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER_SIGPIPE: extern "C" fn() = remember_sigpipe;

/// Strings for execve(2).
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    fn new(owned: Vec<CString>) -> Strings {
        let pointers = owned.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Strings { _owned: owned, pointers }
    }
}

/// What the child does.
struct Plan {
    /// Files to try, in this order.
    files: Vec<CString>,
    arguments: Strings,
    /// The same for a script without `#!`, which a shell runs: `None` in place of the second is the file.
    shell_arguments: Vec<Strings>,
    environment: Strings,
    directory: Option<CString>,
    /// (what it shall be, what it is)
    files_to_set: Vec<(i32, i32)>,
}

/// Starts `program`; returns its only thread, stopped.
pub(super) fn launch(
    program: &OsStr,
    arguments: &[OsString],
    options: &LaunchOptions,
) -> Result<Tid, SpaceError> {
    let failed = |source| SpaceError::Launch { program: program.to_string_lossy().into_owned(), source };
    let plan = plan(program, arguments, options).map_err(failed)?;
    let (go_read, go_write) = pipe().map_err(failed)?;
    let (error_read, error_write) = pipe().map_err(failed)?;
    // SAFETY: see the head of this file.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(failed(io::Error::last_os_error())),
        // SAFETY: this is the child.
        0 => unsafe { child(&plan, go_read.as_raw_fd(), go_write.as_raw_fd(), error_write.as_raw_fd()) },
        pid => Tid(pid),
    };
    drop((go_read, error_write));
    if let Err(error) = ptrace::seize(pid) {
        drop(go_write); // The child sees that and exits.
        ptrace::wait(pid);
        return Err(SpaceError::NotPermitted { pid: pid.0, remedy: super::attach::remedy(&error) });
    }
    if let Err(error) = std::fs::File::from(go_write).write_all(&[1]) {
        ptrace::wait(pid);
        return Err(failed(error));
    }
    wait_for_exec(pid, error_read).map_err(failed)?;
    match procfs::program_kind(&format!("/proc/{}/exe", pid.0)) {
        Ok(ProgramKind::X86_64) | Err(_) => Ok(pid),
        Ok(ProgramKind::Other(found)) => {
            kill(pid);
            let what = program.to_string_lossy().into_owned();
            Err(SpaceError::WrongArchitecture { what, found: found.to_owned() })
        }
    }
}

fn wait_for_exec(pid: Tid, error_read: OwnedFd) -> io::Result<()> {
    loop {
        let resumed = match ptrace::wait(pid) {
            Some(Status::Stopped(Stop::Exec)) => return Ok(()),
            Some(Status::Stopped(Stop::Group)) => ptrace::listen(pid),
            Some(Status::Stopped(Stop::Signal(signal))) => ptrace::resume(pid, signal),
            Some(Status::Stopped(_)) => ptrace::resume(pid, 0),
            Some(Status::Exited(_) | Status::Killed { .. }) | None => {
                let mut errno = [0; 4];
                return Err(match std::fs::File::from(error_read).read_exact(&mut errno) {
                    Ok(()) => io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
                    Err(_) => io::Error::other("it was killed before it could run"),
                });
            }
        };
        drop(resumed); // ESRCH: it was killed, which is reported next.
    }
}

/// Ends a child that has not run an instruction of its program.
fn kill(pid: Tid) {
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(pid.0, libc::SIGKILL) };
    while let Some(Status::Stopped(_)) = ptrace::wait(pid) {}
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: two new descriptors, owned by the result. Above the standard ones, which may be closed.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        let ends = ends.map(|fd| OwnedFd::from_raw_fd(fd));
        let high = |end: &OwnedFd| match libc::fcntl(end.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        };
        Ok((high(&ends[0])?, high(&ends[1])?))
    }
}

fn plan(program: &OsStr, arguments: &[OsString], options: &LaunchOptions) -> io::Result<Plan> {
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let environment: Vec<(OsString, OsString)> =
        options.env.clone().unwrap_or_else(|| env::vars_os().collect());
    let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let files: Vec<CString> =
        candidates(program, path.as_deref()).iter().map(|file| c_string(file)).collect::<Result<_, _>>()?;
    let rest: Vec<CString> = arguments.iter().map(|a| c_string(a.as_bytes())).collect::<Result<_, _>>()?;
    let mut command = vec![c_string(program.as_bytes())?];
    command.extend(rest.iter().cloned());
    let shell_arguments = files
        .iter()
        .map(|file| {
            let mut command = vec![c"/bin/sh".to_owned(), file.clone()];
            command.extend(rest.iter().cloned());
            Strings::new(command)
        })
        .collect();
    let environment = environment
        .iter()
        .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<_, _>>()?;
    let directory = options.current_dir.clone().map(|dir| c_string(&dir.into_os_string().into_vec()));
    let files_to_set =
        (0..).zip(&options.stdio).filter_map(|(to, from)| Some((to, from.as_ref()?.as_raw_fd())));
    Ok(Plan {
        files,
        arguments: Strings::new(command),
        shell_arguments,
        environment: Strings::new(environment),
        directory: directory.transpose()?,
        files_to_set: files_to_set.collect(),
    })
}

/// Where a shell looks for a program.
fn candidates(program: &OsStr, path: Option<&OsStr>) -> Vec<Vec<u8>> {
    if program.is_empty() || program.as_bytes().contains(&b'/') {
        return vec![program.as_bytes().to_vec()];
    }
    let path = path.map_or(b"/usr/local/bin:/usr/bin:/bin".as_slice(), OsStr::as_bytes);
    path.split(|&byte| byte == b':')
        .map(|dir| if dir.is_empty() { b".".as_slice() } else { dir })
        .map(|dir| [dir, b"/", program.as_bytes()].concat())
        .collect()
}

/// What the child does until it runs the program, or reports why it cannot.
///
/// # Safety
/// Runs in a new child only.
unsafe fn child(plan: &Plan, go_read: i32, go_write: i32, error_write: i32) -> ! {
    // SAFETY: async-signal-safe calls on memory that was prepared before the fork.
    unsafe {
        // So that the read ends if the parent does.
        libc::close(go_write);
        let mut go = 0u8;
        while libc::read(go_read, (&raw mut go).cast(), 1) == -1 && *libc::__errno_location() == libc::EINTR {
        }
        if go == 0 {
            libc::_exit(127);
        }
        let mut errno = prepare(plan);
        if errno == 0 {
            errno = execute(plan);
        }
        libc::write(error_write, (&raw const errno).cast(), size_of::<i32>());
        libc::_exit(127)
    }
}

/// Returns an error number, or 0.
///
/// # Safety
/// As for [`child`].
unsafe fn prepare(plan: &Plan) -> i32 {
    // SAFETY: as above.
    unsafe {
        if !SIGPIPE_IGNORED.load(Ordering::Relaxed) {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        for &(to, from) in &plan.files_to_set {
            let result = if to == from { libc::fcntl(to, libc::F_SETFD, 0) } else { libc::dup2(from, to) };
            if result == -1 {
                return *libc::__errno_location();
            }
        }
        if let Some(directory) = &plan.directory
            && libc::chdir(directory.as_ptr()) == -1
        {
            return *libc::__errno_location();
        }
    }
    0
}

/// Runs the first file that can be run; returns why none can, as execvp(3) does.
///
/// # Safety
/// As for [`child`].
unsafe fn execute(plan: &Plan) -> i32 {
    let mut result = libc::ENOENT;
    for (file, shell) in plan.files.iter().zip(&plan.shell_arguments) {
        // SAFETY: the vectors end in null pointers, their strings in zero bytes.
        let errno = unsafe {
            let environment = plan.environment.pointers.as_ptr();
            libc::execve(file.as_ptr(), plan.arguments.pointers.as_ptr(), environment);
            if *libc::__errno_location() == libc::ENOEXEC {
                libc::execve(c"/bin/sh".as_ptr(), shell.pointers.as_ptr(), environment);
            }
            *libc::__errno_location()
        };
        match errno {
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            libc::EACCES => result = libc::EACCES,
            other => return other,
        }
    }
    result
}
