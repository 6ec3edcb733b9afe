//! The syntax tree: what was written, before names and types are known.

use std::time::Duration;

use super::Span;

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
    /// Once, before the program goes on.
    Begin,
    /// Once, when the program or the tracing has ended.
    End,
    /// Again and again, in the tool.
    Interval(Duration),
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
    pub const WORDS: [(&'static str, Place); 14] = [
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
    /// What it is made of.
    pub base: BaseType,
    /// How many `*` stand behind it.
    pub pointers: u8,
    /// The lengths of arrays of it; `None` for `[]`. The first is the outermost.
    pub arrays: Vec<Option<Expr>>,
    /// Where it is written.
    pub span: Span,
}

/// A type without pointers and arrays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BaseType {
    /// `void`
    Void,
    /// `bool`
    Bool,
    /// An integer of 1, 2, 4 or 8 bytes.
    Int {
        /// Size in bytes.
        bytes: u8,
        /// It can be negative.
        signed: bool,
    },
    /// `float`
    Float,
    /// `double`
    Double,
    /// `struct NAME` and its like.
    Tagged(Tag, String),
    /// The name of a type of the program.
    Named(String),
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

/// An expression.
#[derive(Clone, PartialEq, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it is written.
    pub span: Span,
    /// Nodes from here down to the deepest leaf. The parser keeps it small, so that whoever walks the tree may
    /// recurse.
    pub(super) height: u16,
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
