//! Taking a key and giving it back, over and over.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::client::{Client, Enter};
use crate::measure::Stopwatch;
use crate::rotation::{Run, Sample, Stage};

/// The wall time of a pair.
pub(crate) const TIME: &str = "pair, us";

/// The rate of all tasks together.
pub(crate) const PAIRS: &str = "pairs a second";

/// How the keys are spread over the tasks.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    /// The same for all.
    One,
    OneEach,
    /// Each task takes so many keys in turn.
    Many(usize),
    /// One each, while so many others are held.
    OneWhileHeld(usize),
}

/// Pairs of `tasks` tasks, of which each makes `count` in one repetition.
pub(crate) struct Pairs<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) tasks: usize,
    pub(crate) keys: Keys,
    pub(crate) count: usize,
    /// [`TIME`] or [`PAIRS`].
    pub(crate) figure: &'static str,
    pub(crate) runs: Vec<Run<'a>>,
}

impl Enter for Pairs<'_> {
    fn enter<C: Client>(&mut self) {
        if !self.stage.admits(&C::name()) {
            return;
        }
        let client = self
            .stage
            .runtime
            .block_on(C::connect(&self.stage.target()));
        let (stage, count, figure) = (self.stage, self.count, self.figure);
        let keys: Vec<Arc<[String]>> = (0..self.tasks)
            .map(|task| names(self.keys, task).into())
            .collect();
        let held = match self.keys {
            Keys::OneWhileHeld(held) => stage.runtime.block_on(hold(&client, held)),
            Keys::One | Keys::OneEach | Keys::Many(_) => Vec::new(),
        };
        let repetition = move || {
            let commands = stage.commands(C::SENDS);
            let stopwatch = Stopwatch::start();
            stage.runtime.block_on(all(&client, &keys, count));
            let measured = stopwatch.stop();
            let done = (keys.len() * count) as f64;
            let mut sample = Sample::new();
            let seconds = measured.wall.as_secs_f64();
            if figure == PAIRS {
                sample.set(PAIRS, done / seconds);
            } else {
                sample.set(TIME, seconds * 1e6 / done);
            }
            sample.set("CPU a pair, us", measured.cpu.as_secs_f64() * 1e6 / done);
            if !C::SENDS.is_empty() {
                let sent = stage.commands(C::SENDS) - commands;
                sample.set("commands a pair", sent as f64 / done);
            }
            // They live as long as this.
            let _held = &held;
            sample
        };
        self.runs.push(Run::new(C::name(), repetition));
    }
}

fn names(keys: Keys, task: usize) -> Vec<String> {
    match keys {
        Keys::One => vec!["compare:one".to_owned()],
        Keys::OneEach => vec![format!("compare:{task}")],
        // A key of a pair and keys that are held are not the same.
        Keys::OneWhileHeld(_) => vec![format!("compare:beside:{task}")],
        Keys::Many(many) => (0..many)
            .map(|key| format!("compare:{task}:{key}"))
            .collect(),
    }
}

async fn hold<C: Client>(client: &C, count: usize) -> Vec<C::Held> {
    // Contestants hold beside each other, and those of an earlier size may not have let go yet.
    let whose = fastrand::u64(..);
    let mut held = Vec::with_capacity(count);
    for key in 0..count {
        held.push(client.take(&format!("compare:held:{whose}:{key}")).await);
    }
    held
}

async fn all<C: Client>(client: &C, keys: &[Arc<[String]>], count: usize) {
    let mut running = JoinSet::new();
    for keys in keys {
        let (client, keys) = (client.clone(), Arc::clone(keys));
        running.spawn(async move {
            let first = fastrand::usize(..keys.len());
            for key in keys.iter().cycle().skip(first).take(count) {
                let held = client.take(key).await;
                client.give_back(held).await;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no task fails");
    }
}
