//! Plots as SVG: bars for contestants, lines for growth. Logarithmic, because what is compared differs by powers of ten.

use std::fmt::Write as _;

use crate::measure::Spread;
use crate::report::number;
use crate::rotation::Outcome;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 26.0;
const TOP: f64 = 46.0;

/// Readable on light and on dark pages.
const STYLE: &str = "<style>text{font:13px sans-serif;fill:#7a7f87}.title{font-size:15px;font-weight:bold}\
.axis{stroke:#7a7f87;stroke-opacity:.35}.other{fill:#8b95a5}.ours{fill:#2f81f7}.whisker{stroke:#7a7f87;stroke-width:1.5}\
</style>";

/// One bar for each contestant: its figure as a multiple of the first contestant's, with the middle half of the turns.
pub(crate) fn bars(outcome: &Outcome, figure: &str) -> String {
    let Some(first) = outcome.names().next() else {
        return String::new();
    };
    let rows: Vec<(&str, Spread)> = outcome
        .names()
        .filter_map(|name| Some((name, outcome.ratio(name, first, figure)?)))
        .collect();
    let ends = rows.iter().flat_map(|(_, s)| [s.lower, s.upper, 1.0]);
    let scale = Scale::of(ends, LEFT, WIDTH - RIGHT);
    let height = TOP + ROW * rows.len() as f64 + 12.0;
    let mut svg = begin(&format!("{}: {figure} ÷ {first}", outcome.title), height);
    for tick in scale.ticks() {
        let x = scale.place(tick);
        line(&mut svg, "axis", (x, TOP - 8.0), (x, height - 8.0));
    }
    for (row, (name, spread)) in rows.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let class = class(name);
        let (from, to) = (scale.place(1.0), scale.place(spread.median));
        let (x, width) = (from.min(to), (from - to).abs().max(1.5));
        write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
             <rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\"/>",
            LEFT - 12.0,
            y + 13.0,
            ROW - 9.0
        )
        .expect("a String takes all");
        let middle = y + (ROW - 9.0) / 2.0;
        let (lower, upper) = (scale.place(spread.lower), scale.place(spread.upper));
        line(&mut svg, "whisker", (lower, middle), (upper, middle));
        label(
            &mut svg,
            (from.max(to).max(upper) + 8.0, y + 13.0),
            &number(spread.median),
        );
    }
    svg + "</svg>\n"
}

/// One line for each contestant over growing sizes.
pub(crate) fn lines(title: &str, unit: &str, lines: &[(String, Vec<(f64, Spread)>)]) -> String {
    let (bottom, left) = (300.0, 70.0);
    let points = || lines.iter().flat_map(|(_, points)| points);
    let across = Scale::of(points().map(|(size, _)| *size), left, WIDTH - 210.0);
    let up = Scale::of(
        points().flat_map(|(_, spread)| [spread.lower, spread.upper]),
        bottom,
        TOP,
    );
    let mut svg = begin(&format!("{title}, {unit}"), bottom + 30.0);
    for tick in across.ticks() {
        let x = across.place(tick);
        line(&mut svg, "axis", (x, TOP), (x, bottom));
        label(&mut svg, (x - 4.0, bottom + 18.0), &tick.to_string());
    }
    for tick in up.ticks() {
        let y = up.place(tick);
        line(&mut svg, "axis", (left, y), (WIDTH - 210.0, y));
        label(&mut svg, (8.0, y + 4.0), &tick.to_string());
    }
    for (name, points) in lines {
        let color = if class(name) == "ours" {
            "#2f81f7"
        } else {
            "#8b95a5"
        };
        let places: Vec<String> = points
            .iter()
            .map(|(size, spread)| {
                format!("{:.1},{:.1}", across.place(*size), up.place(spread.median))
            })
            .collect();
        write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            places.join(" ")
        )
        .expect("a String takes all");
        if let Some((size, spread)) = points.last() {
            let at = (across.place(*size) + 8.0, up.place(spread.median) + 4.0);
            label(&mut svg, at, &format!("{name}: {}", number(spread.median)));
        }
    }
    svg + "</svg>\n"
}

fn class(name: &str) -> &'static str {
    if name.starts_with("fencelock") {
        "ours"
    } else {
        "other"
    }
}

fn begin(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\">{STYLE}\
         <text class=\"title\" x=\"8\" y=\"22\">{title}</text>"
    )
}

fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    write!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    )
    .expect("a String takes all");
}

fn label(svg: &mut String, (x, y): (f64, f64), text: &str) {
    write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>").expect("a String takes all");
}

/// From values to places, logarithmic.
struct Scale {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        let (least, most) = if most > 0.0 {
            (least, most)
        } else {
            (1.0, 1.0)
        };
        // Never a scale without length.
        Self {
            least,
            most: most.max(least * 1.5),
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = value.max(self.least);
        let share = (value / self.least).ln() / (self.most / self.least).ln();
        self.from + share * (self.to - self.from)
    }

    /// The powers of ten within; of less than two decades, twice and five times as much too.
    fn ticks(&self) -> Vec<f64> {
        let first = self.least.log10().floor() as i32;
        let last = self.most.log10().floor() as i32;
        let steps: &[f64] = if last - first > 2 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        // Divided, because a tenth is no number of a computer's.
        let power = |power: i32| match power {
            0.. => (10f64.powi(power), 1.0),
            _ => (1.0, 10f64.powi(-power)),
        };
        let all = (first..=last).flat_map(|at| {
            let (times, parts) = power(at);
            steps.iter().map(move |step| step * times / parts)
        });
        // Ends count as within.
        let (least, most) = (self.least * 0.999_999, self.most * 1.000_001);
        all.filter(|tick| (least..=most).contains(tick)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_goes_from_the_least_to_the_most() {
        let scale = Scale::of([1.0, 100.0].into_iter(), 0.0, 200.0);
        assert_eq!(scale.place(1.0), 0.0);
        assert_eq!(scale.place(100.0), 200.0);
        assert!((scale.place(10.0) - 100.0).abs() < 1e-9);
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        let wide = Scale::of([0.09, 3000.0].into_iter(), 0.0, 200.0);
        assert_eq!(wide.ticks(), [0.1, 1.0, 10.0, 100.0, 1000.0]);
        let narrow = Scale::of([30.0, 70.0].into_iter(), 0.0, 200.0);
        assert_eq!(narrow.ticks(), [50.0]);
        let none = Scale::of(std::iter::empty(), 0.0, 10.0);
        assert!(none.place(1.0).is_finite());
    }
}
