//! Maps, histograms, rings: what they hold. How that lies in memory is told elsewhere.

use std::sync::Arc;

use super::block::Block;
use super::error::TreeError;
use super::expr::{Expr, Node};
use super::operand::Operand;
use super::stmt::Stmt;
use super::types::{Constant, Type};

/// What the values of a map are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Aggregate {
    /// A value of a scalar type, as it was last set.
    Plain(Type),
    /// How often.
    Count,
    /// The sum of integers, signed or not.
    Sum {
        /// Whether they are signed.
        signed: bool,
    },
    /// The least.
    Min {
        /// Whether they are signed.
        signed: bool,
    },
    /// The greatest.
    Max {
        /// Whether they are signed.
        signed: bool,
    },
    /// Count and sum, whose quotient is shown.
    Average {
        /// Whether they are signed.
        signed: bool,
    },
    /// Count, sum and average.
    Stats {
        /// Whether they are signed.
        signed: bool,
    },
    /// How often in each power of two.
    Histogram,
    /// How often in each step from `least` to below `most`, below and above.
    Linear {
        /// The lower end.
        least: i64,
        /// The upper end.
        most: i64,
        /// The width of a bucket.
        step: u64,
    },
}

/// A map from keys to values, a histogram (a map without a key), a value by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Map(Arc<MapInner>);

#[derive(PartialEq, Eq, Debug)]
struct MapInner {
    name: String,
    keys: Vec<Type>,
    aggregate: Aggregate,
    capacity: u32,
    block: Block,
}

impl Map {
    /// A map in `block`, which is laid out for it.
    pub fn new(name: &str, keys: Vec<Type>, aggregate: Aggregate, capacity: u32, block: Block) -> Map {
        Map(Arc::new(MapInner { name: name.to_owned(), keys, aggregate, capacity, block }))
    }

    /// Its name, without `@`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The types of its keys.
    pub fn keys(&self) -> &[Type] {
        &self.0.keys
    }

    /// What its values are.
    pub fn aggregate(&self) -> &Aggregate {
        &self.0.aggregate
    }

    /// How many keys it can have.
    pub fn capacity(&self) -> u32 {
        self.0.capacity
    }

    /// Its memory.
    pub fn block(&self) -> &Block {
        &self.0.block
    }

    fn check_keys(&self, keys: &[Expr]) -> Result<(), TreeError> {
        check_values(&format!("@{}", self.name()), "a key", self.keys(), keys)
    }

    /// The value at a key, 0 if there is none: of plain values, counts, sums, and of the least and greatest.
    pub fn get(&self, keys: Vec<Expr>) -> Expr {
        if let Err(error) = self.check_keys(&keys) {
            return Expr::invalid(error);
        }
        let word = |ty| Expr::from_node(ty, Node::MapValue(self.clone(), keys.clone().into()));
        let wide = |signed| if signed { Type::I64 } else { Type::U64 };
        // As `data::Aggregate` keeps them: a greater word is a greater value, or a lesser one.
        let ordered = |word: Expr, signed| {
            let none = Expr::from(Constant::new(wide(signed), 0));
            self.has(keys.clone()).choose(word.bitxor(1u64 << 63).cast(wide(signed)), none)
        };
        match *self.aggregate() {
            Aggregate::Plain(ty) => word(ty),
            Aggregate::Count => word(Type::U64),
            Aggregate::Sum { signed } => word(wide(signed)),
            Aggregate::Max { signed } => ordered(word(Type::U64), signed),
            Aggregate::Min { signed } => ordered(word(Type::U64).not(), signed),
            _ => Expr::invalid(TreeError::Update(self.name().to_owned())),
        }
    }

    /// Whether there is a value at a key.
    pub fn has(&self, keys: Vec<Expr>) -> Expr {
        match self.check_keys(&keys) {
            Ok(()) => Expr::from_node(Type::Bool, Node::MapHas(self.clone(), keys.into())),
            Err(error) => Expr::invalid(error),
        }
    }

