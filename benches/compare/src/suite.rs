//! The workloads, and what is wanted of each.

use std::time::Duration;

use crate::arguments::Arguments;
use crate::contestants;
use crate::goal::Bound::{AtLeast, AtMost};
use crate::goal::Goal;
use crate::rotation::{Outcome, Stage, rotate, rotate_cold};
use crate::workloads::contended::Contended;
use crate::workloads::held::Held;
use crate::workloads::memory::{Allocations, BytesHeld};
use crate::workloads::pairs::{Keys, PAIRS, Pairs, TIME};
use crate::workloads::passed::Passed;

pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// What its plot shows.
    pub(crate) figure: &'static str,
    /// What one has to know of it.
    pub(crate) note: &'static str,
    pub(crate) run: fn(&Stage, &Arguments) -> Outcome,
    pub(crate) goals: &'static [Goal],
}

const RAW: &str = "raw redis-rs";
const OURS: &str = "fencelock (redis)";
const OUR_SCRIPTS: &str = "our scripts, raw redis-rs";
const RAW_FRED: &str = "raw fred";
const OURS_ON_FRED: &str = "fencelock (fred)";
const OUR_SCRIPTS_BY_FRED: &str = "our scripts, raw fred";
const MEMORY: &str = "fencelock (memory)";
const CPU: &str = "CPU a pair, us";
const CHANGES: &str = "owner changes a second";
const FAIRNESS: &str = "Jain index";
const UNSERVED: &str = "never served";
const COMMANDS: &str = "commands an acquisition";

