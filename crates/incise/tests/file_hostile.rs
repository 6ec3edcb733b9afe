//! Damaged programs through the whole of a rewriting: an error, or a file that can be undone; never a panic.

use std::path::Path;

use incise::space::file::{Output, original};
use incise::{RewriteOptions, rewrite};

/// Numbers that depend on the seed only.
fn next(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below.max(1)
}

#[test]
fn damaged_programs_are_rewritten_or_refused() {
    let sample = std::fs::read("/bin/true").expect("a program");
    let folder = tempfile::tempdir().expect("a new folder");
    let (damaged, out) = (folder.path().join("damaged"), folder.path().join("out"));
    let options = RewriteOptions { patterns: vec!["sub_*".into()], ..RewriteOptions::default() };
    let header = |at: usize| u64::from_le_bytes(sample[at..at + 8].try_into().expect("8 bytes"));
    let places = [0, header(32), header(40), header(24) & !0xFFF, 0];
    let mut random = 0x9E37_79B9_7F4A_7C15;
    let (mut written, mut refused) = (0, 0);
    for round in 0..600 {
        let mut bytes = sample.clone();
        for _ in 0..=next(&mut random, 6) {
            let place = next(&mut random, places.len() as u64) as usize;
            let reach = if place == 4 { bytes.len() as u64 } else { 2000 };
            let at = ((places[place] + next(&mut random, reach)) as usize).min(bytes.len() - 1);
            bytes[at] = match next(&mut random, 3) {
                0 => 0xFF,
                1 => bytes[at] ^ 1 << next(&mut random, 8),
                _ => next(&mut random, 256) as u8,
            };
        }
        std::fs::write(&damaged, &bytes).expect("our own folder");
        match rewrite(&damaged, &Output::new(&out), &options) {
            Err(_) => refused += 1,
            Ok(_) => {
                written += 1;
                let file = std::fs::read(&out).expect("the result");
                let (restored, _) = original(Path::new("out"), &file).expect("its own record");
                assert!(restored == bytes, "round {round}");
            }
        }
    }
    assert!(refused > 50 && written > 50, "{refused} refused, {written} written");
}
