//! Expressions, as they were written.

use super::TypeName;
use crate::language::Span;

/// An expression.
#[derive(Clone, PartialEq, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it is written.
    pub span: Span,
    /// Nodes from here down to the deepest leaf. The parser keeps it small, so that whoever walks the tree may
    /// recurse.
    pub(in crate::language) height: u16,
}

/// What an expression is.
#[derive(Clone, PartialEq, Debug)]
pub enum ExprKind {
    /// An integer.
    Int {
        /// Its value.
        value: u64,
        /// Marked with `u`.
        unsigned: bool,
        /// Marked with `l`.
        long: bool,
    },
    /// A number with a point or an exponent.
    Float {
        /// Its value.
        value: f64,
        /// Marked with `f`.
        single: bool,
    },
    /// `'c'`
    Char(u8),
    /// `"…"`, without a zero at the end.
    Str(Vec<u8>),
    /// A name, perhaps with a domain.
    Name(Name),
    /// `$name`
    Scratch(String),
    /// `$1`: an argument of the script.
    Positional(u32),
    /// `$#`: how many arguments the script has.
    ArgumentCount,
    /// `@name[KEY, …]`
    Map {
        /// The name; empty for `@`.
        name: String,
        /// The keys.
        keys: Vec<Expr>,
    },
    /// An operator in front of its operand.
    Unary(UnaryOp, Box<Expr>),
    /// `++` or `--`.
    Step {
        /// It adds one, else it takes one away.
        up: bool,
        /// The value is the one before the step.
        postfix: bool,
        /// What is changed.
        target: Box<Expr>,
    },
    /// An operator between its operands.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `=` and its combinations.
    Assign {
        /// The operator before `=`.
        op: Option<BinaryOp>,
        /// What is changed.
        target: Box<Expr>,
        /// To what.
        value: Box<Expr>,
    },
    /// `CONDITION ? THEN : OTHERWISE`; without THEN it is the condition's value.
    Conditional {
        /// Decides.
        condition: Box<Expr>,
        /// The value if it holds.
        then: Option<Box<Expr>>,
        /// The value if it does not.
        otherwise: Box<Expr>,
    },
    /// `FIRST, SECOND`
    Comma(Box<Expr>, Box<Expr>),
    /// `(TYPE)VALUE`
    Cast(TypeName, Box<Expr>),
    /// `sizeof(TYPE)`
    SizeofType(TypeName),
    /// `sizeof VALUE`
    Sizeof(Box<Expr>),
    /// `FUNCTION(ARGUMENT, …)`
    Call(Box<Expr>, Vec<Expr>),
    /// `BASE[INDEX]`
    Index(Box<Expr>, Box<Expr>),
    /// `BASE.FIELD` or `BASE->FIELD`
    Member {
        /// The structure, or a pointer to it.
        base: Box<Expr>,
        /// Name of the field.
        field: String,
        /// Where the field's name is written.
        field_span: Span,
        /// Written with `->`.
        arrow: bool,
    },
}

/// A name as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// Where to look; `None`: the snippet's own variables, the builtins, then the program's.
    pub domain: Option<Domain>,
    /// The name, with `::` in it for C++ and Rust.
    pub path: String,
}

/// Where a name is looked up: the word before the back-quote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Domain {
    /// ``inf` ``: the program: its functions, also those of its libraries.
    Inferior,
    /// ``func` ``: the same.
    Function,
    /// ``global` ``: the program's global variables, and variables shared between snippets.
    Global,
    /// ``local` ``: variables of the function at the point.
    Local,
    /// ``param` ``: parameters of the function at the point.
    Parameter,
    /// ``reg` ``: registers.
    Register,
    /// ``point` `` or ``dyninst` ``: facts about the point.
    Point,
    /// ``default` ``: the snippet's own variables.
    Default,
}

impl Domain {
    /// The words of domains.
    pub const WORDS: [(&'static str, Domain); 9] = [
        ("inf", Domain::Inferior),
        ("func", Domain::Function),
        ("global", Domain::Global),
        ("local", Domain::Local),
        ("param", Domain::Parameter),
        ("reg", Domain::Register),
        ("point", Domain::Point),
        ("dyninst", Domain::Point),
        ("default", Domain::Default),
    ];

    /// The domain a word means.
    pub fn from_word(word: &str) -> Option<Domain> {
        Domain::WORDS.iter().find(|(known, _)| *known == word).map(|(_, domain)| *domain)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        Domain::WORDS.iter().find(|(_, domain)| *domain == self).map_or("default", |(word, _)| word)
    }
}

/// An operator in front of its operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnaryOp {
    /// `-`
    Negate,
    /// `+`
    Plus,
    /// `!`
    Not,
    /// `~`
    Complement,
    /// `*`
    Deref,
    /// `&`
    AddressOf,
}

/// An operator between its operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the operators of C")]
pub enum BinaryOp {
    Mul,
    Div,
    Rem,
    Add,
    Sub,
    Shl,
    Shr,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    And,
    Xor,
    Or,
    LogicalAnd,
    LogicalOr,
    /// `NAME ~ PATTERN`: in filters of points only.
    Match,
}

impl BinaryOp {
    /// As written.
    pub fn symbol(self) -> &'static str {
        match self {
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Rem => "%",
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Shl => "<<",
            BinaryOp::Shr => ">>",
            BinaryOp::Lt => "<",
            BinaryOp::Le => "<=",
            BinaryOp::Gt => ">",
            BinaryOp::Ge => ">=",
            BinaryOp::Eq => "==",
            BinaryOp::Ne => "!=",
            BinaryOp::And => "&",
            BinaryOp::Xor => "^",
            BinaryOp::Or => "|",
            BinaryOp::LogicalAnd => "&&",
            BinaryOp::LogicalOr => "||",
            BinaryOp::Match => "~",
        }
    }

    /// How tightly it binds, as C has it; higher is tighter.
    pub fn precedence(self) -> u8 {
        match self {
            BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem => 10,
            BinaryOp::Add | BinaryOp::Sub => 9,
            BinaryOp::Shl | BinaryOp::Shr => 8,
            BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => 7,
            BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Match => 6,
            BinaryOp::And => 5,
            BinaryOp::Xor => 4,
            BinaryOp::Or => 3,
            BinaryOp::LogicalAnd => 2,
            BinaryOp::LogicalOr => 1,
        }
    }
}
