//! Patching by hand: look at a program, find the place, change it, take the change back.
//!
//! | file | what |
//! |---|---|
//! | `view.rs` | what can be looked at: a file, a running process |
//! | `place.rs`, `entry.rs` | what users write to name a place; where `main` is |
//! | `naming.rs`, `listing.rs` | names and strings for addresses, disassembly |
//! | `search.rs`, `decides.rs` | strings and constants, who uses them, which branches decide |
//! | `change.rs`, `detour.rs` | what is to be changed, as bytes; code elsewhere |
//! | `live.rs`, `making.rs` | changes of a running process |
//! | `book.rs`, `lines.rs`, `recording.rs` | the record of them in it |
//! | `leaving.rs` | what stays in a process, and when it goes |
//! | `on_disk.rs` | changes of a file |
//! | `note.rs`, `patch_file.rs` | changes as text |
//! | `moving.rs` | link addresses and those of a process |
//! | `set.rs` | code that sets registers and memory |
//! | `error.rs` | what can go wrong |

mod book;
mod change;
mod decides;
mod detour;
mod entry;
mod error;
mod leaving;
mod lines;
mod listing;
mod live;
mod making;
mod moving;
mod naming;
mod note;
mod on_disk;
mod patch_file;
mod place;
mod recording;
mod search;
mod set;
mod view;

pub use book::Patch;
pub use change::{Change, How, Plan, Request, plan};
pub use decides::Decision;
pub use error::PatchError;
pub use lines::unhex;
pub use listing::{Line, expect, listing, original_listing, planned_listing};
pub(crate) use live::patched;
pub use live::{Live, Made, patches};
pub use moving::{linked, loaded};
pub use naming::{located, string_at};
pub use note::Note;
pub use on_disk::{OnDisk, file_patches};
pub use patch_file::PatchFile;
pub use place::{Place, place};
pub use search::{Hit, SearchResult, Use, Wanted, search, strings};
pub use set::{MOST_TIMES, Setting};
pub use view::{Region, View};
