//! Maps that a script reads and never puts anything into: most are misspelt.

use rustc_hash::FxHashSet;

use super::ast::{Block, Case, Expr, ExprKind, Initializer, ScriptSyntax, Stmt, StmtKind};
use super::{Diagnostic, Diagnostics, Span, suggest};

/// Says of maps that are only read that nothing is put into them, where they are read first.
///
/// # Errors
/// If there are any.
pub fn check_maps(name: &str, source: &str, script: &ScriptSyntax) -> Result<(), Diagnostics> {
    let mut maps = Maps::default();
    for clause in &script.clauses {
        clause.filter.iter().for_each(|filter| maps.expr(filter));
        maps.block(&clause.body);
    }
    let mut wrong = Diagnostics::new(name, source);
    let mut told = FxHashSet::default();
    for (name, span) in &maps.read {
        if maps.set.contains(*name) || !told.insert(*name) {
            continue;
        }
        let error = Diagnostic::error(*span, format!("nothing is put into @{name} anywhere"));
        let near = suggest::nearest(name, maps.set.iter().copied());
        let near: Vec<String> = near.into_iter().map(|name| format!("@{name}")).collect();
        wrong.push(if near.is_empty() {
            error.help(format!("such as @{name} = count();"))
        } else {
            error.did_you_mean(&near)
        });
    }
    wrong.unless_errors(())
}

/// The maps that are named.
#[derive(Default)]
struct Maps<'s> {
    set: FxHashSet<&'s str>,
    read: Vec<(&'s str, Span)>,
}

impl<'s> Maps<'s> {
    fn block(&mut self, block: &'s Block) {
        block.statements.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &'s Stmt) {
        match &stmt.kind {
            StmtKind::Empty | StmtKind::Break | StmtKind::Continue | StmtKind::Return(None) => {}
            StmtKind::Expr(expr) | StmtKind::Return(Some(expr)) => self.expr(expr),
            StmtKind::Declare(variables) => {
                for init in variables.iter().filter_map(|variable| variable.init.as_ref()) {
                    match init {
                        Initializer::Expr(expr) => self.expr(expr),
                        Initializer::List(list, _) => list.iter().for_each(|expr| self.expr(expr)),
                    }
                }
            }
            StmtKind::Block(block) | StmtKind::FirstOnly(block) => self.block(block),
            StmtKind::If { arms, otherwise } => {
                for (condition, then) in arms {
                    self.expr(condition);
                    self.block(then);
                }
                otherwise.iter().for_each(|block| self.block(block));
            }
            StmtKind::While(expr, block) | StmtKind::DoWhile(block, expr) | StmtKind::Unroll(expr, block) => {
                self.expr(expr);
                self.block(block);
            }
            StmtKind::For { first, condition, step, body } => {
                first.iter().for_each(|stmt| self.stmt(stmt));
                condition.iter().chain(step).for_each(|expr| self.expr(expr));
                self.block(body);
            }
            StmtKind::Switch { value, cases } => {
                self.expr(value);
                for Case { labels, body, .. } in cases {
                    labels.iter().flatten().for_each(|label| self.expr(label));
                    body.iter().for_each(|stmt| self.stmt(stmt));
                }
            }
        }
    }

    /// What is given a value.
    fn target(&mut self, expr: &'s Expr) {
        match &expr.kind {
            ExprKind::Map { name, keys } => {
                self.set.insert(name);
                keys.iter().for_each(|key| self.expr(key));
            }
            _ => self.expr(expr),
        }
    }

    fn expr(&mut self, expr: &'s Expr) {
        match &expr.kind {
            ExprKind::Map { name, keys } => {
                self.read.push((name, expr.span));
                keys.iter().for_each(|key| self.expr(key));
            }
            ExprKind::Assign { target, value, .. } => {
                self.target(target);
                self.expr(value);
            }
            ExprKind::Step { target, .. } => self.target(target),
            ExprKind::Unary(_, operand) | ExprKind::Cast(_, operand) | ExprKind::Sizeof(operand) => {
                self.expr(operand);
            }
            ExprKind::Binary(_, left, right)
            | ExprKind::Comma(left, right)
            | ExprKind::Index(left, right) => {
                self.expr(left);
                self.expr(right);
            }
            ExprKind::Conditional { condition, then, otherwise } => {
                self.expr(condition);
                then.iter().for_each(|expr| self.expr(expr));
                self.expr(otherwise);
            }
            ExprKind::Call(_, arguments) => arguments.iter().for_each(|expr| self.expr(expr)),
            ExprKind::Member { base, .. } => self.expr(base),
            ExprKind::Int { .. }
            | ExprKind::Float { .. }
            | ExprKind::Char(_)
            | ExprKind::Str(_)
            | ExprKind::Name(_)
            | ExprKind::Scratch(_)
            | ExprKind::Positional(_)
            | ExprKind::ArgumentCount
            | ExprKind::SizeofType(_) => {}
        }
    }
}
