//! What runs at the entry and the exit of a function whose values are put into a histogram.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use incise_isa::native::{Gpr, GprSet, abi};
use incise_patch::{Effects, Generate, Output, PointContext, Refusal};
use incise_snippet::data::operation::{CallsLayout, HistogramLayout, histogram_add};

use super::Measure;
use crate::trace::template::{POINT, STACK, Template, VALUES};

/// Offset of the quadword that counts calls for which there was no room in the table of calls.
pub(crate) const UNTIMED: u64 = 0;
/// Offset of the quadword that counts exits whose entry was not seen.
pub(crate) const UNPAIRED: u64 = 8;
/// Where the histograms begin.
pub(crate) const HISTOGRAMS: u64 = 64;

/// What histograms of one program are filled with.
#[derive(Clone, Debug)]
pub(crate) struct Measurer {
    entry: Option<Arc<Template>>,
    exit: Option<Arc<Template>>,
    of: Measure,
}

/// Where things are in the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// The table of calls.
    pub calls: u64,
    /// Counters, and histograms behind them.
    pub shared: u64,
}

impl Measurer {
    /// `rate`: nanoseconds for each tick.
    pub(crate) fn new(
        of: Measure,
        places: Places,
        calls: CallsLayout,
        histogram: HistogramLayout,
        rate: f64,
    ) -> Measurer {
        let Places { calls: table, shared } = places;
        let add = histogram_add(histogram);
        // Which function, which return address, which stack pointer.
        let check = format!("lea r9, [rsp+{STACK}]\nmov r8, [r9]\nadd r8, {POINT}\nxor r8, r9\n");
        let (entry, exit) = match of {
            Measure::Duration => {
                let enter = format!(
                    "mov r11, {table}\n{check}{}test rax, rax\njnz 6f\nmov r11, {shared}\n\
                     lock inc qword ptr [r11+{UNTIMED}]\n6: nop\n",
                    calls.enter()
                );
                // Nanoseconds, in fixed point.
                let scale = (rate * 2f64.powi(32)) as u64;
                let exit = format!(
                    "mov r11, {table}\n{check}{}mov r11, {shared}\ncmp rax, -1\nje 6f\n\
                     mov rcx, {scale}\nmul rcx\nshrd rax, rdx, 32\nlea r11, [r11+{VALUES}]\n{add}jmp 7f\n\
                     6: lock inc qword ptr [r11+{UNPAIRED}]\n7: nop\n",
                    calls.exit()
                );
                (Some(enter), Some(exit))
            }
            Measure::Argument(index) => {
                let register = abi::ARGUMENTS[usize::from(index)];
                (
                    Some(format!("mov rax, {register}\nmov r11, {shared}\nlea r11, [r11+{VALUES}]\n{add}")),
                    None,
                )
            }
            Measure::Return => (None, Some(format!("mov r11, {shared}\nlea r11, [r11+{VALUES}]\n{add}"))),
        };
        let template = |text: Option<String>| text.map(|text| Arc::new(Template::new(&text)));
        Measurer { entry: template(entry), exit: template(exit), of }
    }

    /// The snippet for a point of function `function`, whose histogram is at offset `values` of the shared memory.
    /// `round` is how often the function was switched on, for its entries and exits together.
    pub(crate) fn snippet(
        &self,
        function: u32,
        round: &Arc<AtomicU32>,
        values: u64,
        exit: bool,
    ) -> Option<Take> {
        let code = if exit { &self.exit } else { &self.entry };
        let round = Arc::clone(round);
        Some(Take { code: code.clone()?, function, round, values: values as u32, of: self.of, exit })
    }
}

/// A snippet that takes a value, or notes when a call begins.
#[derive(Debug)]
pub(crate) struct Take {
    code: Arc<Template>,
    function: u32,
    /// Part of the check: what was entered before the function was switched off is no entry of a call that ends after.
    round: Arc<AtomicU32>,
    values: u32,
    of: Measure,
    exit: bool,
}

impl Generate for Take {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        let timing = [Gpr::Rax, Gpr::Rdx, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11];
        let adding = [Gpr::Rax, Gpr::Rcx, Gpr::R9, Gpr::R10, Gpr::R11];
        let (reads, clobbers) = match self.of {
            Measure::Duration if self.exit => (GprSet::EMPTY, GprSet::of(&timing).union(GprSet::of(&adding))),
            Measure::Duration => (GprSet::EMPTY, GprSet::of(&timing)),
            Measure::Argument(index) => {
                (GprSet::of(&[abi::ARGUMENTS[usize::from(index)]]), GprSet::of(&adding))
            }
            Measure::Return => (GprSet::of(&[Gpr::Rax]), GprSet::of(&adding)),
        };
        Effects { reads, clobbers, flags: true, ..Effects::default() }
    }

    fn generate(&self, _: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        // Numbers of functions, spread, so that their sums with return addresses differ.
        let round = self.round.load(Ordering::Relaxed).wrapping_mul(0x85EB_CA6B);
        let check = self.function.wrapping_add(round).wrapping_mul(0x9E37_79B9) >> 1;
        let code =
            self.code.fill(&[(POINT, check), (STACK, out.stack_offset() as u32), (VALUES, self.values)]);
        out.asm().raw(&code);
        Ok(())
    }
}
