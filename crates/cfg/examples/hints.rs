//! Prints how long liveness and hints take, and how much is dead: `hints [-j THREADS] BINARY...`.

use std::time::Instant;

use incise_cfg::{Hints, Liveness, Options, Parser};
use incise_image::{Image, LinkAddr};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut threads = 1;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "-j" {
            threads = arguments.next().and_then(|n| n.parse().ok()).ok_or("-j needs a number")?;
            continue;
        }
        let file = std::fs::read(&argument)?;
        let image = Image::parse(&file)?;
        let cfg = Parser::new(&image, &file)?.parse(&Options { threads, progress: None })?;
        let start = Instant::now();
        drop(Liveness::of(&cfg, &image, &file, threads));
        let solved = start.elapsed();
        let hints = Hints::of(&cfg, &image, &file, threads);
        let both = start.elapsed() - solved;
        let all = || hints.range(LinkAddr(0)..LinkAddr(u64::MAX)).map(|(_, hint)| hint);
        let share = |count: usize| 100.0 * count as f64 / hints.len().max(1) as f64;
        println!(
            "{argument}: {} instructions; liveness {:.0} ms, with hints {:.0} ms; flags dead {:.1} %, a register dead {:.1} %, two {:.1} %; targets {:.1} %, of which in incomplete functions only {:.1} %",
            hints.len(),
            solved.as_secs_f64() * 1e3,
            both.as_secs_f64() * 1e3,
            share(all().filter(|h| !h.flags_are_live()).count()),
            share(all().filter(|h| h.live_gprs().len() < 16).count()),
            share(all().filter(|h| h.live_gprs().len() < 15).count()),
            share(all().filter(|h| h.is_target()).count()),
            share(all().filter(|h| h.is_open()).count()),
        );
    }
    Ok(())
}
