//! Machine code that differs from point to point in a few numbers only: assembled once.

use incise_snippet::data::operation::assemble;

/// Stands for the number of the point.
pub(crate) const POINT: u32 = 0x5EC0_0001;
/// Stands for the distance from `rsp` to the program's.
pub(crate) const STACK: u32 = 0x5EC0_0002;

/// Code with holes.
#[derive(Debug)]
pub(crate) struct Template {
    code: Vec<u8>,
    /// Where each hole is: of [`POINT`], of [`STACK`].
    holes: [Vec<usize>; 2],
}

impl Template {
    /// Of assembly text.
    pub(crate) fn new(text: &str) -> Template {
        let code = assemble(text);
        let holes = [POINT, STACK].map(|number| {
            let bytes = number.to_le_bytes();
            code.windows(4).enumerate().filter(|(_, window)| *window == bytes).map(|(at, _)| at).collect()
        });
        Template { code, holes }
    }

    /// The code for a point. `stack` is added to what stands at the hole for it.
    pub(crate) fn fill(&self, point: u32, stack: i32) -> Vec<u8> {
        let mut code = self.code.clone();
        for (holes, number) in self.holes.iter().zip([point, stack as u32]) {
            for &at in holes {
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
        let filled = template.fill(7, -8);
        assert_eq!(
            filled,
            assemble("mov eax, 7\nlea rax, [rsp-0x80000000]\nmov ecx, 7")
                .iter()
                .enumerate()
                .map(|(at, byte)| {
                    // The displacement keeps its four bytes.
                    if (9..13).contains(&at) { (-8i32).to_le_bytes()[at - 9] } else { *byte }
                })
                .collect::<Vec<_>>()
        );
    }
}
