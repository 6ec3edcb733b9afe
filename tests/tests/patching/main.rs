//! Patching by hand: the story of docs/live-patching.md on every kind of program, live, at launch and on disk.

mod by_hand;
mod live;
mod refusals;
mod replaced;
mod support;
mod tutorial;
