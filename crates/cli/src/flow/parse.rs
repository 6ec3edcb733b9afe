//! `incise parse`: whole programs, their sizes, and their graphs kept for later.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use incise::source::{Stored, write_whole};
use incise_cfg::{Options, Parser, Store};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::ParseArgs;
use super::program::{Binary, threads};
use crate::Failure;

#[derive(Serialize, Default, Clone)]
struct Sizes {
    functions: usize,
    blocks: usize,
    edges: usize,
    incomplete: usize,
    /// Bytes of `.text`, without linkage stubs and start-up code in sections of their own.
    text_bytes: u64,
    /// Those that lie in blocks; padding between functions does not.
    text_covered: u64,
    /// Those that only fill up.
    text_padding: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'l> {
    Program {
        path: String,
        seconds: f64,
        stored: Option<String>,
        #[serde(flatten)]
        sizes: &'l Sizes,
    },
    Summary(&'l Sizes),
}

pub(crate) fn run(args: &ParseArgs) -> Result<ExitCode, Failure> {
    let mut all = Sizes::default();
    let mut out = io::stdout().lock();
    for path in &args.binaries {
        let start = Instant::now();
        let binary = Binary::open(path)?;
        let (sizes, stored) = parse(&binary, args)?;
        let seconds = start.elapsed().as_secs_f64();
        all.functions += sizes.functions;
        all.blocks += sizes.blocks;
        all.edges += sizes.edges;
        all.incomplete += sizes.incomplete;
        all.text_bytes += sizes.text_bytes;
        all.text_covered += sizes.text_covered;
        all.text_padding += sizes.text_padding;
        let path = path.display().to_string();
        if args.json {
            let stored = stored.map(|path| path.display().to_string());
            writeln!(
                out,
                "{}",
                serde_json::to_string(&Line::Program { path, seconds, stored, sizes: &sizes })?
            )?;
        } else {
            writeln!(out, "{path}: {}, {seconds:.2} s", describe(&sizes))?;
        }
    }
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&Line::Summary(&all))?)?,
        false if args.binaries.len() > 1 => writeln!(out, "all: {}", describe(&all))?,
        false => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(sizes: &Sizes) -> String {
    let percent = |bytes: u64| 100.0 * bytes as f64 / sizes.text_bytes.max(1) as f64;
    let (covered, padding) = (percent(sizes.text_covered), percent(sizes.text_padding));
    let Sizes { functions, blocks, edges, incomplete, .. } = sizes;
    format!(
        "{functions} functions ({incomplete} incomplete), {blocks} blocks, {edges} edges, {covered:.1} % of .text in blocks, {padding:.1} % padding"
    )
}

fn parse(binary: &Binary, args: &ParseArgs) -> Result<(Sizes, Option<PathBuf>), Failure> {
    let parser = Parser::new(&binary.image, &binary.file)?;
    let bar = io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} functions {eta}");
        let bar = ProgressBar::new(0).with_message(binary.path.display().to_string());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    });
    let progress = |done: usize, of: usize| {
        if let Some(bar) = &bar {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        }
    };
    let threads = args.threads.unwrap_or_else(threads);
    let cfg = parser.parse(&Options { threads, progress: Some(&progress) })?;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let text = binary.image.sections().iter().filter(|s| s.executable && &*s.name == ".text");
    let ranges: Vec<_> = text.map(|s| s.range()).collect();
    let ranges = if ranges.is_empty() { binary.image.text().to_vec() } else { ranges };
    let sizes = Sizes {
        functions: cfg.functions().len(),
        blocks: cfg.blocks().len(),
        edges: cfg.edges().len(),
        incomplete: cfg.functions().filter(|f| !f.is_complete()).count(),
        text_bytes: ranges.iter().map(|r| r.end.0 - r.start.0).sum(),
        text_covered: ranges.iter().map(|r| cfg.covered_bytes_in(r.clone())).sum(),
        text_padding: ranges.iter().map(|r| parser.padding_in(&cfg, r.clone())).sum(),
    };
    let Some(output) = args.output.as_deref() else {
        return Ok((sizes, Stored::by_user().keep(&cfg, &binary.image, &binary.file)));
    };
    let path = store_path(binary, output, args.binaries.len() > 1);
    let bytes = Store::write(&cfg, &binary.image, &binary.file);
    write_whole(&path, &bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok((sizes, Some(path)))
}

/// Where the graph goes: the file given, or a file named by build-id in the folder given.
fn store_path(binary: &Binary, output: &Path, several: bool) -> PathBuf {
    if !several && !output.is_dir() {
        return output.to_owned();
    }
    let by_name = || {
        let name = binary.path.file_name().unwrap_or_default().to_string_lossy();
        output.join(format!("{name}.cfg"))
    };
    Stored::in_folder(output).path(&binary.image).unwrap_or_else(by_name)
}
