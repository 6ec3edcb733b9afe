//! Parses programs and prints sizes and times: `parse [-j THREADS] BINARY...`.

use std::time::Instant;

use incise_cfg::{Options, Parser};
use incise_image::Image;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut threads = 1;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "-j" {
            threads = arguments.next().and_then(|n| n.parse().ok()).ok_or("-j needs a number")?;
            continue;
        }
        let file = std::fs::read(&argument)?;
        let start = Instant::now();
        let image = Image::parse(&file)?;
        let opened = start.elapsed();
        let parser = Parser::new(&image, &file)?;
        let prepared = start.elapsed();
        let cfg = parser.parse(&Options { threads, progress: None })?;
        let time = start.elapsed();
        let text = image.sections().iter().find(|s| &*s.name == ".text");
        let (size, covered) = text.map_or((0, 0), |s| (s.size, cfg.covered_bytes_in(s.range())));
        let incomplete = cfg.functions().filter(|f| !f.is_complete()).count();
        println!(
            "{argument}: {} functions ({incomplete} incomplete), {} blocks, {} edges; .text {size} covered {:.2} %; image {:.0} ms, tables {:.0} ms, all {:.0} ms",
            cfg.functions().len(),
            cfg.blocks().len(),
            cfg.edges().len(),
            100.0 * covered as f64 / size.max(1) as f64,
            opened.as_secs_f64() * 1e3,
            (prepared - opened).as_secs_f64() * 1e3,
            time.as_secs_f64() * 1e3,
        );
    }
    Ok(())
}
