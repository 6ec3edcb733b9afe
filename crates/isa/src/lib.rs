//! Instructions: decode, classify, relocate, assemble.
//!
//! This floor does no IO and no system call: bytes and addresses in, facts and bytes out. Each
//! architecture is a folder with the same file names; what is above speaks to it through the
//! re-exports of [`native`].

#![deny(unsafe_code)]

mod addr;
pub mod x86_64;

pub use addr::Addr;

/// The architecture the tools of this build work on.
pub mod native {
    pub use crate::x86_64::*;
}
