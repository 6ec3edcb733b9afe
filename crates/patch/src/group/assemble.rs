//! The trampoline of a group: its instructions with their snippets, and the way back.

use incise_isa::Addr;
use incise_isa::native::{
    Assembler, Flow, Insn, Live, MAX_GUARD_LEN, Relocation, SPRINGBOARD_LEN, flags_live_through, live_before,
    relocate,
};
use incise_space::Features;

use crate::code::{Code, LOOKAHEAD};
use crate::group::shape::{Board, Shape};
use crate::group::{Head, Heads, Mark, Marks};
use crate::snippet::generate::PointContext;
use crate::snippet::placement::Placement;
use crate::tactic::Refusal;
use crate::trampoline::literals::{Faults, Literals, Switches};
use crate::trampoline::lower::{Ready, in_reach, lower, with_read};
use crate::trampoline::sequences::Snippets;
use crate::trampoline::ways::{Stubs, after, stub, taken, way_in};

/// A trampoline's code at a given place.
pub(crate) struct Built {
    pub code: Vec<u8>,
    pub heads: Heads,
    pub marks: Marks,
    pub faults: Faults,
    pub switches: Switches,
    /// Offset of the address the springboard leads to.
    pub entry: u32,
}

/// The likely length in bytes of the trampoline of `shape`: as if flags were dead and all addresses in reach.
pub(crate) fn estimate<'s>(shape: &Shape, snippets: &dyn Fn(Addr) -> Option<&'s Snippets>) -> u64 {
    const INCREMENT: usize = 8;
    let displaced = |insn: &Insn| match insn.flow() {
        _ if insn.is_nop() => 0,
        Flow::Branch(_) => insn.len().max(SPRINGBOARD_LEN + 1),
        _ => insn.len(),
    };
    let along = |(way, snippets): (Placement, &[Ready])| {
        let detour = match way {
            Placement::Before | Placement::After | Placement::Entered => 0,
            Placement::Taken => SPRINGBOARD_LEN,
            Placement::Toward(_) | Placement::Returned => MAX_GUARD_LEN,
        };
        detour + INCREMENT * snippets.len()
    };
    let added =
        |snippets: &Snippets| INCREMENT * snippets.before().len() + snippets.ways().map(along).sum::<usize>();
    let of = |insn: &Insn| displaced(insn) + snippets(insn.addr()).map_or(0, added);
    let last = &shape.insns[shape.insns.len() - 1];
    let back = if last.flow().falls_through() { SPRINGBOARD_LEN } else { 0 };
    (back + shape.insns.iter().map(of).sum::<usize>()) as u64
}

/// Assembles the trampoline of `shape` at `at`, in `buffer`. `snippets` tells what runs at a head; whether the
/// program may still read flags there is found here.
pub(crate) fn build<'s>(
    shape: &Shape,
    at: Addr,
    code: &Code,
    snippets: &dyn Fn(Addr) -> Option<&'s Snippets>,
    features: Features,
    buffer: Vec<u8>,
) -> Result<Built, Refusal> {
    // Landings and stubs are known after a first round; their distance, and so all sizes, are the same in both.
    let unknown = shape.insns.iter().map(|insn| Head { at: insn.addr(), ..Head::default() }).collect();
    let (mut built, stubs) =
        assemble(shape, at, code, snippets, features, buffer, (&unknown, &Stubs::new()))?;
    let refers_inside = shape.insns.iter().any(|insn| {
        insn.flow().target().is_some_and(|target| shape.insns.iter().any(|head| head.addr() == target))
    });
    if refers_inside || !stubs.is_empty() {
        built.code.clear();
        (built, _) = assemble(shape, at, code, snippets, features, built.code, (&built.heads, &stubs))?;
    }
    Ok(built)
}

