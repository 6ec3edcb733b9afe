//! Prints what is unresolved in a program, and the code that lies in no block: `holes BINARY`.

use incise_cfg::{Completeness, Options, Parser};
use incise_image::{Image, LinkAddr};
use incise_isa::{Addr, native::decode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("which binary?")?;
    let file = std::fs::read(&path)?;
    let image = Image::parse(&file)?;
    let cfg = Parser::new(&image, &file)?.parse(&Options { threads: 2, progress: None })?;
    for function in cfg.functions() {
        if let Completeness::Incomplete(unresolved) = function.completeness() {
            let name = image.function_starting_at(function.entry()).map_or("", |f| image.name(f));
            let unresolved: Vec<String> = unresolved.iter().map(ToString::to_string).collect();
            println!("incomplete {} {name}: {}", function.entry(), unresolved.join("; "));
        }
    }
    let Some(text) = image.sections().iter().find(|s| &*s.name == ".text") else { return Ok(()) };
    let (mut at, end) = (text.link, text.range().end);
    let (mut padding, mut code) = (0, 0);
    for block in cfg.blocks().filter(|b| text.range().contains(&b.start())).map(Some).chain([None]) {
        let to = block.map_or(end, |b| b.start());
        let mut hole = 0u64;
        let first = LinkAddr(at.0);
        while at < to {
            let bytes = image.bytes_at(&file, at, to.0 - at.0).unwrap_or(&[]);
            let insn = decode(bytes, Addr(at.0)).ok();
            let idle = insn.is_some_and(|i| i.is_nop() || i.bytes() == [0xcc] || i.text() == "xchg ax, ax");
            let len = insn.map_or(1, |i| i.len() as u64);
            if idle {
                padding += len
            } else {
                hole += len
            }
            at = LinkAddr((at.0 + len).min(to.0));
        }
        if hole > 0 {
            println!("hole {first}..{to} {hole}");
            code += hole;
        }
        at = at.max(block.map_or(end, |b| b.end()));
    }
    let percent = |part: u64| 100.0 * part as f64 / text.size as f64;
    println!("padding {:.2} %, other code in no block {:.2} %", percent(padding), percent(code));
    Ok(())
}
