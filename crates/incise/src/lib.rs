//! Put code into programs that already exist.
//!
//! ```
//! use incise::{Query, Session};
//!
//! let session = Session::own()?;
//! let points = session.find(Query::functions("libc!getpid"))?;
//! let hits = session.counter("hits");
//! let mut batch = session.batch();
//! for point in &points {
//!     batch.push_back(point, hits.increment());
//! }
//! let report = batch.commit()?;
//! assert_eq!(report.installed(), points.len());
//! # unsafe extern "C" { fn getpid() -> i32; }
//! // SAFETY: takes nothing and changes nothing.
//! unsafe { getpid() };
//! assert_eq!(hits.read(), 1);
//! session.remove_all()?;
//! # Ok::<(), incise::Error>(())
//! ```

#![deny(unsafe_code)]

mod boundary;
pub mod callback;
pub mod changing;
pub mod compiled;
mod count;
mod coverage;
mod file;
mod filter;
mod flow;
mod images;
mod jit_dump;
mod leads;
mod names;
pub mod patching;
mod perf_map;
mod point;
mod program;
mod range;
pub mod script;
mod session;
pub mod source;
pub mod timing;
pub mod trace;
mod wall;

pub use compiled::{Compiled, Evaluated, Language, MapContents, Once, Ran, Value, evaluate};
pub use count::{
    Condition, ConditionError, CountOptions, CountResult, Counted, Counting, Ending, NotCounted,
};
pub use coverage::{Coverage, CoverageError, CoverageOptions, CoverageProgress, CoverageSite, coverage};
pub use file::{CountsReport, ProcessCounts, RewriteOptions, Rewritten, read_counts, rewrite};
pub use filter::{Filter, FilterError};
pub use flow::{Lines, PointView};
pub use images::Images;
pub use incise_image as image;
pub use incise_isa::{self as isa, Addr};
pub use incise_patch::{
    Argument, Atomicity, ByCost, CommitError, CounterId, Data, Effects, Engine, Entry, Generate, Generated,
    InstanceId, Instrumentation, Layout, MachineCode, Obstacle, Outcome, Output, Place, PlacedCode,
    Placement, Placer, PointContext, Policy, Position, ProbedFunction, Refusal, Report, Snippet, Tactic,
    TrapPolicy, Vectors,
};
pub use incise_snippet::{compile, data, interpret, language, show, tree as snippet};
pub use incise_space as space;
pub use point::{Found, Incomplete, Point, PointKind, Query, Unresolved};
pub use program::Program;
pub use session::{Batch, Counter, Error, Session};
