//! `incise find`: where a string or constant is, who uses it, and which branches decide that.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use incise::Addr;
use incise::isa::native::Syntax;
use incise::patching::{SearchResult, View, Wanted, search, unhex};
use serde::Serialize;

use super::args::FindArgs;
use super::target::Target;
use crate::Failure;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Json<'a> {
    String { address: String, start: String, text: &'a str, region: &'a str },
    Use { address: String, of: String, through: Option<String>, function: Option<&'a str>, text: String },
    Branch { address: String, r#use: String, taken: bool, text: String },
}

pub(crate) fn run(args: &FindArgs) -> Result<ExitCode, Failure> {
    let mut words = args.words.clone();
    let target = Target::open(&args.target, &mut words)?;
    let result = wanted(args, &words).map(|wanted| (search(&target.view, &wanted), wanted));
    let shown = result.and_then(|(found, wanted)| show(args, &target.view, &found, &wanted));
    target.close();
    shown
}

fn wanted(args: &FindArgs, words: &[String]) -> Result<Wanted, Failure> {
    let wanted = match (&args.bytes, &args.imm, words) {
        (Some(hex), None, []) => Wanted::Bytes(
            unhex(hex)
                .filter(|bytes| !bytes.is_empty())
                .ok_or("--bytes takes pairs of hexadecimal digits")?,
        ),
        (None, Some(value), []) => Wanted::Immediate(number(value).ok_or("--imm takes a number")?),
        (None, None, [text]) if !text.is_empty() => Wanted::Text(text.clone().into_bytes()),
        _ => return Err("what to look for? One TEXT, or --bytes HEX, or --imm VALUE".into()),
    };
    Ok(wanted)
}

/// A number: decimal, `0x` hexadecimal, negative.
pub(super) fn number(text: &str) -> Option<u64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

fn show(args: &FindArgs, view: &View, found: &SearchResult, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let syntax: Syntax = args.syntax.into();
    let text = |at: Addr| view.insn(at).map_or_else(|_| String::new(), |insn| insn.text_in(syntax));
    for hit in &found.hits {
        let (address, start) = (hit.at.to_string(), hit.start.to_string());
        if args.json {
            let line = Json::String { address, start, text: &hit.text, region: &hit.region };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            writeln!(out, "string  {start:>14}  {:?}  ({})", hit.text, hit.region)?;
        }
    }
    for used in &found.uses {
        let (address, of) = (used.at.to_string(), used.of.to_string());
        let through = used.through.map(|at| at.to_string());
        if args.json {
            let function = used.function.as_deref();
            let line = Json::Use { address, of, through, function, text: text(used.at) };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            let function = used.function.as_ref().map_or(String::new(), |name| format!("  in {name}"));
            let through = through.map_or(String::new(), |at| format!(" through the pointer at {at}"));
            writeln!(out, "use     {address:>14}  {}  # {of}{through}{function}", text(used.at))?;
        }
        for branch in &used.decisions {
            let address = branch.at.to_string();
            if args.json {
                let line = Json::Branch {
                    address,
                    r#use: used.at.to_string(),
                    taken: branch.taken,
                    text: text(branch.at),
                };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            } else {
                let when = if branch.taken { "when it is taken" } else { "when it is not taken" };
                writeln!(out, "branch  {address:>14}  {}  # {} runs {when}", text(branch.at), used.at)?;
            }
        }
    }
    out.flush()?;
    let nothing = match wanted {
        Wanted::Immediate(_) => found.uses.is_empty(),
        _ => found.hits.is_empty(),
    };
    if nothing {
        return Err("nothing found".into());
    }
    if found.uses.is_empty() {
        let it = if found.hits.len() == 1 { "it" } else { "any of them" };
        eprintln!("incise: no instruction names {it}, nor a pointer that one names");
    }
    Ok(ExitCode::SUCCESS)
}
