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

use std::fs;
use std::process::ExitCode;

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
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        println!("Load before: {load}");
    }
    let mut reached = Vec::new();
    for entry in suite::SUITE {
        if !arguments.wants(entry.name) {
            continue;
        }
        let outcome = (entry.run)(&stage, &arguments);
        println!("{}", report::table(&outcome));
        arguments.plot(entry.name, || plot::bars(&outcome, entry.figure));
        for goal in entry.goals {
            reached.push((outcome.title.clone(), *goal, goal.seen(&outcome)));
        }
    }
    for growth in growth::ALL {
        if !arguments.wants(growth.name) {
            continue;
        }
        let lines = (growth.run)(&stage, &arguments);
        println!("{}", growth::table(growth, &lines));
        arguments.plot(growth.name, || {
            plot::lines(growth.title, growth.figure, &lines)
        });
    }
    println!("{}", report::goals(&reached));
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        println!("Load after: {load}");
    }
    ExitCode::SUCCESS
}
