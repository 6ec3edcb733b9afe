//! Machine code from assembly text, in Intel or AT&T syntax.
//!
//! A statement is parsed into operands ([`operand`]), whatever the syntax; every encoding form of its mnemonic
//! ([`mnemonic`]) is tried with them, and the shortest that is possible is taken ([`select`]). Branches to labels grow
//! until all of them reach.
//!
//! | file | what |
//! |---|---|
//! | `token.rs` | text to tokens |
//! | `operand.rs`, `expression.rs` | what operands are, and values that names stand for |
//! | `intel.rs`, `att.rs` | the two syntaxes |
//! | `register.rs`, `mnemonic.rs` | names |
//! | `select.rs`, `fit.rs`, `extras.rs`, `arrange.rs`, `kinds.rs` | operands to encodings |
//! | `error.rs` | what is wrong, and where |

mod arrange;
mod att;
mod directive;
mod error;
mod expression;
mod extras;
mod fit;
mod intel;
mod kinds;
mod mnemonic;
mod operand;
mod register;
mod select;
mod statement;
mod token;

pub use error::AsmError;

use std::collections::HashMap;

use crate::Addr;
use error::Problem;
use expression::Names;
use statement::{Body, Statement};

/// The two ways to write an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Syntax {
    /// `mov eax, dword ptr [rdi+8]`: the destination first.
    #[default]
    Intel,
    /// `movl 8(%rdi), %eax`: the destination last.
    Att,
}

/// Rounds after which branches that still change are taken for impossible; each round only makes them longer.
const ROUNDS: usize = 64;

/// Most bytes that one text may become.
const LONGEST: usize = 1 << 20;

/// The machine code of `text` at `at`.
///
/// Statements are separated by newlines or `;`. `name:` and `1:` are labels (`1b` and `1f` name the nearest one before
/// and behind); other names are looked up by `symbols`. `#` and `//` begin a comment. `.byte`, `.word`, `.long`,
/// `.quad`, `.ascii` and `.asciz` are data. In Intel syntax a lone number in brackets is an absolute address where it
/// fits, a lone name is relative to the instruction pointer.
///
/// # Errors
/// [`AsmError`] shows the place in the text.
pub fn assemble(
    text: &str,
    at: Addr,
    syntax: Syntax,
    symbols: &dyn Fn(&str) -> Option<Addr>,
) -> Result<Vec<u8>, AsmError> {
    assemble_inner(text, at, syntax, symbols).map_err(|problem| problem.in_text(text))
}

fn assemble_inner(
    text: &str,
    at: Addr,
    syntax: Syntax,
    symbols: &dyn Fn(&str) -> Option<Addr>,
) -> Result<Vec<u8>, Problem> {
    let statements = statement::parse(text, syntax)?;
    let labels = labels(&statements)?;
    let mut lengths = vec![0usize; statements.len()];
    for _ in 0..ROUNDS {
        let mut starts = Vec::with_capacity(statements.len() + 1);
        let mut here = at;
        for &length in &lengths {
            starts.push(here);
            here = here + length as u64;
        }
        starts.push(here);
        let mut code = Vec::new();
        let mut changed = false;
        for (index, statement) in statements.iter().enumerate() {
            let names =
                |name: &str| labels.find(name, index).map(|label| starts[label]).or_else(|| symbols(name));
            let names = Names { here: starts[index], lookup: &names };
            let bytes = match &statement.body {
                Body::Label(_) => Vec::new(),
                Body::Data(data) => data.bytes(&names)?,
                Body::Insn(insn) => select::encode(insn, &names, lengths[index])?,
            };
            changed |= bytes.len() != lengths[index];
            lengths[index] = bytes.len();
            code.extend_from_slice(&bytes);
            if code.len() > LONGEST {
                return Err(Problem::new(statement.span.clone(), "the text makes more than 1 MiB of code"));
            }
        }
        if !changed {
            return Ok(code);
        }
    }
    let span = statements.first().map_or(0..text.len(), |statement| statement.span.clone());
    Err(Problem::new(span, "the branches do not settle"))
}

/// Where labels are: the index of the statement that each is.
struct Labels<'t> {
    named: HashMap<&'t str, usize>,
    numbered: Vec<(&'t str, usize)>,
}

impl Labels<'_> {
    /// The label that `name` means for statement `from`.
    fn find(&self, name: &str, from: usize) -> Option<usize> {
        if let Some(&at) = self.named.get(name) {
            return Some(at);
        }
        let number = name.get(..name.len().checked_sub(1)?)?;
        let mut same = self.numbered.iter().filter(|(label, _)| *label == number).map(|(_, at)| *at);
        match name.as_bytes().last()? {
            b'b' => same.rfind(|at| *at < from),
            b'f' => same.find(|at| *at > from),
            _ => None,
        }
    }
}

fn labels(statements: &[Statement]) -> Result<Labels<'_>, Problem> {
    let mut labels = Labels { named: HashMap::new(), numbered: Vec::new() };
    for (index, statement) in statements.iter().enumerate() {
        let Body::Label(name) = &statement.body else { continue };
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            labels.numbered.push((name, index));
        } else if labels.named.insert(name, index).is_some() {
            return Err(Problem::new(statement.span.clone(), format!("the label {name} is there twice")));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests;
