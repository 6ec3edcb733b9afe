//! `incise inspect`: what a program is made of.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use incise::Addr;
use incise::patching::{Patch, PatchError, View, listing, original_listing, patches, place, strings};
use serde::Serialize;

use super::args::InspectArgs;
use super::show;
use super::target::Target;
use crate::Failure;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Json {
    Instruction {
        address: String,
        bytes: String,
        text: String,
        label: Option<String>,
        note: Option<String>,
        patch: Option<u32>,
    },
    Mapping {
        start: String,
        end: String,
        permissions: String,
        name: String,
    },
    String {
        address: String,
        text: String,
    },
    Bytes {
        address: String,
        bytes: String,
    },
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode, Failure> {
    let mut words = args.words.clone();
    let target = Target::open(&args.target, &mut words)?;
    let result = look(args, &words, &target.view);
    target.close();
    // A pager that has seen enough is no error.
    match result {
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {}
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}

fn look(args: &InspectArgs, words: &[String], view: &View) -> Result<(), Failure> {
    if words.len() > 1 {
        return Err(format!("one place at a time: `{}` is too many", words[1]).into());
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if args.maps {
        maps(args, view, &mut out)?;
    } else if args.strings {
        for (at, text) in strings(view, 4) {
            if args.json {
                json(&mut out, &Json::String { address: at.to_string(), text })?;
            } else {
                writeln!(out, "{:>14}  {text:?}", at.to_string())?;
            }
        }
    } else {
        let at = match words.first() {
            Some(text) => place(view, text)?.addr,
            None => match place(view, "main") {
                Ok(main) => main.addr,
                Err(_) => place(view, "entry")?.addr,
            },
        };
        if args.hex { hex(args, view, at, &mut out)? } else { code(args, view, at, &mut out)? }
    }
    Ok(out.flush()?)
}

fn code(args: &InspectArgs, view: &View, at: Addr, out: &mut dyn Write) -> Result<(), Failure> {
    let lines = listing(view, at, args.count, args.syntax.into())?;
    let known = patches(view);
    if !args.json {
        let original = |patch: &Patch| original_listing(view, patch, args.syntax.into());
        return Ok(show::listing(out, &lines, &known, &original)?);
    }
    for line in lines {
        let end = line.at + line.bytes.len() as u64;
        let touches = |patch: &&Patch| line.at < patch.at + patch.new.len() as u64 && patch.at < end;
        let patch = known.iter().find(touches).map(|patch| patch.id);
        let (address, bytes) = (line.at.to_string(), show::bytes(&line.bytes));
        json(
            out,
            &Json::Instruction { address, bytes, text: line.text, label: line.label, note: line.note, patch },
        )?;
    }
    Ok(())
}

fn hex(args: &InspectArgs, view: &View, at: Addr, out: &mut dyn Write) -> Result<(), Failure> {
    let bytes = view.bytes(at, args.count.saturating_mul(16).min(1 << 24));
    if bytes.is_empty() {
        return Err(PatchError::Unmapped { at }.into());
    }
    for (index, row) in bytes.chunks(16).enumerate() {
        let at = at + 16 * index as u64;
        if args.json {
            json(out, &Json::Bytes { address: at.to_string(), bytes: show::bytes(row) })?;
        } else {
            writeln!(out, "{}", show::row(at, row))?;
        }
    }
    Ok(())
}

fn maps(args: &InspectArgs, view: &View, out: &mut dyn Write) -> Result<(), Failure> {
    for region in view.regions() {
        let flag = |set, letter| if set { letter } else { '-' };
        let allowed = region.permissions;
        let permissions: String =
            [flag(allowed.read, 'r'), flag(allowed.write, 'w'), flag(allowed.execute, 'x')].iter().collect();
        let (start, end) = (region.range.start.to_string(), region.range.end.to_string());
        if args.json {
            json(out, &Json::Mapping { start, end, permissions, name: region.name.clone() })?;
        } else {
            writeln!(out, "{start:>14}-{end:<14}  {permissions}  {}", region.name)?;
        }
    }
    Ok(())
}

fn json(out: &mut dyn Write, line: &Json) -> Result<(), Failure> {
    Ok(writeln!(out, "{}", serde_json::to_string(line)?)?)
}
