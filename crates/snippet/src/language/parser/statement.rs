//! Statements, clauses and scripts.

use super::{Parsed, Parser};
use crate::language::ast::{
    Block, Case, Clause, Declaration, Expr, Initializer, ScriptSyntax, Stmt, StmtKind, TypeName,
};
use crate::language::lexer::Token;
use crate::language::types::Type;
use crate::language::{Diagnostic, Span};

/// Most values of an initializer.
const VALUES: usize = 4096;

impl<'s> Parser<'s> {
    /// A clause or a declaration.
    pub(super) fn script_item(&mut self, script: &mut ScriptSyntax) -> Parsed<()> {
        if self.eat(";") {
            return Ok(());
        }
        if matches!(self.peek(), Token::Word("struct" | "union")) {
            let declaration = self.struct_declaration()?;
            for member in &declaration.members {
                let Type::Named(_, name) = &member.ty.base else { continue };
                if member.ty.pointers == 0 && !script.structures.iter().any(|known| *known.name == **name) {
                    let message = format!("the type `{}` of this member is not known yet", member.ty.base);
                    let error = Diagnostic::error(member.ty.span, message);
                    return Err(error.help("declare it before, or make the member a pointer to it"));
                }
            }
            script.structures.push(declaration);
            return Ok(());
        }
        if self.is("#") {
            return Err(self.unexpected("a probe"));
        }
        let start = self.span();
        let probes = self.probes()?;
        let filter = if self.is("/") { Some(self.filter()?) } else { None };
        if !self.is("{") {
            let error = self.unexpected("`{`");
            let probe = &probes[0].text;
            return Err(error.help(format!("what is done stands in braces: {probe} {{ @ = count(); }}")));
        }
        let body = self.block()?;
        script.clauses.push(Clause { probes, filter, body, span: self.since(start) });
        Ok(())
    }

    /// Goes on behind the next block.
    pub(super) fn recover_in_script(&mut self, error: Diagnostic) {
        self.note(error);
        let mut open = 0usize;
        loop {
            match self.take().0 {
                Token::End => return,
                Token::Punct("{") => open += 1,
                Token::Punct("}") if open <= 1 => return,
                Token::Punct("}") => open -= 1,
                _ => {}
            }
        }
    }

    fn filter(&mut self) -> Parsed<Expr> {
        let open = self.take().1;
        self.in_filter = true;
        let filter = self.expression();
        self.in_filter = false;
        let filter = filter?;
        self.expect("/").map_err(|error| error.also(open, "the filter begins here"))?;
        Ok(filter)
    }

    /// `{ … }`
    pub(super) fn block(&mut self) -> Parsed<Block> {
        self.braces("{", "}")
    }

    fn braces(&mut self, open: &str, close: &str) -> Parsed<Block> {
        let start = self.expect(open)?;
        self.deeper(|p| {
            let mut statements = Vec::new();
            while !p.is(close) && !p.at_end() {
                statements.extend(p.statement_or_recover());
            }
            p.close(close, start)?;
            Ok(Block { statements, span: p.since(start) })
        })
    }

    /// A block, or one statement as a block.
    fn body(&mut self) -> Parsed<Block> {
        if self.is("{") {
            return self.block();
        }
        let statement = self.deeper(Self::statement)?;
        let span = statement.span;
        Ok(Block { statements: vec![statement], span })
    }

    /// A statement; behind one that is wrong it goes on, always by at least one token.
    pub(super) fn statement_or_recover(&mut self) -> Option<Stmt> {
        let before = self.span();
        match self.statement() {
            Ok(statement) => {
                self.garbled = false;
                Some(statement)
            }
            Err(error) => {
                self.recover(error);
                if self.span() == before {
                    self.take();
                }
                None
            }
        }
    }

    fn statement(&mut self) -> Parsed<Stmt> {
        let start = self.span();
        let kind = self.statement_kind()?;
        Ok(Stmt { kind, span: self.since(start) })
    }

    fn statement_kind(&mut self) -> Parsed<StmtKind> {
        if self.at_declaration() {
            return self.declaration();
        }
        // ``default`x = 1;`` begins with a domain, not with a label.
        let domain = matches!(self.peek_at(1).0, Token::Punct("`"));
        let word = match *self.peek() {
            Token::Punct("{") => return self.block().map(StmtKind::Block),
            Token::Punct("{%") => return self.braces("{%", "%}").map(StmtKind::FirstOnly),
            Token::Punct(";") => {
                self.take();
                return Ok(StmtKind::Empty);
            }
            Token::Word(word) if !domain => word,
            _ => "",
        };
        match word {
            "if" => self.conditional_statement(),
            "while" => {
                self.take();
                let condition = self.condition()?;
                Ok(StmtKind::While(condition, self.body()?))
            }
            "do" => self.do_while(),
            "for" => self.for_loop(),
            "unroll" => {
                self.take();
                let count = self.condition()?;
                Ok(StmtKind::Unroll(count, self.body()?))
            }
            "switch" => self.switch(),
            "break" => self.ended(StmtKind::Break),
            "continue" => self.ended(StmtKind::Continue),
            "return" => {
                self.take();
                let value = if self.is(";") || self.is("}") { None } else { Some(self.expression()?) };
                self.end_of_statement()?;
                Ok(StmtKind::Return(value))
            }
            "else" => {
                let span = self.span();
                Err(Diagnostic::error(span, "this `else` belongs to no `if`"))
            }
            "case" => {
                let span = self.span();
                Err(Diagnostic::error(span, "`case` stands outside of a `switch`"))
            }
            "let" if matches!(self.peek_at(1).0, Token::Scratch(_)) => {
                let span = self.span();
                Err(Diagnostic::error(span, "variables need no `let`")
                    .help("their first value makes them: $x = 3;"))
            }
            _ => {
                let expr = self.expression()?;
                self.end_of_statement()?;
                Ok(StmtKind::Expr(expr))
            }
        }
    }

