//! Machine code that differs from point to point in a few numbers only: assembled once.

use incise_snippet::data::operation::assemble;

/// Stands for the number of the point.
pub(crate) const POINT: u32 = 0x5EC0_0001;
/// Stands for the distance from `rsp` to the program's.
pub(crate) const STACK: u32 = 0x5EC0_0002;

/// Stands for an offset.
pub(crate) const VALUES: u32 = 0x5EC0_0003;

/// Code with holes.
#[derive(Debug)]
pub(crate) struct Template {
    code: Vec<u8>,
    /// Where holes are, and the number that is there.
    holes: Vec<(usize, u32)>,
}

impl Template {
    /// Of assembly text.
    pub(crate) fn new(text: &str) -> Template {
        let code = assemble(text);
        let holes = |number: u32| {
            let found =
                code.windows(4).enumerate().filter(move |(_, window)| *window == number.to_le_bytes());
            found.map(move |(at, _)| (at, number))
        };
        let holes = [POINT, STACK, VALUES].into_iter().flat_map(holes).collect();
        Template { code, holes }
    }

    /// Where `instruction` is in the code, the first time.
    pub(crate) fn find(&self, instruction: &str) -> Option<usize> {
        let wanted = assemble(instruction);
        self.code.windows(wanted.len()).position(|window| window == wanted)
    }

    /// The code with each number that stands for another replaced by that.
    pub(crate) fn fill(&self, numbers: &[(u32, u32)]) -> Vec<u8> {
        let mut code = self.code.clone();
        for &(at, name) in &self.holes {
            if let Some((_, number)) = numbers.iter().find(|(of, _)| *of == name) {
                code[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_where_they_belong() {
        let template = Template::new(&format!("mov eax, {POINT}\nlea rax, [rsp+{STACK}]\nmov ecx, {POINT}"));
        let filled = template.fill(&[(POINT, 7), (STACK, 1 << 20)]);
        assert_eq!(filled, assemble("mov eax, 7\nlea rax, [rsp+0x100000]\nmov ecx, 7"));
    }
}
