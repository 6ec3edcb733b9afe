//! What cannot be done is told.

use std::fs;

use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;

use crate::support::{build, text, told};

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "castle.c", "castle", &["-O2"]);
    let out = scratch.file("out");
    let (empty, absent) = (scratch.file("empty"), scratch.file("absent"));
    fs::write(&empty, []).expect("a file");
    let from = [&empty, &absent].map(|path| format!("@{}", text(path)));
    let cases: [(&[&str], &str); 13] = [
        (&["main", "--data", &from[0]], "is empty"),
        (&["main", "--data", &from[1]], "cannot read"),
        (&["rip:1", "--nop"], "in a running process only"),
        (&["main", "--invert"], "is no conditional branch"),
        (&["main", "mvo eax, 1"], "did you mean mov?"),
        (&["nowhere", "--nop"], "nowhere"),
        (&["main+1", "--nop"], "is inside the instruction `sub rsp"),
        (&["main+1", "mov eax, 1"], "name that one"),
        (&["*0x10", "--nop"], "no code"),
        (&["*0x99999999", "--nop"], "nothing to read"),
        (&["main", "--nop", "--expect", "cc"], "expected cc"),
        (&["main"], "change it to what"),
        (&["main", "--bytes", "9"], "hexadecimal"),
    ];
    for (arguments, part) in cases {
        let outcome = told(&[&["patch", text(&castle)], arguments, &["-o", text(&out)]].concat());
        assert_eq!(outcome.ending, Ending::Exited(125), "{arguments:?}");
        assert!(outcome.error_text().contains(part), "{arguments:?}: {}", outcome.error_text());
        assert!(!out.exists());
    }
}
