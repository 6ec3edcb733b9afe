//! A plot of times over counts, both in powers of ten, as SVG.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Powers of ten from below the least to above the greatest value.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Axis {
        let from = values.clone().fold(f64::INFINITY, f64::min).log10().floor() as i32;
        let to = values.fold(f64::NEG_INFINITY, f64::max).log10().ceil() as i32;
        Axis { from, to: to.max(from + 1) }
    }

    /// Where a value lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }
}

/// Plots `points`, a count above 0 and milliseconds above 0 each, and the line on which the last of them would lie if time were in
/// proportion to the count.
pub fn svg(title: &str, points: &[(f64, f64)]) -> String {
    let Some(&(most, longest)) = points.last() else { return String::new() };
    let (across, up) = (Axis::of(points.iter().map(|p| p.0)), Axis::of(points.iter().map(|p| p.1)));
    let x = |count: f64| LEFT + across.share(count) * (WIDTH - LEFT - RIGHT);
    let y = |ms: f64| HEIGHT - BOTTOM - up.share(ms) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, what: &str| {
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>");
    };
    text(WIDTH / 2.0, TOP / 2.0, "middle", title);
    text(WIDTH / 2.0, HEIGHT - 8.0, "middle", "sites");
    text(8.0, TOP - 8.0, "start", "ms");
    for power in across.from..=across.to {
        text(x(10f64.powi(power)), HEIGHT - BOTTOM + 18.0, "middle", &number(power));
    }
    for power in up.from..=up.to {
        text(LEFT - 6.0, y(10f64.powi(power)) + 4.0, "end", &number(power));
    }
    let mut line = |from: (f64, f64), to: (f64, f64), style: &str| {
        let ((a, b), (c, d)) = (from, to);
        let _ = writeln!(out, "<line x1=\"{a:.1}\" y1=\"{b:.1}\" x2=\"{c:.1}\" y2=\"{d:.1}\" {style}/>");
    };
    const GRID: &str = "stroke=\"#ddd\"";
    for power in across.from..=across.to {
        let at = x(10f64.powi(power));
        line((at, TOP), (at, HEIGHT - BOTTOM), GRID);
    }
    for power in up.from..=up.to {
        let at = y(10f64.powi(power));
        line((LEFT, at), (WIDTH - RIGHT, at), GRID);
    }
    // In proportion, down to the lowest line.
    let least = (most * 10f64.powi(up.from) / longest).max(10f64.powi(across.from));
    line(
        (x(least), y(longest * least / most)),
        (x(most), y(longest)),
        "stroke=\"#888\" stroke-dasharray=\"4 3\"",
    );
    let path: Vec<String> = points.iter().map(|&(n, ms)| format!("{:.1},{:.1}", x(n), y(ms))).collect();
    let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f77b4\"/>", path.join(" "));
    for &(count, ms) in points {
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#1f77b4\"><title>{count} sites, {ms:.2} ms</title></circle>",
            x(count),
            y(ms)
        );
    }
    out + "</svg>\n"
}

fn number(power: i32) -> String {
    match power {
        0..=6 => format!("{}", 10u64.pow(power as u32)),
        -3..0 => format!("{}", 10f64.powi(power)),
        _ => format!("1e{power}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_proportion_lies_on_the_line() {
        let plot = svg("a plan", &[(1.0, 0.1), (100.0, 10.0), (1_000.0, 100.0)]);
        // The dashed line goes from the first to the last point.
        let points = plot.lines().find_map(|line| line.strip_prefix("<polyline points=\"")).expect("a curve");
        let points: Vec<&str> = points.split('"').next().expect("points").split(' ').collect();
        let dashed = plot.lines().find(|line| line.contains("dasharray")).expect("a line");
        for (point, (x, y)) in [(points[0], ("x1", "y1")), (points[2], ("x2", "y2"))] {
            let (a, b) = point.split_once(',').expect("two numbers");
            assert!(dashed.contains(&format!("{x}=\"{a}\" {y}=\"{b}\"")), "{dashed}: {point}");
        }
        assert_eq!(plot.matches("<circle").count(), 3);
    }
}
