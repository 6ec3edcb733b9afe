//! `servers`: what tracing costs servers under load, beside other tools that do the same.
//!
//! In each round every tool gets a fresh server, one after the other, so that what disturbs the machine disturbs all of them. A row
//! is compared with the server of its round that is not traced.

mod server;
mod tool;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::Error;
use crate::stats::median;
use crate::table::Table;
pub(crate) use server::interrupt;
use server::{Kind, Server, processor_time, stop};
use tool::{Seen, Tool};

/// Settings of `servers`.
#[derive(Args)]
pub(crate) struct Options {
    /// Which servers; all if none is given
    #[arg(value_enum)]
    servers: Vec<Kind>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of load in each
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Leave the peers out
    #[arg(long)]
    no_peers: bool,
    /// The incise command; the one beside this program if it is not given
    #[arg(long, value_name = "FILE")]
    incise: Option<PathBuf>,
}

/// What came of one tool at one server.
#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    kind: &'static str,
    server: &'static str,
    tool: &'static str,
    /// Requests a second, median.
    rate: f64,
    /// The share of the rate of the server that is not traced, median over the rounds.
    share: f64,
    /// Processor time of the server for a request, in microseconds.
    processor_us: f64,
    /// Calls that were seen for each request.
    calls: Option<f64>,
    /// In all rounds.
    lost: u64,
    torn: u64,
}

#[derive(Default)]
struct Samples {
    rates: Vec<f64>,
    shares: Vec<f64>,
    processor: Vec<f64>,
    calls: Vec<f64>,
    lost: u64,
    torn: u64,
}

/// Runs it. Whether every record of ours was whole.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let beside = || Ok::<_, Error>(std::env::current_exe()?.with_file_name("incise"));
    let incise = options.incise.clone().map_or_else(beside, Ok)?;
    if !incise.is_file() {
        return Err(format!(
            "there is no {}: build it with cargo build --release -p incise-cli",
            incise.display()
        )
        .into());
    }
    let servers = if options.servers.is_empty() { &Kind::ALL[..] } else { &options.servers };
    let mut out = std::io::stdout().lock();
    let mut rows = Vec::new();
    for &kind in servers {
        match measure(kind, options, &incise, &mut out) {
            Ok(more) => rows.extend(more),
            Err(error) => writeln!(out, "skipped: {}: {error}", kind.name())?,
        }
    }
    if options.json {
        for row in &rows {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        }
    } else {
        print(&mut out, &rows)?;
    }
    Ok(rows.iter().all(|row| row.torn == 0))
}

fn measure(kind: Kind, options: &Options, incise: &Path, out: &mut dyn Write) -> Result<Vec<Row>, Error> {
    // Workers of servers run as other users.
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let folder = folder.path();
    let server = Server::prepare(kind, folder)?;
    let ours = |tool: &Tool| !options.no_peers || matches!(tool, Tool::Nothing | Tool::Trace | Tool::Hist);
    let mut tools: Vec<(Tool, Samples)> =
        Tool::ALL.into_iter().filter(ours).map(|tool| (tool, Samples::default())).collect();
    for _ in 0..options.rounds {
        let mut native = f64::NAN;
        tools.retain_mut(|(tool, samples)| match once(*tool, &server, folder, incise, options.seconds) {
            Ok((rate, requests, processor, seen)) => {
                if *tool == Tool::Nothing {
                    native = rate;
                }
                samples.rates.push(rate);
                samples.shares.push(rate / native);
                samples.processor.push(processor / requests * 1e6);
                samples.calls.extend(seen.calls.map(|calls| calls as f64 / requests));
                samples.lost += seen.lost;
                samples.torn += seen.torn;
                true
            }
            Err(error) => {
                let _ = writeln!(out, "skipped: {} at {}: {error}", tool.name(), kind.name());
                *tool == Tool::Nothing
            }
        });
    }
    let row = |(tool, samples): (Tool, Samples)| Row {
        kind: "server",
        server: kind.name(),
        tool: tool.name(),
        rate: median(&samples.rates),
        share: median(&samples.shares),
        processor_us: median(&samples.processor),
        calls: (!samples.calls.is_empty()).then(|| median(&samples.calls)),
        lost: samples.lost,
        torn: samples.torn,
    };
    Ok(tools.into_iter().map(row).collect())
}

/// Requests a second, requests, the server's processor time for them in seconds, and what the tool saw.
fn once(
    tool: Tool,
    server: &Server,
    folder: &Path,
    incise: &Path,
    seconds: u32,
) -> Result<(f64, f64, f64, Seen), Error> {
    let (mut child, mut running) = tool::start(tool, server, folder, incise)?;
    let before = processor_time(child.id())?;
    let loaded = server.load(seconds);
    let after = processor_time(child.id())?;
    // uftrace reads what it recorded when the server has ended.
    if tool == Tool::Uftrace {
        server::stop_children(child.id());
        stop(&mut child);
    }
    let seen = running.finish();
    stop(&mut child);
    let (rate, requests) = loaded?;
    Ok((rate, requests, (after.saturating_sub(before)).as_secs_f64(), seen?))
}

fn print(out: &mut impl Write, rows: &[Row]) -> Result<(), Error> {
    let mut table =
        Table::new(&["", "requests/s", "of untraced", "server us/request", "calls/request", "lost"]);
    let mut server = "";
    for row in rows {
        if row.server != server {
            server = row.server;
            table.row([server.to_owned()]);
        }
        let traced = row.calls.is_some();
        table.row([
            format!("  {}", row.tool),
            format!("{:.0}", row.rate),
            format!("{:.0} %", row.share * 100.0),
            format!("{:.1}", row.processor_us),
            row.calls.map_or(String::new(), |calls| format!("{calls:.1}")),
            match (traced, row.torn) {
                (false, _) => String::new(),
                (true, 0) => row.lost.to_string(),
                (true, torn) => format!("{} and {torn} TORN", row.lost),
            },
        ]);
    }
    table.print(out)?;
    Ok(())
}
