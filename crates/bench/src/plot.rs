//! A scatter plot with logarithmic axes, as SVG.

use std::fmt::Write;

/// A labelled point; both coordinates above 0.
pub(crate) struct Dot {
    pub label: String,
    pub x: f64,
    pub y: f64,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// A logarithmic axis over whole decades.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Axis {
        let low = values.clone().fold(f64::INFINITY, f64::min).log10().floor() as i32;
        let high = values.fold(0.0, f64::max).log10().ceil() as i32;
        Axis { low, high: high.max(low + 1), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share * (self.to - self.from)
    }
}

/// `dots` with the line `y = x * slope`, which is straight at 45 degrees where both axes are logarithmic: what is in proportion
/// lies along it.
pub(crate) fn scatter(title: &str, (x_name, y_name): (&str, &str), dots: &[Dot], slope: f64) -> String {
    let x = Axis::over(dots.iter().map(|dot| dot.x), LEFT, WIDTH - RIGHT);
    let y = Axis::over(dots.iter().map(|dot| dot.y), HEIGHT - BOTTOM, TOP);
    let mut svg = String::new();
    let mut put = |line: String| {
        let _ = writeln!(svg, "{line}");
    };
    put(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
    ));
    put(format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>"));
    put(format!("<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>", escaped(title)));
    let (left, right, top, bottom) = (x.from, x.to, y.to, y.from);
    for decade in x.low..=x.high {
        let (at, value) = (x.place(10f64.powi(decade)), 10f64.powi(decade));
        put(format!("<path d=\"M{at:.1} {top:.1}V{bottom:.1}\" stroke=\"#dddddd\"/>"));
        put(format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>", bottom + 18.0));
    }
    for decade in y.low..=y.high {
        let (at, value) = (y.place(10f64.powi(decade)), 10f64.powi(decade));
        put(format!("<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#dddddd\"/>"));
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            left - 8.0,
            at + 4.0
        ));
    }
    put(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (left + right) / 2.0,
        bottom + 42.0,
        escaped(x_name)
    ));
    let middle = (top + bottom) / 2.0;
    put(format!(
        "<text transform=\"translate(18 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escaped(y_name)
    ));
    // From edge to edge of what is shown.
    let (low, high) = (10f64.powi(x.low), 10f64.powi(x.high));
    let (floor, ceiling) = (10f64.powi(y.low) / slope, 10f64.powi(y.high) / slope);
    let (from, to) = (low.max(floor), high.min(ceiling));
    put(format!(
        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#888888\" stroke-dasharray=\"6 4\"/>",
        x.place(from),
        y.place(from * slope),
        x.place(to),
        y.place(to * slope)
    ));
    for dot in dots {
        let (at_x, at_y) = (x.place(dot.x), y.place(dot.y));
        put(format!("<circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"4\" fill=\"#1f5fa8\"/>"));
        put(format!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", at_x + 8.0, at_y + 4.0, escaped(&dot.label)));
    }
    put("</svg>".to_owned());
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_proportion_lies_on_the_line() {
        let dot = |label: &str, x, y| Dot { label: label.to_owned(), x, y };
        let svg = scatter("a & b", ("MB", "s"), &[dot("one", 1.0, 0.1), dot("two", 10.0, 1.0)], 0.1);
        let circles: Vec<&str> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
        assert_eq!(circles.len(), 2);
        // Both ends of the line are the two dots, in the corners of what is shown.
        assert!(svg.contains("M70.0 420.0L610.0 40.0"), "{svg}");
        assert!(circles[0].contains("cx=\"70.0\" cy=\"420.0\""), "{}", circles[0]);
        assert!(circles[1].contains("cx=\"610.0\" cy=\"40.0\""), "{}", circles[1]);
        assert!(svg.contains("a &amp; b"));
    }
}
