//! Tables in Markdown.

use std::fmt::Write as _;

use crate::goal::Goal;
use crate::measure::Spread;
use crate::rotation::Outcome;

/// All figures of all contestants, and each as a multiple of the first contestant's.
pub(crate) fn table(outcome: &Outcome) -> String {
    let mut text = format!("## {}\n\n|", outcome.title);
    let figures = outcome.figures();
    for figure in &figures {
        text += &format!(" | {figure} | ÷ first");
    }
    text += " |\n|---";
    text += &"|---:|---:".repeat(figures.len());
    text += "|\n";
    let Some(first) = outcome.names().next() else {
        return text;
    };
    for name in outcome.names() {
        text += &format!("| {name}");
        for figure in &figures {
            let value = outcome.spread(name, figure);
            let value = value.map(|spread| number(spread.median));
            let ratio = outcome.ratio(name, first, figure).map(with_spread);
            let (value, ratio) = (value.unwrap_or_default(), ratio.unwrap_or_default());
            write!(text, " | {value} | {ratio}").expect("a String takes all");
        }
        text += " |\n";
    }
    text
}

/// Whether each goal was reached.
pub(crate) fn goals(reached: &[(String, Goal, Option<Spread>)]) -> String {
    let mut text =
        "## Targets\n\n| Workload | Figure | Target | Seen | |\n|---|---|---:|---:|---|\n"
            .to_owned();
    for (title, goal, seen) in reached {
        let (seen, verdict) = match seen {
            None => (String::new(), "not measured"),
            Some(spread) if goal.bound.admits(spread.median) => (with_spread(*spread), "met"),
            Some(spread) => (with_spread(*spread), "MISSED"),
        };
        text += &format!(
            "| {title} | {goal} | {} | {seen} | {verdict} |\n",
            goal.bound
        );
    }
    text
}

fn with_spread(spread: Spread) -> String {
    format!(
        "**{}** ({}–{})",
        number(spread.median),
        number(spread.lower),
        number(spread.upper)
    )
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
