//! Which process a thread belongs to. Records hold the thread's id only: the C library keeps no id of the process.

use std::collections::HashMap;
use std::fs;

use incise_space::remote::ProcessId;

/// The processes that write into one set of rings, and their threads.
#[derive(Debug)]
pub(super) struct Owners {
    /// The first one made the rings. With each its number in its own namespace, as records have it.
    processes: Vec<(ProcessId, u32)>,
    known: HashMap<u32, u32>,
}

impl Owners {
    /// Process `pid` made the rings.
    pub(super) fn of(pid: ProcessId) -> Owners {
        Owners { processes: vec![(pid, own_number(pid))], known: HashMap::new() }
    }

    /// A forked child writes into them too.
    pub(super) fn add(&mut self, pid: ProcessId) {
        self.processes.push((pid, own_number(pid)));
    }

    /// The process of a thread. One that nobody has seen and that is gone is taken to be of the first process.
    pub(super) fn process(&mut self, thread: u32) -> u32 {
        let processes = &self.processes;
        let find = || {
            let first = processes.iter().find(|(_, own)| *own == thread);
            let found =
                first.or_else(|| processes.iter().rev().find(|process| has_thread(**process, thread)));
            found.unwrap_or(&processes[0]).1
        };
        *self.known.entry(thread).or_insert_with(find)
    }
}

/// The number of a process, or thread, in its own namespace.
fn own_number(ProcessId(pid): ProcessId) -> u32 {
    own_id(&format!("/proc/{pid}/status")).unwrap_or(pid as u32)
}

fn own_id(status: &str) -> Option<u32> {
    let status = fs::read_to_string(status).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().next_back()?.parse().ok()
}

fn has_thread((ProcessId(pid), own): (ProcessId, u32), thread: u32) -> bool {
    let threads = format!("/proc/{pid}/task");
    if pid as u32 == own {
        return fs::exists(format!("{threads}/{thread}")).unwrap_or(false);
    }
    let Ok(mut entries) = fs::read_dir(threads) else { return false };
    entries.any(|entry| {
        entry.is_ok_and(|entry| own_id(&format!("{}/status", entry.path().display())) == Some(thread))
    })
}
