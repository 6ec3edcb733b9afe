//! The own address space in all kinds of processes: forked, hardened, filtered, with text of files.
//!
//! # Safety
//! Forked children run code that needs no lock and end by `_exit`; what is run is text of this file, or a function of the
//! tests' own.

#![allow(unsafe_code, reason = "forks, filters system calls, runs hand-made code")]

mod support;

use std::arch::global_asm;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use incise_isa::Addr;
use incise_space::own::{OwnSpace, Pages, Writer};
use incise_space::{AddressSpace, Bytes, Edit, Landing, SpaceError};
use support::*;

global_asm!(
    ".pushsection .text",
    ".balign 4096",
    "incise_test_text: mov eax, 1",
    "ret",
    ".balign 4096, 0x90",
    ".popsection",
);

unsafe extern "C" {
    fn incise_test_text() -> u32;
}

/// A function in the text of this program, and a trampoline that makes it return 2.
struct Text {
    edit: Edit,
}

impl Text {
    fn new(space: &mut OwnSpace) -> Text {
        let at = Addr(incise_test_text as *const () as u64);
        let map = space.mappings().expect("maps");
        let hole = map
            .holes(at - (1 << 30), at)
            .filter(|hole| hole.end.0 - hole.start.0 > 64 * PAGE)
            .last()
            .expect("a hole below the text");
        let trampoline = hole.end - 16 * PAGE;
        space.map_code(trampoline, PAGE).expect("map");
        space.write_code(&[(trampoline, &[0xB8, 2, 0, 0, 0, 0xC3])]).expect("write");
        space.publish_landings(&[Landing { trap: at, landing: trampoline }]).expect("landings");
        let mut jump = [0xE9, 0, 0, 0, 0];
        jump[1..].copy_from_slice(&(trampoline.offset_from(at + 5) as i32).to_le_bytes());
        Text { edit: Edit { at, old: Bytes::new(&[0xB8, 1, 0, 0, 0]), new: Bytes::new(&jump), heads: 1 } }
    }

    fn call() -> u32 {
        // SAFETY: returns 1, or 2 while it is patched.
        unsafe { incise_test_text() }
    }
}

fn space(writer: Writer, pages: Pages) -> OwnSpace {
    OwnSpace::builder().writer(writer).pages(pages).build().expect("an own space")
}

const KINDS: [(Writer, Pages); 5] = [
    (Writer::Auto, Pages::Placed),
    (Writer::Poke, Pages::Placed),
    (Writer::Swap, Pages::Placed),
    (Writer::Swap, Pages::Forced),
    (Writer::Swap, Pages::MemoryFile),
];

fn flip(space: &mut OwnSpace, text: &Text, times: usize) {
    for _ in 0..times {
        apply(space, &[text.edit]).expect("install");
        assert_eq!(Text::call(), 2);
        apply(space, &[text.edit.inverse()]).expect("remove");
        assert_eq!(Text::call(), 1);
    }
}

#[test]
fn text_of_a_file_is_changed_and_the_mappings_are_told() {
    for (writer, pages) in KINDS {
        assert_child(|| {
            let mut space = space(writer, pages);
            let text = Text::new(&mut space);
            let count = |space: &OwnSpace| space.mappings().expect("maps").iter().count();
            let before = count(&space);
            let applied = apply(&mut space, &[text.edit]).expect("install");
            assert_eq!(count(&space), before + applied.mappings);
            assert_eq!(applied.mappings > 0, writer == Writer::Swap, "{applied:?}");
            flip_back(&mut space, &text);
            flip(&mut space, &text, 20);
            assert_eq!(count(&space), before + applied.mappings);
            0
        });
    }
}

fn flip_back(space: &mut OwnSpace, text: &Text) {
    assert_eq!(Text::call(), 2);
    apply(space, &[text.edit.inverse()]).expect("remove");
    assert_eq!(Text::call(), 1);
}

/// A process that can gain no executable memory from writable memory (prctl(2), PR_SET_MDWE).
#[test]
fn it_works_where_writable_memory_never_becomes_executable() {
    const PR_SET_MDWE: i32 = 65;
    const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    for (writer, pages) in KINDS {
        let status = in_child(|| {
            // SAFETY: only forbids; then tries what is forbidden.
            unsafe {
                if libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0 {
                    return 77;
                }
                let both = libc::PROT_WRITE | libc::PROT_EXEC;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                assert_eq!(libc::mmap(std::ptr::null_mut(), 4096, both, flags, -1, 0), libc::MAP_FAILED);
            }
            let mut space = space(writer, pages);
            let text = Text::new(&mut space);
            flip(&mut space, &text, 20);
            0
        });
        assert!(libc::WIFEXITED(status), "{status:#x}");
        match libc::WEXITSTATUS(status) {
            0 => {}
            77 => return eprintln!("skipped: this kernel has no PR_SET_MDWE"),
            other => panic!("{writer:?} {pages:?}: exit code {other}"),
        }
    }
}

