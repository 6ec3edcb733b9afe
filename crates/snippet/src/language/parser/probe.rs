//! Probes: `function:MODULE:NAME:PLACE` and bpftrace's words for the same.

use std::time::Duration;

use super::{Parsed, Parser};
use crate::language::ast::{FunctionProbe, Place, Probe, ProbeKind, UsdtSyntax};
use crate::language::lexer::Token;
use crate::language::{Diagnostic, Span, suggest};

/// The words probes begin with.
const KINDS: [&str; 21] = [
    "function",
    "block",
    "edge",
    "call",
    "instruction",
    "uprobe",
    "uretprobe",
    "usdt",
    "begin",
    "end",
    "interval",
    "BEGIN",
    "END",
    "u",
    "ur",
    "i",
    "f",
    "address",
    "a",
    "entry",
    "exit",
];

/// Probes of bpftrace that are not about programs, and what to do instead.
const OTHERS: [(&str, &str); 19] = [
    ("kprobe", "probes are in programs, not in the kernel; for the program's side use function:libc:read"),
    (
        "kretprobe",
        "probes are in programs, not in the kernel; for the program's side use function:libc:read:exit",
    ),
    ("fentry", "probes are in programs, not in the kernel; for the program's side use function:libc:read"),
    (
        "fexit",
        "probes are in programs, not in the kernel; for the program's side use function:libc:read:exit",
    ),
    ("kfunc", "probes are in programs, not in the kernel; for the program's side use function:libc:read"),
    (
        "kretfunc",
        "probes are in programs, not in the kernel; for the program's side use function:libc:read:exit",
    ),
    (
        "tracepoint",
        "for system calls probe the program's side of them: function:libc:read; files are opened by function:libc:open mostly",
    ),
    (
        "rawtracepoint",
        "for system calls probe the program's side of them: function:libc:read; files are opened by function:libc:open mostly",
    ),
    (
        "profile",
        "there are no timers in the program; count what it does: function:MODULE:NAME { @[ustack] = count(); }",
    ),
    ("software", "there are no events of the kernel; probe functions"),
    ("hardware", "there are no events of the processor; probe functions"),
    (
        "watchpoint",
        "probe the instructions that write: function:NAME:instruction /point`effective_address == …/",
    ),
    (
        "asyncwatchpoint",
        "probe the instructions that write: function:NAME:instruction /point`effective_address == …/",
    ),
    ("self", "signals are sent to the program: a function that handles them is probed as any other"),
    ("config", "options are those of the command: incise run --help"),
    ("fn", "what clauses have in common is written in each; functions of the program are called inf`name(…)"),
    (
        "macro",
        "what clauses have in common is written in each; functions of the program are called inf`name(…)",
    ),
    (
        "import",
        "what clauses have in common is written in each; functions of the program are called inf`name(…)",
    ),
    ("iter", "there are no iterators of the kernel; probe functions"),
];

/// Longest probe, in bytes.
const LONGEST: usize = 4096;

impl<'s> Parser<'s> {
    /// `PROBE, PROBE, …`
    pub(super) fn probes(&mut self) -> Parsed<Vec<Probe>> {
        let mut probes = vec![self.probe()?];
        while self.eat(",") {
            // A comma at the end is a slip without harm.
            if self.is("{") {
                break;
            }
            probes.push(self.probe()?);
        }
        Ok(probes)
    }

    fn probe(&mut self) -> Parsed<Probe> {
        let start = self.span();
        if !matches!(self.peek(), Token::Word(_)) && !self.is("*") {
            return Err(self.unexpected("a probe").help("such as function:libc:malloc, begin, interval:s:1"));
        }
        // From here on by characters, not by tokens.
        self.ahead.clear();
        self.lexer.seek(start.start as usize);
        let (text, len) = probe_text(self.lexer.rest());
        let open = self.lexer.rest()[..len].matches('"').count() % 2 == 1;
        let span = Span::new(start.start as usize, start.start as usize + len);
        self.lexer.seek(span.end as usize);
        self.behind = span.end as usize;
        if len > LONGEST {
            return Err(Diagnostic::error(span, format!("a probe of more than {LONGEST} bytes")));
        }
        if open {
            let error = Diagnostic::error(span, "the quote in this probe has no end");
            return Err(error.help("close it with `\"`"));
        }
        Ok(Probe { kind: kind(&text, span)?, text: text.plain(), span })
    }
}

