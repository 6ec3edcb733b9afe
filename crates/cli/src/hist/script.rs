//! Histograms of expressions, or for each value of one: a script of the language fills them.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::io::{self, IsTerminal};
use std::rc::Rc;

use incise::Error;
use incise::data::{Aggregate, Value};
use incise::script::{ScriptError, ScriptEvent, ScriptOptions, ScriptResult, Scripting};
use incise::timing::{Buckets, Measure};
use incise::trace::Clock;

use super::args::{By, HistArgs, Of};
use super::{Histogram, Measured};
use crate::Failure;
use crate::run;
use crate::signals::INTERRUPTED;
use crate::target::Which;

/// Room for so many keys, and calls that go on.
const KEYS: u32 = 1 << 14;
/// Nanoseconds for each tick are a fraction with so many bits: calls of up to three days can be told then.
const FRACTION: u32 = 16;

/// Measures. Nothing if the script is wrong, which was told then.
pub(super) fn measure(args: &HistArgs) -> Result<Option<Measured>, Failure> {
    let target = &args.target;
    let options = ScriptOptions {
        name: "hist".to_owned(),
        source: source(args)?,
        arguments: Vec::new(),
        follow: target.follow,
        traps: target.trap.into(),
        records: 16,
        keys: KEYS,
        rows: incise::data::walk::SPARE,
        dry_run: false,
        awaiting: target.awaiting(),
    };
    let found: Rc<RefCell<Vec<Histogram>>> = Rc::default();
    let buckets = Rc::new(RefCell::new(None));
    let sink = {
        let (found, buckets) = (Rc::clone(&found), Rc::clone(&buckets));
        move |event: &ScriptEvent<'_>| {
            if let ScriptEvent::Map { name: "values", kind: Aggregate::Histogram(kind), .. } = event {
                *buckets.borrow_mut() = Some(*kind);
                *found.borrow_mut() = histograms(event);
            }
            Ok(())
        }
    };
    let started = match target.which()? {
        Which::Process(pid) => Scripting::attach(pid, &options, sink),
        Which::Program(program, arguments) => Scripting::launch(program, arguments, &options, sink),
    };
    let result = started.and_then(|scripting| {
        target.tell_start(scripting.installed(), scripting.stop(), "the measuring");
        scripting.run(&INTERRUPTED)
    });
    let ScriptResult { probes, totals } = match result {
        Err(Error::Script(ScriptError::Source(diagnostics))) => {
            eprint!("{}", diagnostics.render(io::stderr().is_terminal()));
            return Ok(None);
        }
        result => result?,
    };
    run::told(&totals);
    let probes = probes.ok_or("nothing was probed")?;
    let histograms = found.take();
    let buckets = buckets.take().unwrap_or(Buckets::Log(incise::timing::Log::PLAIN));
    let (untimed, left_out) = (totals.dropped, totals.left_out);
    Ok(Some(Measured { histograms, buckets, probes, untimed, unpaired: 0, left_out }))
}

/// What the map holds, the fullest first.
fn histograms(event: &ScriptEvent<'_>) -> Vec<Histogram> {
    let ScriptEvent::Map { entries, symbols, .. } = event else { return Vec::new() };
    let mut all: Vec<Histogram> = Vec::new();
    for entry in *entries {
        let Value::Histogram { sum, counts } = &entry.value else { continue };
        let mut parts = entry.key.iter().map(|part| part.text(*symbols));
        let (module, function) = match (parts.next(), parts.next()) {
            (Some(module), Some(function)) => (module, function),
            _ => (String::new(), "all".to_owned()),
        };
        all.push(Histogram { module, function, key: parts.next(), counts: counts.clone(), sum: *sum });
    }
    all.sort_by_key(|histogram| Reverse(histogram.count()));
    all
}

/// The script.
fn source(args: &HistArgs) -> Result<String, Failure> {
    let holds = args.holds.as_ref().or(args.functions.condition.as_ref());
    let holds = holds.map_or(String::new(), |holds| format!("/{}/ ", holds.text()));
    let exit = matches!(args.of, Of::Measure(Measure::Return)) || says(&args.of.to_string(), "retval");
    let value = match &args.of {
        Of::Measure(Measure::Return) => "retval".to_owned(),
        of => of.to_string(),
    };
    let by = match &args.by {
        By::All => String::new(),
        By::Function => "[module, func]".to_owned(),
        By::Expression(text) => format!("[module, func, ({text})]"),
    };
    let entries = probes(args, "entry")?;
    if !args.of.is_time() {
        let probes = if exit { probes(args, "exit")? } else { entries };
        return Ok(format!("{probes} {holds}{{ @values{by} = hist({value}); }}"));
    }
    // A call is known by its thread and where its return address lies. What arguments are is known at the entry only.
    let exits = probes(args, "exit")?;
    let call = "tid, reg`rsp";
    let (note, by, forget) = match &args.by {
        By::Expression(text) if !ANYTIME.iter().any(|word| text.trim() == *word) => (
            format!(" @by[{call}] = ({text});"),
            format!("[module, func, @by[{call}]]"),
            format!(" delete(@by[{call}]);"),
        ),
        _ => (String::new(), by, String::new()),
    };
    let rate = (Clock::start().nanos_per_tick() * f64::from(1u32 << FRACTION)) as u64;
    Ok(format!(
        "{entries} {holds}{{ @start[{call}] = cycles;{note} }}\n\
         {exits} /@start[{call}]/ {{ @values{by} = hist(((cycles - @start[{call}]) * {rate}) >> {FRACTION}); \
         delete(@start[{call}]);{forget} }}"
    ))
}

/// What has the same value when a call ends, or is known only then.
const ANYTIME: [&str; 6] = ["comm", "tid", "pid", "cpu", "retval", "probe"];

/// The probes of all patterns.
fn probes(args: &HistArgs, place: &str) -> Result<String, Failure> {
    let probe = |pattern: &String| {
        if pattern.contains('"') {
            return Err(format!("`{pattern}` names no function").into());
        }
        let (module, name) = match (pattern.split_once('!'), &args.functions.module) {
            (Some((module, name)), _) => (module, name),
            (None, Some(module)) => (module.as_str(), pattern.as_str()),
            (None, None) => ("*", pattern.as_str()),
        };
        if name.starts_with("*0x") && place == "entry" {
            return Ok(format!("address:\"{name}\"").replace("\"*", "\""));
        }
        Ok(format!("function:\"{module}\":\"{name}\":{place}"))
    };
    let probes: Result<Vec<String>, Failure> = args.functions.patterns.iter().map(probe).collect();
    Ok(probes?.join(", "))
}

/// Whether a word is in a text.
fn says(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}