#[test]
fn a_forked_child_and_its_parent_do_not_see_each_others_changes() {
    for (writer, pages) in KINDS {
        assert_child(|| {
            let mut space = space(writer, pages);
            let text = Text::new(&mut space);
            let counters = space.map_data(fresh(PAGE), PAGE).expect("data");
            let counter = counters.quadword(counters.addr());
            apply(&mut space, &[text.edit]).expect("install");
            let (mut go, mut told) = (pipe(), pipe());
            // SAFETY: the child only runs what follows and exits.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let installed = Text::call();
                told.1.write_all(&[0]).expect("tell");
                go.0.read_exact(&mut [0]).expect("wait for the parent's change");
                assert_eq!((installed, Text::call()), (2, 2), "{writer:?} {pages:?}");
                apply(&mut space, &[text.edit.inverse()]).expect("remove in the child");
                assert_eq!(Text::call(), 1);
                apply(&mut space, &[text.edit]).expect("install in the child");
                assert_eq!(Text::call(), 2);
                let idle = space.quiescent(&[counters.addr()..counters.addr() + PAGE]).expect("quiescence");
                assert_eq!(idle, [true], "{writer:?} {pages:?}");
                counter.fetch_add(7, Relaxed);
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) };
            }
            told.0.read_exact(&mut [0]).expect("the child runs");
            apply(&mut space, &[text.edit.inverse()]).expect("remove");
            go.1.write_all(&[0]).expect("tell");
            let mut status = 0;
            // SAFETY: waits for our child.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!(status, 0, "the child went wrong");
            assert_eq!(Text::call(), 1, "the child's change came through");
            assert_eq!(counter.load(Relaxed), 7, "counters are shared");
            flip(&mut space, &text, 3);
            0
        });
    }
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: makes two descriptors, which become the files' own.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

#[test]
fn children_forked_in_the_middle_of_changes_run_right() {
    for (writer, pages) in KINDS {
        assert_child(|| {
            let mut space = space(writer, pages);
            let base = fresh(8 * PAGE);
            let functions =
                [16, PAGE - 3, 3 * PAGE].map(|offset| Patchable::new(&mut space, base + offset, 0));
            space.publish_landings(&landings(&functions)).expect("landings");
            let edits = functions.each_ref().map(Patchable::edit);
            let inverse = edits.map(|edit| edit.inverse());
            let (stop, flips) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        apply(&mut space, &edits).expect("install");
                        apply(&mut space, &inverse).expect("remove");
                        flips.fetch_add(1, Relaxed);
                    }
                });
                let mut children = 0;
                while children < 60 || flips.load(Relaxed) < 30 {
                    children += 1;
                    let status = in_child(|| {
                        for _ in 0..50 {
                            for function in &functions {
                                for entry in Patchable::ENTRIES {
                                    if !(1..=2).contains(&call(function.at + entry)) {
                                        return 1;
                                    }
                                }
                            }
                        }
                        0
                    });
                    assert_eq!(status, 0, "{writer:?} {pages:?}");
                }
                stop.store(true, Relaxed);
            });
            0
        });
    }
}

#[test]
fn a_program_that_closes_all_descriptors_keeps_its_files() {
    for (writer, pages) in KINDS {
        assert_child(|| {
            let mut space = space(writer, pages);
            let text = Text::new(&mut space);
            flip(&mut space, &text, 2);
            // SAFETY: the test needs none of them.
            unsafe { libc::close_range(3, u32::MAX, 0) };
            let path = std::env::temp_dir().join(format!("incise-own-{}", std::process::id()));
            let mut file =
                File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
            std::fs::remove_file(&path).expect("remove the name");
            assert_eq!(file.as_raw_fd(), 3);
            flip(&mut space, &text, 5);
            assert_eq!(file.read(&mut [0; 16]).expect("read"), 0, "the file is empty");
            let open = std::fs::read_dir("/proc/self/fd").expect("list").count();
            assert_eq!(open, 5, "0, 1, 2, the file, the listing");
            0
        });
    }
}

/// Forbids system calls: they fail with EPERM.
fn forbid(calls: &[i64]) {
    let load = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let mut filter = vec![load];
    for (index, &call) in calls.iter().enumerate() {
        let jt = (calls.len() - index) as u8;
        filter.push(libc::sock_filter { code: 0x15, jt, jf: 0, k: call as u32 });
    }
    filter.push(libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7FFF_0000 });
    filter.push(libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | libc::EPERM as u32 });
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter is well-formed; it binds this process only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

