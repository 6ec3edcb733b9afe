//! What between functions is no code.

use std::ops::Range;

use crate::graph::Cfg;
use crate::parse::code::{Code, Off};
use crate::x86_64::skip_padding;

/// The bytes of `range` that lie in no block and fill up: `nop`, `int3`, zeros, and what stops a program behind calls
/// that do not come back. Padding behind other code in no block does not count.
pub(crate) fn bytes(code: &Code<'_>, cfg: &Cfg, range: Range<Off>) -> u64 {
    let (mut sum, mut at) = (0, range.start);
    let first = cfg.blocks.partition_point(|block| block.end <= range.start);
    // Blocks overlap where instructions do.
    let first = first.saturating_sub(16);
    let blocks = cfg.blocks[first..].iter().map(|block| (block.start, block.end));
    let blocks = blocks.take_while(|(start, _)| *start < range.end);
    for (start, end) in blocks.chain([(range.end, range.end)]) {
        if at < start {
            sum += u64::from(skip_padding(code, at..start).unwrap_or(start).min(start) - at);
        }
        at = at.max(end);
    }
    sum
}

#[cfg(test)]
mod tests {
    use incise_image::Image;

    use crate::{Options, Parser};

    #[test]
    fn what_is_covered_and_what_fills_up_is_nearly_all() {
        let Ok(file) = std::fs::read("/usr/lib/x86_64-linux-gnu/libc.so.6") else {
            println!("skipped: no C library is where Debian has it");
            return;
        };
        let image = Image::parse(&file).expect("a library");
        let parser = Parser::new(&image, &file).expect("code");
        let cfg = parser.parse(&Options::default()).expect("a graph");
        let text = image.sections().iter().find(|s| &*s.name == ".text").expect("code").range();
        let (covered, padding) = (cfg.covered_bytes_in(text.clone()), parser.padding_in(&cfg, text.clone()));
        let size = text.end.0 - text.start.0;
        println!("{size} bytes, {covered} in blocks, {padding} between functions");
        assert!(covered + padding <= size);
        assert!(covered + padding > size / 100 * 98, "{covered} and {padding} of {size}");
        assert!(padding > size / 100, "{padding}");
    }
}