/// The parts of a probe between single colons, without quotes.
struct Parts(Vec<Part>);

#[derive(Clone)]
struct Part {
    text: String,
    /// It was written between quotes: it is a name, whatever it looks like.
    quoted: bool,
}

impl Parts {
    fn plain(&self) -> String {
        let parts: Vec<&str> = self.0.iter().map(|part| part.text.as_str()).collect();
        parts.join(":")
    }
}

/// Splits what `rest` begins with; returns it with the bytes it takes. A probe ends before a space, a comma, a
/// brace or a filter outside of brackets and quotes. Only the second part, a module, may be a path.
fn probe_text(rest: &str) -> (Parts, usize) {
    let mut parts = vec![Part { text: String::new(), quoted: false }];
    let mut brackets = 0usize;
    let mut quote = false;
    let mut chars = rest.char_indices().peekable();
    let mut len = rest.len();
    while let Some((at, c)) = chars.next() {
        let count = parts.len();
        let Some(part) = parts.last_mut() else { break };
        match c {
            '\n' => {
                len = at;
                break;
            }
            '"' => {
                quote = !quote;
                part.quoted = true;
            }
            _ if quote => part.text.push(c),
            ':' if brackets == 0 => {
                if chars.next_if(|(_, next)| *next == ':').is_some() {
                    part.text.push_str("::");
                } else {
                    parts.push(Part { text: String::new(), quoted: false });
                }
            }
            '/' if brackets == 0 && !(count == 2 && path_goes_on(&rest[at..], &part.text)) => {
                len = at;
                break;
            }
            _ if brackets == 0 && (c.is_whitespace() || matches!(c, ',' | '{')) => {
                len = at;
                break;
            }
            _ => {
                match c {
                    '<' | '(' => brackets += 1,
                    '>' | ')' => brackets = brackets.saturating_sub(1),
                    _ => {}
                }
                part.text.push(c);
            }
        }
    }
    (Parts(parts), len)
}

/// A slash in the second part belongs to a path if a colon follows the path.
fn path_goes_on(rest: &str, before: &str) -> bool {
    let end = rest.find([' ', '\t', '\n', '{', ',']).unwrap_or(rest.len());
    let has_name = rest[..end].contains(':');
    has_name || (before.is_empty() && rest[..end].len() > 1)
}

