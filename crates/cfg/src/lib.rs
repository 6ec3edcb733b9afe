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

mod analysis;
mod graph;
mod parse;
mod x86_64;

pub use analysis::balance::{Balance, BalancedBlock};
pub use analysis::dominators::Dominators;
pub use analysis::handing::hands_flags_over;
pub use analysis::hints::{Hint, Hints};
pub use analysis::liveness::{LiveSet, Liveness};
pub use analysis::loops::{Loop, Loops};
pub use graph::draft::{Draft, DraftError};
pub use graph::edge::{Completeness, EdgeKind, ParseError, Reason, Unresolved};
pub use graph::handles::{Block, Edge, Function};
pub use graph::store::{Store, StoreError, VERSION as STORE_VERSION};
pub use graph::{BlockId, Cfg, EdgeId, FunctionId};
pub use parse::program::{Options, Parser};
pub use parse::stubs::import_of_stub;
