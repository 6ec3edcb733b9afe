//! What the layout library draws, as SVG: no larger than what is on it, and with the listings of blocks flush left.

use std::fmt::Write as _;

use layout::core::color::Color;
use layout::core::format::{ClipHandle, RenderBackend};
use layout::core::geometry::Point;
use layout::core::style::StyleAttr;

/// From one line of a text to the next, in pixels.
pub(super) const LINE: f64 = 15.0;

/// Around the text in a box, and around the picture.
pub(super) const MARGIN: f64 = 8.0;

/// A picture that grows.
#[derive(Default)]
pub(super) struct Canvas {
    content: String,
    /// Upper left and lower right corner of what is drawn.
    extent: Option<(f64, f64, f64, f64)>,
    /// Where the box drawn last begins, and how large it is.
    last: Option<(Point, Point)>,
    arrows: usize,
}

impl Canvas {
    fn cover(&mut self, at: Point) {
        let (left, top, right, bottom) = self.extent.unwrap_or((at.x, at.y, at.x, at.y));
        self.extent = Some((left.min(at.x), top.min(at.y), right.max(at.x), bottom.max(at.y)));
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        let (left, top, right, bottom) = self.extent.unwrap_or_default();
        let (width, height) = (right - left + 2.0 * MARGIN, bottom - top + 2.0 * MARGIN);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"{:.0} {:.0} {width:.0} {height:.0}\" font-family=\"monospace\">\n\
             <defs><marker id=\"head\" markerWidth=\"10\" markerHeight=\"7\" refX=\"10\" refY=\"3.5\" orient=\"auto\">\
             <polygon points=\"0 0, 10 3.5, 0 7\" fill=\"context-stroke\"/></marker>\
             <marker id=\"tail\" markerWidth=\"10\" markerHeight=\"7\" refX=\"0\" refY=\"3.5\" orient=\"auto\">\
             <polygon points=\"10 0, 10 7, 0 3.5\" fill=\"context-stroke\"/></marker></defs>\n\
             <rect x=\"{:.0}\" y=\"{:.0}\" width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            left - MARGIN,
            top - MARGIN,
            left - MARGIN,
            top - MARGIN,
            self.content
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn web(colour: Option<Color>) -> String {
    colour.map_or_else(|| "none".to_owned(), |colour| colour.to_web_color())
}

impl RenderBackend for Canvas {
    fn draw_rect(
        &mut self,
        xy: Point,
        size: Point,
        look: &StyleAttr,
        _properties: Option<String>,
        _clip: Option<ClipHandle>,
    ) {
        self.cover(xy);
        self.cover(Point::new(xy.x + size.x, xy.y + size.y));
        self.last = Some((xy, size));
        let _ = writeln!(
            self.content,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{}\" fill=\"{}\" stroke=\"{}\"/>",
            xy.x,
            xy.y,
            size.x,
            size.y,
            look.rounded,
            web(look.fill_color),
            look.line_color.to_web_color()
        );
    }

    fn draw_line(&mut self, _start: Point, _stop: Point, _look: &StyleAttr, _properties: Option<String>) {}

    fn draw_circle(&mut self, _xy: Point, _size: Point, _look: &StyleAttr, _properties: Option<String>) {}

    /// What is in a box is drawn right after it.
    fn draw_text(&mut self, xy: Point, text: &str, look: &StyleAttr) {
        let lines = text.lines().count() as f64;
        let inside = self.last.take();
        let (x, anchor) = match inside {
            Some((at, _)) => (at.x + MARGIN, "start"),
            None => (xy.x, "middle"),
        };
        // Letters stand on their line, and fill about three quarters of it above that.
        let first = xy.y - lines * LINE / 2.0 + LINE * 0.75;
        self.cover(xy);
        let _ = write!(
            self.content,
            "<text font-size=\"{}\" text-anchor=\"{anchor}\" xml:space=\"preserve\">",
            look.font_size
        );
        for (index, line) in text.lines().enumerate() {
            let y = first + index as f64 * LINE;
            let dim = if line.starts_with(';') { " fill=\"#607d8b\"" } else { "" };
            let _ = write!(self.content, "<tspan x=\"{x:.1}\" y=\"{y:.1}\"{dim}>{}</tspan>", escaped(line));
        }
        self.content.push_str("</text>\n");
    }

    fn draw_arrow(
        &mut self,
        path: &[(Point, Point)],
        dashed: bool,
        head: (bool, bool),
        look: &StyleAttr,
        _properties: Option<String>,
        text: &str,
    ) {
        let [(from, out), (towards, to), rest @ ..] = path else { return };
        path.iter().for_each(|(at, _)| self.cover(*at));
        path.iter().for_each(|(_, at)| self.cover(*at));
        let mut line = format!(
            "M {:.1} {:.1} C {:.1} {:.1}, {:.1} {:.1}, {:.1} {:.1}",
            from.x, from.y, out.x, out.y, towards.x, towards.y, to.x, to.y
        );
        for (towards, to) in rest {
            let _ = write!(line, " S {:.1} {:.1}, {:.1} {:.1}", towards.x, towards.y, to.x, to.y);
        }
        let (number, colour) = (self.arrows, look.line_color.to_web_color());
        self.arrows += 1;
        let dash = if dashed { " stroke-dasharray=\"5,5\"" } else { "" };
        // Ways back up are laid out, and drawn, the other way round.
        let start = if head.0 { " marker-start=\"url(#tail)\"" } else { "" };
        let end = if head.1 { " marker-end=\"url(#head)\"" } else { "" };
        let _ = writeln!(
            self.content,
            "<path id=\"edge{number}\" d=\"{line}\" fill=\"none\" stroke=\"{colour}\"{dash}{start}{end}/>"
        );
        if !text.is_empty() {
            let _ = writeln!(
                self.content,
                "<text font-size=\"{}\" dy=\"-3\" fill=\"{colour}\"><textPath href=\"#edge{number}\" startOffset=\"50%\" \
                 text-anchor=\"middle\">{}</textPath></text>",
                look.font_size,
                escaped(text)
            );
        }
    }

    fn create_clip(&mut self, _xy: Point, _size: Point, _rounded_px: usize) -> ClipHandle {
        0
    }
}
