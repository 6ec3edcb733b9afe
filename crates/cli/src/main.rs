//! The incise command.
fn main() {}
