//! The story of docs/live-patching.md, step by step.

use std::fs;

use incise_tests::outcome::Ending;
use incise_tests::process::Snapshot;
use incise_tests::scratch::Scratch;

use crate::support::{
    BUILDS, LOST, SAVED, Waiting, address, assert_ends, branch, build, lines, mappings, said, text, told,
};

#[test]
fn the_princess_is_saved_at_launch_and_on_disk() {
    let scratch = Scratch::new();
    for (index, options) in BUILDS.iter().enumerate() {
        let castle = build(&scratch, "castle.c", &format!("castle{index}"), options);
        let original = fs::read(&castle).expect("a program");
        assert_ends(&castle, LOST, 1);
        // Where main is, told from the entry code: the first instructions read argc.
        let main = lines(&["inspect", text(&castle), "main", "-n", "1", "--json"]);
        let main = address(&main[0], "address");
        let (branch, option) = branch(&[text(&castle)]);
        let offset = u64::from_str_radix(&branch[2..], 16).expect("an address") - main;
        assert!(offset < 64, "{options:?}: the branch is {offset} bytes behind main");

        // At launch, and kept on disk with it.
        let kept = scratch.file(&format!("kept{index}"));
        let place = format!("main+{offset:#x}");
        let outcome = told(&["patch", &place, option, "--save", text(&kept), "--", text(&castle)]);
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), SAVED, "{options:?}: {}", outcome.error_text());
        assert_eq!(outcome.ending, Ending::Exited(0));
        assert_ends(&kept, SAVED, 0);
        assert_ends(&castle, LOST, 1);

        // On disk, by code that is longer than the branch: no branch at all.
        let (long, patch) = (scratch.file(&format!("long{index}")), scratch.file("castle.patch"));
        let found = lines(&["find", "--json", text(&castle), "smooch"]);
        let used = found.iter().find(|line| line["type"] == "use").expect("a use");
        let code = format!(
            "xor ecx, ecx; 1: inc ecx; cmp ecx, 100; jne 1b; jmp {}",
            used["address"].as_str().expect("an address")
        );
        said(&["patch", text(&castle), &branch, &code, "-o", text(&long)]);
        assert_ends(&long, SAVED, 0);

        // Turned round: argc is one, so the other words come.
        let turned = scratch.file("turned");
        said(&["patch", text(&castle), &branch, "--invert", "-o", text(&turned)]);
        assert_ends(&turned, SAVED, 0);

        // As a patch file, checked, and applied to the original.
        fs::write(&patch, said(&["patches", "--export", text(&kept)])).expect("a new file");
        said(&["apply", text(&patch), text(&castle), "--check"]);
        let applied = scratch.file("applied");
        said(&["apply", text(&patch), text(&castle), "-o", text(&applied)]);
        assert_eq!(fs::read(&applied).ok(), fs::read(&kept).ok());
        let again = told(&["apply", text(&patch), text(&applied), "--check"]);
        assert!(again.error_text().contains("expected"), "{}", again.error_text());

        // Taken back, bit for bit: one of two, and all.
        said(&["patch", text(&kept), "main", "--nop", "-n", "1", "--in-place"]);
        assert_eq!(lines(&["patches", "--json", text(&kept)]).len(), 2);
        said(&["undo", text(&kept), "2"]);
        assert_eq!(fs::read(&kept).ok(), fs::read(&applied).ok(), "{options:?}");
        said(&["undo", text(&kept), "1"]);
        said(&["undo", text(&long)]);
        assert!(fs::read(&kept).is_ok_and(|bytes| bytes == original), "{options:?}");
        assert!(fs::read(&long).is_ok_and(|bytes| bytes == original), "{options:?}");
        assert!(fs::read(&castle).is_ok_and(|bytes| bytes == original), "{options:?}");
    }
}