    /// Changes the value at a key as its kind of value wants it: [`Update::One`] of a count, [`Update::Value`] of the others.
    pub fn update(&self, keys: Vec<Expr>, update: Update) -> Stmt {
        if let Err(error) = self.check_keys(&keys) {
            return Stmt::Invalid(error);
        }
        let update = match (self.aggregate(), update) {
            (Aggregate::Count, Update::One) => Update::One,
            (Aggregate::Plain(ty), Update::Value(value)) => {
                Update::Value(value.expect_type("a value of the map", *ty))
            }
            (Aggregate::Plain(_) | Aggregate::Count, _) | (_, Update::One) => {
                return Stmt::Invalid(TreeError::Update(self.name().to_owned()));
            }
            // Aggregations take quadwords.
            (_, Update::Value(value)) => {
                let wide = if value.ty().is_signed() { Type::I64 } else { Type::U64 };
                if value.ty().is_float() {
                    return Stmt::Invalid(TreeError::Update(self.name().to_owned()));
                }
                Update::Value(value.converted(wide).into())
            }
        };
        Stmt::Update(self.clone(), keys, update)
    }

    /// Takes a key out.
    pub fn delete(&self, keys: Vec<Expr>) -> Stmt {
        match self.check_keys(&keys) {
            Ok(()) => Stmt::Delete(self.clone(), keys),
            Err(error) => Stmt::Invalid(error),
        }
    }
}

/// How [`Stmt::Update`] changes a value.
#[derive(Clone, PartialEq, Debug)]
pub enum Update {
    /// Counts one.
    One,
    /// Sets the plain value, or takes the value into the aggregation.
    Value(Expr),
}

impl Update {
    /// A value.
    pub fn value(value: impl Into<Operand>) -> Update {
        Update::Value(value.into().with(Type::I64))
    }
}

/// Records on their way to a reader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring(Arc<RingInner>);

#[derive(PartialEq, Eq, Debug)]
struct RingInner {
    /// Bytes of each CPU's part, a power of two.
    size: u32,
    block: Block,
}

impl Ring {
    /// A ring in `block`, which is laid out for it; `size` bytes for each CPU.
    pub fn new(size: u32, block: Block) -> Ring {
        Ring(Arc::new(RingInner { size, block }))
    }

    /// Bytes for each CPU.
    pub fn size(&self) -> u32 {
        self.0.size
    }

    /// Its memory.
    pub fn block(&self) -> &Block {
        &self.0.block
    }

    /// Appends a record; the values are those of its fields.
    pub fn emit(&self, record: &Record, values: Vec<Expr>) -> Stmt {
        let types: Vec<Type> = record.fields().iter().map(|field| field.ty).collect();
        match check_values(record.name(), "a field", &types, &values) {
            Ok(()) => Stmt::Emit(self.clone(), record.clone(), values),
            Err(error) => Stmt::Invalid(error),
        }
    }
}

/// A kind of record. It always has the time, the thread and its kind; here are its fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record(Arc<RecordInner>);

#[derive(PartialEq, Eq, Debug)]
struct RecordInner {
    id: u16,
    name: String,
    fields: Vec<Field>,
    format: Option<String>,
}

/// A field of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type. All fields begin at multiples of 8 bytes.
    pub ty: Type,
}

impl Record {
    /// A kind of record, `id` among those of its ring. With a `format`, it is shown as printf(3) would.
    pub fn new(id: u16, name: &str, fields: Vec<Field>, format: Option<String>) -> Record {
        Record(Arc::new(RecordInner { id, name: name.to_owned(), fields, format }))
    }

    /// Its number in the ring.
    pub fn id(&self) -> u16 {
        self.0.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its fields, in order.
    pub fn fields(&self) -> &[Field] {
        &self.0.fields
    }

    /// How it is shown, as for printf(3).
    pub fn format(&self) -> Option<&str> {
        self.0.format.as_deref()
    }

    /// Bytes of all fields, each a multiple of 8.
    pub fn size(&self) -> u32 {
        self.fields().iter().map(|field| field.ty.size().next_multiple_of(8)).sum()
    }
}

/// Whether `values` are of the types wanted, in number and kind.
fn check_values(name: &str, what: &'static str, types: &[Type], values: &[Expr]) -> Result<(), TreeError> {
    if types.len() != values.len() {
        return Err(TreeError::Count { what: name.to_owned(), wanted: types.len(), found: values.len() });
    }
    for (wanted, value) in types.iter().zip(values) {
        value.check()?;
        let text = matches!((wanted, value.ty()), (Type::Text(room), Type::Text(len)) if len <= *room);
        if *wanted != value.ty() && !text {
            return Err(TreeError::Mismatch { what, wanted: *wanted, found: value.ty() });
        }
    }
    Ok(())
}
