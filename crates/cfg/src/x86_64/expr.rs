//! Values as expressions over what registers held at the start of a path.
//!
//! Equal expressions have equal numbers, so a bound on one is a bound on every copy of it.

/// Number of an expression.
pub(super) type V = u32;

/// An expression of 64 bits; arithmetic wraps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Const(u64),
    /// What a register held at the start of the path.
    Init(u8),
    /// Something unknown, different from all else.
    Fresh(u32),
    Add(V, V),
    Mul(V, u64),
    /// The low bits, the others zero.
    Zext(V, u8),
    /// The low bits, the others copies of the highest of them.
    Sext(V, u8),
    And(V, u64),
    Shr(V, u8),
    /// The `size` bytes at an address, the others zero, between two writes of memory.
    Load {
        at: V,
        size: u8,
        era: u32,
    },
}

/// Expressions, and the bounds that branches put on them.
#[derive(Default)]
pub(super) struct Arena {
    nodes: Vec<Node>,
    bounds: Vec<(V, u64, u64)>,
}

/// Most expressions of one path.
const MOST_NODES: usize = 4096;

fn mask(bits: u8) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

fn sign_extend(value: u64, bits: u8) -> u64 {
    let shift = 64 - u32::from(bits);
    ((value << shift) as i64 >> shift) as u64
}