fn assemble<'s>(
    shape: &Shape,
    at: Addr,
    code: &Code,
    snippets: &dyn Fn(Addr) -> Option<&'s Snippets>,
    features: Features,
    buffer: Vec<u8>,
    (landings, stubs): (&Heads, &Stubs),
) -> Result<(Built, Stubs), Refusal> {
    let mut asm = Assembler::resume(buffer, at);
    let mut literals = Literals::default();
    let mut heads = Heads::with_capacity(shape.insns.len());
    let mut marks = Marks::with_capacity(shape.insns.len());
    let resolve = |target: Addr| {
        landings.iter().find(|head| head.at == target).map_or(target, |head| at + u64::from(head.landing))
    };
    for (index, insn) in shape.insns.iter().enumerate() {
        let landing = asm.bytes().len() as u32;
        let here = snippets(insn.addr());
        if let Some(here) = here {
            // A counter out of reach is told by its address.
            let far = |ready: &Ready| match ready {
                Ready::Counter(counter) => !in_reach(&asm, *counter),
                ready => {
                    ready.counters().iter().any(|counter| !counter.by_thread && !in_reach(&asm, counter.at))
                }
            };
            if features.moves && here.iter().any(far) {
                return Err(Refusal::NoRoom(insn.addr()));
            }
            let at = |placement: Placement, sequence: &[Ready], asm: &Assembler| {
                let live = live(code, &shape.insns[index..], sequence, asm);
                PointContext { insn, placement, live, features, here: asm.here(), counters: &[] }
            };
            if !here.before().is_empty() {
                let mut point = at(Placement::Before, here.before(), &asm);
                for (way, sequence) in here.ways() {
                    point.live = with_read(point.live, sequence, &at(way, sequence, &asm));
                }
                lower(&mut asm, here.before(), point, &mut literals)?;
            }
            for (way, sequence) in here.ways() {
                let point = at(way, sequence, &asm);
                way_in(&mut asm, sequence, point, &mut literals)?;
            }
        }
        marks.push(Mark { offset: landing, head: index as u32 });
        let copy = distance(landing, &asm);
        let detour = here.filter(|here| taken(insn, here).is_some());
        if shape.board == Board::Retarget {
            asm.jump(insn.flow().target().unwrap_or(insn.end()));
        } else if detour.is_some() {
            let stub = stubs.iter().find(|stub| stub.of == insn.addr()).map_or(0, |stub| stub.offset);
            asm = displace(asm, insn, &|_| at + u64::from(stub), features)?;
        } else if !insn.is_nop() {
            asm = displace(asm, insn, &resolve, features)?;
        }
        let copied = (distance(landing, &asm) - copy) as u8;
        heads.push(Head { at: insn.addr(), landing, copy, copied, len: insn.len() as u8, entered: 0 });
        if let Some(here) = here {
            after(&mut asm, insn, here, code, features, &mut literals)?;
        }
    }
    let last = &shape.insns[shape.insns.len() - 1];
    if shape.board == Board::Retarget {
        // A thread that meets a trap at the site still has to make the call.
        if let Flow::Call(_) = last.flow() {
            let landing = asm.bytes().len() as u32;
            asm = displace(asm, last, &|_| at, Features { shadow_stack: false, ..features })?;
            heads[0] = Head { landing, copy: 0, copied: distance(landing, &asm) as u8, ..heads[0] };
            marks[0].offset = landing;
        }
    } else if last.flow().falls_through() && !matches!(last.flow(), Flow::Call(_) | Flow::IndirectCall) {
        // A displaced call comes back to the original code by itself.
        if features.moves && !in_reach(&asm, last.end()) {
            return Err(Refusal::NoRoom(last.addr()));
        }
        asm.jump(last.end());
    }
    let mut stubs = Stubs::new();
    for (index, insn) in shape.insns.iter().enumerate() {
        let Some(sequence) = snippets(insn.addr()).and_then(|here| taken(insn, here)) else { continue };
        let target = insn.flow().target().map_or(insn.end(), resolve);
        marks.push(Mark { offset: asm.bytes().len() as u32, head: index as u32 });
        stubs.push(stub(&mut asm, insn, sequence, target, code, features, &mut literals)?);
    }
    let mut code = asm.into_bytes();
    let (faults, switches) = (std::mem::take(&mut literals.faults), std::mem::take(&mut literals.switches));
    literals.place(at, &mut code);
    Ok((Built { code, heads, marks, faults, switches, entry: 0 }, stubs))
}

/// Bytes from `landing` to the end of the code so far; `u16::MAX` if there are more.
pub(crate) fn distance(landing: u32, asm: &Assembler) -> u16 {
    u16::try_from(asm.bytes().len() - landing as usize).unwrap_or(u16::MAX)
}

/// Appends `insn` so that it has its effect from where it stands now.
pub(crate) fn displace(
    asm: Assembler,
    insn: &Insn,
    resolve: &dyn Fn(Addr) -> Addr,
    features: Features,
) -> Result<Assembler, Refusal> {
    let origin = asm.here() - asm.bytes().len() as u64;
    let Features { shadow_stack, moves, .. } = features;
    let how = Relocation { to: asm.here(), resolve, shadow_stack, moves };
    let mut bytes = asm.into_bytes();
    relocate(insn, &how, &mut bytes)?;
    let here = origin + bytes.len() as u64;
    Ok(Assembler::resume(bytes, here))
}

/// What the program still needs at the first of `insns`, as far as the snippets could change it.
fn live(code: &Code, insns: &[Insn], snippets: &[Ready], asm: &Assembler) -> Live {
    let at = insns[0].addr();
    let bytes = code.original(at);
    let bytes = &bytes[..bytes.len().min(LOOKAHEAD as usize)];
    if snippets.iter().all(|snippet| snippet.changes_only_flags(asm))
        && !(flags_live_through(insns, bytes) && code.flags_live(at))
    {
        // Nothing has to be kept, so no register is needed to keep it in.
        Live { flags: false, ..Live::ALL }
    } else if snippets.iter().any(Ready::saves) {
        live_before(bytes, at)
    } else {
        Live::ALL
    }
}
