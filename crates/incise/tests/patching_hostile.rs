//! Damaged programs through what is behind `inspect`, `find` and `patch`: an answer or an error, never a panic, and never
//! more memory than a program of that size can need.

use std::path::Path;

use incise::isa::native::Syntax;
use incise::patching::{
    Change, Note, OnDisk, Request, View, Wanted, listing, place, plan, planned_listing, search, string_at,
    strings,
};
use incise::space::file::{Output, original};

/// The most memory the test may have taken, in KiB.
const MEMORY_MAX: u64 = 512 << 10;

/// Numbers that depend on the seed only.
fn next(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below.max(1)
}

/// The most memory this process has had, in KiB (proc(5), `VmHWM`).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("Linux tells")
}

/// `sample` with a few bytes changed: mostly in its headers and tables, where they mean most.
fn damaged(sample: &[u8], random: &mut u64) -> Vec<u8> {
    let header = |at: usize| u64::from_le_bytes(sample[at..at + 8].try_into().expect("8 bytes"));
    // The file header, the program headers, the section headers, the code; anything.
    let places = [0, header(32), header(40), header(24) & !0xFFF, 0];
    let mut bytes = sample.to_vec();
    for _ in 0..=next(random, 6) {
        let place = next(random, places.len() as u64) as usize;
        let reach = [64, 800, 2000, 4000, bytes.len() as u64][place];
        let at = ((places[place] + next(random, reach)) as usize).min(bytes.len() - 1);
        bytes[at] = match next(random, 4) {
            0 => 0xFF,
            1 => bytes[at] ^ 1 << next(random, 8),
            2 => 0,
            _ => next(random, 256) as u8,
        };
    }
    if next(random, 8) == 0 {
        bytes.truncate(next(random, sample.len() as u64) as usize);
    }
    bytes
}

/// Looks at everything a person would. Returns the entry point, if there is code.
fn look(view: &View, random: &mut u64) -> Option<incise::Addr> {
    let main = place(view, "main").ok().map(|place| place.addr);
    let entry = place(view, "entry").ok().map(|place| place.addr);
    for at in [main, entry].into_iter().flatten() {
        let syntax = if next(random, 2) == 0 { Syntax::Intel } else { Syntax::Att };
        if let Ok(lines) = listing(view, at, 40, syntax) {
            assert!(lines.len() <= 40);
        }
        let _ = string_at(view, at);
    }
    let found = strings(view, 4);
    let wanted = match next(random, 3) {
        0 => Wanted::Text(b"help".to_vec()),
        1 => Wanted::Bytes(vec![0x48, 0x8B]),
        _ => Wanted::Immediate(next(random, 64)),
    };
    let result = search(view, &wanted);
    assert!(result.hits.iter().all(|hit| view.region(hit.at).is_some()), "a hit outside the program");
    assert!(found.iter().all(|(at, _)| view.region(*at).is_some()), "a string outside the program");
    let used = result.uses.first().map(|found| found.at);
    if next(random, 2) == 0 { entry.or(main) } else { used.or(main).or(entry) }
}

fn change(random: &mut u64) -> Change {
    match next(random, 8) {
        0 => Change::Nop,
        1 => Change::Invert,
        2 => Change::Return(next(random, u64::MAX)),
        3 => Change::Never,
        4 => Change::Jump("entry".to_owned()),
        5 => Change::Bytes(vec![0x90; 1 + next(random, 20) as usize]),
        6 => Change::Data(vec![1; 1 + next(random, 200) as usize]),
        _ => Change::Assembly("mov ecx, 9; 1: dec ecx; jnz 1b; lea rax, [rip+16]".to_owned()),
    }
}

#[test]
fn damaged_programs_are_looked_at_and_patched_or_refused() {
    let sample = std::fs::read("/bin/true").expect("a program");
    let folder = tempfile::tempdir().expect("a new folder");
    let (file, out) = (folder.path().join("damaged"), folder.path().join("out"));
    let long = std::env::var_os("INCISE_LONG").is_some_and(|value| value == "1");
    let rounds = if long { 20_000 } else { 800 };
    // Other programs with another number, so that a long search goes on where the last one ended.
    let seed = std::env::var("INCISE_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()).unwrap_or(0);
    let mut random = 0x2545_F491_4F6C_DD1D ^ seed;
    let (mut seen, mut refused, mut patched) = (0, 0, 0);
    for round in 0..rounds {
        let bytes = damaged(&sample, &mut random);
        let Ok(view) = View::of_bytes(Path::new("damaged"), &bytes) else {
            refused += 1;
            continue;
        };
        seen += 1;
        let Some(at) = look(&view, &mut random) else { continue };
        let count = 1 + next(&mut random, 3) as usize;
        let request = Request { at, change: change(&mut random), count, syntax: Syntax::Intel };
        let Ok(planned) = plan(&view, &request) else { continue };
        let _ = planned_listing(&view, &planned, Syntax::Intel);
        std::fs::write(&file, &bytes).expect("our own folder");
        let Ok(mut disk) = OnDisk::open(&file) else { continue };
        if disk.add(Note { request, expected: planned.old.clone() }).is_err() {
            continue;
        }
        if disk.save(&Output::new(&out)).is_ok() {
            patched += 1;
            let result = std::fs::read(&out).expect("the result");
            let (restored, _) = original(Path::new("out"), &result).expect("its own record");
            assert!(restored == bytes, "round {round}");
        }
        assert!(peak() < MEMORY_MAX, "round {round}: {} KiB", peak());
    }
    assert!(peak() < MEMORY_MAX, "{} KiB", peak());
    println!("{rounds} programs: {seen} seen, {refused} refused, {patched} patched, {} KiB", peak());
    assert!(
        refused > rounds / 20 && seen > rounds / 4 && patched > rounds / 20,
        "{refused} {seen} {patched}"
    );
}
