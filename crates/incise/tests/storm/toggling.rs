//! All functions of the C library, probed and left again and again while threads run them: memory stays bounded.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use incise::{InstanceId, Outcome, Query, Session};

use crate::support::{Pristine, Rng, isolated, shapes, usage};
use crate::{STOP, StopOnPanic};

#[test]
fn toggling_all_of_the_c_library_takes_bounded_memory() {
    let name = "toggling::toggling_all_of_the_c_library_takes_bounded_memory";
    let rounds = if std::env::var_os("INCISE_LONG").is_some() { 10_000 } else { 60 };
    isolated(name, Duration::from_secs(60 + rounds), || toggle_library(rounds));
}

fn toggle_library(rounds: u64) {
    let pristine = Pristine::new();
    let session = Session::own().expect("a session");
    let points = session.find(Query::functions("libc.so*!*")).expect("the C library");
    assert!(points.len() > 2000, "{}", points.len());
    let counter = session.counter("all");
    let library = shapes::library();
    let (mut settled, mut most) = (usage(), (0, 0));
    std::thread::scope(|scope| {
        for number in 0..2 {
            let library = &library;
            scope.spawn(move || {
                let _end = StopOnPanic;
                let mut rng = Rng::new(number);
                while !STOP.load(Relaxed) {
                    (rng.pick(library).check)(rng.next());
                }
            });
        }
        let _end = StopOnPanic;
        for round in 0..rounds {
            let mut batch = session.batch().best_effort();
            let instances: Vec<InstanceId> =
                points.iter().map(|point| batch.push_back(point, counter.increment())).collect();
            let report = batch.commit().expect("a best-effort commit");
            assert!(report.installed() * 10 > points.len() * 9, "{} of {}", report.installed(), points.len());
            let mut batch = session.batch();
            for (instance, entry) in instances.into_iter().zip(&report.entries) {
                if matches!(entry.outcome, Outcome::Installed(_)) {
                    batch.remove(instance);
                }
            }
            let removed = batch.commit().expect("removal");
            most = (report.trampoline_bytes.max(most.0), removed.retired_bytes.max(most.1));
            // The bytes of retired trampolines that are worth a look at all threads have to come together first.
            if round == rounds / 2 {
                settled = usage();
            }
        }
        STOP.store(true, Relaxed);
    });
    let after = usage();
    session.remove_all().expect("removal of everything");
    pristine.check();
    eprintln!(
        "# {rounds} rounds of {} functions, {} calls counted: {most:?} bytes in use and retired at most, {settled:?} -> {after:?}",
        points.len(),
        counter.read()
    );
    assert!(counter.read() > 0);
    assert!(most.0 < 1 << 20, "trampolines in use");
    assert!(most.1 < 4 << 20, "trampolines out of use");
    assert!(after.mappings < settled.mappings + 16 && after.descriptors == settled.descriptors);
    assert!(after.resident < settled.resident + (16 << 20), "memory");
}
