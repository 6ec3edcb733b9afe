//! A function's graph as an SVG picture.

use std::collections::{HashMap, HashSet};

use incise_cfg::{Block, Edge, Function};
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::geometry::Point;
use layout::core::style::{LineStyleKind, StyleAttr};
use layout::std_shapes::shapes::{Arrow, Element, LineEndKind, ShapeKind};
use layout::topo::layout::VisualGraph;

use super::canvas::{Canvas, LINE, MARGIN};
use super::graph::{colour, inner, listing};
use super::heat::Heat;
use super::program::Binary;

/// Size of the letters, in pixels, and how wide one is.
const LETTER: usize = 12;
const LETTER_WIDTH: f64 = 7.5;

/// Most blocks of a picture: the time it takes grows much faster than their number (150 take a second, 500 minutes).
pub(super) const MOST_BLOCKS: usize = 250;

/// Most lines of a block that are shown.
const MOST_LINES: usize = 40;

/// Behind what is not coloured by heat, as RGB.
const WHITE: u32 = 0xff_ffff;

/// The picture: blocks with their instructions, edges by colour.
pub(super) fn svg(binary: &Binary, function: Function<'_>, heat: Option<&Heat>) -> String {
    let source = binary.lines();
    let mut graph = VisualGraph::new(Orientation::TopToBottom);
    let mut nodes = HashMap::new();
    let style = |kind: &str, fill: u32| {
        let line = Color::new(u32::from_str_radix(kind.trim_start_matches('#'), 16).unwrap_or(0) << 8 | 0xff);
        StyleAttr::new(line, 1, Some(Color::new(fill << 8 | 0xff)), 3, LETTER)
    };
    let node = |graph: &mut VisualGraph, text: &str, fill: u32| {
        let columns = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let size = Point::new(
            columns as f64 * LETTER_WIDTH + 2.0 * MARGIN,
            text.lines().count() as f64 * LINE + MARGIN,
        );
        let shape = ShapeKind::new_box(text);
        graph.add_node(Element::create(shape, style("#455a64", fill), Orientation::TopToBottom, size))
    };
    let order = downward(function);
    for &block in &order {
        let mut lines = listing(binary, source.as_ref(), heat, block);
        let fill = heat.map_or(WHITE, |heat| heat.fill(heat.block(block)));
        let more = lines.len().saturating_sub(MOST_LINES);
        lines.truncate(MOST_LINES);
        if more > 0 {
            lines.push(format!("({more} more)"));
        }
        let handle = node(&mut graph, &lines.join("\n"), fill);
        nodes.insert(block.id(), handle);
    }
    // Of edges that make a circle the layout turns the last one round.
    let place: HashMap<_, _> = order.iter().enumerate().map(|(place, block)| (block.id(), place)).collect();
    let back = |edge: &Edge<'_>| {
        let to = edge.target().and_then(|to| place.get(&to.id()));
        to.is_some_and(|to| Some(to) <= place.get(&edge.source().id()))
    };
    let (ways_back, ways_down): (Vec<_>, Vec<_>) = inner(function).partition(back);
    for edge in ways_down.into_iter().chain(ways_back) {
        let Some(&from) = nodes.get(&edge.source().id()) else { continue };
        let to = match edge.target().and_then(|to| nodes.get(&to.id()).copied()) {
            Some(to) => to,
            None => node(&mut graph, "unknown", WHITE),
        };
        let look = style(colour(edge.kind()), WHITE);
        let hits = heat.and_then(|heat| heat.edge(edge)).map_or(String::new(), |hits| hits.to_string());
        let (none, arrow) = (LineEndKind::None, LineEndKind::Arrow);
        graph.add_edge(Arrow::new(none, arrow, LineStyleKind::Normal, &hits, &look, &None, &None), from, to);
    }
    let mut canvas = Canvas::default();
    graph.do_it(false, false, false, &mut canvas);
    canvas.finish()
}

/// The blocks of `function`, each behind those that lead to it but for the ways back of loops.
fn downward(function: Function<'_>) -> Vec<Block<'_>> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    let entry = function.cfg().block_at(function.entry());
    for root in entry.into_iter().chain(function.blocks()) {
        let first = order.len();
        let mut open = vec![(root, false)];
        while let Some((block, left)) = open.pop() {
            if left {
                order.push(block);
            } else if seen.insert(block.id()) {
                open.push((block, true));
                let inner = block.outgoing().filter(|edge| !edge.leaves_function());
                open.extend(inner.filter_map(|edge| edge.target()).map(|next| (next, false)));
            }
        }
        order[first..].reverse();
    }
    order
}
