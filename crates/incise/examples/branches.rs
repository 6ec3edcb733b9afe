//! Which branches of a program nearly always go the same way, and which do not: both ways of each conditional branch are counted.
//!
//! ```sh
//! cargo run --release -p incise --example branches -- 'bash!*' bash -c 'for i in {1..1000}; do :; done'
//! ```

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::sync::atomic::AtomicBool;

use incise::{CountOptions, Counting, Filter, PointKind};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: branches PATTERN PROGRAM [ARGUMENT…]";
    let (pattern, program) = arguments.next().zip(arguments.next()).ok_or(usage)?;
    let options = CountOptions {
        patterns: vec![pattern.into_string().map_err(|_| "the pattern is no text")?],
        points: PointKind::Edge,
        filter: Some(Filter::parse(r#"edge == "taken" || edge == "not-taken""#)?),
        ..CountOptions::default()
    };
    let arguments: Vec<OsString> = arguments.collect();
    let result = Counting::launch(&program, &arguments, options)?.run(&AtomicBool::new(false))?;

    // The ways of each branch: how often, and where from and to.
    let mut branches: BTreeMap<_, Vec<(u64, &str)>> = BTreeMap::new();
    for counted in &result.counted {
        let point = &counted.point;
        let (from, _) = point.edge.ok_or("a point on an edge has one")?;
        branches.entry(from).or_default().push((counted.hits, &point.display_name));
    }
    let mut branches: Vec<_> = branches.into_values().filter(|ways| ways.len() == 2).collect();
    branches.iter_mut().for_each(|ways| ways.sort_unstable());
    // Those that a predictor is likely to miss most often come first.
    branches.sort_by_key(|ways| Reverse(ways[0].0));
    println!("{:>12} {:>12}  the latter from and to", "one way", "the other");
    for ways in branches.iter().take(20) {
        println!("{:>12} {:>12}  {}", ways[0].0, ways[1].0, ways[1].1);
    }
    Ok(())
}
