//! Blocks: memory in the target that trees read and write, and variables in it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::TreeError;
use super::expr::{Expr, Node};
use super::operand::Operand;
use super::stmt::{Place, Stmt};
use super::types::Type;

/// Names a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId(pub u64);

static BLOCKS: AtomicU64 = AtomicU64::new(0);

/// Memory in the target, in reach of the code that uses it. It gets its place when code that uses it is first
/// installed; clones are the same block.
#[derive(Clone)]
pub struct Block(Arc<Inner>);

struct Inner {
    id: BlockId,
    size: u64,
    align: u64,
    initial: Vec<u8>,
}

impl Block {
    /// `size` bytes, a multiple of 8, that begin with `initial` and are zero behind, at a multiple of `align`, a power of two
    /// of at most 4096.
    pub fn new(size: u64, align: u64, initial: Vec<u8>) -> Block {
        let id = BlockId(BLOCKS.fetch_add(1, Ordering::Relaxed));
        let size = size.max(initial.len() as u64).max(1).next_multiple_of(8);
        let align = align.clamp(8, 4096).next_power_of_two();
        Block(Arc::new(Inner { id, size, align, initial }))
    }

    /// Its name.
    pub fn id(&self) -> BlockId {
        self.0.id
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// What its address is a multiple of.
    pub fn align(&self) -> u64 {
        self.0.align
    }

    /// What it begins with.
    pub fn initial(&self) -> &[u8] {
        &self.0.initial
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Block) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Block {}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}, {} bytes)", self.0.id.0, self.0.size)
    }
}

/// How many values a variable has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Storage {
    /// One.
    Global,
    /// One for each thread.
    PerThread,
    /// One for each CPU, which [`Variable::add`] adds to without a shared cache line. A read gives that of the CPU the
    /// thread is on; the reader adds all up.
    PerCpu,
}

/// Slots of a variable per thread: a power of two. More threads at a time than these end their runs early, counted.
pub const THREADS: u64 = 4096;

/// Bytes between the values of neighbouring CPUs or threads: a cache line and the one fetched with it.
pub(crate) const STRIDE: u64 = 128;

/// Bytes from what threads add at once, on whichever CPU, to what they add in restartable sequences, on this one only: the two do not
/// know of each other.
pub const RESTARTED: u64 = 64;

/// Bytes of a slot per thread: the thread's number, and the value.
pub(crate) const SLOT: u64 = 64;

/// The most CPUs that have a value of their own.
pub(crate) const CPUS: u64 = 256;

/// A named value in the target that outlives the run of a snippet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    name: Arc<str>,
    ty: Type,
    storage: Storage,
    block: Block,
}

impl Variable {
    /// A variable, zero. `ty` is a scalar; of a type that is not, the variable is a quadword.
    pub fn new(name: &str, ty: Type, storage: Storage) -> Variable {
        let ty = if ty.is_scalar() { ty } else { Type::U64 };
        let block = match storage {
            Storage::Global => Block::new(8, 8, Vec::new()),
            Storage::PerThread => Block::new(THREADS * SLOT, 64, Vec::new()),
            // The last is for threads whose CPU cannot be known.
            Storage::PerCpu => Block::new((CPUS + 1) * STRIDE, STRIDE, Vec::new()),
        };
        Variable { name: name.into(), ty, storage, block }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type.
    pub fn ty(&self) -> Type {
        self.ty
    }

    /// How many values it has.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Its memory.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// Its value.
    pub fn get(&self) -> Expr {
        Expr::from_node(self.ty, Node::Variable(self.clone()))
    }

    /// Gives it a value.
    pub fn set(&self, value: impl Into<Operand>) -> Stmt {
        Stmt::assign(Place::Variable(self.clone()), value)
    }

    /// Adds to it; exact under any number of threads.
    pub fn add(&self, value: impl Into<Operand>) -> Stmt {
        let value = value.into().with(self.ty);
        if self.ty.is_float() || self.ty == Type::Bool {
            return Stmt::Invalid(TreeError::Operand { operator: "+=", ty: self.ty });
        }
        Stmt::Add(self.clone(), value.expect_type("what is added", self.ty))
    }

    /// Offsets of its values in the block: one, or one for each CPU.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        let (count, stride) = match self.storage {
            Storage::Global => (1, 8),
            Storage::PerThread => (THREADS, SLOT),
            Storage::PerCpu => (CPUS + 1, STRIDE),
        };
        let first = if self.storage == Storage::PerThread { 8 } else { 0 };
        (0..count).map(move |index| index * stride + first)
    }
}
