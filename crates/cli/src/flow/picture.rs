//! A function's graph as an SVG picture.

use std::collections::HashMap;

use incise_cfg::Function;
use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::geometry::Point;
use layout::core::style::{LineStyleKind, StyleAttr};
use layout::std_shapes::shapes::{Arrow, Element, LineEndKind, ShapeKind};
use layout::topo::layout::VisualGraph;

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
            columns as f64 * LETTER_WIDTH + 16.0,
            (text.lines().count() * (LETTER + 3) + 12) as f64,
        );
        let shape = ShapeKind::new_box(text);
        graph.add_node(Element::create(shape, style("#455a64", fill), Orientation::TopToBottom, size))
    };
    for block in function.blocks() {
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
    for edge in inner(function) {
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
    let mut writer = SVGWriter::new();
    graph.do_it(false, false, false, &mut writer);
    // Columns of a listing only line up in letters of one width.
    writer.finalize().replace("Times, serif", "monospace")
}
