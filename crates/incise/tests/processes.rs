//! Libraries come and go, processes split and become others, while code is probed; memory that is writable never
//! becomes executable.
//!
//! # Safety
//! Libraries of our own are loaded and called; children run code that needs no lock.

#![allow(unsafe_code, reason = "loads libraries, makes processes")]

mod support;

use std::ffi::{CString, c_void};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use incise::{Outcome, Query, Session, Tactic};
use support::{Pristine, isolated};

const PATIENCE: Duration = Duration::from_secs(60);

/// A library with a function that returns a number; it is its own text that tells which.
struct Library(*mut c_void);

impl Library {
    fn build(folder: &Path, name: &str, text: &str) -> String {
        let (source, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
        fs::write(&source, text).expect("a source file");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-fPIC", "-shared", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().expect("a C compiler").success());
        library.to_string_lossy().into_owned()
    }

    fn open(file: &str) -> Library {
        let file = CString::new(file).expect("no zero");
        // SAFETY: it has no constructors.
        let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        Library(library)
    }

    fn call(&self, name: &str, argument: i32) -> i32 {
        let name = CString::new(name).expect("no zero");
        // SAFETY: the library is loaded; the function takes an int and returns one.
        unsafe {
            let function = libc::dlsym(self.0, name.as_ptr());
            assert!(!function.is_null());
            std::mem::transmute::<*mut c_void, extern "C" fn(i32) -> i32>(function)(argument)
        }
    }

    /// Unloads it. Returns whether its memory is free again.
    fn close(self, file: &str) -> bool {
        // SAFETY: nothing of it is used any more.
        assert_eq!(unsafe { libc::dlclose(self.0) }, 0);
        !fs::read_to_string("/proc/self/maps").expect("the memory map").contains(file)
    }
}

const FIRST: &str =
    "int g; int work(int x) { g += x; return x * 3 + 1; } int other(int x) { return work(x) + work(x + 1); }";
const SECOND: &str = "int g; int other(int x) { return x - 1; } int work(int x) { g = x; return x * 5 + 2; }";

/// Counts `function` of the library named `module`.
fn count(session: &Session, query: &str) -> incise::Counter {
    let hits = session.counter(query);
    let mut batch = session.batch();
    for point in &session.find(Query::functions(query)).expect("the function") {
        batch.push_back(point, hits.increment());
    }
    let report = batch.commit().expect("commit");
    assert!(report.installed() > 0 && report.refusals().next().is_none());
    hits
}

#[test]
fn a_probed_library_that_is_unloaded_takes_its_probes_along() {
    isolated("a_probed_library_that_is_unloaded_takes_its_probes_along", PATIENCE, || {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Library::build(folder.path(), "incise_first", FIRST);
        let second = Library::build(folder.path(), "incise_second", SECOND);
        let session = Session::own().expect("a session");
        let mut kept = Vec::new();
        for round in 0..20 {
            // The second often lies where the first was.
            let (file, text) = if round % 2 == 0 { (&first, "first") } else { (&second, "second") };
            let library = Library::open(file);
            let expected = library.call("work", 7);
            let hits = count(&session, &format!("incise_{text}.so!work"));
            assert_eq!(library.call("work", 7), expected, "round {round}");
            let calls = if text == "first" { 3 } else { 1 };
            library.call("other", 7);
            assert_eq!(hits.read(), calls, "round {round}");
            assert!(library.close(file), "round {round}");
            kept.push((hits, calls));
            assert!(session.find(Query::functions("incise_*!work")).is_err(), "round {round}");
        }
        assert_eq!(session.instance_count(), 0);
        assert_eq!(session.remove_all().expect("removed"), 0, "bytes of trampolines that stay");
        for (hits, calls) in kept {
            assert_eq!(hits.read(), calls, "a counter keeps its value");
        }
    });
}

#[test]
fn removing_probes_of_a_library_that_went_unnoticed_changes_nothing_else() {
    isolated("removing_probes_of_a_library_that_went_unnoticed_changes_nothing_else", PATIENCE, || {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Library::build(folder.path(), "incise_first", FIRST);
        let second = Library::build(folder.path(), "incise_second", SECOND);
        let session = Session::own().expect("a session");
        let library = Library::open(&first);
        let gone = count(&session, "incise_first.so!work");
        library.call("work", 1);
        assert!(library.close(&first));
        let library = Library::open(&second);
        assert_eq!(library.call("work", 2), 12);
        // Nothing was looked up since: the session learns of it now.
        session.remove_all().expect("removed");
        assert_eq!(library.call("work", 2), 12);
        let hits = count(&session, "incise_second.so!*");
        assert_eq!((library.call("work", 2), library.call("other", 2)), (12, 1));
        assert_eq!((gone.read(), hits.read()), (1, 2));
    });
}

/// Functions of the C library that making a process runs through.
const AROUND_PROCESSES: &str = "libc.so.6!{fork,vfork,_Fork,execve,posix_spawn*,waitpid,wait4,_exit,clone,pthread_sigmask,\
    sigprocmask,sigaction,close,dup2,mmap,munmap,getpid}";

/// Probes at all of them, wherever the library has the name.
fn around_processes(session: &Session) -> incise::Counter {
    let hits = session.counter("around processes");
    let mut batch = session.batch().best_effort();
    let (module, names) = AROUND_PROCESSES.split_once("!{").expect("a list");
    for name in names.trim_end_matches('}').split(',') {
        for point in session.find(Query::functions(format!("{module}!{name}"))).unwrap_or_default() {
            batch.push_back(&point, hits.increment());
        }
    }
    let report = batch.commit().expect("commit");
    assert!(report.installed() > 10, "{report:?}");
    hits
}

#[test]
fn processes_are_made_through_probed_code() {
    isolated("processes_are_made_through_probed_code", PATIENCE, || {
        let pristine = Pristine::new();
        let session = Session::own().expect("a session");
        let hits = around_processes(&session);
        for round in 0..10 {
            // posix_spawn or vfork and execve, as the standard library likes; then fork.
            let output = Command::new("/bin/echo").arg(round.to_string()).output().expect("a child");
            assert_eq!(output.stdout, format!("{round}\n").as_bytes());
            // SAFETY: the child only ends.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: ends the child.
                unsafe { libc::_exit(round) };
            }
            let mut status = 0;
            // SAFETY: our child.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, round));
        }
        assert!(hits.read() >= 50, "{}", hits.read());
        session.remove_all().expect("removed");
        pristine.check();
    });
}