fn kind(parts: &Parts, span: Span) -> Parsed<ProbeKind> {
    let parts = &parts.0[..];
    let Some((first, rest)) = parts.split_first() else {
        return Err(Diagnostic::error(span, "a probe is expected"));
    };
    if let Some(empty) = parts.iter().position(|part| part.text.is_empty() && !part.quoted) {
        // `uprobe::malloc`: any module.
        let any_module = empty == 1 && parts.len() > 2;
        if !any_module {
            let error = Diagnostic::error(span, "a part of this probe is empty");
            return Err(error.help("write function:MODULE:NAME, with * for any"));
        }
    }
    match (first.text.as_str(), rest) {
        ("begin" | "BEGIN", []) => Ok(ProbeKind::Begin),
        ("end" | "END", []) => Ok(ProbeKind::End),
        ("interval" | "i", _) => interval(rest, span),
        ("function" | "f", _) => function(rest, span).map(ProbeKind::Function),
        ("uprobe" | "u", [_, _]) => Ok(ProbeKind::Function(alias(rest, Place::Entry))),
        ("uretprobe" | "ur", [_, _]) => Ok(ProbeKind::Function(alias(rest, Place::Exit))),
        ("usdt" | "U", [_, _] | [_, _, _]) => Ok(ProbeKind::Usdt(usdt(rest))),
        ("usdt" | "U", _) => {
            let error = Diagnostic::error(span, "this probe has a module, who provides it, and its name");
            Err(error.help(
                "such as usdt:/usr/bin/postgres:postgresql:query__start, or usdt:postgres:query__start",
            ))
        }
        ("block", [_] | [_, _]) => Ok(ProbeKind::Function(inside(rest, Place::Block))),
        ("edge", [_] | [_, _]) => Ok(ProbeKind::Function(inside(rest, Place::Edge))),
        ("call", [_] | [_, _]) => Ok(ProbeKind::Function(inside(rest, Place::Call))),
        ("instruction" | "insn", [_] | [_, _]) => Ok(ProbeKind::Function(inside(rest, Place::Instruction))),
        ("block" | "edge" | "call" | "instruction" | "insn", _) => {
            let error = Diagnostic::error(span, "this probe has a function, or a module and a function");
            Err(error.help(format!("such as {}:libc:malloc", first.text)))
        }
        ("address" | "a", [at]) => address(&format!("*{}", at.text), span),
        (at, []) if at.starts_with('*') => address(at, span),
        ("uprobe" | "u" | "uretprobe" | "ur", [_, file, line])
            if line.text.parse::<u32>().is_ok() && file.text.contains('.') =>
        {
            let error = Diagnostic::error(span, "lines of the source are no probes");
            let help = "incise disasm PROGRAM FUNCTION shows which addresses they have: uprobe:PROGRAM:FUNCTION+0x1f";
            Err(error.help(help))
        }
        ("uprobe" | "u" | "uretprobe" | "ur", _) => {
            let error = Diagnostic::error(span, "this probe has a module and a function");
            Err(error
                .help(format!("such as {}:/bin/bash:readline or {}:libc:malloc", first.text, first.text)))
        }
        ("begin" | "BEGIN" | "end" | "END", _) => {
            Err(Diagnostic::error(span, format!("nothing belongs behind `{}`", first.text)))
        }
        (word, _) => Err(unknown(word, span)),
    }
}

fn unknown(word: &str, span: Span) -> Diagnostic {
    let span = Span::new(span.start as usize, span.start as usize + word.len());
    let error = Diagnostic::error(span, format!("there is no probe `{word}`"));
    // bpftrace's short words.
    let long = match word {
        "k" => "kprobe",
        "kr" => "kretprobe",
        "t" => "tracepoint",
        "rt" => "rawtracepoint",
        "p" => "profile",
        "s" => "software",
        "h" => "hardware",
        "w" => "watchpoint",
        "it" => "iter",
        other => other,
    };
    if let Some((_, help)) = OTHERS.iter().find(|(other, _)| *other == long) {
        return error.help(*help);
    }
    let near = suggest::nearest(word, KINDS.iter().copied().filter(|kind| kind.len() > 2));
    if near.is_empty() {
        error.help("a probe is function:MODULE:NAME, begin, end or interval:s:1")
    } else {
        error.did_you_mean(&near)
    }
}

fn alias(rest: &[Part], place: Place) -> FunctionProbe {
    let module = Some(rest[0].text.clone()).filter(|module| !module.is_empty() && module != "*");
    // An address in the file of the module.
    let digits = rest[1].text.strip_prefix("0x").filter(|_| !rest[1].quoted);
    let is_address = digits.is_some_and(|digits| {
        (1..=16).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    });
    let function = if is_address { format!("*{}", rest[1].text) } else { rest[1].text.clone() };
    FunctionProbe { module, function, place, otherwise: None }
}

/// `usdt:MODULE:NAME` or `usdt:MODULE:PROVIDER:NAME`
fn usdt(rest: &[Part]) -> UsdtSyntax {
    let any = |part: &Part| Some(part.text.clone()).filter(|text| !text.is_empty() && text != "*");
    let provider = if rest.len() == 3 { any(&rest[1]) } else { None };
    let name = rest.last().map(|part| part.text.clone()).unwrap_or_default();
    UsdtSyntax { module: rest.first().and_then(any), provider, name }
}

