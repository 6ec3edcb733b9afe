//! Others that put code into programs.

mod bpftrace;
mod detours;
mod frida;
mod lttng;
mod uftrace;
mod uprobe;

use super::contender::Line;

/// Those that leave records.
pub(super) fn recording() -> Vec<Line> {
    let mut lines = uftrace::lines();
    lines.extend(lttng::lines());
    lines.extend(bpftrace::lines());
    lines.extend(uprobe::lines());
    lines.iter_mut().for_each(|line| line.twin = None);
    lines
}

pub(super) fn lines() -> Vec<Line> {
    let mut lines = detours::lines();
    lines.extend(uftrace::lines());
    lines.extend(frida::lines());
    lines.extend(uprobe::lines());
    lines
}
