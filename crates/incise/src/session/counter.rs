//! Counters of a session.

use incise_isa::Addr;
use incise_patch::{CounterId, Snippet};
use incise_space::AddressSpace;
use incise_space::own::OwnSpace;

use super::Session;

/// A quadword that probes increment.
pub struct Counter<S: AddressSpace = OwnSpace> {
    pub(super) session: Session<S>,
    pub(super) id: CounterId,
    pub(super) name: String,
}

impl<S: AddressSpace> Clone for Counter<S> {
    fn clone(&self) -> Counter<S> {
        Counter { session: self.session.clone(), id: self.id, name: self.name.clone() }
    }
}

impl<S: AddressSpace> Counter<S> {
    /// The snippet that adds one: atomic, so exact under any number of threads.
    pub fn increment(&self) -> Snippet {
        Snippet::Counter(self.id)
    }

    /// Its number, for snippets that generate code.
    pub fn id(&self) -> CounterId {
        self.id
    }

    /// The value now; after the probes were removed, what it was then.
    pub fn read(&self) -> u64 {
        self.session.state().engine.read(self.id)
    }

    /// Where it is in the target, once a probe uses it.
    pub fn address(&self) -> Option<Addr> {
        self.session.state().engine.address(self.id)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }
}
