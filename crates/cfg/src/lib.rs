//! Control flow: functions, shared blocks, typed edges, loops, dominators, liveness.
//!
//! No IO and no system call: an [`Image`](incise_image::Image) and the bytes of its file in, a [`Cfg`]
//! out. A [`Cfg`] is flat: functions, blocks and edges are numbered in the order of their addresses, and
//! [`Function`], [`Block`] and [`Edge`] are handles of two words that can be copied and asked:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use incise_cfg::{Options, Parser};
//! use incise_image::Image;
//!
//! let file = std::fs::read("/bin/true")?;
//! let image = Image::parse(&file)?;
//! let cfg = Parser::new(&image, &file)?.parse(&Options::default())?;
//! for function in cfg.functions() {
//!     // Function exits, and the exits of blocks that end with a decision.
//!     let exits = function.exits();
//!     let decisions = function.blocks().filter(|block| block.outgoing().len() == 2);
//!     println!("{} {} {}", function.entry(), exits.count(), decisions.count());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A block belongs to every function that reaches it. Calls end blocks. Edges that
//! [leave the function](Edge::leaves_function) are calls, returns and tail calls; all others lead to
//! blocks of the same function.

#![deny(unsafe_code)]

mod balance;
mod body;
mod code;
mod context;
mod cut;
mod dominators;
mod draft;
mod edge;
mod flow;
mod gaps;
mod go;
mod graph;
mod handles;
mod hidden;
mod hints;
mod join;
mod liveness;
mod loops;
mod lsda;
mod noreturn;
mod padding;
mod program;
mod returning;
mod runs;
mod store;
mod stubs;
mod threads;
mod traverse;
mod unwind;
mod x86_64;

pub use balance::{Balance, BalancedBlock};
pub use dominators::Dominators;
pub use draft::{Draft, DraftError};
pub use edge::{Completeness, EdgeKind, ParseError, Reason, Unresolved};
pub use graph::{BlockId, Cfg, EdgeId, FunctionId};
pub use handles::{Block, Edge, Function};
pub use hints::{Hint, Hints};
pub use liveness::{LiveSet, Liveness};
pub use loops::{Loop, Loops};
pub use program::{Options, Parser};
pub use store::{Store, StoreError, VERSION as STORE_VERSION};
pub use stubs::import_of_stub;
