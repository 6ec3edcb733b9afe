//! What maps and rings do, as machine code of whoever knows how they lie in memory.

use crate::tree::{Map, Record, Ring};

/// An operation on a table in the memory of the target.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operation<'a> {
    /// The plain value at a key. Takes the address of the keys; gives the value in `rax` and in `rdx` whether there is one.
    Get(&'a Map),
    /// Changes the value at a key. Takes the address of the keys, and the value (1 of a count).
    Update(&'a Map),
    /// Takes a key out. Takes the address of the keys.
    Delete(&'a Map),
    /// Appends a record. Takes the address of the fields.
    Emit(&'a Ring, &'a Record),
}

impl Operation<'_> {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Operation::Get(map) | Operation::Update(map) | Operation::Delete(map) => {
                format!("the map @{}", map.name())
            }
            Operation::Emit(_, record) => format!("a record of {}", record.name()),
        }
    }
}

/// Provides operations.
pub trait Operations {
    /// Machine code of a function for an operation, or nothing. It can stand anywhere, calls nothing, and changes no register but
    /// those that a function may (psABI x86-64, 3.2.1) and no vector register.
    ///
    /// Its first argument (`rdi`) is the address of the map's or ring's block, then come those of the operation (`rsi`, `rdx`). Keys
    /// and fields are one behind the other, each as whole quadwords: scalars with the sign they have, floats as their bits, texts
    /// with zeros behind, as long as the type of the key or field says.
    fn routine(&self, operation: Operation<'_>) -> Option<Vec<u8>>;
}

/// None.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoOperations;

impl Operations for NoOperations {
    fn routine(&self, _: Operation<'_>) -> Option<Vec<u8>> {
        None
    }
}
