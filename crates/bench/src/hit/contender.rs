//! What takes part.

use crate::Error;
use crate::subjects::{Function, Shape, time};

/// A probe whose hits can be timed. Dropping it takes the probe out.
pub(super) trait Contender {
    /// Times `calls` calls of an unprobed subject, then of the probed one: nanoseconds per call.
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error>;

    /// How many hits it counted, if it counts.
    fn hits(&mut self) -> Result<Option<u64>, Error> {
        Ok(None)
    }
}

/// Sets a contender up, or tells why it cannot be had.
pub(super) type Start = Box<dyn Fn() -> Result<Box<dyn Contender>, Error>>;

/// A line of the table.
pub(super) struct Line {
    pub name: &'static str,
    /// The line it is compared with, further up.
    pub twin: Option<&'static str>,
    /// The most its ratio to the twin may be.
    pub bar: Option<f64>,
    /// The most nanoseconds a hit may add.
    pub limit: Option<f64>,
    pub start: Start,
}

impl Line {
    pub(super) fn new<C: Contender + 'static>(
        name: &'static str,
        start: impl Fn() -> Result<C, Error> + 'static,
    ) -> Line {
        Line { name, twin: None, bar: None, limit: None, start: Box::new(move || Ok(Box::new(start()?))) }
    }

    pub(super) fn against(mut self, twin: &'static str) -> Line {
        self.twin = Some(twin);
        self
    }

    pub(super) fn within(mut self, nanos: f64) -> Line {
        self.limit = Some(nanos);
        self
    }

    pub(super) fn at_most(mut self, bar: f64) -> Line {
        self.bar = Some(bar);
        self
    }
}

/// A probe in this process. `undo` holds what keeps it in place.
pub(super) struct Local<U> {
    pub shape: Shape,
    pub function: Function,
    pub counted: fn(&U) -> Option<u64>,
    pub undo: U,
}

impl<U> Contender for Local<U> {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        Ok((time(self.shape.base(), calls), time(self.function, calls)))
    }

    fn hits(&mut self) -> Result<Option<u64>, Error> {
        Ok((self.counted)(&self.undo))
    }
}
