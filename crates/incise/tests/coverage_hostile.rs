//! Plans for damaged files: an error or a plan, never a panic.

use std::path::Path;

use incise::{CoverageOptions, coverage};

/// A small generator (xorshift64*), so that every run makes the same files.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound.max(1) as u64) as usize
    }
}

/// Plans for blocks: quick, and through the same code as for instructions.
fn plans(file: &[u8]) -> bool {
    let options = CoverageOptions { points: incise::PointKind::BlockEntry, ..CoverageOptions::default() };
    match coverage(Path::new("damaged"), file, &options) {
        Ok(plan) => {
            assert_eq!(plan.patched() + plan.trapped() + plan.refused(), plan.sites.len());
            assert!(plan.sites.is_sorted_by(|a, b| a.addr < b.addr));
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

#[test]
fn damaged_programs_are_planned_or_refused() {
    let original = std::fs::read("/bin/true").expect("a program");
    assert!(plans(&original));
    let mut random = Random(0x5EED);
    let mut planned = 0;
    for round in 0..120 {
        let mut file = original.clone();
        for _ in 0..1 + random.below(6) {
            // The header, the program headers, anything.
            let bound = [64, 64 + 56 * 13, file.len()][random.below(3)];
            let at = random.below(bound.min(file.len()));
            file[at] = [0, 0xFF, 0x7F, random.below(256) as u8][random.below(4)];
        }
        if round % 5 == 0 {
            file.truncate(random.below(original.len()));
        }
        planned += usize::from(plans(&file));
    }
    assert!((10..110).contains(&planned), "{planned} of 120: the damage should sometimes matter");
}

#[test]
fn addresses_at_the_ends_of_the_address_space_are_refused_or_planned() {
    let original = std::fs::read("/bin/true").expect("a program");
    let table = u64::from_le_bytes(original[32..40].try_into().expect("8 bytes")) as usize;
    for bits in [1u64 << 46, 1 << 47, (1 << 47) - 0x1000, 1 << 62, 1 << 63, u64::MAX - 0xFFFF] {
        let mut file = original.clone();
        for header in 0..usize::from(original[56]) {
            let at = table + header * 56 + 16;
            for field in [at, at + 8] {
                let value = u64::from_le_bytes(file[field..field + 8].try_into().expect("8 bytes"));
                file[field..field + 8].copy_from_slice(&value.wrapping_add(bits).to_le_bytes());
            }
        }
        plans(&file);
        // As a program at fixed addresses.
        file[16] = 2;
        plans(&file);
    }
}
