//! The instructions in a range of addresses, by the control flow of what it lies in.

use std::sync::Arc;

use incise_cfg::Cfg;
use incise_image::{LinkAddr, Module, Target};
use incise_isa::Addr;
use incise_patch::Placement;

use crate::flow::contents;
use crate::point::{Incomplete, Point, PointKind};
use crate::program::Program;
use crate::source::Binary;

/// The instructions that begin in the range of `target`, which ends at `end`. What cannot be told is added to
/// `incomplete`.
pub(crate) fn in_range(
    program: &Program,
    module: &Module,
    target: &Target,
    end: Addr,
    incomplete: &mut Vec<Incomplete>,
) -> Vec<Point> {
    let whole = point(module, target, target.addr);
    let mut missing = |why: &str| incomplete.push(Incomplete::new(&whole, why));
    let Some(file) = contents(module, program.pid()) else {
        missing("its file is not there any more, or another one is");
        return Vec::new();
    };
    let cfg = match parse(program, module, target, end, &file) {
        Ok(cfg) => cfg,
        Err(why) => {
            missing(&why);
            return Vec::new();
        }
    };
    let (Some(from), Some(to)) = (module.to_link(target.addr), module.to_link(end - 1)) else {
        missing("it leaves the file");
        return Vec::new();
    };
    let blocks = cfg.blocks().filter(|block| block.start() <= to && from < block.end());
    let mut heads: Vec<LinkAddr> = Vec::new();
    let mut complete = true;
    for block in blocks {
        complete &= block.functions().all(|function| function.is_complete());
        let instructions = block.instructions(&module.image, &file).map(|insn| LinkAddr(insn.addr().0));
        heads.extend(instructions.filter(|at| (from..=to).contains(at)));
    }
    if !complete {
        missing("some jumps could not be resolved: there may be code that was not found");
    }
    heads.sort_unstable();
    heads.dedup();
    if heads.is_empty() {
        missing("no instruction that is reached begins there");
    }
    heads.into_iter().map(|at| point(module, target, module.to_addr(at))).collect()
}

/// The control flow of the function that holds the range; of the whole file, if there is none.
fn parse(
    program: &Program,
    module: &Module,
    target: &Target,
    end: Addr,
    file: &[u8],
) -> Result<Arc<Cfg>, String> {
    let binary = Binary { path: &module.path, image: &module.image, file };
    let graphs = program.cfg_source().open(binary).map_err(|error| error.to_string())?;
    let inside = target.start <= target.addr && end <= target.start + target.size;
    let cfg = match module.to_link(target.start).filter(|_| inside) {
        Some(entry) => graphs.function(entry).map_err(|error| error.to_string())?,
        None => None,
    };
    cfg.map_or_else(|| graphs.whole().map_err(|error| error.to_string()), Ok)
}

/// The instruction at `at`, named by the function that was asked for if it lies in that.
fn point(module: &Module, asked: &Target, at: Addr) -> Point {
    let inside = asked.start <= at && at < asked.start + asked.size;
    let target = match asked.names.first().filter(|_| inside) {
        Some(name) => {
            let offset = at.offset_from(asked.start);
            let name = if offset == 0 { name.clone() } else { format!("{name}+{offset:#x}") };
            Target { addr: at, name, ..asked.clone() }
        }
        None => Target::at(module, asked.module, at),
    };
    Point {
        kind: PointKind::BeforeInstruction,
        addr: at,
        function: target.start,
        placement: Placement::Before,
        edge: None,
        module: module.name.clone(),
        display_name: target.display_name().into_owned(),
        name: target.name,
        implementation: None,
        names: if at == target.start { target.names } else { Vec::new() },
    }
}
