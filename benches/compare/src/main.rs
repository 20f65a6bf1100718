//! fencelock, raw clients and other lock libraries side by side, in one interleaved run.
//!
//! Only ratios count: absolute figures are of one machine on one day, and of what else it did meanwhile. So all contestants
//! take turns, a ratio is that of two readings of the same turn, and what is shown is the median of all turns, with the
//! middle half of them.

mod arguments;
mod client;
mod contestants;
mod goal;
mod growth;
mod measure;
mod plot;
mod report;
mod rotation;
mod suite;
mod workloads;

use std::process::ExitCode;
use std::time::Instant;
use std::{fs, thread};

use arguments::{Arguments, USAGE};
use lock_testkit::server::RedisServer;
use rotation::{Stage, two_threads};

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let stage = Stage {
        runtime: two_threads(),
        server: RedisServer::start(),
        only: arguments.contestants.clone(),
    };
    let (start, before) = (Instant::now(), load());
    let (mut reached, mut sections) = (Vec::new(), String::new());
    for entry in suite::SUITE {
        if !arguments.wants(entry.name) {
            continue;
        }
        eprintln!("{:>4} s: {}", start.elapsed().as_secs(), entry.name);
        let outcome = (entry.run)(&stage, &arguments);
        sections += &report::section(entry, &outcome);
        arguments.plot(entry.name, || plot::bars(&outcome, entry.figure));
        for goal in entry.goals {
            reached.push((outcome.title.clone(), *goal, goal.seen(&outcome)));
        }
    }
    for growth in growth::ALL {
        if !arguments.wants(growth.name) {
            continue;
        }
        eprintln!("{:>4} s: {}", start.elapsed().as_secs(), growth.name);
        let lines = (growth.run)(&stage, &arguments);
        sections += &growth::section(growth, &lines);
        arguments.plot(growth.name, || {
            plot::lines(growth.title, growth.figure, &lines)
        });
    }
    let surroundings = report::Surroundings {
        cores: thread::available_parallelism().map_or(0, usize::from),
        server: stage.server_version(),
        before,
        after: load(),
        took: start.elapsed(),
    };
    println!("{}\n{sections}", report::targets(&surroundings, &reached));
    ExitCode::SUCCESS
}

/// How many wanted a processor within the last minute, on average.
fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}
