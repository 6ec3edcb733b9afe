//! Code is changed also where the system allows little.
//!
//! # Safety
//!
//! Filters and limits are set in forked children only, with structures that live during the call.

#![allow(unsafe_code, reason = "confines forked children")]

mod support;

use incise_isa::Addr;
use incise_space::own::OwnSpace;
use incise_space::{AddressSpace, SpaceError};
use support::*;

/// From here on the system calls in `numbers` fail with EPERM (seccomp(2), BPF on the call's number).
fn forbid(numbers: &[libc::c_long]) {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![op(LOAD_NUMBER, 0, 0, 0)];
    for (index, number) in numbers.iter().enumerate() {
        filter.push(op(JUMP_EQUAL, (numbers.len() - index) as u8, 0, *number as u32));
    }
    filter.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the filter lives during the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
        for &number in numbers {
            assert_eq!(libc::syscall(number, 0, 0, 0), -1);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
        }
    }
}

/// Changes code and changes it back, or gives an error and leaves every byte as it was.
fn round_trip_or_error(space: &mut OwnSpace, function: &Patchable) -> Result<(), SpaceError> {
    let done = space.publish_landings(&function.landings()).and_then(|()| {
        apply(space, &[function.edit()])?;
        assert_eq!(call(function.at), 2);
        apply(space, &[function.edit().inverse()]).map(drop)
    });
    assert_eq!(call(function.at), 1);
    assert_eq!(memory(function.at), Patchable::CODE);
    done
}

/// The code at `at`, read without the help of the space.
fn memory(at: Addr) -> [u8; 7] {
    // SAFETY: mapped and readable.
    unsafe { std::ptr::read(at.0 as *const [u8; 7]) }
}

/// Puts a probe in and takes it out again, byte by byte.
fn round_trip() {
    let mut space = OwnSpace::new().expect("an own space");
    let function = Patchable::new(&mut space, fresh(PAGE), 0);
    space.publish_landings(&function.landings()).expect("landings");
    for _ in 0..3 {
        apply(&mut space, &[function.edit()]).expect("install");
        assert_eq!(call(function.at), 2);
        apply(&mut space, &[function.edit().inverse()]).expect("remove");
        assert_eq!(call(function.at), 1);
        assert_eq!(bytes(&space, function.at, Patchable::CODE.len()), Patchable::CODE);
    }
}

#[test]
fn a_filter_that_forbids_what_a_writer_prefers_leaves_another() {
    for forbidden in [
        &[libc::SYS_membarrier][..],
        &[libc::SYS_memfd_create],
        &[libc::SYS_userfaultfd],
        &[libc::SYS_membarrier, libc::SYS_memfd_create, libc::SYS_userfaultfd],
    ] {
        assert_child(|| {
            forbid(forbidden);
            round_trip();
            0
        });
    }
}

#[test]
fn an_address_space_of_bounded_size_has_room_for_a_small_change() {
    assert_child(|| {
        let text = std::fs::read_to_string("/proc/self/statm").expect("readable");
        let pages: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        let limit = (pages + 512) * PAGE;
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: concerns this child only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        round_trip();
        0
    });
}

#[test]
fn without_proc_code_is_changed_or_an_error_tells_what_is_missing() {
    assert_child(|| {
        let mut early = OwnSpace::new().expect("an own space");
        let function = Patchable::new(&mut early, fresh(PAGE), 0);
        // SAFETY: constant strings; concerns this child only.
        let hidden = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) == 0
                && libc::mount(c"tmpfs".as_ptr(), c"/proc".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null())
                    == 0
        };
        if !hidden {
            println!("skipped: may not hide /proc: {}", std::io::Error::last_os_error());
            return 0;
        }
        assert!(!std::path::Path::new("/proc/self").exists());
        for mut space in [early, OwnSpace::new().expect("an own space")] {
            if let Err(error) = round_trip_or_error(&mut space, &function) {
                assert!(error.to_string().contains("/proc"), "{error}");
            }
        }
        0
    });
}

#[test]
fn with_all_mappings_in_use_nothing_is_left_half_done() {
    assert_child(|| {
        let mut space = OwnSpace::new().expect("an own space");
        let function = Patchable::new(&mut space, fresh(PAGE), 0);
        let pages = 140_000;
        let none = libc::PROT_NONE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: memory nobody uses, whose protection is changed page by page: each change is two mappings more.
        let (memory, used) = unsafe {
            let memory = libc::mmap(std::ptr::null_mut(), pages * 4096, none, flags, -1, 0);
            assert_ne!(memory, libc::MAP_FAILED);
            let odd = (1..pages).step_by(2);
            let used =
                odd.take_while(|page| libc::mprotect(memory.add(page * 4096), 4096, libc::PROT_READ) == 0);
            (memory, used.count())
        };
        assert!(used < pages / 2, "there is no limit here");
        let mut succeeded = 0;
        for more in 0..12 {
            succeeded += i32::from(round_trip_or_error(&mut space, &function).is_ok());
            // SAFETY: as above; a mapping or two less.
            unsafe { libc::mprotect(memory.add((2 * (used - more) - 1) * 4096), 4096, none) };
        }
        assert!(succeeded > 0, "with a few mappings to spare it works");
        0
    });
}