    fn ended(&mut self, kind: StmtKind) -> Parsed<StmtKind> {
        self.take();
        self.end_of_statement()?;
        Ok(kind)
    }

    /// `;`, which may be left out before the end of the block.
    fn end_of_statement(&mut self) -> Parsed<()> {
        if self.is("}") || self.is("%}") || *self.peek() == Token::End {
            return Ok(());
        }
        self.expect(";").map(|_| ())
    }

    /// An expression in brackets.
    fn condition(&mut self) -> Parsed<Expr> {
        let open =
            self.expect("(").map_err(|error| error.help("it stands in brackets: if (arg0 > 3) { … }"))?;
        let condition = self.deeper(Self::expression)?;
        self.close(")", open)?;
        Ok(condition)
    }

    /// All arms in one loop, so that a long chain takes no stack.
    fn conditional_statement(&mut self) -> Parsed<StmtKind> {
        let mut arms = Vec::new();
        let mut otherwise = None;
        loop {
            self.take();
            let condition = self.condition()?;
            arms.push((condition, self.body()?));
            if !self.eat_word("else") {
                break;
            }
            if !self.is_word("if") {
                otherwise = Some(self.body()?);
                break;
            }
        }
        Ok(StmtKind::If { arms, otherwise })
    }

    fn do_while(&mut self) -> Parsed<StmtKind> {
        self.take();
        let body = self.body()?;
        if !self.eat_word("while") {
            return Err(self.unexpected("`while`"));
        }
        let condition = self.condition()?;
        self.end_of_statement()?;
        Ok(StmtKind::DoWhile(body, condition))
    }

    fn for_loop(&mut self) -> Parsed<StmtKind> {
        self.take();
        let open = self.expect("(")?;
        let (first, condition, step) = self.deeper(|p| {
            let start = p.span();
            let first = if p.eat(";") {
                None
            } else if p.at_declaration() {
                let kind = p.declaration()?;
                Some(Box::new(Stmt { kind, span: p.since(start) }))
            } else {
                let expr = p.expression()?;
                if p.is(":") {
                    let error = Diagnostic::error(p.span(), "nothing goes over the keys of a map");
                    return Err(error.help("print(@x) shows all of them, print(@x, 5) the five greatest"));
                }
                p.expect(";")?;
                Some(Box::new(Stmt { kind: StmtKind::Expr(expr), span: p.since(start) }))
            };
            let condition = if p.is(";") { None } else { Some(p.expression()?) };
            p.expect(";")?;
            let step = if p.is(")") { None } else { Some(p.expression()?) };
            p.close(")", open)?;
            Ok((first, condition, step))
        })?;
        Ok(StmtKind::For { first, condition, step, body: self.body()? })
    }

    fn switch(&mut self) -> Parsed<StmtKind> {
        self.take();
        let value = self.condition()?;
        let open = self.expect("{")?;
        let mut cases: Vec<Case> = Vec::new();
        self.deeper(|p| {
            while !p.is("}") && !p.at_end() {
                if let Some((label, span)) = p.case_label()? {
                    match cases.last_mut() {
                        Some(case) if case.body.is_empty() => {
                            case.labels.push(label);
                            case.span = case.span.to(span);
                        }
                        _ => cases.push(Case { labels: vec![label], body: Vec::new(), span }),
                    }
                    continue;
                }
                let Some(statement) = p.statement_or_recover() else { continue };
                let Some(case) = cases.last_mut() else {
                    return Err(Diagnostic::error(statement.span, "this stands before the first `case`"));
                };
                case.body.push(statement);
            }
            p.close("}", open).map(|_| ())
        })?;
        Ok(StmtKind::Switch { value, cases })
    }

    /// `case VALUE:` or `default:`, if one is here.
    fn case_label(&mut self) -> Parsed<Option<(Option<Expr>, Span)>> {
        let start = self.span();
        let default = self.is_word("default") && matches!(self.peek_at(1).0, Token::Punct(":"));
        if !default && !self.is_word("case") {
            return Ok(None);
        }
        self.take();
        let value = if default { None } else { Some(self.deeper(Self::assignment)?) };
        self.expect(":")?;
        Ok(Some((value, self.since(start))))
    }

    /// `static int a = 1, *b[2];`
    fn declaration(&mut self) -> Parsed<StmtKind> {
        let is_static = self.eat_word("static");
        let base_start = self.span();
        let base = self.base_type()?;
        let mut declarations = Vec::new();
        loop {
            let pointers = self.pointers()?;
            let (name, span) = self.name("the name of a variable")?;
            let arrays = self.arrays()?;
            let init = if self.eat("=") { Some(self.initializer()?) } else { None };
            let ty = TypeName { base: base.clone(), pointers, arrays, span: base_start };
            declarations.push(Declaration { ty, name: name.to_owned(), is_static, init, span });
            if !self.eat(",") {
                break;
            }
        }
        self.end_of_statement()?;
        Ok(StmtKind::Declare(declarations))
    }

    fn initializer(&mut self) -> Parsed<Initializer> {
        if !self.is("{") {
            return self.assignment().map(Initializer::Expr);
        }
        let open = self.take().1;
        let mut values = Vec::new();
        while !self.is("}") {
            values.push(self.deeper(Self::assignment)?);
            if values.len() > VALUES {
                let span = self.span();
                return Err(Diagnostic::error(span, format!("more than {VALUES} values")));
            }
            if !self.eat(",") {
                break;
            }
        }
        self.close("}", open)?;
        Ok(Initializer::List(values, self.since(open)))
    }
}