pub(crate) const SUITE: &[Entry] = &[
    Entry {
        name: "w1",
        figure: TIME,
        note: "",
        run: |stage, arguments| {
            let mut pairs = pairs(stage, arguments, 1, Keys::OneEach, 400, TIME);
            contestants::uncontended(&mut pairs);
            let repetitions = arguments.repetitions(80);
            rotate("W1: one task, one key", pairs.runs, repetitions)
        },
        goals: &[
            Goal::of("raw redis-rs, again", TIME, AtMost(1.02)).over(RAW),
            Goal::of(OURS, TIME, AtMost(1.05)).over(OUR_SCRIPTS),
            Goal::of(OURS, TIME, AtMost(1.15)).over(RAW),
            Goal::of(OURS, CPU, AtMost(1.25)).over(RAW),
            Goal::of(OURS, "commands a pair", AtMost(2.0)),
            Goal::of(OURS_ON_FRED, TIME, AtMost(1.05)).over(OUR_SCRIPTS_BY_FRED),
            Goal::of(OURS_ON_FRED, TIME, AtMost(1.15)).over(RAW_FRED),
            Goal::of(OURS_ON_FRED, CPU, AtMost(1.25)).over(RAW_FRED),
        ],
    },
    Entry {
        name: "w2",
        figure: PAIRS,
        note: "",
        run: |stage, arguments| {
            let mut pairs = pairs(stage, arguments, 64, Keys::OneEach, 60, PAIRS);
            contestants::uncontended(&mut pairs);
            let repetitions = arguments.repetitions(80);
            rotate("W2: 64 tasks, a key each", pairs.runs, repetitions)
        },
        goals: &[
            Goal::of(OURS, PAIRS, AtLeast(0.7)).over(RAW),
            Goal::of(OURS, PAIRS, AtLeast(0.9)).over(OUR_SCRIPTS),
            Goal::of(OURS, CPU, AtMost(1.5)).over(RAW),
            Goal::of(OURS_ON_FRED, PAIRS, AtLeast(0.7)).over(RAW_FRED),
            Goal::of(OURS_ON_FRED, PAIRS, AtLeast(0.9)).over(OUR_SCRIPTS_BY_FRED),
            Goal::of(OURS_ON_FRED, CPU, AtMost(1.5)).over(RAW_FRED),
        ],
    },
    Entry {
        name: "w3-processes",
        figure: CHANGES,
        note: "Who waits at the server for a key that changes hands all the time.",
        run: |stage, arguments| {
            let title = "W3: 64 waiters, each with a client of its own";
            contended(stage, arguments, title, 64)
        },
        goals: &[
            Goal::of(OURS, CHANGES, AtLeast(2.0)).over("rslock, 10 ms"),
            Goal::of(OURS, CHANGES, AtLeast(15.0)).over("rslock"),
            Goal::of(OURS, FAIRNESS, AtLeast(0.99)),
            Goal::of(OURS, UNSERVED, AtMost(0.0)),
            Goal::of(OURS, COMMANDS, AtMost(3.0)),
        ],
    },
    Entry {
        name: "w3-clients",
        figure: CHANGES,
        note: "Within a client the lock goes from waiter to waiter without asking the server.",
        run: |stage, arguments| contended(stage, arguments, "W3: 64 waiters in 8 clients", 8),
        goals: &[
            Goal::of(OURS, CHANGES, AtLeast(30.0)).over("rslock, 10 ms"),
            Goal::of(OURS, FAIRNESS, AtLeast(0.99)),
            Goal::of(OURS, UNSERVED, AtMost(0.0)),
        ],
    },
    Entry {
        name: "w4",
        figure: "release to grant, us",
        note: "",
        run: |stage, arguments| {
            let mut passed = Passed {
                stage,
                times: arguments.size(20),
                runs: Vec::new(),
            };
            contestants::passed(&mut passed);
            let repetitions = arguments.repetitions(8);
            rotate(
                "W4: from a release to another's grant",
                passed.runs,
                repetitions,
            )
        },
        goals: &[Goal::of(OURS, "release to grant, us", AtMost(1.3))
            .over("raw redis-rs, publish and SET")],
    },
    Entry {
        name: "w5",
        figure: "client CPU, % of a core",
        note: "Who loses keys renews fewer: its CPU is then worth little.",
        run: |stage, arguments| {
            let mut held = Held {
                stage,
                count: arguments.size(10_000),
                duration: Duration::from_secs(if arguments.quick { 4 } else { 10 }),
                runs: Vec::new(),
            };
            contestants::renewing(&mut held);
            let repetitions = arguments.repetitions(2).min(2);
            rotate_cold("W5: 10,000 keys held, ttl 3 s", held.runs, repetitions)
        },
        goals: &[
            Goal::of(OURS, "client CPU, % of a core", AtMost(0.125)).over("distributed-lock"),
            Goal::of(OURS, "commands a second", AtMost(100.0)),
            Goal::of(OURS, "lost", AtMost(0.0)),
        ],
    },
    Entry {
        name: "w7",
        figure: "bytes a held key",
        note: "",
        run: |stage, arguments| {
            let mut held = BytesHeld {
                stage,
                count: arguments.size(10_000),
                runs: Vec::new(),
            };
            contestants::held(&mut held);
            rotate("W7: bytes of the client's for a held key", held.runs, 3)
        },
        goals: &[
            Goal::of(
                "fencelock (redis), no renewal",
                "bytes a held key",
                AtMost(450.0),
            ),
            Goal::of(OURS, "bytes a held key", AtMost(600.0)),
        ],
    },
    Entry {
        name: "memory-one",
        figure: TIME,
        note: "The others have no owner, deadline, fencing token, renewal or limit to waiting.",
        run: |stage, arguments| {
            let title = "Memory: one task";
            in_process(stage, arguments, title, 1, Keys::OneEach, 10_000, TIME)
        },
        // Of the processor's time: on a loaded machine who takes longer is interrupted more often, too.
        goals: &[Goal::of(MEMORY, CPU, AtMost(4.0)).over("lockable")],
    },
    Entry {
        name: "memory-own",
        figure: PAIRS,
        note: "",
        run: |stage, arguments| {
            let title = "Memory: 64 tasks, a key each";
            in_process(stage, arguments, title, 64, Keys::OneEach, 300, PAIRS)
        },
        goals: &[Goal::of(MEMORY, PAIRS, AtLeast(0.5)).over("keyed-lock")],
    },
    Entry {
        name: "memory-same",
        figure: PAIRS,
        note: "",
        run: |stage, arguments| {
            let title = "Memory: 64 tasks, one key";
            in_process(stage, arguments, title, 64, Keys::One, 100, PAIRS)
        },
        goals: &[],
    },
    Entry {
        name: "allocations-redis",
        figure: "allocations a pair",
        note: "On one thread, the client's own tasks included.",
        run: |stage, arguments| {
            let mut allocations = allocations(stage, arguments);
            contestants::uncontended(&mut allocations);
            rotate("Allocations on Redis", allocations.runs, 3)
        },
        goals: &[],
    },
    Entry {
        name: "allocations-memory",
        figure: "allocations a pair",
        note: "",
        run: |stage, arguments| {
            let mut allocations = allocations(stage, arguments);
            contestants::in_process(&mut allocations);
            rotate("Allocations in memory", allocations.runs, 3)
        },
        goals: &[],
    },
];

fn pairs<'a>(
    stage: &'a Stage,
    arguments: &Arguments,
    tasks: usize,
    keys: Keys,
    count: usize,
    figure: &'static str,
) -> Pairs<'a> {
    Pairs {
        stage,
        tasks,
        keys,
        count: arguments.size(count),
        figure,
        runs: Vec::new(),
    }
}

fn in_process(
    stage: &Stage,
    arguments: &Arguments,
    title: &str,
    tasks: usize,
    keys: Keys,
    count: usize,
    figure: &'static str,
) -> Outcome {
    let mut pairs = pairs(stage, arguments, tasks, keys, count, figure);
    contestants::in_process(&mut pairs);
    rotate(title, pairs.runs, arguments.repetitions(80))
}

fn contended(stage: &Stage, arguments: &Arguments, title: &str, instances: usize) -> Outcome {
    let mut contended = Contended {
        stage,
        waiters: 64,
        instances,
        duration: Duration::from_millis(arguments.size(1000) as u64),
        runs: Vec::new(),
    };
    contestants::contended(&mut contended);
    rotate(title, contended.runs, arguments.repetitions(6))
}

fn allocations<'a>(stage: &'a Stage, arguments: &Arguments) -> Allocations<'a> {
    Allocations {
        stage,
        count: arguments.size(1000),
        runs: Vec::new(),
    }
}
