//! Why a text is no pattern, or names nothing.

use incise_isa::Addr;

/// Why a text is no pattern, or names nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The text makes no sense.
    #[error("`{pattern}` is not a pattern: {what}")]
    Malformed {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No module fits.
    #[error("`{pattern}`: no module is called `{module}`{}", modules(.near, .loaded))]
    NoModule {
        /// The pattern as given.
        pattern: String,
        /// The module's pattern.
        module: String,
        /// Names of the modules there are.
        loaded: Vec<String>,
        /// Those that are spelled nearly so, nearest first.
        near: Vec<String>,
    },
    /// No function fits.
    #[error("no function matches `{pattern}`{}{}{}",
        list("; imported, but not defined, by ", .imported_by),
        list("; there is ", .elsewhere),
        list("; did you mean ", .near))]
    NoFunction {
        /// The pattern as given.
        pattern: String,
        /// Modules (of those searched) that refer to a function of that name, which no one of them defines.
        imported_by: Vec<String>,
        /// Functions that match in modules that were not searched, as `MODULE!NAME`.
        elsewhere: Vec<String>,
        /// Names that are spelled nearly so, nearest first.
        near: Vec<String>,
    },
    /// The offset is not inside the function.
    #[error("`{pattern}`: the function {function} has only {size} bytes")]
    OutsideFunction {
        /// The pattern as given.
        pattern: String,
        /// The function.
        function: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The address is not where an instruction begins.
    #[error("`{pattern}`: {at} is inside the instruction `{instruction}` at {start}")]
    InsideInstruction {
        /// The pattern as given, or the name of the place.
        pattern: String,
        /// The address.
        at: Addr,
        /// Where the instruction begins.
        start: Addr,
        /// The instruction.
        instruction: String,
    },
    /// The address is not in the executable memory of any module (that fits).
    #[error("`{pattern}`: {address:#x} is not in the code of any module")]
    NotCode {
        /// The pattern as given.
        pattern: String,
        /// The address: at run time, or, with a module, as linked.
        address: u64,
    },
}

fn list(introduction: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{introduction}{}", names.join(", ")) }
}

/// Modules that are there, at the end of a message: those that are spelled nearly as what was looked for, or else the first ones.
fn modules(near: &[String], loaded: &[String]) -> String {
    /// Most names told.
    const MOST: usize = 8;
    if !near.is_empty() {
        return list("; did you mean ", near);
    }
    let told = list("; there are ", &loaded[..loaded.len().min(MOST)]);
    let more = loaded.len().saturating_sub(MOST);
    if more == 0 { told } else { format!("{told} and {more} more") }
}
