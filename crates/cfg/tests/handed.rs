//! Small programs about what is handed over: flags at returns, and an index to a jump.

use incise_cfg::{Options, Parser, hands_flags_over};
use incise_image::Image;

#[path = "support/build.rs"]
mod build;

fn parts(path: &std::path::Path) -> (Vec<u8>, Image) {
    let file = std::fs::read(path).expect("the program");
    let image = Image::parse(&file).expect("an ELF program");
    (file, image)
}

#[test]
fn flags_that_come_back_from_a_call_are_seen() {
    for (name, flags, expected) in
        [("flags", &["-O2"][..], true), ("flags-plain", &["-O2", "-DPLAIN"][..], false)]
    {
        let Some(path) = build::compile("flags.c", name, flags) else { return };
        let (file, image) = parts(&path);
        let cfg = Parser::new(&image, &file).and_then(|parser| parser.parse(&Options::default()));
        let cfg = cfg.expect("a graph");
        assert_eq!(hands_flags_over(Some(&cfg), &image, &file), expected, "{name}, by its graph");
        assert_eq!(hands_flags_over(None, &image, &file), expected, "{name}, by its bytes");
    }
}

/// The number of values between two bounds was counted although the upper one was below.
#[test]
fn an_index_without_values_ends_no_parser() {
    let Some(path) = build::compile("nothing.s", "nothing", &["-no-pie"]) else { return };
    let (file, image) = parts(&path);
    let cfg = Parser::new(&image, &file).and_then(|parser| parser.parse(&Options::default()));
    let cfg = cfg.expect("a graph");
    let main = image.function("main").expect("main");
    assert!(cfg.function_at(main).expect("its function").blocks().len() >= 5);
}
