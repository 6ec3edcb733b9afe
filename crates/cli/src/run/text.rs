//! What a script tells, for people.

use std::io::{self, Write};

use incise::script::ScriptEvent;

pub(super) fn show(event: &ScriptEvent<'_>, out: &mut dyn Write) -> io::Result<()> {
    match event {
        ScriptEvent::Printf { text, .. } => out.write_all(text.as_bytes()),
        // As bpftrace: a line between maps.
        ScriptEvent::Map { text: "", .. } => Ok(()),
        ScriptEvent::Map { text, .. } => writeln!(out, "\n{}", text.trim_end_matches('\n')),
        ScriptEvent::Point { probe, point, program } => {
            let found = point.point;
            write!(out, "{probe}\n    at {} {}!{}", found.addr, found.module, found.display_name)?;
            if let Some((file, line)) = &point.line {
                write!(out, " ({file}:{line})")?;
            }
            writeln!(out)?;
            indented(&program.to_string(), out)
        }
        ScriptEvent::Clause { probe, program } => {
            writeln!(out, "{probe}\n    in the tool")?;
            indented(&program.to_string(), out)
        }
        _ => out.flush(),
    }
}

fn indented(program: &str, out: &mut dyn Write) -> io::Result<()> {
    program.lines().try_for_each(|line| writeln!(out, "        {line}"))
}
