//! Every system call of a whole transaction in this process fails in turn: all of it is done or nothing is, also when probes
//! go, and the next transaction works.

mod support;

use std::time::Duration;

use incise::callback::{Context, VectorState, callback};
use incise::space::faults;
use incise::space::own::{OwnSpace, Pages, Writer};
use incise::{Addr, Counter, Error, InstanceId, Position, Session};
use support::shapes::{self, Shape};
use support::{Pristine, isolated, usage};

const KINDS: [(Writer, Pages); 4] = [
    (Writer::Poke, Pages::Placed),
    (Writer::Swap, Pages::Placed),
    (Writer::Swap, Pages::Forced),
    (Writer::Auto, Pages::MemoryFile),
];

const ERRORS: [i32; 3] = [libc::ENOMEM, libc::EPERM, libc::EINTR];

extern "C" fn nothing(_: &mut Context, _: u64) {}

/// What is probed, and how often each is called by a check of all shapes.
struct Probes {
    session: Session,
    shapes: Vec<Shape>,
    hits: Counter,
}

impl Probes {
    fn put_in(&self) -> Result<Vec<InstanceId>, Error> {
        let mut batch = self.session.batch();
        let mut instances = Vec::new();
        for shape in &self.shapes {
            let entry = Addr(shape.entry as u64);
            instances.push(batch.insert(entry, self.hits.increment(), Position::Last));
            instances.push(batch.insert(entry, callback(nothing, 0, VectorState::Sse), Position::Last));
        }
        batch.commit().map(|_| instances)
    }

    /// Runs everything; returns how often something probed was entered.
    fn run(&self, n: u64) -> u64 {
        let before = self.hits.read();
        self.shapes.iter().for_each(|shape| (shape.check)(n));
        self.hits.read() - before
    }
}

/// Makes call `n` of `operation` fail. Returns its result, and whether the failure has happened.
fn fail<T>(n: u64, errno: i32, operation: impl FnOnce() -> Result<T, Error>) -> (Result<T, Error>, bool) {
    faults::fail_nth(n, errno);
    let result = operation();
    (result, faults::disarm().1)
}

#[test]
fn a_transaction_is_done_or_not_whatever_call_fails() {
    isolated("a_transaction_is_done_or_not_whatever_call_fails", Duration::from_secs(300), || {
        let pristine = Pristine::new();
        let original = pristine.now();
        let mut failures = 0;
        for (kind, (writer, pages)) in KINDS.into_iter().enumerate() {
            for (number, errno) in ERRORS.into_iter().enumerate() {
                // All of them take a minute.
                if std::env::var_os("INCISE_LONG").is_none() && number != kind % ERRORS.len() {
                    continue;
                }
                let space = OwnSpace::builder().writer(writer).pages(pages).build().expect("a space");
                let session = Session::with(space).expect("a session");
                let hits = session.counter("hits");
                let probes = Probes { session, shapes: shapes::own(), hits };
                failures +=
                    fail_each(&probes, (&pristine, &original), errno, &format!("{writer:?} {pages:?}"));
            }
        }
        assert!(failures > 100, "{failures}");
        assert!(usage().mappings < 200, "{:?}", usage());
    });
}

/// Returns how many transactions failed.
fn fail_each(probes: &Probes, (pristine, original): (&Pristine, &[Vec<u8>]), errno: i32, kind: &str) -> u64 {
    let session = &probes.session;
    let mut failures = 0;
    // How often the shapes are entered in one run.
    probes.put_in().expect("without a failure");
    let (entered, probed) = (probes.run(1), pristine.now());
    assert!(entered >= probes.shapes.len() as u64 && probed != original);
    session.remove_all().expect("without a failure");
    let descriptors = usage().descriptors;
    for n in 0.. {
        let context = format!("{kind} call {n} errno {errno}");
        let (result, in_happened) = fail(n, errno, || probes.put_in());
        let instances = match result {
            Ok(instances) => instances,
            Err(error) => {
                assert!(in_happened, "{context}: {error}");
                failures += 1;
                assert!(pristine.now() == original, "{context}: {error}");
                assert_eq!(probes.run(n), 0, "{context}: {error}");
                probes.put_in().expect(&context)
            }
        };
        assert_eq!(probes.run(1), entered, "{context}");

        let switched = instances[n as usize % instances.len() / 2 * 2];
        let (result, switch_happened) = fail(n, errno, || session.switch(switched, false));
        match result {
            Ok(()) => assert!(probes.run(1) < entered, "{context}"),
            Err(error) => {
                assert!(switch_happened, "{context}: {error}");
                failures += 1;
                assert_eq!(probes.run(1), entered, "{context}: {error}");
            }
        }

        let before = pristine.now();
        let (result, out_happened) = fail(n, errno, || session.remove_all());
        if let Err(error) = result {
            assert!(out_happened, "{context}: {error}");
            failures += 1;
            let now = pristine.now();
            // The probes are out by the time that memory is given back.
            assert!(now == before || now == original, "{context}: {error}");
            probes.shapes.iter().for_each(|shape| (shape.check)(n));
            session.remove_all().expect(&context);
        }
        assert!(pristine.now() == original, "{context}");
        assert_eq!(usage().descriptors, descriptors, "{context}");
        if !in_happened && !switch_happened && !out_happened {
            assert!(n > 20, "{context}");
            break;
        }
    }
    failures
}
