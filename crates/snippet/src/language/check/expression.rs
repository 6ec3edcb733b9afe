//! Expressions: what they are worth, and what they do on the way, from left to right.

use super::{Check, Checked, Own, Target, Value};
use crate::language::ast::{BinaryOp, Domain, Expr, ExprKind, Name, UnaryOp};
use crate::language::scope::Home;
use crate::language::types::Type;
use crate::language::{Diagnostic, Span, suggest};
use crate::tree::{self, Node, Place, Stmt};

impl Check<'_> {
    /// A condition.
    pub(super) fn condition(&mut self, expr: &Expr) -> Checked<tree::Expr> {
        if let ExprKind::Map { name, keys } = &expr.kind
            && let Some(has) = self.map_holds(name, keys)?
        {
            return Ok(has);
        }
        let value = self.value(expr)?;
        self.truth(value, expr.span)
    }

    /// The value of an expression.
    pub(super) fn value(&mut self, expr: &Expr) -> Checked<Value> {
        match &expr.kind {
            ExprKind::Int { value, unsigned, long } => Ok(literal(*value, *unsigned, *long)),
            ExprKind::Float { value, single: true } => {
                Ok(Value { ty: Type::Float, expr: tree::Constant::f32(*value as f32).into() })
            }
            ExprKind::Float { value, .. } => {
                Ok(Value { ty: Type::Double, expr: tree::Constant::f64(*value).into() })
            }
            ExprKind::Char(byte) => Ok(literal((*byte).into(), false, false)),
            ExprKind::Str(text) => self.text(text, expr.span),
            ExprKind::Positional(n) => self.positional(*n, expr.span),
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right, expr.span),
            ExprKind::Unary(UnaryOp::AddressOf, operand) => self.address_of(operand),
            ExprKind::Unary(UnaryOp::Not, operand) => {
                let holds = self.condition(operand)?;
                Ok(Value { ty: Type::Bool, expr: holds.is_false() })
            }
            ExprKind::Unary(op @ (UnaryOp::Negate | UnaryOp::Plus | UnaryOp::Complement), operand) => {
                let value = self.value(operand)?;
                let value = self.promoted(value, operand.span)?;
                let fits = value.ty.is_integral() || (value.ty.is_float() && *op != UnaryOp::Complement);
                if !fits {
                    return self.error(operand.span, format!("this operator is not for a {}", value.ty));
                }
                let changed = match op {
                    UnaryOp::Negate => value.expr.neg(),
                    UnaryOp::Complement => value.expr.not(),
                    _ => value.expr,
                };
                Ok(Value { ty: value.ty, expr: self.sound(changed, expr.span)? })
            }
            ExprKind::Step { up, postfix, target } => self.step(*up, *postfix, target, expr.span),
            ExprKind::Assign { op, target, value } => self.assign(*op, target, value, expr.span),
            ExprKind::Conditional { condition, then, otherwise } => {
                self.choose(condition, then.as_deref(), otherwise, expr.span)
            }
            ExprKind::Comma(first, second) => {
                self.effect(first)?;
                self.value(second)
            }
            ExprKind::Cast(ty, operand) => {
                let ty = self.type_of(ty)?;
                let value = self.value(operand)?;
                if ty == Type::Void {
                    return Ok(Value { ty, expr: value.expr });
                }
                self.converted(value, &ty, expr.span)
            }
            ExprKind::SizeofType(ty) => {
                let ty = self.type_of(ty)?;
                let size = self.size_of(&ty, expr.span)?;
                Ok(literal(size, true, true))
            }
            ExprKind::Sizeof(operand) => {
                // Not evaluated.
                let (target, _) = self.apart(|check| check.target(operand));
                let ty = target?.ty().clone();
                let size = self.size_of(&ty, operand.span)?;
                Ok(literal(size, true, true))
            }
            ExprKind::Call(callee, arguments) => self.call(callee, arguments, expr.span),
            ExprKind::Map { name, keys } => self.map_value(name, keys, expr.span),
            ExprKind::Name(_)
            | ExprKind::Scratch(_)
            | ExprKind::Index(..)
            | ExprKind::Member { .. }
            | ExprKind::Unary(UnaryOp::Deref, _) => {
                let target = self.target(expr)?;
                self.read(target, expr.span)
            }
        }
    }

    /// Evaluates for the effect.
    pub(super) fn effect(&mut self, expr: &Expr) -> Checked<()> {
        match &expr.kind {
            ExprKind::Step { up, target, .. } => self.step(*up, false, target, expr.span).map(|_| ()),
            ExprKind::Comma(first, second) => {
                self.effect(first)?;
                self.effect(second)
            }
            _ => {
                let value = self.value(expr)?;
                if has_effect(&value.expr) {
                    self.out.push(Stmt::Evaluate(value.expr));
                }
                Ok(())
            }
        }
    }

    /// The value, kept in a local variable, so that what follows cannot change it.
    pub(super) fn kept(&mut self, value: Value) -> Value {
        if value.expr.as_constant().is_some() || !value.expr.ty().is_scalar() {
            return value;
        }
        let local = self.builder.local("", value.expr.ty());
        self.out.push(local.set(value.expr));
        Value { ty: value.ty, expr: local.get() }
    }

    /// Two values; the left one is kept if the right one does something.
    fn both(&mut self, left: &Expr, right: &Expr) -> Checked<(Value, Value)> {
        let mut first = self.value(left)?;
        let (second, work) = self.apart(|check| check.value(right));
        if !work.is_empty() {
            first = self.kept(first);
            self.out.extend(work);
        }
        Ok((first, second?))
    }

    fn binary(&mut self, op: BinaryOp, left: &Expr, right: &Expr, span: Span) -> Checked<Value> {
        if matches!(op, BinaryOp::LogicalAnd | BinaryOp::LogicalOr) {
            let first = self.condition(left)?;
            let (second, mut work) = self.apart(|check| check.condition(right));
            let (second, and) = (second?, op == BinaryOp::LogicalAnd);
            if work.is_empty() {
                let expr = if and { first.and(second) } else { first.or(second) };
                return Ok(Value { ty: Type::Bool, expr: self.sound(expr, span)? });
            }
            let local = self.builder.local("", tree::Type::Bool);
            work.push(local.set(second));
            self.out.push(local.set(first));
            let goes_on = if and { local.get() } else { local.get().is_false() };
            self.out.push(Stmt::when(goes_on, work));
            return Ok(Value { ty: Type::Bool, expr: local.get() });
        }
        let (first, second) = self.both(left, right)?;
        self.operate(op, first, second, span)
    }

    /// An operator of C on two values.
    pub(super) fn operate(&mut self, op: BinaryOp, left: Value, right: Value, span: Span) -> Checked<Value> {
        use BinaryOp::{Add, Eq, Ge, Gt, Le, Lt, Ne, Shl, Shr, Sub};
        let comparison = matches!(op, Lt | Le | Gt | Ge | Eq | Ne);
        let wrong = |check: &Self| {
            let message = format!("`{}` is not for a {} and a {}", op.symbol(), left.ty, right.ty);
            check.error(span, message)
        };
        if let (Type::Text(_), Type::Text(_)) = (&left.ty, &right.ty) {
            if !matches!(op, Eq | Ne) {
                return wrong(self);
            }
            return self.finish(op, Type::Bool, left.expr, right.expr, span);
        }
        if left.ty.is_address() || right.ty.is_address() {
            let integral = |value: &Value| value.ty.is_integral() || value.ty.is_address();
            if comparison && integral(&left) && integral(&right) {
                let (a, b) = (left.expr.cast(tree::Type::Pointer), right.expr.cast(tree::Type::Pointer));
                return self.finish(op, Type::Bool, a, b, span);
            }
            return match (op, left.ty.is_address(), right.ty.is_address()) {
                (Add, true, false) if right.ty.is_integral() => self.moved(left, right, false, span),
                (Add, false, true) if left.ty.is_integral() => self.moved(right, left, false, span),
                (Sub, true, false) if right.ty.is_integral() => self.moved(left, right, true, span),
                (Sub, true, true) => {
                    let size = self.pointee_size(&left.ty, span)?.max(1);
                    let bytes = left.expr.sub(right.expr);
                    let expr = if size == 1 { bytes } else { bytes.div(size) };
                    Ok(Value { ty: Type::LONG, expr: self.sound(expr, span)? })
                }
                _ => wrong(self),
            };
        }
        let fits = left.ty.is_arithmetic() && right.ty.is_arithmetic();
        let only_integers =
            matches!(op, Shl | Shr | BinaryOp::Rem | BinaryOp::And | BinaryOp::Or | BinaryOp::Xor);
        if !fits || (only_integers && (left.ty.is_float() || right.ty.is_float())) {
            return wrong(self);
        }
        if matches!(op, Shl | Shr) {
            let (left, right) = (self.promoted(left, span)?, self.promoted(right, span)?);
            return self.finish(op, left.ty, left.expr, right.expr, span);
        }
        let common = Self::common(&left.ty, &right.ty);
        let (left, right) = (self.converted(left, &common, span)?, self.converted(right, &common, span)?);
        self.finish(op, if comparison { Type::Bool } else { common }, left.expr, right.expr, span)
    }

    fn finish(
        &self,
        op: BinaryOp,
        ty: Type,
        left: tree::Expr,
        right: tree::Expr,
        span: Span,
    ) -> Checked<Value> {
        let expr = match op {
            BinaryOp::Mul => left.mul(right),
            BinaryOp::Div => left.div(right),
            BinaryOp::Rem => left.rem(right),
            BinaryOp::Add => left.add(right),
            BinaryOp::Sub => left.sub(right),
            BinaryOp::Shl => left.shl(right),
            BinaryOp::Shr => left.shr(right),
            BinaryOp::Lt => left.lt(right),
            BinaryOp::Le => left.le(right),
            BinaryOp::Gt => left.gt(right),
            BinaryOp::Ge => left.ge(right),
            BinaryOp::Eq => left.eq(right),
            BinaryOp::Ne => left.ne(right),
            BinaryOp::And => left.bitand(right),
            BinaryOp::Xor => left.bitxor(right),
            BinaryOp::Or => left.bitor(right),
            BinaryOp::LogicalAnd => left.and(right),
            BinaryOp::LogicalOr => left.or(right),
        };
        Ok(Value { ty, expr: self.sound(expr, span)? })
    }

    fn pointee_size(&self, pointer: &Type, span: Span) -> Checked<u64> {
        match pointer {
            Type::Pointer(to) => self.size_of(to, span),
            _ => Ok(1),
        }
    }

    /// A pointer moved by so many elements.
    fn moved(&mut self, pointer: Value, by: Value, back: bool, span: Span) -> Checked<Value> {
        let size = self.pointee_size(&pointer.ty, span)?;
        let count = by.expr.cast(tree::Type::I64);
        let bytes = if size == 1 { count } else { count.mul(size) };
        let expr = if back { pointer.expr.sub(bytes) } else { pointer.expr.add(bytes) };
        Ok(Value { ty: pointer.ty, expr: self.sound(expr, span)? })
    }

    fn choose(
        &mut self,
        condition: &Expr,
        then: Option<&Expr>,
        otherwise: &Expr,
        span: Span,
    ) -> Checked<Value> {
        // `a ?: b` has a's value, evaluated once.
        let first = match then {
            Some(_) => None,
            None => {
                let value = self.value(condition)?;
                Some(self.kept(value))
            }
        };
        let holds = match &first {
            Some(value) => self.truth(value.clone(), condition.span)?,
            None => self.condition(condition)?,
        };
        let (yes, mut yes_work) = self.apart(|check| match (then, first) {
            (Some(then), _) => check.value(then),
            (None, Some(value)) => Ok(value),
            (None, None) => check.error(span, "a value is missing"),
        });
        let (no, mut no_work) = self.apart(|check| check.value(otherwise));
        let (yes, no) = (yes?, no?);
        let ty = if yes.ty == no.ty {
            yes.ty.clone()
        } else if yes.ty.is_arithmetic() && no.ty.is_arithmetic() {
            Self::common(&yes.ty, &no.ty)
        } else if yes.ty.is_address() {
            yes.ty.clone()
        } else if let (Type::Text(a), Type::Text(b)) = (&yes.ty, &no.ty) {
            Type::Text(*a.max(b))
        } else {
            no.ty.clone()
        };
        if ty == Type::Void {
            self.out.push(Stmt::either(holds, yes_work, no_work));
            return Ok(literal(0, false, false));
        }
        let (yes, no) = (self.converted(yes, &ty, span)?, self.converted(no, &ty, span)?);
        if !yes.expr.ty().is_scalar() {
            return self.error(span, "texts cannot be chosen from; use if and else");
        }
        if yes_work.is_empty() && no_work.is_empty() {
            return Ok(Value { ty, expr: self.sound(holds.choose(yes.expr, no.expr), span)? });
        }
        let local = self.builder.local("", yes.expr.ty());
        yes_work.push(local.set(yes.expr));
        no_work.push(local.set(no.expr));
        self.out.push(Stmt::either(holds, yes_work, no_work));
        Ok(Value { ty, expr: local.get() })
    }

    fn assign(&mut self, op: Option<BinaryOp>, target: &Expr, value: &Expr, span: Span) -> Checked<Value> {
        if let ExprKind::Map { name, keys } = &target.kind {
            return self.map_assign(name, keys, op, value, span);
        }
        if let (ExprKind::Scratch(name), None) = (&target.kind, op) {
            let value = self.value(value)?;
            let value = self.widened(value, span)?;
            return self.set_scratch(name, value, span);
        }
        let place = self.target(target)?;
        let place = self.steady(place);
        let (new, work) = self.apart(|check| check.value(value));
        let old = match op {
            Some(_) => {
                let old = self.read(place.clone(), target.span)?;
                Some(if work.is_empty() { old } else { self.kept(old) })
            }
            None => None,
        };
        self.out.extend(work);
        let new = match (op, old) {
            (Some(op), Some(old)) => self.operate(op, old, new?, span)?,
            _ => new?,
        };
        self.write(&place, new, target.span, span)
    }

    pub(super) fn set_scratch(&mut self, name: &str, value: Value, span: Span) -> Checked<Value> {
        let Some(lowered) = value.ty.lowered().filter(|ty| ty.is_scalar()) else {
            let error = Diagnostic::error(span, format!("a {} cannot be kept in a variable", value.ty));
            return Err(
                error.help("use it where it is wanted: as a key, an argument of printf, in a comparison")
            );
        };
        let (ty, local) = match self.scratch.get(name) {
            Some(known) => known.clone(),
            None => {
                let local = self.builder.local(&format!("${name}"), lowered);
                self.scratch.insert(name.to_owned(), (value.ty.clone(), local));
                (value.ty.clone(), local)
            }
        };
        let value = self.converted(value, &ty, span)?;
        self.out.push(local.set(value.expr));
        Ok(Value { ty, expr: local.get() })
    }

    fn step(&mut self, up: bool, postfix: bool, target: &Expr, span: Span) -> Checked<Value> {
        let op = if up { BinaryOp::Add } else { BinaryOp::Sub };
        if let ExprKind::Map { name, keys } = &target.kind {
            return self.map_step(name, keys, op, postfix, span);
        }
        let place = self.target(target)?;
        let place = self.steady(place);
        let mut old = self.read(place.clone(), target.span)?;
        if postfix {
            old = self.kept(old);
        }
        let new = self.operate(op, old.clone(), literal(1, false, false), span)?;
        let new = self.write(&place, new, target.span, span)?;
        Ok(if postfix { old } else { new })
    }

    /// The place with its address computed once.
    fn steady(&mut self, target: Target) -> Target {
        let mut keep =
            |address: tree::Expr| self.kept(Value { ty: Type::Void.pointer(), expr: address }).expr;
        match target {
            Target::Place(ty, Place::Memory(lowered, address)) => {
                Target::Place(ty, Place::Memory(lowered, Box::new(keep(*address))))
            }
            Target::Place(ty, Place::Element(id, lowered, index)) => {
                Target::Place(ty, Place::Element(id, lowered, Box::new(keep(*index))))
            }
            Target::Bits(ty, address, at, width) => Target::Bits(ty, keep(address), at, width),
            other => other,
        }
    }

    /// Gives a place a value; the value as the place has it.
    pub(super) fn write(&mut self, target: &Target, value: Value, place: Span, span: Span) -> Checked<Value> {
        let ty = target.ty().clone();
        match target {
            Target::Place(_, at) => {
                let value = self.converted(value, &ty, span)?;
                let bits = if at.ty() == value.expr.ty() { value.expr } else { value.expr.cast(at.ty()) };
                self.out.push(Stmt::assign(at.clone(), bits));
                self.read(target.clone(), place)
            }
            Target::Bits(_, address, at, width) => {
                let value = self.converted(value, &ty, span)?;
                let Some(lowered) = ty.lowered() else { return self.error(place, "this is no number") };
                let mask = if *width >= 64 { u64::MAX } else { (1 << width) - 1 };
                let bits = value.expr.cast(tree::Type::U64).bitand(mask).shl(u64::from(*at));
                let rest =
                    address.clone().load(unsigned(lowered)).cast(tree::Type::U64).bitand(!(mask << at));
                let place = Place::memory(unsigned(lowered), address.clone());
                self.out.push(Stmt::assign(place, rest.bitor(bits).cast(unsigned(lowered))));
                self.read(target.clone(), span)
            }
            Target::Value(value) => {
                let error = Diagnostic::error(place, "this cannot be given a value");
                Err(error.label(format!("it is a {} without a place", value.ty)))
            }
            Target::Memory(ty, _) | Target::Array(ty, ..) => {
                self.error(place, format!("a whole {ty} cannot be given a value; assign its parts"))
            }
        }
    }

    /// The value of a place. An array is the address of its first element.
    pub(super) fn read(&mut self, target: Target, span: Span) -> Checked<Value> {
        let (ty, expr) = match target {
            Target::Value(value) => return Ok(value),
            Target::Memory(Type::Array(of, _), address) => (Type::Pointer(of), address),
            Target::Memory(ty, _) => {
                return self.error(span, format!("a whole {ty} is no value; name one of its members"));
            }
            Target::Array(ty, ..) => {
                let error = Diagnostic::error(span, format!("an array of the snippet has no address: {ty}"));
                return Err(error.help("use its elements"));
            }
            Target::Bits(ty, address, at, width) => {
                let Some(lowered) = ty.lowered() else { return self.error(span, "this is no number") };
                let word = address.load(unsigned(lowered)).cast(tree::Type::U64);
                // To the top, and down again with the sign.
                let up = word.shl(64u64.saturating_sub(u64::from(at) + u64::from(width)));
                let wide = if lowered.is_signed() { tree::Type::I64 } else { tree::Type::U64 };
                (ty, up.cast(wide).shr(64 - u64::from(width)).cast(lowered))
            }
            Target::Place(ty, place) => {
                let Some(lowered) = ty.lowered() else {
                    return self.error(span, format!("a {ty} is no value"));
                };
                let expr = match place {
                    Place::Local(id, at) => tree::Expr::from_node(at, Node::Local(id)),
                    Place::Element(id, at, index) => tree::Expr::from_node(at, Node::Element(id, *index)),
                    Place::Variable(variable) => variable.get(),
                    Place::Register(register) => tree::register(register).cast(lowered),
                    Place::Memory(at, address) => address.load(at),
                };
                (ty, expr)
            }
        };
        Ok(Value { ty, expr: self.sound(expr, span)? })
    }

    /// Memory at `address` that holds a `ty`.
    fn memory(&self, ty: &Type, address: tree::Expr, span: Span) -> Checked<Target> {
        let ty = self.resolve(ty, span)?;
        let address = self.sound(address, span)?;
        match ty.lowered() {
            Some(lowered) => Ok(Target::Place(ty, Place::memory(lowered, address))),
            None if ty == Type::Void => {
                let error = Diagnostic::error(span, "what a `void *` points to has no type");
                Err(error.help("convert the pointer first: *(int *)p"))
            }
            None => Ok(Target::Memory(ty, address)),
        }
    }

    /// What an expression names.
    pub(super) fn target(&mut self, expr: &Expr) -> Checked<Target> {
        match &expr.kind {
            ExprKind::Name(name) => self.named(name, expr.span),
            ExprKind::Scratch(name) => match self.scratch.get(name) {
                Some((ty, local)) => Ok(Target::Place(ty.clone(), local.place())),
                None => {
                    let near = suggest::nearest(name, self.scratch.keys().map(String::as_str));
                    let near: Vec<String> = near.into_iter().map(|name| format!("${name}")).collect();
                    Err(Diagnostic::error(expr.span, format!("`${name}` has no value yet"))
                        .did_you_mean(&near))
                }
            },
            ExprKind::Unary(UnaryOp::Deref, operand) => {
                let pointer = self.value(operand)?;
                let Type::Pointer(to) = pointer.ty else {
                    let error =
                        Diagnostic::error(operand.span, format!("a {} points to nothing", pointer.ty));
                    return Err(error.help("convert it to a pointer first: *(int *)x"));
                };
                self.memory(&to, pointer.expr, expr.span)
            }
            ExprKind::Index(base, index) => {
                let (base_target, work) = self.apart(|check| check.target(base));
                let base_target = base_target?;
                self.out.extend(work);
                let position = self.value(index)?;
                if !position.ty.is_integral() {
                    return self.error(index.span, format!("an index is an integer, not a {}", position.ty));
                }
                if let Target::Array(Type::Array(of, _), array) = &base_target {
                    let index = position.expr.cast(tree::Type::U64);
                    return Ok(Target::Place((**of).clone(), array.place(index)));
                }
                let pointer = self.read(base_target, base.span)?;
                let Type::Pointer(to) = pointer.ty.clone() else {
                    return self.error(base.span, format!("a {} has no elements", pointer.ty));
                };
                let at = self.moved(pointer, position, false, expr.span)?;
                self.memory(&to, at.expr, expr.span)
            }
            ExprKind::Member { base, field, field_span, arrow } => {
                self.member(base, field, *field_span, *arrow)
            }
            _ => self.value(expr).map(Target::Value),
        }
    }

    fn member(&mut self, base: &Expr, field: &str, span: Span, arrow: bool) -> Checked<Target> {
        let target = self.target(base)?;
        let (ty, address) = match target {
            Target::Memory(ty, address) if !arrow => (ty, address),
            // `.` works through a pointer too: which one it is, is no question.
            other => match self.read(other, base.span)? {
                Value { ty: Type::Pointer(to), expr } => (self.resolve(&to, base.span)?, expr),
                Value { ty, .. } => return self.error(base.span, format!("a {ty} has no members")),
            },
        };
        let Type::Structure(structure) = &ty else {
            return self.error(base.span, format!("a {ty} has no members"));
        };
        let Some((offset, member)) = self.find_member(structure, field, 0) else {
            let near = suggest::nearest(field, structure.members.iter().map(|member| member.name.as_str()));
            let error = Diagnostic::error(span, format!("`{ty}` has no member `{field}`"));
            return Err(error.did_you_mean(&near));
        };
        let address = address.add(offset);
        match member.bits {
            Some((at, width)) => {
                let ty = self.resolve(&member.ty, span)?;
                Ok(Target::Bits(ty, self.sound(address, span)?, at, width))
            }
            None => self.memory(&member.ty, address, span),
        }
    }

    /// A member, also of an anonymous structure in the structure, with its offset.
    fn find_member(
        &self,
        structure: &crate::language::types::Structure,
        field: &str,
        depth: u32,
    ) -> Option<(u64, crate::language::types::Member)> {
        if let Some(member) = structure.members.iter().find(|member| member.name == field) {
            return Some((member.offset, member.clone()));
        }
        let anonymous = structure.members.iter().filter(|member| member.name.is_empty() && depth < 16);
        for member in anonymous {
            let Ok(Type::Structure(inner)) = self.resolve(&member.ty, Span::default()) else { continue };
            if let Some((offset, found)) = self.find_member(&inner, field, depth + 1) {
                return Some((member.offset.saturating_add(offset), found));
            }
        }
        None
    }

    fn address_of(&mut self, operand: &Expr) -> Checked<Value> {
        if let ExprKind::Name(name) = &operand.kind
            && let Some(function) = self.scope.function(&name.path)
            && matches!(name.domain, Some(Domain::Inferior | Domain::Function))
        {
            let at = tree::Constant::new(tree::Type::Pointer, function.callee.at.0);
            return Ok(Value { ty: Type::Void.pointer(), expr: at.into() });
        }
        match self.target(operand)? {
            Target::Place(ty, Place::Memory(_, address)) => Ok(Value { ty: ty.pointer(), expr: *address }),
            Target::Memory(ty, address) => Ok(Value { ty: ty.pointer(), expr: address }),
            Target::Bits(..) => self.error(operand.span, "a bit field has no address"),
            Target::Place(_, Place::Register(_)) => {
                self.error(operand.span, "what is in a register has no address")
            }
            _ => {
                let error = Diagnostic::error(operand.span, "this has no address in the program");
                Err(error.help("only what is in the program's memory has one"))
            }
        }
    }

    fn named(&mut self, name: &Name, span: Span) -> Checked<Target> {
        let path = name.path.as_str();
        match name.domain {
            None | Some(Domain::Default) => {
                let own = self.names.iter().rev().find_map(|names| names.get(path)).cloned();
                if let Some(own) = own {
                    return Ok(match own {
                        Own::Scalar(ty, local) => Target::Place(ty, local.place()),
                        Own::Array(ty, array, _) => Target::Array(ty, array),
                        Own::Static(ty, variable) => Target::Place(ty, variable.place()),
                    });
                }
            }
            Some(Domain::Register) => return self.register(path, span),
            Some(Domain::Point) => return self.point_fact(path, span).map(Target::Value),
            Some(_) => {}
        }
        if name.domain.is_none()
            && let Some(value) = self.builtin(path, span)?
        {
            return Ok(Target::Value(value));
        }
        let domains: &[Domain] = match name.domain {
            None => &[Domain::Local, Domain::Parameter, Domain::Global],
            Some(Domain::Local) => &[Domain::Local],
            Some(Domain::Parameter) => &[Domain::Parameter],
            Some(Domain::Global | Domain::Inferior) => &[Domain::Global],
            _ => &[],
        };
        for domain in domains {
            let found = self
                .scope
                .variable(*domain, path)
                .map_err(|why| Diagnostic::error(span, format!("`{path}` has no value here: {why}")))?;
            let Some(variable) = found else { continue };
            return match variable.home {
                Home::Memory(address) => self.memory(&variable.ty, address, span),
                Home::Register(register) => {
                    let ty = self.resolve(&variable.ty, span)?;
                    Ok(Target::Place(ty, Place::Register(register)))
                }
                Home::Value(expr) => {
                    let ty = self.resolve(&variable.ty, span)?;
                    Ok(Target::Value(Value { ty, expr }))
                }
            };
        }
        if let Some(value) = self.scope.enumerator(path).filter(|_| !domains.is_empty()) {
            return Ok(Target::Value(Value { ty: Type::LONG, expr: tree::constant(tree::Type::I64, value) }));
        }
        Err(self.unknown(path, span))
    }

    fn unknown(&self, path: &str, span: Span) -> Diagnostic {
        let own = self.names.iter().flat_map(|names| names.keys()).map(String::as_str);
        let mut near = suggest::nearest(path, own.chain(super::builtin::NAMES));
        near.extend(self.scope.suggest(path));
        near.truncate(3);
        let error = Diagnostic::error(span, format!("`{path}` is not known here"));
        if near.is_empty() {
            error.help("neither the snippet nor the program's debugging information has this name")
        } else {
            error.did_you_mean(&near)
        }
    }

    /// The value of an expression that must be a known integer.
    pub(super) fn constant_integer(&mut self, expr: &Expr) -> Checked<i64> {
        let value = self.value(expr)?;
        fold(&value.expr).ok_or_else(|| Diagnostic::error(expr.span, "a constant is expected here"))
    }
}