impl Arena {
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.bounds.clear();
    }

    pub(super) fn is_full(&self) -> bool {
        self.nodes.len() >= MOST_NODES
    }

    pub(super) fn get(&self, value: V) -> Node {
        self.nodes.get(value as usize).copied().unwrap_or(Node::Fresh(u32::MAX))
    }

    fn put(&mut self, node: Node) -> V {
        if let Some(found) = self.nodes.iter().position(|n| *n == node) {
            return found as V;
        }
        self.nodes.push(node);
        self.nodes.len() as V - 1
    }

    pub(super) fn constant(&mut self, value: u64) -> V {
        self.put(Node::Const(value))
    }

    pub(super) fn initial(&mut self, register: u8) -> V {
        self.put(Node::Init(register))
    }

    pub(super) fn fresh(&mut self) -> V {
        self.nodes.push(Node::Fresh(self.nodes.len() as u32));
        self.nodes.len() as V - 1
    }

    pub(super) fn as_const(&self, value: V) -> Option<u64> {
        match self.get(value) {
            Node::Const(value) => Some(value),
            _ => None,
        }
    }

    /// The sum; its constant part is its second operand.
    pub(super) fn add(&mut self, a: V, b: V) -> V {
        match (self.get(a), self.get(b)) {
            (Node::Const(x), Node::Const(y)) => self.constant(x.wrapping_add(y)),
            (Node::Const(0), _) => b,
            (_, Node::Const(0)) => a,
            (Node::Const(_), _) => self.add(b, a),
            (Node::Add(x, c), Node::Const(y)) if self.as_const(c).is_some() => {
                let sum = self.as_const(c).unwrap_or(0).wrapping_add(y);
                let sum = self.constant(sum);
                self.add(x, sum)
            }
            (_, Node::Const(_)) => self.put(Node::Add(a, b)),
            (Node::Add(x, c), _) if self.as_const(c).is_some() => {
                let rest = self.add(x, b);
                self.add(rest, c)
            }
            (_, Node::Add(y, c)) if self.as_const(c).is_some() => {
                let rest = self.add(a, y);
                self.add(rest, c)
            }
            _ => self.put(Node::Add(a.min(b), a.max(b))),
        }
    }

    pub(super) fn mul(&mut self, a: V, factor: u64) -> V {
        match (self.get(a), factor) {
            (_, 1) => a,
            (Node::Const(value), _) => self.constant(value.wrapping_mul(factor)),
            (Node::Mul(x, by), _) => self.mul(x, by.wrapping_mul(factor)),
            (Node::Add(x, c), _) if self.as_const(c).is_some() => {
                let constant = self.as_const(c).unwrap_or(0).wrapping_mul(factor);
                let (product, constant) = (self.mul(x, factor), self.constant(constant));
                self.add(product, constant)
            }
            _ => self.put(Node::Mul(a, factor)),
        }
    }

    pub(super) fn zext(&mut self, a: V, bits: u8) -> V {
        if bits >= 64 {
            return a;
        }
        match self.get(a) {
            Node::Const(value) => self.constant(value & mask(bits)),
            Node::Zext(x, narrower) | Node::Sext(x, narrower) if narrower >= bits => self.zext(x, bits),
            _ if self.widest(a) <= mask(bits) => a,
            _ => self.put(Node::Zext(a, bits)),
        }
    }

    pub(super) fn sext(&mut self, a: V, bits: u8) -> V {
        if bits >= 64 {
            return a;
        }
        match self.get(a) {
            Node::Const(value) => self.constant(sign_extend(value, bits)),
            Node::Zext(x, narrower) | Node::Sext(x, narrower) if narrower == bits => self.sext(x, bits),
            _ if self.widest(a) <= mask(bits) >> 1 => a,
            _ => self.put(Node::Sext(a, bits)),
        }
    }

    pub(super) fn and(&mut self, a: V, with: u64) -> V {
        match self.get(a) {
            Node::Const(value) => self.constant(value & with),
            _ if with == mask(8) => self.zext(a, 8),
            _ if with == mask(16) => self.zext(a, 16),
            _ if with == mask(32) => self.zext(a, 32),
            _ => self.put(Node::And(a, with)),
        }
    }

    pub(super) fn shr(&mut self, a: V, by: u8) -> V {
        match self.get(a) {
            Node::Const(value) => self.constant(value >> by.min(63)),
            _ if by == 0 => a,
            _ => self.put(Node::Shr(a, by)),
        }
    }

    pub(super) fn load(&mut self, at: V, size: u8, era: u32) -> V {
        self.put(Node::Load { at, size, era })
    }

    /// Notes that `value` is between `low` and `high` from here on.
    pub(super) fn bound(&mut self, value: V, low: u64, high: u64) {
        if self.as_const(value).is_none() {
            self.bounds.push((value, low, high));
        }
    }

    /// The largest value, whatever branches say.
    fn widest(&self, value: V) -> u64 {
        match self.get(value) {
            Node::Const(value) => value,
            Node::Zext(_, bits) => mask(bits),
            Node::And(_, with) => with,
            Node::Shr(x, by) => self.widest(x) >> by.min(63),
            Node::Load { size, .. } => mask(size.saturating_mul(8)),
            _ => u64::MAX,
        }
    }

    /// The least and the largest value.
    pub(super) fn range(&self, value: V) -> (u64, u64) {
        let (mut low, mut high) = match self.get(value) {
            Node::Const(value) => (value, value),
            Node::Zext(x, bits) => match self.range(x) {
                (low, high) if high <= mask(bits) => (low, high),
                _ => self.wrapped(x, bits),
            },
            Node::Sext(x, bits) => {
                let narrow = self.nodes.iter().position(|n| *n == Node::Zext(x, bits));
                let (low, high) = narrow.map_or_else(|| self.range(x), |narrow| self.range(narrow as V));
                if high <= mask(bits) >> 1 { (low, high) } else { (0, u64::MAX) }
            }
            Node::And(x, with) => (0, with.min(self.range(x).1)),
            Node::Shr(x, by) => {
                let (low, high) = self.range(x);
                (low >> by.min(63), high >> by.min(63))
            }
            Node::Mul(x, by) => {
                let (low, high) = self.range(x);
                match (low.checked_mul(by), high.checked_mul(by)) {
                    (Some(low), Some(high)) => (low, high),
                    _ => (0, u64::MAX),
                }
            }
            Node::Add(x, c) => match self.as_const(c) {
                Some(constant) => self.shifted(x, constant),
                None => (0, u64::MAX),
            },
            Node::Load { size, .. } => (0, mask(size.saturating_mul(8))),
            Node::Init(_) | Node::Fresh(_) => (0, u64::MAX),
        };
        for &(of, from, to) in &self.bounds {
            if of == value {
                (low, high) = (low.max(from), high.min(to));
            }
        }
        (low, high)
    }

    /// The range of the low `bits` of a sum, from a bound on those of what is added to.
    fn wrapped(&self, sum: V, bits: u8) -> (u64, u64) {
        let all = (0, mask(bits));
        let Node::Add(x, c) = self.get(sum) else { return all };
        let Some(constant) = self.as_const(c) else { return all };
        let narrow = self.nodes.iter().position(|n| *n == Node::Zext(x, bits));
        let (low, high) = narrow.map_or_else(|| self.range(x), |narrow| self.range(narrow as V));
        let ends = (low.wrapping_add(constant) & mask(bits), high.wrapping_add(constant) & mask(bits));
        if high <= mask(bits) && ends.0 <= ends.1 && ends.1 - ends.0 == high - low { ends } else { all }
    }

    /// The range of the low 32 bits of `value`.
    pub(super) fn range_of_low_half(&self, value: V) -> (u64, u64) {
        let narrow = self.nodes.iter().position(|n| *n == Node::Zext(value, 32));
        let (low, high) = narrow.map_or((0, mask(32)), |narrow| self.range(narrow as V));
        (low, high.min(mask(32)))
    }

    fn shifted(&self, x: V, constant: u64) -> (u64, u64) {
        let (low, high) = self.range(x);
        let sums = (low.wrapping_add(constant), high.wrapping_add(constant));
        // Either both ends wrap or none does.
        if sums.0 <= sums.1 && (high.checked_add(constant).is_some() || low.checked_add(constant).is_none()) {
            sums
        } else {
            (0, u64::MAX)
        }
    }

    /// A sum as its constant part and its other terms.
    pub(super) fn terms(&self, value: V) -> (u64, Vec<V>) {
        let (mut constant, mut terms, mut open) = (0u64, Vec::new(), vec![value]);
        while let Some(next) = open.pop() {
            match self.get(next) {
                Node::Const(value) => constant = constant.wrapping_add(value),
                Node::Add(a, b) => open.extend([a, b]),
                _ => terms.push(next),
            }
        }
        (constant, terms)
    }
}
