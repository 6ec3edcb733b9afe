//! Patching by hand: the story of docs/live-patching.md on every kind of program, live, at launch and on disk.

mod live;
mod refusals;
mod replaced;
mod support;
mod tutorial;
