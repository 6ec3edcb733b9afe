//! The syntax tree: what was written, before names and types are known.

mod expression;

use std::time::Duration;

use super::Span;
use super::types::Type;
pub use expression::{BinaryOp, Domain, Expr, ExprKind, Name, UnaryOp};

/// A script: clauses, and declarations they share.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ScriptSyntax {
    /// `PROBE, … /FILTER/ { … }`, in the order written.
    pub clauses: Vec<Clause>,
    /// Structures declared beside the clauses.
    pub structures: Vec<StructDeclaration>,
}

/// What to do at which points.
#[derive(Clone, PartialEq, Debug)]
pub struct Clause {
    /// The probes; at least one.
    pub probes: Vec<Probe>,
    /// The condition between slashes.
    pub filter: Option<Expr>,
    /// What runs.
    pub body: Block,
    /// The whole clause.
    pub span: Span,
}

/// One probe of a clause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Where or when.
    pub kind: ProbeKind,
    /// As written.
    pub text: String,
    /// Where it is written.
    pub span: Span,
}

/// Where or when a clause runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProbeKind {
    /// At points of functions.
    Function(FunctionProbe),
    /// At probes that programmers have put into the program (`<sys/sdt.h>`).
    Usdt(UsdtSyntax),
    /// Once, before the program goes on.
    Begin,
    /// Once, when the program or the tracing has ended.
    End,
    /// Again and again, in the tool.
    Interval(Duration),
}

/// `usdt:MODULE:PROVIDER:NAME`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsdtSyntax {
    /// A pattern on modules, as in [`FunctionProbe`]; `None` means all.
    pub module: Option<String>,
    /// A pattern on who provides the probe; `None` means all.
    pub provider: Option<String>,
    /// A pattern on its name.
    pub name: String,
}

/// Points of functions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionProbe {
    /// A pattern on modules: a file name with or without version, or a path; `None` means all.
    pub module: Option<String>,
    /// A pattern on functions, with `+OFFSET` an address in one.
    pub function: String,
    /// Which points of the function.
    pub place: Place,
    /// Another way to read the probe: `function:libc:exit` may also be the function `exit` of `libc`. To be
    /// tried where the first finds no function.
    pub otherwise: Option<Box<FunctionProbe>>,
}

/// Which points of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum Place {
    /// Its first instruction.
    #[default]
    Entry,
    /// What leaves it; the return value is known.
    Exit,
    /// The first instruction of each block.
    Block,
    /// The last instruction of each block.
    BlockExit,
    /// Each edge.
    Edge,
    /// Before each call.
    Call,
    /// After each call.
    AfterCall,
    /// Before each instruction.
    Instruction,
    /// After each instruction.
    AfterInstruction,
    /// Where each loop is entered.
    LoopEntry,
    /// Where each loop is left.
    LoopExit,
    /// Where each iteration begins.
    LoopIterationStart,
    /// Where each iteration ends.
    LoopIterationEnd,
}