#[test]
fn it_works_under_filters_of_system_calls() {
    let filters: [&[i64]; 4] = [
        &[libc::SYS_userfaultfd],
        &[libc::SYS_userfaultfd, libc::SYS_process_vm_readv, libc::SYS_memfd_create],
        &[libc::SYS_pwrite64, libc::SYS_userfaultfd],
        &[libc::SYS_membarrier, libc::SYS_process_vm_readv],
    ];
    for forbidden in filters {
        for before in [false, true] {
            assert_child(|| {
                let mut early = before.then(|| space(Writer::Auto, Pages::Placed));
                if !forbidden.contains(&libc::SYS_pwrite64) || before {
                    forbid(forbidden);
                }
                let mut space = early.take().unwrap_or_else(|| space(Writer::Auto, Pages::Placed));
                if forbidden.contains(&libc::SYS_pwrite64) {
                    // A memory file cannot be written either.
                    let at = fresh(PAGE);
                    space.map_code(at, PAGE).expect("map");
                    let result = space.write_code(&[(at, &[0xC3])]);
                    assert!(before == matches!(result, Err(SpaceError::System { .. })), "{result:?}");
                    return 0;
                }
                let text = Text::new(&mut space);
                flip(&mut space, &text, 5);
                0
            });
        }
    }
}

#[test]
fn a_poke_without_membarrier_is_refused_and_changes_nothing() {
    assert_child(|| {
        let mut space = space(Writer::Poke, Pages::Placed);
        let text = Text::new(&mut space);
        forbid(&[libc::SYS_membarrier]);
        let result = apply(&mut space, &[text.edit]);
        assert!(matches!(result, Err(SpaceError::System { .. })), "{result:?}");
        assert_eq!(Text::call(), 1);
        0
    });
}

/// Every page of all code of this process: the test's, the C library's, the writers' own.
#[test]
fn all_code_of_the_process_is_replaced_under_running_threads() {
    for pages in [Pages::Placed, Pages::Forced, Pages::MemoryFile] {
        assert_child(|| {
            let mut space = space(Writer::Swap, pages);
            let map = space.mappings().expect("maps");
            let code = map.iter().filter(|m| m.permissions.execute && m.inode != 0);
            let edits: Vec<Edit> = code
                .flat_map(|m| (m.range.start.0..m.range.end.0).step_by(PAGE as usize))
                .map(|at| {
                    let old = Bytes::new(&bytes(&space, Addr(at), 1));
                    Edit { at: Addr(at), old, new: old, heads: 1 }
                })
                .collect();
            assert!(edits.len() > 100, "{}", edits.len());
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !stop.load(Relaxed) {
                            let text =
                                format!("{:?}", (0..50).map(|n| f64::from(n).sqrt()).collect::<Vec<_>>());
                            assert!(text.len() > 100);
                            assert_eq!(Text::call(), 1);
                        }
                    });
                }
                for _ in 0..50 {
                    apply(&mut space, &edits).expect("replace");
                }
                stop.store(true, Relaxed);
            });
            0
        });
    }
}

/// A shared mapping of code, and one that is writable.
#[test]
fn code_that_must_not_be_copied_is_refused_or_poked() {
    for (writer, _) in KINDS {
        assert_child(|| {
            let mut space = space(writer, Pages::Placed);
            let shared =
                map_code_of(libc::MAP_SHARED | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_EXEC);
            let edit = |at| Edit { at, old: Bytes::new(&[0]), new: Bytes::new(&[0xC3]), heads: 1 };
            let result = apply(&mut space, &[edit(shared)]);
            assert!(matches!(result, Err(SpaceError::Unsuitable { .. })), "{writer:?}: {result:?}");
            assert_eq!(bytes(&space, shared, 1), [0]);
            let both = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let writable = map_code_of(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, both);
            let result = apply(&mut space, &[edit(writable)]);
            match writer {
                Writer::Swap => assert!(matches!(result, Err(SpaceError::Unsuitable { .. })), "{result:?}"),
                _ => assert!(result.is_ok() && bytes(&space, writable, 1) == [0xC3], "{result:?}"),
            }
            0
        });
    }
}

fn map_code_of(flags: i32, prot: i32) -> Addr {
    // SAFETY: takes unused addresses.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE as usize, prot, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    Addr(at as u64)
}

/// A page of a file that somebody else has changed (here a write through /proc/self/mem stands for a uprobe) keeps
/// its file.
#[test]
fn a_page_that_somebody_else_changed_is_not_swapped() {
    assert_child(|| {
        let mut space = space(Writer::Swap, Pages::Placed);
        let text = Text::new(&mut space);
        let mut memory = File::options().write(true).open("/proc/self/mem").expect("memory");
        std::os::unix::fs::FileExt::write_at(&memory, &[0xCC], (text.edit.at + 2048).0).expect("write");
        memory.flush().expect("flush");
        match apply(&mut space, &[text.edit]) {
            Err(SpaceError::Unsuitable { at, .. }) => assert_eq!(at, text.edit.at),
            other => panic!("{other:?}"),
        }
        let mut space = self::space(Writer::Auto, Pages::Placed);
        let text = Text::new(&mut space);
        std::thread::scope(|scope| {
            let (release, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || wait.recv());
            let applied = apply(&mut space, &[text.edit]).expect("poked");
            assert_eq!((applied.mappings, Text::call()), (0, 2));
            // It is not ours for having been poked.
            let back = text.edit.inverse();
            assert_eq!(apply(&mut space, &[back]).expect("poked").mappings, 0);
            drop(release);
        });
        0
    });
}
