//! How figures grow with the number of waiters, of held locks and of keys.

use std::time::Duration;

use crate::arguments::Arguments;
use crate::contestants;
use crate::measure::Spread;
use crate::report::{heading, number};
use crate::rotation::{Outcome, Stage, rotate};
use crate::workloads::contended::Contended;
use crate::workloads::pairs::{Keys, Pairs, TIME};

/// For each contestant its figure at each size.
pub(crate) type Lines = Vec<(String, Vec<(f64, Spread)>)>;

pub(crate) struct Growth {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) note: &'static str,
    pub(crate) run: fn(&Stage, &Arguments) -> Lines,
}

pub(crate) const ALL: &[Growth] = &[
    Growth {
        name: "growth-waiters",
        title: "Waiters for one key, in 8 clients",
        figure: "owner changes a second",
        note: "One alone takes turns with nobody.",
        run: |stage, arguments| {
            over(arguments, 1000, "owner changes a second", |waiters| {
                let mut contended = Contended {
                    stage,
                    waiters,
                    instances: 8,
                    duration: Duration::from_millis(arguments.size(500) as u64),
                    runs: Vec::new(),
                };
                contestants::growing_contended(&mut contended);
                rotate("", contended.runs, arguments.repetitions(3))
            })
        },
    },
    Growth {
        name: "growth-held",
        title: "A pair while other keys are held",
        figure: TIME,
        note: "",
        run: |stage, arguments| {
            over(arguments, 100_000, TIME, |held| {
                let keys = Keys::OneWhileHeld(held);
                pairs(stage, arguments, keys)
            })
        },
    },
    Growth {
        name: "growth-keys",
        title: "A pair of one of so many keys",
        figure: TIME,
        note: "",
        run: |stage, arguments| {
            over(arguments, 100_000, TIME, |keys| {
                pairs(stage, arguments, Keys::Many(keys))
            })
        },
    },
];

fn pairs(stage: &Stage, arguments: &Arguments, keys: Keys) -> Outcome {
    let mut pairs = Pairs {
        stage,
        tasks: 1,
        keys,
        count: arguments.size(1000),
        figure: TIME,
        runs: Vec::new(),
    };
    contestants::growing(&mut pairs);
    rotate("", pairs.runs, arguments.repetitions(6))
}

/// Sizes of 1, 10, 100 and so on.
fn over(arguments: &Arguments, most: usize, figure: &str, run: impl Fn(usize) -> Outcome) -> Lines {
    let most = if arguments.quick { 10 } else { most };
    let mut lines = Lines::new();
    let mut size = 1;
    while size <= most {
        let outcome = run(size);
        for name in outcome.names() {
            let Some(spread) = outcome.spread(name, figure) else {
                continue;
            };
            let point = (size as f64, spread);
            match lines.iter_mut().find(|(of, _)| of == name) {
                Some((_, points)) => points.push(point),
                None => lines.push((name.to_owned(), vec![point])),
            }
        }
        size *= 10;
    }
    lines
}

pub(crate) fn section(growth: &Growth, lines: &Lines) -> String {
    let title = format!("{}: {}", growth.title, growth.figure);
    let mut text = heading(&title, growth.name, growth.note);
    text += "|";
    let sizes = lines.first().map(|(_, points)| points.as_slice());
    for (size, _) in sizes.unwrap_or_default() {
        text += &format!(" | {size}");
    }
    text += " |\n|---";
    text += &"|---:".repeat(sizes.map_or(0, <[_]>::len));
    text += "|\n";
    for (name, points) in lines {
        text += &format!("| {name}");
        for (_, spread) in points {
            text += &format!(" | {}", number(spread.median));
        }
        text += " |\n";
    }
    text + "\n"
}
