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
    let cases: [(&[&str], &str); 15] = [
        (&["main", "--data", &from[0]], "is empty"),
        (&["main", "--data", &from[1]], "cannot read"),
        (&["rip:1", "--nop"], "in a running process only"),
        (&["main", "--invert"], "is no conditional branch"),
        (&["main", "mvo eax, 1"], "did you mean mov?"),
        (&["nowhere", "--nop"], "nowhere"),
        (&["main+1", "--nop"], "is inside the instruction `sub rsp"),
        (&["main+1", "mov eax, 1"], "name that one"),
        (&["*0x10", "--nop"], "no code"),
        (&["main+0x100000", "--nop"], "the function main has only"),
        (&["main+0xffffffffffffffff", "--nop"], "the function main has only"),
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

/// A file that was changed is told apart by its original code.
#[test]
fn the_middle_of_an_instruction_is_refused_in_a_changed_file_too() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "castle.c", "castle", &["-O2"]);
    let (patched, counted) = (scratch.file("patched"), scratch.file("counted"));
    let out = scratch.file("out");
    let changed: [(&[&str], _); 2] = [
        (&["patch", text(&castle), "main", "--return", "3", "-o", text(&patched)], &patched),
        (&["rewrite", text(&castle), "--count", "main", "-o", text(&counted)], &counted),
    ];
    for (arguments, path) in changed {
        let outcome = told(arguments);
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let refused = told(&["list", "main+1", text(path)]);
        assert_eq!(refused.ending, Ending::Exited(125), "{path:?}");
        assert!(refused.error_text().contains("inside the instruction `sub rsp"), "{}", refused.error_text());
    }
    for change in [["patch", text(&patched), "main+1", "--nop"], ["set", text(&patched), "--at", "main+1"]] {
        let mut arguments = change.to_vec();
        if change[0] == "set" {
            arguments.push("rax=1");
        }
        let refused = told(&[&arguments[..], &["-o", text(&out)]].concat());
        assert_eq!(refused.ending, Ending::Exited(125), "{change:?}");
        assert!(
            refused.error_text().contains("is inside the instruction `sub rsp"),
            "{}",
            refused.error_text()
        );
        assert!(!out.exists());
    }
    let absent = told(&["undo", text(&patched), "9", "-o", text(&out)]);
    assert!(
        absent.error_text().contains("there is no patch 9; known by number: 1"),
        "{}",
        absent.error_text()
    );
    let nothing = told(&["inspect", text(&patched), "main", "-n", "0"]);
    assert_eq!(nothing.ending, Ending::Exited(2));
    assert!(nothing.error_text().contains("0 is not in 1.."), "{}", nothing.error_text());
}