#[test]
fn the_princess_is_saved_in_a_running_process() {
    let scratch = Scratch::new();
    for options in BUILDS {
        let castle = build(&scratch, "waiting_castle.c", "waiting", options);
        let mut waiting = Waiting::start(&castle);
        let pid = waiting.pid();
        assert_eq!(waiting.knock().0, LOST);
        let before = Snapshot::take(waiting.child.id());
        let (branch, option) = branch(&["-p", &pid]);
        let outcome = told(&["patch", "-p", &pid, &branch, option, "--expect", "90"]);
        assert_eq!(outcome.ending, Ending::Exited(125), "other bytes are there");
        assert_eq!(before.difference(&Snapshot::take(waiting.child.id())), None);
        said(&["patch", "-p", &pid, &branch, option]);
        assert_eq!(waiting.knock().0, SAVED, "{options:?}");
        // The tool is gone; whoever comes later finds what it did.
        let listed = lines(&["patches", "-p", &pid, "--json"]);
        assert_eq!((listed.len(), &listed[0]["id"], &listed[0]["change"]), (1, &1.into(), &option.into()));
        assert!(said(&["inspect", "-p", &pid, &branch, "-n", "2"]).contains(&format!("patch 1: {option}")));
        said(&["undo", "-p", &pid, "1"]);
        assert_eq!(waiting.knock().0, LOST, "{options:?}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        assert!(status.contains("TracerPid:\t0"));
        for (start, bytes) in &before.code {
            let after = Snapshot::take(waiting.child.id());
            assert!(
                after.code.get(start).is_some_and(|code| code[..bytes.len()] == bytes[..]),
                "{options:?}"
            );
        }
        waiting.finish(1);
    }
}

#[test]
fn registers_and_memory_are_set_when_a_thread_comes_by() {
    let scratch = Scratch::new();
    for options in [&["-s", "-static"][..], &["-s"], &["-s", "-no-pie"], &["-s", "-static-pie"]] {
        let castle = build(&scratch, "castle.c", "castle", options);
        // argc, as the tutorial sets it: where it is compared.
        let compare = lines(&["inspect", text(&castle), "main", "--json"]);
        let main = address(&compare[0], "address");
        let compare =
            compare.iter().find(|line| line["text"].as_str().is_some_and(|text| text.starts_with("cmp")));
        let place = format!("main+{:#x}", address(compare.expect("a comparison"), "address") - main);
        let outcome = told(&["set", "--at", &place, "[rbp-4]=0", "--", text(&castle)]);
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), SAVED, "{options:?}: {}", outcome.error_text());
        let outcome = told(&["set", "--at", &place, "--if", "[rbp-4] > 1", "[rbp-4]=0", "--", text(&castle)]);
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), LOST, "{options:?}: {}", outcome.error_text());
        // In the file.
        let (original, set) = (fs::read(&castle).expect("a program"), scratch.file("set"));
        said(&["set", text(&castle), "--at", &place, "--if", "[rbp-4] == 1", "[rbp-4]=0", "-o", text(&set)]);
        assert_ends(&set, SAVED, 0);
        let listed = lines(&["patches", "--json", text(&set)]);
        assert_eq!(listed[0]["change"], "set if [rbp-4] == 1 ;; [rbp-4]=0", "{options:?}");
        said(&["undo", text(&set), "1"]);
        assert!(fs::read(&set).is_ok_and(|bytes| bytes == original), "{options:?}");
    }
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let count = mappings(&pid);
    said(&["set", "-p", &pid, "--at", "enter", "--times", "2", "edi=0"]);
    let heard: Vec<String> = (0..4).map(|_| waiting.knock().0).collect();
    assert_eq!(heard, [SAVED, SAVED, LOST, LOST]);
    said(&["undo", "-p", &pid]);
    assert_eq!(waiting.knock().0, LOST);
    assert_eq!(mappings(&pid), count);
    waiting.finish(1);
    // Each process of a changed file counts anew.
    for options in [&["-O2"][..], &["-O2", "-static"], &["-O2", "-no-pie"]] {
        let castle = build(&scratch, "waiting_castle.c", "waiting", options);
        let set = scratch.file("waiting-set");
        said(&["set", text(&castle), "--at", "enter", "--times", "2", "edi=0", "-o", text(&set)]);
        for _ in 0..2 {
            let mut waiting = Waiting::start(&set);
            let heard: Vec<String> = (0..4).map(|_| waiting.knock().0).collect();
            assert_eq!(heard, [SAVED, SAVED, LOST, LOST], "{options:?}");
            waiting.finish(1);
        }
    }
}