impl Place {
    /// The words of places, with what they mean.
    pub const WORDS: [(&'static str, Place); 16] = [
        ("entry", Place::Entry),
        ("exit", Place::Exit),
        ("return", Place::Exit),
        ("block", Place::Block),
        ("block-exit", Place::BlockExit),
        ("edge", Place::Edge),
        ("call", Place::Call),
        ("after-call", Place::AfterCall),
        ("instruction", Place::Instruction),
        ("after-instruction", Place::AfterInstruction),
        ("loop-entry", Place::LoopEntry),
        ("loop-exit", Place::LoopExit),
        ("loop-start", Place::LoopIterationStart),
        ("loop-end", Place::LoopIterationEnd),
        // As `--points` says it.
        ("loop-iteration", Place::LoopIterationStart),
        ("loop-iteration-end", Place::LoopIterationEnd),
    ];

    /// The place a word means.
    pub fn from_word(word: &str) -> Option<Place> {
        Place::WORDS.iter().find(|(known, _)| *known == word).map(|(_, place)| *place)
    }
}

/// `struct NAME { … };`
#[derive(Clone, PartialEq, Debug)]
pub struct StructDeclaration {
    /// The name.
    pub name: String,
    /// Its members overlap.
    pub union: bool,
    /// The members in order.
    pub members: Vec<MemberDeclaration>,
    /// Where it is written.
    pub span: Span,
}

/// A member of a declared structure.
#[derive(Clone, PartialEq, Debug)]
pub struct MemberDeclaration {
    /// The type.
    pub ty: TypeName,
    /// The name.
    pub name: String,
    /// Width in bits, of a bit field.
    pub bits: Option<u32>,
    /// Where it is written.
    pub span: Span,
}

/// `{ … }`
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Block {
    /// The statements in order.
    pub statements: Vec<Stmt>,
    /// From brace to brace.
    pub span: Span,
}

/// A statement.
#[derive(Clone, PartialEq, Debug)]
pub struct Stmt {
    /// What it does.
    pub kind: StmtKind,
    /// Where it is written.
    pub span: Span,
}

/// What a statement does.
#[derive(Clone, PartialEq, Debug)]
pub enum StmtKind {
    /// `;`
    Empty,
    /// An expression for its effect.
    Expr(Expr),
    /// `int i = 0, *p;`
    Declare(Vec<Declaration>),
    /// `{ … }`
    Block(Block),
    /// `{% … %}`: runs the first time only.
    FirstOnly(Block),
    /// `if (…) … else if (…) … else …`
    If {
        /// Conditions and what follows when they hold, in order.
        arms: Vec<(Expr, Block)>,
        /// What follows when none holds.
        otherwise: Option<Block>,
    },
    /// `while (…) …`
    While(Expr, Block),
    /// `do … while (…);`
    DoWhile(Block, Expr),
    /// `for (…; …; …) …`
    For {
        /// Runs first.
        first: Option<Box<Stmt>>,
        /// Holds as long as the loop goes on.
        condition: Option<Expr>,
        /// Runs after each turn.
        step: Option<Expr>,
        /// Runs each turn.
        body: Block,
    },
    /// `unroll (N) …`: the same statements a known number of times.
    Unroll(Expr, Block),
    /// `switch (…) { case …: … }`
    Switch {
        /// What is compared.
        value: Expr,
        /// The cases in order; control falls from one into the next.
        cases: Vec<Case>,
    },
    /// `break;`
    Break,
    /// `continue;`
    Continue,
    /// `return;` or `return EXPR;`
    Return(Option<Expr>),
}

/// Labels of a `switch` and what stands behind them.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// The values; `None` is `default`. At least one.
    pub labels: Vec<Option<Expr>>,
    /// The statements up to the next label.
    pub body: Vec<Stmt>,
    /// The labels.
    pub span: Span,
}

/// A variable that is declared.
#[derive(Clone, PartialEq, Debug)]
pub struct Declaration {
    /// Its type.
    pub ty: TypeName,
    /// Its name.
    pub name: String,
    /// It keeps its value from one run of the snippet to the next.
    pub is_static: bool,
    /// The value it begins with.
    pub init: Option<Initializer>,
    /// Where the name is written.
    pub span: Span,
}

/// What a variable begins with.
#[derive(Clone, PartialEq, Debug)]
pub enum Initializer {
    /// One value.
    Expr(Expr),
    /// `{1, 2, 3}`, for an array.
    List(Vec<Expr>, Span),
}

/// The name of a type.
#[derive(Clone, PartialEq, Debug)]
pub struct TypeName {
    /// What it is made of: neither a pointer nor an array.
    pub base: Type,
    /// How many `*` stand behind it.
    pub pointers: u8,
    /// The lengths of arrays of it; `None` for `[]`. The first is the outermost.
    pub arrays: Vec<Option<Expr>>,
    /// Where it is written.
    pub span: Span,
}

/// The word in front of a type's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// `struct` or `class`
    Struct,
    /// `union`
    Union,
    /// `enum`
    Enum,
}
