//! Statements.

use rustc_hash::FxHashMap;

use super::{Check, Checked, Own, Target, Value};
use crate::language::ast::{
    BinaryOp, Block, Case, Declaration, Expr, ExprKind, Initializer, Stmt as Syntax, StmtKind,
};
use crate::language::types::Type;
use crate::language::{Diagnostic, Span};
use crate::tree::{self, Stmt, Storage, Variable};

/// Most statements of a program, those that `unroll` repeats counted each time.
const STATEMENTS: u32 = 100_000;

impl Check<'_> {
    /// The statements of a block, with names of their own.
    pub(super) fn block(&mut self, block: &Block) {
        self.names.push(FxHashMap::default());
        for statement in &block.statements {
            if let Err(error) = self.statement(statement) {
                self.diagnostics.push(error);
            }
        }
        self.names.pop();
    }

    fn body(&mut self, block: &Block) -> Vec<Stmt> {
        self.apart(|check| check.block(block)).1
    }

    fn loop_body(&mut self, block: &Block) -> Vec<Stmt> {
        self.loops += 1;
        let body = self.body(block);
        self.loops -= 1;
        body
    }

    fn statement(&mut self, statement: &Syntax) -> Checked<()> {
        self.statements += 1;
        if self.statements > STATEMENTS {
            return self.error(statement.span, format!("more than {STATEMENTS} statements"));
        }
        match &statement.kind {
            StmtKind::Empty => {}
            StmtKind::Expr(expr) if matches!(expr.kind, ExprKind::Binary(BinaryOp::Eq, ..)) => {
                let error = Diagnostic::error(expr.span, "nobody uses the result of this comparison");
                return Err(error.help("to give a value, write `=`"));
            }
            StmtKind::Expr(expr) => self.effect(expr)?,
            StmtKind::Declare(declarations) => {
                for declaration in declarations {
                    self.declare(declaration)?;
                }
            }
            StmtKind::Block(block) => self.block(block),
            StmtKind::FirstOnly(block) => {
                let key = (block.span.start, "first".to_owned());
                let (_, first) = self.shared_variable(key, Type::Bool, tree::Type::Bool);
                // What is declared in it lives on behind it.
                let body = self.apart(|check| {
                    for statement in &block.statements {
                        let result = match &statement.kind {
                            StmtKind::Declare(list) => list.iter().try_for_each(|declaration| {
                                check.declare(&Declaration { is_static: true, ..declaration.clone() })
                            }),
                            _ => check.statement(statement),
                        };
                        if let Err(error) = result {
                            check.diagnostics.push(error);
                        }
                    }
                });
                let mut once = vec![first.set(true)];
                once.extend(body.1);
                self.out.push(Stmt::when(first.get().is_false(), once));
            }
            StmtKind::If { arms, otherwise } => self.conditional(arms, otherwise.as_ref())?,
            StmtKind::While(condition, body) => self.repeat(Some(condition), None, body)?,
            StmtKind::DoWhile(body, condition) => {
                let body = self.loop_body(body);
                let (after, step) = self.apart(|check| check.condition(condition));
                self.out.push(Stmt::Loop { before: None, body, step, after: Some(after?) });
            }
            StmtKind::For { first, condition, step, body } => {
                self.names.push(FxHashMap::default());
                let result = first
                    .as_ref()
                    .map_or(Ok(()), |first| self.statement(first))
                    .and_then(|()| self.repeat(condition.as_ref(), step.as_ref(), body));
                self.names.pop();
                result?;
            }
            StmtKind::Unroll(count, body) => {
                let times = self.constant_integer(count)?;
                if !(0..=100).contains(&times) {
                    let error = Diagnostic::error(count.span, format!("unroll takes 0 to 100, not {times}"));
                    return Err(
                        error.help("loops may make more rounds: for (int i = 0; i < 1000; i++) { … }")
                    );
                }
                for _ in 0..times {
                    if self.statements > STATEMENTS {
                        break;
                    }
                    self.block(body);
                }
            }
            StmtKind::Switch { value, cases } => self.switch(value, cases)?,
            StmtKind::Break if self.loops + self.switches > 0 => self.out.push(Stmt::Break),
            StmtKind::Continue if self.loops > 0 => self.out.push(Stmt::Continue),
            StmtKind::Break => return self.error(statement.span, "`break` is not inside a loop or switch"),
            StmtKind::Continue => return self.error(statement.span, "`continue` is not inside a loop"),
            StmtKind::Return(value) => {
                let value = match value {
                    Some(value) => {
                        let span = value.span;
                        self.returned = Some(span);
                        let value = self.value(value)?;
                        if !value.expr.ty().is_scalar() {
                            let message = format!("{} cannot be returned", value.ty.described());
                            return Err(Diagnostic::error(span, message).help("show it: print(x)"));
                        }
                        self.widened(value, span).map(|value| Some(value.expr))?
                    }
                    None => None,
                };
                self.out.push(Stmt::Return(value));
            }
        }
        Ok(())
    }

    fn conditional(&mut self, arms: &[(Expr, Block)], otherwise: Option<&Block>) -> Checked<()> {
        // From the front, so that what conditions do happens in order; nested from the back.
        let mut parts = Vec::new();
        for (condition, body) in arms {
            let (holds, work) = self.apart(|check| check.condition(condition));
            let body = self.body(body);
            parts.push((holds?, work, body));
            if parts.len() > 100 {
                return self.error(condition.span, "more than 100 arms; use switch");
            }
        }
        let mut rest = otherwise.map(|block| self.body(block)).unwrap_or_default();
        for (holds, mut work, body) in parts.into_iter().rev() {
            work.push(Stmt::either(holds, body, rest));
            rest = work;
        }
        self.out.extend(rest);
        Ok(())
    }

    fn repeat(&mut self, condition: Option<&Expr>, step: Option<&Expr>, body: &Block) -> Checked<()> {
        let (before, mut work) = self.apart(|check| condition.map(|c| check.condition(c)).transpose());
        let mut before = before?;
        let body = self.loop_body(body);
        let (stepped, step) = self.apart(|check| step.map_or(Ok(()), |step| check.effect(step)));
        stepped?;
        // A condition that does something is evaluated at the beginning of each round.
        if let Some(holds) = before.take_if(|_| !work.is_empty()) {
            work.push(Stmt::when(holds.is_false(), [Stmt::Break]));
        }
        work.extend(body);
        self.out.push(Stmt::Loop { before, body: work, step, after: None });
        Ok(())
    }

    fn switch(&mut self, value: &Expr, cases: &[Case]) -> Checked<()> {
        let span = value.span;
        let value = self.value(value)?;
        if !value.ty.is_integral() {
            let message = format!("switch is for integers, not for {}", value.ty.described());
            return Err(Diagnostic::error(span, message).help("use if and else"));
        }
        let value = self.promoted(value, span)?;
        let wide = if value.expr.ty().is_signed() { tree::Type::I64 } else { tree::Type::U64 };
        let mut seen: FxHashMap<Option<u64>, Span> = FxHashMap::default();
        let mut made = Vec::new();
        for case in cases {
            let mut values = Vec::new();
            let mut default = false;
            for label in &case.labels {
                let key = match label {
                    Some(label) => Some(value.expr.ty().extend(self.constant_integer(label)? as u64)),
                    None => None,
                };
                let at = label.as_ref().map_or(case.span, |label| label.span);
                if let Some(first) = seen.insert(key, at) {
                    return Err(Diagnostic::error(at, "this case is there twice").also(first, "first here"));
                }
                default |= key.is_none();
                values.extend(key);
            }
            self.switches += 1;
            let block = Block { statements: case.body.clone(), span: case.span };
            let body = self.body(&block);
            self.switches -= 1;
            if default && !values.is_empty() {
                // A case is either for values or the default: the values fall into it.
                made.push(tree::Case { values, body: Vec::new() });
                values = Vec::new();
            }
            made.push(tree::Case { values, body });
        }
        self.out.push(Stmt::Switch(value.expr.cast(wide), made));
        Ok(())
    }

    fn shared_variable(&mut self, key: (u32, String), ty: Type, lowered: tree::Type) -> (Type, Variable) {
        let name = key.1.clone();
        let made = || (ty, Variable::new(&name, lowered, Storage::Global));
        self.shared.statics.entry(key).or_insert_with(made).clone()
    }

    fn declare(&mut self, declaration: &Declaration) -> Checked<()> {
        let span = declaration.span;
        let mut named = declaration.ty.clone();
        // `int a[] = {…}` has as many elements as values.
        if let (Some(first @ None), Some(Initializer::List(values, _))) =
            (named.arrays.first_mut(), &declaration.init)
        {
            let kind = ExprKind::Int { value: values.len() as u64, unsigned: false, long: false };
            *first = Some(Expr { kind, span, height: 1 });
        }
        let ty = self.type_of(&named)?;
        let name = declaration.name.as_str();
        let own = match &ty {
            Type::Array(of, count) => {
                let Some(element) = of.lowered().filter(|_| !declaration.is_static) else {
                    let message =
                        "an array of the snippet has one dimension of numbers or pointers, and is not static";
                    return self.error(span, message);
                };
                Own::Array(ty.clone(), self.builder.array(name, element, *count as u32), *count)
            }
            _ => {
                let Some(lowered) = ty.lowered() else {
                    let error = Diagnostic::error(span, format!("a variable cannot be {}", ty.described()));
                    return Err(error.help("declare a pointer to it"));
                };
                if declaration.is_static {
                    let key = (span.start, name.to_owned());
                    let (ty, variable) = self.shared_variable(key, ty.clone(), lowered);
                    Own::Static(ty, variable)
                } else {
                    Own::Scalar(ty.clone(), self.builder.local(name, lowered))
                }
            }
        };
        if let Some(names) = self.names.last_mut() {
            names.insert(name.to_owned(), own.clone());
        }
        self.initialize(declaration, own)
    }

    fn initialize(&mut self, declaration: &Declaration, own: Own) -> Checked<()> {
        let span = declaration.span;
        match (own, &declaration.init) {
            // In a loop it is a new variable each time.
            (Own::Scalar(ty, local), None) => {
                if let Some(lowered) = ty.lowered().filter(|_| self.loops > 0) {
                    self.out.push(local.set(tree::Expr::from(tree::Constant::new(lowered, 0))));
                }
            }
            (_, None) => {}
            (Own::Scalar(ty, local), Some(Initializer::Expr(init))) => {
                let value = self.value(init)?;
                self.write(&Target::Place(ty, local.place()), value, span, init.span)?;
            }
            (Own::Static(ty, variable), Some(Initializer::Expr(init))) => {
                let key = (span.start, format!("first {}", declaration.name));
                let (_, first) = self.shared_variable(key, Type::Bool, tree::Type::Bool);
                let (result, work) = self.apart(|check| -> Checked<()> {
                    check.out.push(first.set(true));
                    let value = check.value(init)?;
                    check.write(&Target::Place(ty, variable.place()), value, span, init.span).map(|_| ())
                });
                result?;
                self.out.push(Stmt::when(first.get().is_false(), work));
            }
            (Own::Array(Type::Array(of, _), array, count), Some(Initializer::List(values, list))) => {
                if values.len() as u64 > count {
                    return self.error(*list, format!("{} values for {count} elements", values.len()));
                }
                for (index, init) in values.iter().enumerate() {
                    let value = self.value(init)?;
                    let value = self.in_memory(value, &of, init.span)?;
                    let target = Target::Place((*of).clone(), array.place(index as u64));
                    self.write(&target, value, span, init.span)?;
                }
                let Some(lowered) = of.lowered() else { return Ok(()) };
                for index in values.len() as u64..count {
                    self.out.push(array.set(index, tree::Expr::from(tree::Constant::new(lowered, 0))));
                }
            }
            (_, Some(Initializer::List(_, list))) => return self.error(*list, "this is no array"),
            (Own::Array(..), Some(Initializer::Expr(init))) => {
                return self.error(init.span, "an array begins with a list: { 1, 2, 3 }");
            }
        }
        Ok(())
    }

    /// A literal text as a pointer into the program's memory where a pointer is wanted.
    pub(super) fn in_memory(&mut self, value: Value, wanted: &Type, span: Span) -> Checked<Value> {
        if !matches!((&value.ty, wanted), (Type::Text(_), Type::Pointer(_))) {
            return Ok(value);
        }
        let tree::Node::Text(text) = value.expr.node() else {
            return self.error(span, "only a literal text has an address");
        };
        match self.scope.text(text) {
            Some(expr) => Ok(Value { ty: Type::CHAR.pointer(), expr }),
            None => self.error(span, "there is no memory of the program to keep this text in"),
        }
    }
}