/// The value of an expression of constants.
fn fold(expr: &tree::Expr) -> Option<i64> {
    let value = match expr.node() {
        Node::Constant(constant) => constant.quadword() as i64,
        Node::Cast(inner) => fold(inner)?,
        Node::Unary(tree::UnaryOp::Negate, inner) => fold(inner)?.wrapping_neg(),
        Node::Unary(tree::UnaryOp::Not, inner) => !fold(inner)?,
        Node::Binary(op, left, right) => {
            let (left, right) = (fold(left)?, fold(right)?);
            match op {
                tree::BinaryOp::Add => left.wrapping_add(right),
                tree::BinaryOp::Subtract => left.wrapping_sub(right),
                tree::BinaryOp::Multiply => left.wrapping_mul(right),
                tree::BinaryOp::ShiftLeft => left.wrapping_shl(right as u32),
                tree::BinaryOp::BitOr => left | right,
                tree::BinaryOp::BitAnd => left & right,
                tree::BinaryOp::Divide => left.checked_div(right)?,
                _ => return None,
            }
        }
        _ => return None,
    };
    expr.ty().is_scalar().then(|| expr.ty().extend(value as u64) as i64)
}

/// The unsigned integer of the same size.
fn unsigned(ty: tree::Type) -> tree::Type {
    match ty.size() {
        1 => tree::Type::U8,
        2 => tree::Type::U16,
        4 => tree::Type::U32,
        _ => tree::Type::U64,
    }
}

