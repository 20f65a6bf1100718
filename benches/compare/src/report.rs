//! Tables in Markdown.

use std::fmt::Write as _;

use std::time::Duration;

use crate::goal::Goal;
use crate::measure::Spread;
use crate::rotation::Outcome;
use crate::suite::Entry;

/// Where and when all of it was measured.
pub(crate) struct Surroundings {
    pub(crate) cores: usize,
    pub(crate) server: String,
    pub(crate) before: Option<f64>,
    pub(crate) after: Option<f64>,
    pub(crate) took: Duration,
}

/// All that a workload showed.
pub(crate) fn section(entry: &Entry, outcome: &Outcome) -> String {
    let head = heading(&outcome.title, entry.name, entry.note);
    format!("{head}{}\n", table(outcome))
}

/// A title, what to ask for, and the plot.
pub(crate) fn heading(title: &str, name: &str, note: &str) -> String {
    let note = format!("`--workload {name}`. {note}");
    let note = note.trim();
    format!("## {title}\n\n{note}\n\n![{title}](benchmarks/{name}.svg)\n\n")
}

/// All figures of all contestants, and each as a multiple of the first contestant's.
fn table(outcome: &Outcome) -> String {
    let mut text = "|".to_owned();
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
pub(crate) fn targets(
    surroundings: &Surroundings,
    reached: &[(String, Goal, Option<Spread>)],
) -> String {
    let Surroundings {
        cores,
        server,
        before,
        after,
        took,
    } = surroundings;
    let load = |load: &Option<f64>| load.map_or("unknown".to_owned(), |load| format!("{load:.2}"));
    // Our own load counts afterwards.
    let quiet = before.is_some_and(|load| load < 0.5);
    let others = if quiet {
        "Nobody else used the machine"
    } else {
        "**Others used the machine too**, so that times of whoever takes longer look worse than they are, while CPU, commands, \
         allocations and bytes hardly depend on that"
    };
    let mut text = format!(
        "## Targets\n\nMeasured in {} s on {cores} cores with Redis {server} on loopback, without persistence. {others}: load {} \
         before, {} after.\n\n| Workload | Figure | Target | Seen | |\n|---|---|---:|---:|---|\n",
        took.as_secs(),
        load(before),
        load(after),
    );
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
