//! Why a tree cannot be made.

use super::types::Type;

/// What is wrong with a tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The operands of an operator have different types, or types it is not for.
    #[error("`{operator}` cannot take {left} and {right}")]
    Operands {
        /// The operator, as it is shown.
        operator: &'static str,
        /// Type of the left operand.
        left: Type,
        /// Type of the right operand.
        right: Type,
    },
    /// An operand has a type the operator is not for.
    #[error("`{operator}` cannot take {ty}")]
    Operand {
        /// The operator, as it is shown.
        operator: &'static str,
        /// Type of the operand.
        ty: Type,
    },
    /// A value has another type than what it is for.
    #[error("{what} has to be {wanted}, not {found}")]
    Mismatch {
        /// What it is for.
        what: &'static str,
        /// The type it has to have.
        wanted: Type,
        /// The type it has.
        found: Type,
    },
    /// A number does not fit into the type of what it is combined with.
    #[error("{value} is no value of {ty}")]
    Literal {
        /// The number.
        value: i128,
        /// The type.
        ty: Type,
    },
    /// No conversion leads from one type to the other.
    #[error("{from} cannot be converted to {to}")]
    Cast {
        /// The type it has.
        from: Type,
        /// The type asked for.
        to: Type,
    },
    /// A local that the program does not declare, or an array used as a scalar, or the reverse.
    #[error("local {0} is not declared like this")]
    Local(u32),
    /// `break` or `continue` outside what it leaves.
    #[error("`{0}` is not inside a loop")]
    Outside(&'static str),
    /// A call, a map, a record with a number of values it does not have.
    #[error("{what} takes {wanted} values, not {found}")]
    Count {
        /// What takes them.
        what: String,
        /// How many it takes.
        wanted: usize,
        /// How many were given.
        found: usize,
    },
    /// An update that is not for the values of the map.
    #[error("the values of @{0} cannot be updated like this")]
    Update(String),
    /// A storage class that does not allow this.
    #[error("{0} cannot be {1}")]
    Storage(String, &'static str),
    /// Something has a size or number beyond what can be.
    #[error("{what}: {value} is more than {most}")]
    Limit {
        /// What it is.
        what: &'static str,
        /// How many there are.
        value: u64,
        /// The most there may be.
        most: u64,
    },
}
