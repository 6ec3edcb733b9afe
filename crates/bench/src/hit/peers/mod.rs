//! Others that put code into programs.

mod detours;
mod frida;
mod uftrace;
mod uprobe;

use super::contender::Line;

pub(super) fn lines() -> Vec<Line> {
    let mut lines = detours::lines();
    lines.extend(uftrace::lines());
    lines.extend(frida::lines());
    lines.extend(uprobe::lines());
    lines
}