#[test]
fn a_program_under_memory_deny_write_execute_is_probed() {
    isolated("a_program_under_memory_deny_write_execute_is_probed", PATIENCE, || {
        const PR_SET_MDWE: i32 = 65;
        const PR_MDWE_REFUSE_EXEC_GAIN: u64 = 1;
        let pristine = Pristine::new();
        // SAFETY: from here on no memory of this process can be made executable.
        if unsafe { libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0u64, 0u64, 0u64) } != 0 {
            println!("# skipped: the kernel has no PR_SET_MDWE");
            return;
        }
        let session = Session::own().expect("a session");
        let hits = count(&session, "libc.so.6!getppid");
        // SAFETY: only asks.
        (0..5).for_each(|_| assert!(unsafe { libc::getppid() } > 0));
        assert_eq!(hits.read(), 5);
        let map = fs::read_to_string("/proc/self/maps").expect("the memory map");
        assert!(!map.lines().any(|line| line.contains(" rwx")), "{map}");
        session.remove_all().expect("removed");
        pristine.check();
    });
}

#[test]
fn a_thread_that_clone_makes_runs_probed_code() {
    isolated("a_thread_that_clone_makes_runs_probed_code", PATIENCE, || {
        extern "C" fn work(argument: *mut c_void) -> i32 {
            // SAFETY: the number below; getppid only asks.
            (0..unsafe { *argument.cast::<i32>() }).for_each(|_| assert!(unsafe { libc::getppid() } > 0));
            7
        }
        let session = Session::own().expect("a session");
        let hits = count(&session, "libc.so.6!getppid");
        let mut stack = vec![0u128; 4096];
        let mut calls = 100;
        // SAFETY: the child has a stack of its own, runs `work` alone, and is waited for.
        let pid = unsafe {
            let end = stack.as_mut_ptr().add(stack.len()).cast();
            libc::clone(work, end, libc::CLONE_VM | libc::SIGCHLD, (&raw mut calls).cast())
        };
        assert!(pid > 0);
        let mut status = 0;
        // SAFETY: our child.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status), hits.read()), (true, 7, 100));
        session.remove_all().expect("removed");
    });
}

#[test]
fn a_trap_is_taken_with_the_program_as_it_was() {
    isolated("a_trap_is_taken_with_the_program_as_it_was", PATIENCE, || {
        let session = Session::own().expect("a session");
        let hits = session.counter("getppid");
        let mut batch = session.batch().traps(incise::TrapPolicy::Force);
        for point in &session.find(Query::functions("libc.so.6!getppid")).expect("the function") {
            batch.push_back(point, hits.increment());
        }
        let report = batch.commit().expect("commit");
        assert!(report.entries.iter().all(|entry| entry.outcome == Outcome::Installed(Tactic::Trap)));
        // SAFETY: only ask, and end a child.
        unsafe {
            let parent = libc::getppid();
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(i32::from(libc::getppid() == parent));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0), "status {status:#x}");
        }
        assert_eq!(hits.read(), 2, "parent and child share the counter");
        session.remove_all().expect("removed");
    });
}
