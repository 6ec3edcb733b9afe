//! Code is changed also where the system allows little.
//!
//! # Safety
//!
//! Filters and limits are set in forked children only, with structures that live during the call.

#![allow(unsafe_code, reason = "confines forked children")]

mod support;

use incise_space::AddressSpace;
use incise_space::own::OwnSpace;
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
