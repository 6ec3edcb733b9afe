//! The same graph for any number of threads, from run to run, and from a store; hints that say what it says.

use incise_cfg::{Cfg, EdgeKind, Hint, Hints, Liveness, Options, Parser, Store, StoreError};
use incise_image::Image;

const PROGRAMS: [&str; 4] =
    ["/usr/bin/bash", "/usr/bin/git", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/perl"];

fn load(path: &str) -> Option<(Image, Vec<u8>)> {
    let Ok(file) = std::fs::read(path) else {
        println!("skipped: {path} cannot be read");
        return None;
    };
    Some((Image::parse(&file).expect("a program"), file))
}

fn parse(image: &Image, file: &[u8], threads: usize) -> Cfg {
    let parser = Parser::new(image, file).expect("code in reach");
    parser.parse(&Options { threads, progress: None }).expect("a graph")
}

#[test]
fn any_number_of_threads_gives_the_same_graph() {
    for path in PROGRAMS {
        let Some((image, file)) = load(path) else { continue };
        let one = parse(&image, &file, 1);
        assert!(one.functions().len() > 100, "{path} has functions");
        for threads in [1, 2, 3, 7] {
            assert!(parse(&image, &file, threads) == one, "{path} differs with {threads} threads");
        }
    }
}

#[test]
fn a_stored_graph_is_the_fresh_one() {
    for path in PROGRAMS {
        let Some((image, file)) = load(path) else { continue };
        let fresh = parse(&image, &file, 2);
        let stored = Store::write(&fresh, &image, &file);
        assert!(Store::read(&stored, &image, &file) == Ok(fresh), "{path}");
        println!("{path}: {} bytes stored", stored.len());
    }
}

#[test]
fn a_store_of_another_build_is_refused() {
    let Some((image, file)) = load("/usr/bin/bash") else { return };
    let Some((other, other_file)) = load("/usr/bin/git") else { return };
    let stored = Store::write(&parse(&image, &file, 2), &image, &file);
    assert_eq!(Store::read(&stored, &other, &other_file), Err(StoreError::OtherProgram));
    // The same build-id and length, but one instruction changed.
    let mut changed = file.clone();
    let text = image.sections().iter().find(|s| &*s.name == ".text").expect("code");
    changed[text.file_offset.expect("in the file").0 as usize + 100] ^= 1;
    assert_eq!(Store::read(&stored, &image, &changed), Err(StoreError::OtherProgram));
}

/// Damage of any kind gives an error, or, with the checksum made to fit, at worst another graph that can be
/// walked through.
#[test]
fn damaged_stores_are_errors_and_never_panics() {
    let file = std::fs::read("/usr/bin/true").expect("a program");
    let image = Image::parse(&file).expect("a program");
    let stored = Store::write(&parse(&image, &file, 1), &image, &file);
    let id = image.build_id().map_or(0, <[u8]>::len);
    let (sum_at, payload_at) = (16 + id + 24, 16 + id + 32);
    for len in (0..stored.len()).step_by(7) {
        assert!(Store::read(&stored[..len], &image, &file).is_err());
    }
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..3000 {
        let mut bytes = stored.clone();
        let at = random() as usize % bytes.len();
        bytes[at] ^= 1 << (random() % 8);
        assert!(Store::read(&bytes, &image, &file).is_err(), "a flipped bit at {at}");
        // A hostile one has the right checksum.
        for _ in 0..random() % 4 {
            let at = payload_at + random() as usize % (bytes.len() - payload_at);
            bytes[at] = random() as u8;
        }
        let sum = checksum(&bytes[payload_at..]);
        bytes[sum_at..sum_at + 8].copy_from_slice(&sum.to_le_bytes());
        if let Ok(cfg) = Store::read(&bytes, &image, &file) {
            let edges: usize = cfg.functions().flat_map(|f| f.blocks()).map(|b| b.outgoing().len()).sum();
            let back: usize = cfg.blocks().map(|b| b.incoming().len() + b.functions().len()).sum();
            let _ = (edges, back, cfg.covered_bytes());
            for block in cfg.blocks().take(50) {
                let _ = (block.last(), block.instructions(&image, &file).count());
            }
        }
    }
}

/// The checksum of the format, written again.
fn checksum(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(bytes.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let sum = rest.iter().fold(sum, |sum, &byte| mix(sum, u64::from(byte)));
    sum ^ sum >> 32
}

/// A function on its own has every edge the whole program's graph has for it, with its callees looked at or not.
#[test]
fn functions_on_demand_have_all_their_edges() {
    use incise_cfg::EdgeKind;
    let Some((image, file)) = load("/usr/bin/bash") else { return };
    let whole = parse(&image, &file, 2);
    let parser = Parser::new(&image, &file).expect("code in reach");
    let mut checked = 0;
    for function in whole.functions().filter(|f| f.is_named()).step_by(3) {
        let entry = function.entry();
        for alone in [parser.function(entry), parser.function_alone(entry)] {
            let alone = alone.expect("a graph").expect("code");
            let edges: std::collections::HashSet<_> =
                alone.edges().map(|e| (e.source().last(), e.kind(), e.target_addr())).collect();
            let lasts: std::collections::HashSet<_> = alone.blocks().map(|b| b.last()).collect();
            assert_eq!(alone.functions().len(), 1);
            for edge in function.blocks().filter(|b| lasts.contains(&b.last())).flat_map(|b| b.outgoing()) {
                let key = (edge.source().last(), edge.kind(), edge.target_addr());
                assert!(
                    edge.kind() == EdgeKind::FallThrough || edges.contains(&key),
                    "{function:?} lacks {edge:?}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 10_000, "only {checked} edges");
}

/// Hints say of every boundary what the graph says, for any number of threads.
#[test]
fn hints_are_what_the_graph_says() {
    let Some((image, file)) = load("/usr/bin/git") else { return };
    let cfg = parse(&image, &file, 2);
    let hints = Hints::of(&cfg, &image, &file, 1);
    assert!(Hints::of(&cfg, &image, &file, 3) == hints, "threads make a difference");
    let counted: usize = cfg.blocks().map(|block| block.insn_count()).sum();
    assert_eq!(hints.len(), counted, "every instruction has one hint");
    for function in cfg.functions().filter(|f| f.entry_block().is_some()) {
        assert!(hints.at(function.entry()).is_some_and(Hint::is_entry), "{function:?}");
    }
    for edge in cfg.edges() {
        let Some(hint) = edge.target().and_then(|block| hints.at(block.start())) else { continue };
        let said = match edge.kind() {
            EdgeKind::Taken | EdgeKind::Direct => hint.is_branch_target(),
            EdgeKind::Indirect => hint.is_table_target(),
            EdgeKind::CallFallThrough => hint.is_return_site(),
            EdgeKind::Catch => hint.is_landing_pad(),
            _ => hint.is_block_start(),
        };
        assert!(said, "{edge:?}: {hint:?}");
    }
    let liveness = Liveness::of(&cfg, &image, &file, 2);
    for (at, live) in cfg.blocks().step_by(7).flat_map(|block| liveness.instructions(block)) {
        let hint = hints.at(at).expect("a boundary");
        assert_eq!((hint.live_gprs(), hint.live_flags()), (live.gprs, live.flags), "{at}");
    }
}
