//! The kernel's uprobes, with the cheapest counter there is for them: a BPF program of seven instructions that
//! adds one in a map.
//!
//! # Safety
//! The structures passed to perf_event_open(2) and bpf(2) are those of include/uapi/linux, and live for the
//! call.

#![allow(unsafe_code, reason = "makes system calls")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Error;
use crate::hit::contender::{Line, Local};
use crate::hit::own::LOCK;
use crate::subjects::{Function, subject};

pub(super) fn lines() -> Vec<Line> {
    vec![
        Line::new("uprobe: BPF counter at nop", || start("nop_uprobe")).against(LOCK),
        Line::new("uprobe: BPF counter at push", || start("frame_uprobe")).against(LOCK),
        Line::new("uprobe: BPF counter at add", || start("plain_uprobe")).against(LOCK),
    ]
}

struct Uprobe {
    map: OwnedFd,
    // Closed in this order: the event before what runs on it.
    _event: OwnedFd,
    _program: OwnedFd,
}

fn start(symbol: &str) -> Result<Local<Uprobe>, Error> {
    let (shape, function) = subject(symbol).ok_or("no such subject")?;
    let map = create_map().map_err(|error| format!("creating a BPF map: {error}"))?;
    let program = load_program(&map).map_err(|error| format!("loading a BPF program: {error}"))?;
    let event = open_event(function)?;
    attach(&event, &program).map_err(|error| format!("attaching the BPF program: {error}"))?;
    let undo = Uprobe { map, _event: event, _program: program };
    Ok(Local { shape, function, counted: |probe| count(&probe.map).ok(), undo })
}

/// bpf(2) with an attribute of quadwords.
fn bpf<const N: usize>(command: i32, attribute: &[u64; N]) -> io::Result<i64> {
    // SAFETY: the kernel reads (and for a lookup writes through) what the attribute points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(descriptor: i64) -> OwnedFd {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}

/// A map of one quadword (`BPF_MAP_CREATE`: type array, key 4 bytes, value 8 bytes, one entry).
fn create_map() -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: i32 = 0;
    const BPF_MAP_TYPE_ARRAY: u64 = 2;
    bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_ARRAY | 4 << 32, 8 | 1 << 32]).map(owned)
}

/// Loads the program. An instruction is opcode, registers, offset and immediate (Documentation/bpf/standardization).
fn load_program(map: &OwnedFd) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_TYPE_KPROBE: u64 = 2;
    let insn = |opcode: u8, dst: u8, src: u8, offset: i16, immediate: i32| {
        u64::from(opcode)
            | u64::from(dst | src << 4) << 8
            | u64::from(offset as u16) << 16
            | u64::from(immediate as u32) << 32
    };
    let program = [
        insn(0x62, 10, 0, -4, 0),             // *(u32 *)(r10 - 4) = 0
        insn(0xBF, 2, 10, 0, 0),              // r2 = r10
        insn(0x07, 2, 0, 0, -4),              // r2 += -4
        insn(0x18, 1, 1, 0, map.as_raw_fd()), // r1 = map
        insn(0, 0, 0, 0, 0),                  //   (second half)
        insn(0x85, 0, 0, 0, 1),               // r0 = bpf_map_lookup_elem(r1, r2)
        insn(0x15, 0, 0, 2, 0),               // if r0 == 0 goto exit
        insn(0xB7, 1, 0, 0, 1),               // r1 = 1
        insn(0xDB, 0, 1, 0, 0),               // lock *(u64 *)(r0 + 0) += r1
        insn(0xB7, 0, 0, 0, 0),               // r0 = 0
        insn(0x95, 0, 0, 0, 0),               // exit
    ];
    let licence = c"GPL";
    let attribute = [
        BPF_PROG_TYPE_KPROBE | (program.len() as u64) << 32,
        program.as_ptr() as u64,
        licence.as_ptr() as u64,
    ];
    bpf(BPF_PROG_LOAD, &attribute).map(owned)
}

/// A perf event for a uprobe at `function`, in this process.
fn open_event(function: Function) -> Result<OwnedFd, Error> {
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    const PERF_ATTR_SIZE_VER8: usize = 136;
    let kind: u64 = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")
        .map_err(|error| format!("this kernel has no uprobes: {error}"))?
        .trim()
        .parse()?;
    let path = CString::new(std::env::current_exe()?.to_str().ok_or("a path that is not UTF-8")?)?;
    // struct perf_event_attr: type, size; config1 (path) and config2 (offset) are its quadwords 7 and 8.
    let mut attribute = [0u64; PERF_ATTR_SIZE_VER8 / 8];
    attribute[0] = kind | (PERF_ATTR_SIZE_VER8 as u64) << 32;
    attribute[7] = path.as_ptr() as u64;
    attribute[8] = file_offset(function)?;
    // SAFETY: see the head of the file.
    let result = unsafe {
        libc::syscall(libc::SYS_perf_event_open, attribute.as_ptr(), 0, -1, -1, PERF_FLAG_FD_CLOEXEC)
    };
    if result < 0 {
        return Err(format!("perf_event_open: {} (needs root)", io::Error::last_os_error()).into());
    }
    Ok(owned(result))
}

fn attach(event: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    // linux/perf_event.h: _IOW('$', 8, __u32) and _IO('$', 0).
    const PERF_EVENT_IOC_SET_BPF: u64 = 0x4004_2408;
    const PERF_EVENT_IOC_ENABLE: u64 = 0x2400;
    for (request, argument) in [(PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()), (PERF_EVENT_IOC_ENABLE, 0)] {
        // SAFETY: both requests take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn count(map: &OwnedFd) -> io::Result<u64> {
    const BPF_MAP_LOOKUP_ELEM: i32 = 1;
    let (key, mut value) = (0u32, 0u64);
    let attribute = [map.as_raw_fd() as u64, &raw const key as u64, &raw mut value as u64, 0];
    bpf(BPF_MAP_LOOKUP_ELEM, &attribute)?;
    Ok(value)
}

/// The offset in this program's file of the code at `function`.
fn file_offset(function: Function) -> Result<u64, Error> {
    let at = function as usize as u64;
    let map = incise::image::MemoryMap::parse(&fs::read_to_string("/proc/self/maps")?);
    let mapping = map.iter().find(|mapping| mapping.range.contains(&incise::Addr(at)));
    let mapping = mapping.ok_or("the subject is not mapped")?;
    Ok(at - mapping.range.start.0 + mapping.file_offset)
}
