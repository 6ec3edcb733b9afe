//! What a snippet sees of a program that stands still.

use incise_isa::Addr;
use incise_snippet::debug::Debug;
use incise_snippet::interpret::{Datum, World};
use incise_snippet::language::ast::{Domain, Tag};
use incise_snippet::language::{Function, ProgramVariable, Scope, Type};
use incise_snippet::tree::{
    self, Aggregate, Callee, Constant, Map, PointFact, Record, Register, Ring, SystemFact, Variable,
};

use super::gdb::Stop;

/// The names of a program at a place.
pub struct Names<'a>(pub Debug<'a>);

impl Scope for Names<'_> {
    fn function(&self, name: &str) -> Option<Function> {
        let function =
            self.0.image.functions().iter().find(|function| self.0.image.name(function) == name)?;
        let at = Addr(function.addr.0.wrapping_add(self.0.bias));
        Some(Function { callee: Callee::new(name, at), returns: self.0.returns(function.addr)? })
    }

    fn variable(&self, domain: Domain, name: &str) -> Result<Option<ProgramVariable>, String> {
        self.0.variable(domain, name)
    }

    fn named_type(&self, tag: Option<Tag>, name: &str) -> Option<Type> {
        self.0.named_type(tag, name)
    }

    fn program_type(&self, number: u64) -> Option<Type> {
        assert_eq!(Debug::module_of(number), self.0.module);
        self.0.program_type(number)
    }

    fn enumerator(&self, name: &str) -> Option<i64> {
        self.0.enumerator(name)
    }

    fn map(&self, _: &str, _: &[tree::Type], _: &Aggregate) -> Option<Map> {
        None
    }

    fn ring(&self) -> Option<Ring> {
        None
    }
}

/// Reads only; everything else is a mistake of the test.
pub struct Stopped<'a>(pub &'a Stop);

impl World for Stopped<'_> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> bool {
        self.0.read(at, into)
    }

    fn register(&mut self, register: Register) -> u64 {
        match register {
            Register::General(general) => self.0.general[usize::from(general.number())],
            Register::Vector(n) => self.0.vector[usize::from(n)],
            Register::Flags => unreachable!("no variable is in the flags"),
        }
    }

    fn write(&mut self, _: u64, _: &[u8]) -> bool {
        false
    }

    fn set_register(&mut self, _: Register, _: u64) {
        unreachable!()
    }

    fn argument(&mut self, _: u8) -> u64 {
        unreachable!()
    }

    fn float(&mut self, _: Option<u8>) -> u64 {
        unreachable!()
    }

    fn returned(&mut self) -> u64 {
        unreachable!()
    }

    fn point(&mut self, _: PointFact) -> u64 {
        unreachable!()
    }

    fn system(&mut self, _: SystemFact) -> u64 {
        unreachable!()
    }

    fn command(&mut self) -> Vec<u8> {
        unreachable!()
    }

    fn stack(&mut self, _: u8) -> Vec<u64> {
        unreachable!()
    }

    fn variable(&mut self, _: &Variable) -> u64 {
        unreachable!()
    }

    fn set_variable(&mut self, _: &Variable, _: u64) {
        unreachable!()
    }

    fn call(&mut self, _: &Callee, _: &[Constant]) -> u64 {
        unreachable!()
    }

    fn map_value(&mut self, _: &Map, _: &[Datum]) -> Option<u64> {
        unreachable!()
    }

    fn update(&mut self, _: &Map, _: &[Datum], _: Option<Constant>) {
        unreachable!()
    }

    fn delete(&mut self, _: &Map, _: &[Datum]) {
        unreachable!()
    }

    fn emit(&mut self, _: &Ring, _: &Record, _: &[Datum]) {
        unreachable!()
    }

    fn stop(&mut self, _: bool) {
        unreachable!()
    }
}
