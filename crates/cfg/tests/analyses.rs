//! Dominators, post-dominators and loops of real functions, against their definitions: by taking blocks away and
//! looking at what can still be reached.

use std::collections::{BTreeMap, BTreeSet};

use incise_cfg::{BlockId, Cfg, Dominators, Function, Loops, Options, Parser};
use incise_image::Image;

/// Functions with more blocks would take long.
const MOST_BLOCKS: usize = 120;

type Graph = BTreeMap<BlockId, Vec<BlockId>>;

fn parsed(path: &str) -> Option<Cfg> {
    let file = std::fs::read(path).ok()?;
    let image = Image::parse(&file).ok()?;
    Parser::new(&image, &file).ok()?.parse(&Options { threads: 2, progress: None }).ok()
}

fn graph(function: Function<'_>) -> Graph {
    let next = |block: incise_cfg::Block<'_>| block.successors().map(|next| next.id()).collect();
    function.blocks().map(|block| (block.id(), next(block))).collect()
}

fn reversed(graph: &Graph) -> Graph {
    let mut back: Graph = graph.keys().map(|&block| (block, Vec::new())).collect();
    for (&from, all) in graph {
        all.iter().for_each(|to| back.entry(*to).or_default().push(from));
    }
    back
}

/// What can be reached from `roots` by way of blocks that `may` be passed.
fn reached(graph: &Graph, roots: &[BlockId], may: impl Fn(BlockId) -> bool) -> BTreeSet<BlockId> {
    let mut open: Vec<BlockId> = roots.iter().copied().filter(|&root| may(root)).collect();
    let mut seen: BTreeSet<BlockId> = open.iter().copied().collect();
    while let Some(block) = open.pop() {
        for &next in graph.get(&block).into_iter().flatten() {
            if may(next) && seen.insert(next) {
                open.push(next);
            }
        }
    }
    seen
}

/// Compares with the definition: `by` dominates `block` if without it `block` is not reached.
fn check_dominators(graph: &Graph, roots: &[BlockId], found: &Dominators) {
    let all = reached(graph, roots, |_| true);
    for &by in &all {
        let without = reached(graph, roots, |block| block != by);
        for &block in &all {
            assert_eq!(found.dominates(by, block), !without.contains(&block), "{by:?} over {block:?}");
        }
    }
    for &block in &all {
        // The closest: every other one dominates it too.
        let Some(immediate) = found.immediate(block) else { continue };
        assert!(immediate != block && found.dominates(immediate, block));
        let others = all.iter().filter(|&&other| other != block && found.dominates(other, block));
        others.for_each(|&other| {
            assert!(found.dominates(other, immediate), "{other:?} {immediate:?} {block:?}")
        });
    }
}

fn check_loops(function: Function<'_>, graph: &Graph, entry: BlockId) {
    let (loops, back) = (Loops::of(function), reversed(graph));
    let dominators = Dominators::of(function);
    let alive = reached(graph, &[entry], |_| true);
    for (index, found) in loops.all().iter().enumerate() {
        let inside: BTreeSet<BlockId> = found.blocks().collect();
        let headers: BTreeSet<BlockId> = found.headers().collect();
        for &header in &headers {
            assert_eq!(
                reached(graph, &[header], |block| inside.contains(&block)),
                inside,
                "all is reached from a header"
            );
            assert_eq!(
                reached(&back, &[header], |block| inside.contains(&block)),
                inside,
                "and leads back to it"
            );
        }
        if inside.is_subset(&alive) {
            let enters = |&block: &BlockId| {
                block == entry
                    || back[&block].iter().any(|from| alive.contains(from) && !inside.contains(from))
            };
            let entered: BTreeSet<BlockId> = inside.iter().copied().filter(enters).collect();
            let outer = found.parent().map(|parent| &loops.all()[parent]);
            // A header of the loop around it, entered from a back edge of that one, is none of its own.
            assert!(entered.is_subset(&headers) || outer.is_some(), "{entered:?} {headers:?}");
        }
        if let (true, Some(&header)) = (found.is_natural(), headers.first())
            && inside.is_subset(&alive)
        {
            assert!(
                inside.iter().all(|&block| dominators.dominates(header, block)),
                "a natural loop's header"
            );
        }
        let parent = found.parent().map(|parent| &loops.all()[parent]);
        assert_eq!(found.depth(), parent.map_or(1, |parent| parent.depth() + 1));
        assert!(parent.is_none_or(|parent| inside.iter().all(|&block| parent.contains(block))));
        let innermost = inside.iter().filter(|&&block| loops.innermost(block) == Some(index));
        assert!(innermost.count() > 0, "every loop has blocks that no loop inside it has");
    }
    // Every cycle is in a loop, and nothing else is.
    for &block in graph.keys() {
        let next = graph[&block].clone();
        let cycle = reached(graph, &next, |_| true).contains(&block);
        assert_eq!(loops.innermost(block).is_some(), cycle, "{block:?}");
    }
}

fn check(path: &str) {
    let Some(cfg) = parsed(path) else {
        println!("skipped: {path} cannot be read");
        return;
    };
    let (mut functions, mut posts, mut loops) = (0, 0, 0);
    for function in cfg.functions() {
        let Some(entry) = function.entry_block().map(|block| block.id()) else { continue };
        let graph = graph(function);
        if !(4..=MOST_BLOCKS).contains(&graph.len()) {
            continue;
        }
        functions += 1;
        check_dominators(&graph, &[entry], &Dominators::of(function));
        let exits: Vec<BlockId> = function.exits().map(|block| block.id()).collect();
        let back = reversed(&graph);
        // Where every block leads to an exit.
        if reached(&back, &exits, |_| true).len() == graph.len() {
            posts += 1;
            check_dominators(&back, &exits, &Dominators::post(function));
        }
        loops += Loops::of(function).all().len();
        check_loops(function, &graph, entry);
    }
    println!("{path}: {functions} functions, {posts} with post-dominators, {loops} loops");
    assert!(functions > 300 && posts > 50 && loops > 50, "{functions} {posts} {loops}");
}

#[test]
fn bash() {
    check("/bin/bash");
}

#[test]
fn the_c_library() {
    check("/lib/x86_64-linux-gnu/libc.so.6");
}
