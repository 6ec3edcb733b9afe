//! `incise doctor`: what this machine allows, and what to do about each no.
//!
//! # Safety
//! The system calls made here take no pointers, or pointers to constants.

#![allow(unsafe_code, reason = "asks the kernel by system calls that libc has no safe form of")]

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use incise::Addr;
use incise::space::AddressSpace;
use incise::space::own::OwnSpace;
use serde::Serialize;

use crate::Failure;
use crate::args::DoctorArgs;

/// One thing the machine allows, or not.
#[derive(Serialize)]
#[serde(tag = "type", rename = "check")]
struct Check {
    name: &'static str,
    ok: bool,
    /// What was found.
    detail: String,
    /// What to do, or what it means that it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let checks = [
        ptrace(),
        code(),
        barrier(),
        memory_file(),
        write_execute(),
        shadow_stack(),
        mappings(),
        seccomp(),
        vector(),
    ];
    let mut out = io::stdout().lock();
    for check in &checks {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(check)?)?;
        } else {
            writeln!(out, "{:<4} {:<16} {}", if check.ok { "yes" } else { "no" }, check.name, check.detail)?;
            if let Some(remedy) = check.remedy.filter(|_| !check.ok) {
                writeln!(out, "     {:<16} -> {remedy}", "")?;
            }
        }
    }
    Ok(if checks.iter().all(|check| check.ok) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn ptrace() -> Check {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let capable = status("CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok()).unwrap_or(0);
    let capable = capable & CAP_SYS_PTRACE != 0;
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let (ok, detail) = match scope.as_deref().map(str::trim) {
        _ if capable && scope.as_deref().map(str::trim) != Some("3") => {
            (true, "any process (CAP_SYS_PTRACE)".into())
        }
        None | Some("0") => (true, "processes of the same user".into()),
        Some("3") => (false, "switched off until the next boot (yama ptrace_scope 3)".into()),
        Some(scope) => (false, format!("only programs incise launches (yama ptrace_scope {scope})")),
    };
    let remedy = Some("to attach with -p, run as root, or: sysctl kernel.yama.ptrace_scope=0");
    Check { name: "ptrace", ok, detail, remedy }
}

/// Really maps and writes a page of code, as a probe does.
fn code() -> Check {
    let place = Addr(0x5000_0000_0000);
    let written = OwnSpace::new().and_then(|mut space| {
        space.map_code(place, 4096)?;
        let result = space.write_code(&[(place, &[0xC3])]);
        let mut byte = [0];
        space.read(place, &mut byte)?;
        space.unmap(place, 4096)?;
        result.map(|()| byte == [0xC3])
    });
    let (ok, detail) = match written {
        Ok(true) => (true, "code can be written without a writable and executable page".into()),
        Ok(false) => (false, "a write to code was lost".into()),
        Err(error) => (false, error.to_string()),
    };
    Check { name: "code memory", ok, detail, remedy: Some("mount /proc, or allow memfd_create") }
}

fn barrier() -> Check {
    const SYNC_CORE: i64 = 1 << 5;
    // SAFETY: MEMBARRIER_CMD_QUERY takes no pointers.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    let ok = commands >= 0 && commands & SYNC_CORE != 0;
    let detail = if ok { "cores can be serialised" } else { "no MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE" };
    let remedy = Some("pages are swapped instead of poked in the own process; nothing to do");
    Check { name: "membarrier", ok, detail: detail.into(), remedy }
}

fn memory_file() -> Check {
    // SAFETY: the name is a constant C string; the descriptor is closed at once.
    let ok = unsafe {
        let fd = libc::memfd_create(c"incise".as_ptr(), libc::MFD_CLOEXEC);
        fd >= 0 && libc::close(fd) == 0
    };
    let detail = if ok { "shared counters can be made" } else { "memfd_create is refused" };
    Check { name: "memfd_create", ok, detail: detail.into(), remedy: Some("allow it in the seccomp profile") }
}

fn write_execute() -> Check {
    const PR_GET_MDWE: i32 = 66;
    // SAFETY: takes no pointers.
    let state = unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) };
    let detail = match state {
        0 => "not enforced by the kernel; incise keeps to it anyway",
        n if n > 0 => "enforced for this process (PR_SET_MDWE); incise works under it",
        _ => "this kernel has no PR_SET_MDWE; incise keeps to it anyway",
    };
    Check { name: "W^X", ok: true, detail: detail.into(), remedy: None }
}

fn shadow_stack() -> Check {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or("");
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let detail = match (has("user_shstk"), has("ibt")) {
        (true, _) => "user shadow stacks are supported: calls are retargeted, never moved",
        (false, true) => "indirect-branch tracking only; no user shadow stacks",
        (false, false) => "neither shadow stacks nor indirect-branch tracking here",
    };
    Check { name: "CET", ok: true, detail: detail.into(), remedy: None }
}

fn mappings() -> Check {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let limit: u64 = limit.trim().parse().unwrap_or(65_530);
    let detail = format!("a process may have {limit} mappings; incise adds a few dozen at most");
    Check { name: "mappings", ok: limit >= 1024, detail, remedy: Some("sysctl vm.max_map_count=65530") }
}

fn seccomp() -> Check {
    let mode = status("Seccomp").unwrap_or_else(|| "0".into());
    let (ok, detail) = match mode.as_str() {
        "0" => (true, "no system call filter here"),
        _ => (false, "this shell runs under a seccomp filter"),
    };
    let remedy = Some("if ptrace or mmap are refused, run outside the container or sandbox");
    Check { name: "seccomp", ok, detail: detail.into(), remedy }
}

fn vector() -> Check {
    let kept = incise::callback::VectorState::Full.supported();
    let detail = format!("callbacks keep {} bytes of each vector register", kept.register_len());
    Check { name: "vector state", ok: true, detail, remedy: None }
}

/// A field of /proc/self/status.
fn status(field: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}
