//! Histograms as a picture.

use std::io::{self, Write};

use super::args::Of;
use super::bars::{number, title};
use super::{Measured, rows};

const WIDTH: usize = 860;
/// Where bars begin, and how long the longest is.
const LEFT: usize = 190;
const LONGEST: usize = 560;
const LINE: usize = 20;

pub(super) fn write(measured: &Measured, of: &Of, out: &mut dyn Write) -> io::Result<()> {
    let buckets = measured.buckets;
    let mut body = String::new();
    let mut y = LINE;
    for histogram in &measured.histograms {
        y += LINE;
        body += &format!(
            "<text x=\"16\" y=\"{y}\" class=\"title\">{}</text>\n",
            escape(&title(histogram, of, buckets))
        );
        let rows = rows(&histogram.counts, buckets);
        let most = rows.iter().map(|row| row.count).max().unwrap_or(1).max(1);
        for row in rows {
            y += LINE;
            let to = row.to.map_or_else(String::new, |to| number(to, of));
            let width =
                (row.count as f64 / most as f64 * LONGEST as f64).max(if row.count > 0 { 1.0 } else { 0.0 });
            let (top, end) = (y - 13, LEFT as f64 + width + 8.0);
            body += &format!(
                "<text x=\"{}\" y=\"{y}\" class=\"range\">{} .. {to}</text>\
                 <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"16\"/>\
                 <text x=\"{end:.1}\" y=\"{y}\">{}</text>\n",
                LEFT - 10,
                number(row.from, of),
                row.count
            );
        }
        y += LINE;
    }
    let height = y + LINE;
    write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>text {{ font: 13px sans-serif; fill: #222 }} .title {{ font-weight: bold }} .range {{ text-anchor: end }} \
         rect {{ fill: #4a7fb5 }}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" style=\"fill: #fff\"/>\n{body}</svg>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
