//! Places: what expressions name, how it is read and written.

use std::rc::Rc;

use super::{Check, Checked, Own, Target, Value, builtin, elsewhere};
use crate::language::ast::{Domain, Expr, ExprKind, Name, UnaryOp};
use crate::language::scope::{Function, Home, Part};
use crate::language::types::{Member, Structure, Type};
use crate::language::{Diagnostic, Span, suggest};
use crate::tree::{self, Node, Place, Stmt};

impl Check<'_> {
    /// The place with its address computed once.
    pub(super) fn steady(&mut self, target: Target) -> Target {
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
                let bits = match at {
                    Place::Register(_) => value.expr.to_bits(),
                    _ => value.expr,
                };
                let bits = if at.ty() == bits.ty() { bits } else { bits.cast(at.ty()) };
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
                let label = format!("it is {} without a place", value.ty.described());
                Err(error.label(label).help("variables, maps, registers and *pointers can"))
            }
            Target::Parts(..) => self.error(place, "the compiler has split this up; it can be read only"),
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
                return Err(whole(&ty, span));
            }
            Target::Array(ty, ..) => {
                let error = Diagnostic::error(span, format!("an array of the snippet has no address: {ty}"));
                return Err(error.help("use its elements"));
            }
            Target::Parts(ty, parts, offset) => {
                let Some(lowered) = ty.lowered() else {
                    return Err(whole(&ty, span));
                };
                let Some(bits) = collect(&parts, offset, u64::from(lowered.size())) else {
                    return self.error(span, "this has no value here: optimized out");
                };
                (ty, tree::Expr::from_bits(bits, lowered))
            }
            Target::Bits(ty, address, at, width) => {
                let Some(lowered) = ty.lowered() else { return self.error(span, "this is no number") };
                let word = address.load(unsigned(lowered)).cast(tree::Type::U64);
                (ty, bits(word, at, width, lowered))
            }
            Target::Place(ty, place) => {
                let Some(lowered) = ty.lowered() else {
                    return self.error(span, format!("{} is no value", ty.described()));
                };
                let expr = match place {
                    Place::Local(id, at) => tree::Expr::from_node(at, Node::Local(id)),
                    Place::Element(id, at, index) => tree::Expr::from_node(at, Node::Element(id, *index)),
                    Place::Variable(variable) => variable.get(),
                    Place::Register(register) => tree::Expr::from_bits(tree::register(register), lowered),
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
                    let message = format!("{} points to nothing", pointer.ty.described());
                    let error = Diagnostic::error(operand.span, message);
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
                    let message = format!("{} has no elements", pointer.ty.described());
                    return Err(Diagnostic::error(base.span, message)
                        .help("arrays and pointers have; convert it: ((int *)x)[0]"));
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
        if let Some(target) = self.argument_by_name(base, field, span) {
            return target;
        }
        let target = self.target(base)?;
        if let (Target::Parts(ty, parts, offset), false) = (&target, arrow) {
            return self.member_of_parts(ty, parts, *offset, field, span);
        }
        let (ty, address) = match target {
            Target::Memory(ty, address) if !arrow => (ty, address),
            Target::Memory(ty, _) => {
                let message = format!("this is {} itself, no pointer to one", ty.described());
                return Err(Diagnostic::error(base.span, message).help(format!("write `.{field}`")));
            }
            // `.` works through a pointer too: which one it is, is no question.
            other => match self.read(other, base.span)? {
                Value { ty: Type::Pointer(to), expr } => (self.resolve(&to, base.span)?, expr),
                Value { ty, .. } => return Err(memberless(&ty, base.span)),
            },
        };
        let Type::Structure(structure) = &ty else {
            return Err(memberless(&ty, base.span));
        };
        let Some((offset, member)) = self.find_member(structure, field, 0) else {
            return Err(no_member(structure, &ty, field, span));
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

    /// `args.name`, as bpftrace calls a parameter, unless something else is called `args`.
    fn argument_by_name(&mut self, base: &Expr, field: &str, span: Span) -> Option<Checked<Target>> {
        let ExprKind::Name(name) = &base.kind else { return None };
        if name.domain.is_some() || name.path != "args" || self.is_variable("args") {
            return None;
        }
        let parameter = Name { domain: Some(Domain::Parameter), path: field.to_owned() };
        Some(self.named(&parameter, span).map_err(|error| {
            if error.help.is_some() && !error.message.contains("not known") {
                return error;
            }
            let near = error.help.filter(|help| help.starts_with("did you mean"));
            let error = Diagnostic::error(span, format!("no parameter `{field}` is known here"));
            if let Some(near) = near {
                return error.help(near);
            }
            error.help(
                "names come from the program's debugging information; without it there are arg0, arg1, …",
            )
        }))
    }

    /// Whether a name is one of a variable, of the snippet or of the program.
    pub(super) fn is_variable(&self, name: &str) -> bool {
        let known = |domain| !matches!(self.scope.variable(domain, name), Ok(None));
        self.names.iter().any(|names| names.contains_key(name))
            || known(Domain::Default)
            || known(Domain::Global)
    }

    /// A member of something in parts.
    fn member_of_parts(
        &self,
        ty: &Type,
        parts: &Rc<[Part]>,
        start: u64,
        field: &str,
        span: Span,
    ) -> Checked<Target> {
        let ty = self.resolve(ty, span)?;
        let Type::Structure(structure) = &ty else {
            return Err(memberless(&ty, span));
        };
        let Some((offset, member)) = self.find_member(structure, field, 0) else {
            return Err(no_member(structure, &ty, field, span));
        };
        let (ty, offset) = (self.resolve(&member.ty, span)?, start.saturating_add(offset));
        let Some((at, width)) = member.bits else { return Ok(Target::Parts(ty, Rc::clone(parts), offset)) };
        let Some(lowered) = ty.lowered() else { return self.error(span, "this is no number") };
        match collect(parts, offset, u64::from(lowered.size())) {
            Some(word) => {
                let expr = self.sound(bits(word, at, width, lowered), span)?;
                Ok(Target::Value(Value { ty, expr }))
            }
            None => self.error(span, "this has no value here: optimized out"),
        }
    }

    /// A member, also of an anonymous structure in the structure, with its offset.
    fn find_member(&self, structure: &Structure, field: &str, depth: u32) -> Option<(u64, Member)> {
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

    pub(super) fn address_of(&mut self, operand: &Expr) -> Checked<Value> {
        if let ExprKind::Name(name) = &operand.kind
            && let Some(function) = self.scope.function(&name.path)
            && matches!(name.domain, Some(Domain::Inferior | Domain::Function))
        {
            return Ok(address_of_function(&function));
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
            None => &[Domain::Default, Domain::Global],
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
                Home::Parts(parts) => Ok(Target::Parts(self.resolve(&variable.ty, span)?, parts.into(), 0)),
            };
        }
        if let Some(value) = self.scope.enumerator(path).filter(|_| !domains.is_empty()) {
            return Ok(Target::Value(Value { ty: Type::LONG, expr: tree::constant(tree::Type::I64, value) }));
        }
        // As in C, the name of a function is its address.
        if let Some(function) = self.scope.function(path).filter(|_| name.domain != Some(Domain::Default)) {
            return Ok(Target::Value(address_of_function(&function)));
        }
        Err(self.unknown(path, span))
    }

    fn unknown(&self, path: &str, span: Span) -> Diagnostic {
        let own = self.names.iter().flat_map(|names| names.keys()).map(String::as_str);
        let mut near = suggest::nearest(path, own.chain(builtin::NAMES));
        near.extend(self.scope.suggest(path));
        near.truncate(3);
        let error = Diagnostic::error(span, format!("`{path}` is not known here"));
        if self.scope.point().is_none() && elsewhere::instead(path).is_none() {
            return error.help("begin, end and intervals run in the tool, which sees the script's maps only");
        }
        if let Some(help) = elsewhere::instead(path) {
            return error.help(help);
        }
        if near.is_empty() {
            error.help("neither the snippet nor the program's debugging information has this name")
        } else {
            error.did_you_mean(&near)
        }
    }
}

fn address_of_function(function: &Function) -> Value {
    let at = tree::Constant::new(tree::Type::Pointer, function.callee.at.0);
    Value { ty: Type::Void.pointer(), expr: at.into() }
}

fn no_member(structure: &Structure, ty: &Type, field: &str, span: Span) -> Diagnostic {
    let names = || structure.members.iter().map(|member| member.name.as_str());
    let near = suggest::nearest(field, names());
    let error = Diagnostic::error(span, format!("`{ty}` has no member `{field}`"));
    if !near.is_empty() {
        return error.did_you_mean(&near);
    }
    let some: Vec<&str> = names().filter(|name| !name.is_empty()).take(8).collect();
    let more = if names().count() > some.len() { ", …" } else { "" };
    error.help(format!("its members are {}{more}", some.join(", ")))
}

fn whole(ty: &Type, span: Span) -> Diagnostic {
    let error = Diagnostic::error(span, format!("a whole {ty} is no value; name one of its members"));
    error.help("x.member, or its address: &x")
}

fn memberless(ty: &Type, span: Span) -> Diagnostic {
    let error = Diagnostic::error(span, format!("{} has no members", ty.described()));
    error.help("convert it to a pointer to what has: ((struct name *)x)->member")
}

/// `width` bits of a `u64` from bit `at` on, as an integer of `ty`: to the top, and down again with the sign.
fn bits(word: tree::Expr, at: u8, width: u8, ty: tree::Type) -> tree::Expr {
    let up = word.shl(64u64.saturating_sub(u64::from(at) + u64::from(width)));
    let wide = if ty.is_signed() { tree::Type::I64 } else { tree::Type::U64 };
    up.cast(wide).shr(64 - u64::from(width)).cast(ty)
}

/// `size` bytes, at most eight, at `offset` of what `parts` hold, as a `u64`; `None` if some of them are nowhere.
fn collect(parts: &[Part], offset: u64, size: u64) -> Option<tree::Expr> {
    let end = offset.checked_add(size)?;
    let (mut value, mut at): (Option<tree::Expr>, u64) = (None, offset);
    while at < end {
        let covers = |part: &&Part| part.offset <= at && at < part.offset.saturating_add(part.bytes.into());
        let part = parts.iter().find(covers)?;
        let mut word = part.value.clone()?;
        let skipped = at - part.offset;
        let have = (u64::from(part.bytes) - skipped).min(end - at);
        if skipped > 0 {
            word = word.shr(skipped * 8);
        }
        if have < 8 {
            word = word.bitand((1u64 << (have * 8)) - 1);
        }
        value = Some(match value {
            None => word,
            Some(low) => low.bitor(word.shl((at - offset) * 8)),
        });
        at += have;
    }
    value
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
