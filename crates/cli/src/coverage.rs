//! `incise coverage`: how all instructions of programs would be patched, without running anything.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use incise::{Coverage, CoverageOptions, CoverageProgress, Tactic, coverage};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::CoverageArgs;
use crate::flow::{Binary, threads};
use crate::report::{bar, group};
use crate::{FAILED, Failure};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'l> {
    Site {
        address: String,
        function: &'l str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tactic: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
    Summary {
        binary: String,
        sites: usize,
        patched: usize,
        trapped: usize,
        refused: usize,
        mappings: usize,
        bytes_per_site: f64,
        plan_ms: f64,
    },
}

/// Every program is looked at, also behind one that fails.
pub(crate) fn run(args: &CoverageArgs) -> Result<ExitCode, Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut code = ExitCode::SUCCESS;
    for path in &args.binaries {
        if let Err(error) = one(args, path, &mut out) {
            out.flush()?;
            if error.downcast_ref::<io::Error>().is_some() {
                return Err(error);
            }
            eprintln!("incise: {error}");
            code = ExitCode::from(FAILED);
        }
    }
    out.flush()?;
    Ok(code)
}

fn one(args: &CoverageArgs, path: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let binary = Binary::open(path)?;
    let progress = Progress::new(path);
    let tell = |state| progress.tell(state);
    let options = CoverageOptions {
        points: args.points.into(),
        traps: args.trap.into(),
        layout: args.engine.into(),
        base: args.base,
        threads: args.threads.unwrap_or_else(threads),
        first: args.first,
        alone: args.alone,
        progress: Some(&tell),
    };
    let planned = coverage(path, &binary.file, &options);
    progress.finish();
    let planned = planned.map_err(|error| format!("{}: {error}", path.display()))?;
    if args.json {
        json(&planned, &binary, out)?
    } else {
        table(&planned, path, args.points.plural(), out)?
    }
    Ok(())
}

fn json(planned: &Coverage, binary: &Binary, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |line: &Line<'_>| {
        serde_json::to_writer(&mut *out, line)?;
        writeln!(out)
    };
    let (mut entry, mut name) = (None, String::new());
    for site in &planned.sites {
        if entry != Some(site.function) {
            name = binary.name(site.function);
            entry = Some(site.function);
        }
        let tactic = site.outcome.as_ref().ok().map(|tactic| tactic.name());
        let reason = site.outcome.as_ref().err().map(|refusal| refusal.kind());
        line(&Line::Site { address: site.addr.to_string(), function: &name, tactic, reason })?;
    }
    line(&Line::Summary {
        binary: binary.path.display().to_string(),
        sites: planned.sites.len(),
        patched: planned.patched(),
        trapped: planned.trapped(),
        refused: planned.refused(),
        mappings: planned.mappings,
        bytes_per_site: rounded(planned.bytes_per_site(), 100.0),
        plan_ms: rounded(milliseconds(planned.planning), 1000.0),
    })
}

fn table(planned: &Coverage, path: &Path, points: &str, out: &mut dyn Write) -> io::Result<()> {
    let sites = planned.sites.len();
    let (mut tactics, mut reasons) = (BTreeMap::<Tactic, usize>::new(), BTreeMap::<&str, usize>::new());
    for site in &planned.sites {
        match &site.outcome {
            Ok(tactic) => *tactics.entry(*tactic).or_default() += 1,
            Err(refusal) => *reasons.entry(refusal.kind()).or_default() += 1,
        }
    }
    writeln!(
        out,
        "{}: {} {points} of {} functions, parsed in {:.2} s",
        path.display(),
        group(sites as u64),
        group(planned.functions as u64),
        planned.parsing.as_secs_f64()
    )?;
    let width = group(sites as u64).len().max("sites".len());
    writeln!(out, "  tactic    {:>width$}    share", "sites")?;
    let mut row = |name: &str, number: usize| {
        let share = percent(number, sites);
        let (number, bar) = (group(number as u64), bar(number as u64, sites as u64));
        let row = format!("  {name:<8}  {number:>width$}  {share:>7}  {bar}");
        writeln!(out, "{}", row.trim_end())
    };
    for (tactic, number) in tactics {
        row(tactic.name(), number)?;
    }
    let refused = planned.refused();
    if refused > 0 {
        row("refused", refused)?;
    }
    let rate = sites as f64 / planned.planning.as_secs_f64().max(1e-9);
    writeln!(
        out,
        "{} without a trap; {:.1} trampoline bytes per site, {} mappings, planned in {:.1} ms ({} sites/s)",
        percent(planned.patched(), sites),
        planned.bytes_per_site(),
        planned.mappings,
        milliseconds(planned.planning),
        group(rate as u64)
    )?;
    let mut reasons: Vec<(&str, usize)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    for (reason, number) in reasons {
        writeln!(out, "refused {:>width$}: {reason}", group(number as u64))?;
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn rounded(value: f64, unit: f64) -> f64 {
    (value * unit).round() / unit
}

/// A share in percent, never rounded up to all or down to none.
fn percent(part: usize, of: usize) -> String {
    let share = 100.0 * part as f64 / of.max(1) as f64;
    let share = match part {
        0 => 0.0,
        _ if part == of => 100.0,
        _ => share.clamp(0.001, 99.999),
    };
    format!("{share:.3}%")
}

/// A bar on a terminal.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(path: &Path) -> Progress {
        let shown = io::stderr().is_terminal();
        Progress(shown.then(|| ProgressBar::new(0).with_message(path.display().to_string())))
    }

    fn tell(&self, state: CoverageProgress) {
        let Some(bar) = &self.0 else { return };
        let style = |template| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        match state {
            CoverageProgress::Parsing(done, of) => {
                if done < of && bar.length() == Some(0) {
                    bar.set_style(style("{msg} [{bar:40}] {pos}/{len} functions {eta}"));
                }
                bar.set_length(of as u64);
                bar.set_position(done as u64);
            }
            CoverageProgress::Planning(sites) => {
                bar.set_style(style("{msg} {spinner} planning {len} sites, {elapsed}"));
                bar.set_length(sites as u64);
                bar.enable_steady_tick(Duration::from_millis(100));
            }
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