/// A number with the type C gives it; a literal without a mark that is too large for `int` is a `long`.
pub(super) fn literal(value: u64, unsigned: bool, long: bool) -> Value {
    let ty = match (unsigned, long) {
        (false, false) if value <= i32::MAX as u64 => Type::INT,
        (false, _) if value <= i64::MAX as u64 => Type::LONG,
        (true, false) if value <= u64::from(u32::MAX) => Type::Int { bytes: 4, signed: false },
        _ => Type::UNSIGNED_LONG,
    };
    let lowered = ty.lowered().unwrap_or(tree::Type::U64);
    Value { ty, expr: tree::Constant::new(lowered, value).into() }
}

/// Whether evaluating does more than give a value. Loads do: they can end the run.
fn has_effect(expr: &tree::Expr) -> bool {
    match expr.node() {
        Node::Call(..) | Node::Atomic(..) | Node::CompareExchange(..) | Node::Load(_) | Node::ReadText(_) => {
            true
        }
        Node::Unary(_, a) | Node::Cast(a) | Node::Reinterpret(a) | Node::Element(_, a) => has_effect(a),
        Node::Binary(_, a, b) | Node::And(a, b) | Node::Or(a, b) => has_effect(a) || has_effect(b),
        Node::Choose(a, b, c) => has_effect(a) || has_effect(b) || has_effect(c),
        Node::MapValue(_, keys) | Node::MapHas(_, keys) => keys.iter().any(has_effect),
        _ => false,
    }
}
