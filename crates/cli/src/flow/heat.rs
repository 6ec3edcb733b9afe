//! How often the parts of a function ran, from a report of `incise count --json`.

use std::collections::HashMap;
use std::path::Path;

use incise::image::LinkAddr;
use incise_cfg::{Block, Edge, Function};
use serde::Deserialize;

use super::program::Binary;
use crate::Failure;

/// Hits of one function.
pub(super) struct Heat {
    /// By the instruction they were counted at.
    at: HashMap<u64, u64>,
    /// By the instructions an edge leaves and leads to.
    along: HashMap<(u64, u64), u64>,
    most: u64,
}

/// What matters in a line of the report.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    what: String,
    #[serde(default)]
    function: String,
    #[serde(default)]
    hits: u64,
}

impl Heat {
    /// The counts of `function` in the report at `path`. Where they were counted is told by the names of points:
    /// addresses there are those of a process.
    pub(super) fn read(path: &Path, binary: &Binary, function: Function<'_>) -> Result<Heat, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        let names = binary.names(function.entry());
        let place = |text: &str| place(text, &names, function.entry());
        let mut heat = Heat { at: HashMap::new(), along: HashMap::new(), most: 0 };
        for line in text.lines() {
            let line: Line = serde_json::from_str(line)
                .map_err(|error| format!("{shown} is no report of `count --json`: {error}"))?;
            if line.what != "count" {
                continue;
            }
            match line.function.split_once(" -> ") {
                Some((from, to)) => {
                    let Some(edge) = place(from).zip(place(to)) else { continue };
                    *heat.along.entry(edge).or_insert(0) += line.hits;
                }
                None => {
                    let Some(at) = place(&line.function) else { continue };
                    *heat.at.entry(at).or_insert(0) += line.hits;
                }
            }
        }
        if heat.at.is_empty() && heat.along.is_empty() {
            let name = binary.name(function.entry());
            return Err(format!("{shown} has no counts of {name}: count with --json --points block").into());
        }
        heat.most = function.blocks().filter_map(|block| heat.block(block)).max().unwrap_or(0);
        Ok(heat)
    }

    /// How often a block ran: as often as what ran most in it, or as control came to it along edges.
    pub(super) fn block(&self, block: Block<'_>) -> Option<u64> {
        let inside = self.at.iter().filter(|(at, _)| block.range().contains(&LinkAddr(**at)));
        let counted = inside.map(|(_, hits)| *hits).max();
        counted.or_else(|| {
            let mut into = block.incoming().filter_map(|edge| self.edge(edge)).peekable();
            into.peek().is_some().then(|| into.sum())
        })
    }

    /// How often control went along an edge.
    pub(super) fn edge(&self, edge: Edge<'_>) -> Option<u64> {
        self.along.get(&(edge.source().last().0, edge.target_addr()?.0)).copied()
    }

    /// The colour of what ran so often, as RGB: white if that is not known, grey if never, the redder the hotter.
    pub(super) fn fill(&self, hits: Option<u64>) -> u32 {
        const GREY: u32 = 0xec_eff1;
        const HOT: (f64, f64, f64) = (255.0, 112.0, 67.0);
        match hits {
            None => 0xff_ffff,
            Some(0) => GREY,
            Some(hits) => {
                // Counts differ by magnitudes.
                let share = (1.0 + hits as f64).ln() / (1.0 + self.most.max(hits) as f64).ln();
                let part = |hot: f64| (255.0 + (hot - 255.0) * share).round() as u32;
                part(HOT.0) << 16 | part(HOT.1) << 8 | part(HOT.2)
            }
        }
    }
}

/// The address that `NAME`, `NAME+0xOFFSET` or `NAME-0xOFFSET` means, if NAME is one of the function's.
fn place(text: &str, names: &[String], entry: LinkAddr) -> Option<u64> {
    let rest = names.iter().filter_map(|name| text.strip_prefix(name.as_str()));
    let offset = |rest: &str| match rest.split_at_checked(3) {
        _ if rest.is_empty() => Some(0),
        Some(("+0x", digits)) => i64::from_str_radix(digits, 16).ok(),
        Some(("-0x", digits)) => i64::from_str_radix(digits, 16).ok().map(|offset| -offset),
        _ => None,
    };
    rest.filter_map(offset).next().map(|offset| entry.0.wrapping_add_signed(offset))
}