/// `KIND:FUNCTION` or `KIND:MODULE:FUNCTION`.
fn inside(rest: &[Part], place: Place) -> FunctionProbe {
    let (module, function) = match rest {
        [module, function] => (Some(module), function),
        _ => (None, &rest[0]),
    };
    let module = module.map(|part| part.text.clone()).filter(|module| !module.is_empty() && module != "*");
    FunctionProbe { module, function: function.text.clone(), place, otherwise: None }
}

/// `*0xADDRESS`
fn address(text: &str, span: Span) -> Parsed<ProbeKind> {
    let digits = text.strip_prefix("*0x").unwrap_or_default();
    if digits.is_empty() || digits.len() > 16 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Diagnostic::error(span, "an address is expected here").help("such as *0x401136"));
    }
    let function = text.to_owned();
    let (module, place, otherwise) = (None, Place::Instruction, None);
    Ok(ProbeKind::Function(FunctionProbe { module, function, place, otherwise }))
}

fn function(rest: &[Part], span: Span) -> Parsed<FunctionProbe> {
    let module = |part: &Part| Some(part.text.clone()).filter(|module| !module.is_empty() && module != "*");
    let place = |part: &Part| if part.quoted { None } else { Place::from_word(&part.text) };
    let named = |module: Option<String>, function: &Part, place| FunctionProbe {
        module,
        function: function.text.clone(),
        place,
        otherwise: None,
    };
    match rest {
        [function] => Ok(named(None, function, Place::Entry)),
        [first, second] => Ok(match place(second) {
            // `function:step:exit`, or the function `exit` of a library `step`.
            Some(at) if !first.text.is_empty() => {
                let otherwise = Some(Box::new(named(module(first), second, Place::Entry)));
                FunctionProbe { otherwise, ..named(None, first, at) }
            }
            _ => named(module(first), second, Place::Entry),
        }),
        [first, function, last] => match place(last) {
            Some(at) => Ok(named(module(first), function, at)),
            None => {
                let words = Place::WORDS.iter().map(|(word, _)| *word);
                let near = suggest::nearest(&last.text, words);
                let error = Diagnostic::error(span, format!("`{}` is no place in a function", last.text));
                Err(if near.is_empty() {
                    let all: Vec<&str> = Place::WORDS.iter().map(|(word, _)| *word).collect();
                    error.help(format!("places are {}", all.join(", ")))
                } else {
                    error.did_you_mean(&near)
                })
            }
        },
        _ => Err(Diagnostic::error(span, "this probe has too few or too many parts")
            .help("write function:NAME, function:MODULE:NAME or function:MODULE:NAME:PLACE")),
    }
}

fn interval(rest: &[Part], span: Span) -> Parsed<ProbeKind> {
    let help = "such as interval:s:1, interval:ms:100 or interval:hz:10";
    let wrong = || Diagnostic::error(span, "an interval has a unit and a number").help(help);
    let (unit, number) = match rest {
        [unit, number] => (unit.text.as_str(), number.text.as_str()),
        // `interval:100ms`
        [both] => {
            let digits = both.text.bytes().take_while(u8::is_ascii_digit).count();
            (&both.text[digits..], &both.text[..digits])
        }
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let every = match unit {
        "s" => Duration::from_secs(number.into()),
        "ms" => Duration::from_millis(number.into()),
        "us" => Duration::from_micros(number.into()),
        "hz" if number > 0 => Duration::from_secs(1) / number,
        _ => return Err(wrong()),
    };
    if every < Duration::from_micros(100) {
        return Err(
            Diagnostic::error(span, "the interval is too short").help("the shortest is 100 microseconds")
        );
    }
    Ok(ProbeKind::Interval(every))
}
