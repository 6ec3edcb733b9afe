//! Damaged ELF files through the address space of files: an error or a result that can be undone, never a panic,
//! and never more memory than the file is large.

use std::path::Path;

use incise_isa::Addr;
use incise_space::file::{Counting, FileSpace, Probe, Record, original};
use incise_space::{AddressSpace, Bytes, Edit, Landing};

/// Numbers that depend on the seed only.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

/// Everything a rewriting does to a file, at the first code there is. Returns the result.
fn rewrite(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let mut space = FileSpace::of_bytes(Path::new("program"), bytes).ok()?;
    let map = space.mappings().ok()?;
    let text = map.iter().find(|mapping| mapping.permissions.execute)?;
    let (site, len) = (text.range.start, 5.min(text.range.end.offset_from(text.range.start)) as usize);
    let end = map.iter().last()?.range.end.align_up(4096);
    space.map_code(end, 1 << 20).ok()?;
    let data = space.map_data(end + (1 << 20), 1 << 16).ok()?;
    space.write_code(&[(end + 0x123, &[0x90; 40]), (end + 0x8_0000, &[0x90; 10])]).ok()?;
    space.publish_landings(&[Landing { trap: site, landing: end + 0x123 }]).ok()?;
    let mut old = vec![0; len];
    space.read(site, &mut old).ok()?;
    let edit = Edit { at: site, old: Bytes::new(&old), new: Bytes::new(&vec![0xCC; len]), heads: 1 };
    space.apply(&[edit], &|_| None).ok()?;
    let probe = Probe { at: site, function: "f".into(), tactic: "jump".into(), ..Probe::default() };
    let counting = Counting { len: 8, probes: vec![probe], ..Counting::default() };
    space.count(data.addr(), counting);
    space.to_bytes().ok()
}

fn samples() -> Vec<Vec<u8>> {
    let found = ["/bin/true", "/lib/x86_64-linux-gnu/libdl.so.2", "/lib/x86_64-linux-gnu/libutil.so.1"];
    let samples: Vec<Vec<u8>> = found.iter().filter_map(|path| std::fs::read(path).ok()).collect();
    assert!(!samples.is_empty(), "none of {found:?} is there");
    samples
}

#[test]
fn a_whole_file_can_be_changed_and_restored() {
    for sample in samples() {
        let changed = rewrite(sample.clone()).expect("a sound file");
        let (restored, record) = original(Path::new("program"), &changed).expect("its own record");
        assert!(restored == sample);
        let counting = record.counting.expect("the counters");
        assert_eq!(counting.probes.len(), 1);
        assert_ne!(counting.id, [0; 16]);
        // Every byte of the original is in its place, but for those the record tells of.
        let told: u64 = record.overwritten.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let differ = sample.iter().zip(&changed).filter(|(a, b)| a != b).count() as u64;
        assert!(differ > 0 && differ <= told && told < 200, "{differ} bytes differ, {told} are told");
        // Twice: the first result is the original of the second.
        let twice = rewrite(changed.clone()).expect("a sound file");
        assert!(original(Path::new("program"), &twice).expect("its own record").0 == changed);
    }
}

#[test]
fn damaged_files_give_errors_or_what_can_be_undone() {
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let (mut refused, mut written) = (0, 0);
    for sample in samples() {
        // Header, program headers, section headers, dynamic table: where the numbers are that lead elsewhere.
        let places: Vec<u64> = {
            let number = |at: usize| u64::from_le_bytes(sample[at..at + 8].try_into().expect("8 bytes"));
            vec![0, number(32), number(40).min(sample.len() as u64 - 64)]
        };
        for round in 0..1500 {
            let mut damaged = sample.clone();
            for _ in 0..=random.next(4) {
                let base = if round % 4 == 3 { 0 } else { places[random.next(3) as usize] };
                let reach = if round % 4 == 3 { sample.len() as u64 } else { 800 };
                let at = ((base + random.next(reach)) as usize).min(sample.len() - 1);
                damaged[at] = match random.next(4) {
                    0 => 0xFF,
                    1 => 0,
                    2 => damaged[at] ^ 1 << random.next(8),
                    _ => random.next(256) as u8,
                };
            }
            if random.next(8) == 0 {
                damaged.truncate(random.next(sample.len() as u64) as usize);
            }
            match rewrite(damaged.clone()) {
                None => refused += 1,
                Some(changed) => {
                    written += 1;
                    assert!(changed.len() <= 2 * damaged.len() + (1 << 20), "{} bytes", changed.len());
                    let (restored, _) = original(Path::new("program"), &changed).expect("its own record");
                    assert!(restored == damaged, "round {round}");
                }
            }
        }
    }
    assert!(refused > 100 && written > 100, "{refused} refused, {written} written");
}

#[test]
fn damaged_records_are_refused() {
    let mut random = Random(99);
    let sample = samples().swap_remove(0);
    let changed = rewrite(sample.clone()).expect("a sound file");
    for _ in 0..3000 {
        let mut damaged = changed.clone();
        // The record is at the end.
        let from = changed.len() as u64 - 600;
        let at = from + random.next(600);
        damaged[at as usize] ^= 1 << random.next(8);
        match original(Path::new("program"), &damaged) {
            Ok((restored, _)) => assert!(restored == sample),
            Err(_) => drop(Record::find(Path::new("program"), &damaged)),
        }
    }
}

#[test]
fn memory_is_reserved_behind_the_program_only() {
    let sample = samples().swap_remove(0);
    let mut space = FileSpace::of_bytes(Path::new("program"), sample).expect("a sound file");
    let end = space.mappings().expect("a map").iter().last().expect("segments").range.end;
    assert!(space.map_code(end - 4096, 4096).is_err());
    assert!(space.map_code(Addr(end.0 + 1), 4096).is_err());
    space.map_code(end, 8192).expect("free");
    assert!(space.map_data(end + 4096, 4096).is_err());
    assert!(space.write_code(&[(end + 8190, &[1, 2, 3])]).is_err());
    space.unmap(end, 8192).expect("reserved");
    assert!(space.unmap(end, 8192).is_err());
    // Nothing is added to a file in which nothing was changed but the record.
    let bytes = space.to_bytes().expect("a file");
    let (_, record) = original(Path::new("program"), &bytes).expect("its own record");
    assert_eq!(record.overwritten, []);
}
