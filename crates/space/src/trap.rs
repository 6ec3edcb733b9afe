//! The trap handler that runs in the target.
