//! What it costs to hold many keys for longer than their ttl.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::client::{Client, Enter, Target};
use crate::measure::Stopwatch;
use crate::rotation::{Run, Sample, Stage, two_threads};

const TTL: Duration = Duration::from_secs(3);

/// How many take keys at the same time.
const TAKERS: usize = 64;

/// How long they try: who loses keys faster than it takes them is never done. A key that was not taken counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// `count` keys, held for `duration` with a ttl of [`TTL`].
pub(crate) struct Held<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) count: usize,
    pub(crate) duration: Duration,
    pub(crate) runs: Vec<Run<'a>>,
}

impl Enter for Held<'_> {
    fn enter<C: Client>(&mut self) {
        if !self.stage.admits(&C::name()) {
            return;
        }
        let (stage, duration) = (self.stage, self.duration);
        let target = Target {
            ttl: TTL,
            ..stage.target()
        };
        let count = self.count;
        let repetition = move || {
            // A runtime and keys of its own, so that what one leaves behind, a task that renews what it gave back, say, is in
            // nobody's way.
            let runtime = two_threads();
            let whose = fastrand::u32(..);
            let keys: Arc<[String]> = (0..count)
                .map(|number| format!("compare:held:{whose}:{number:06}"))
                .collect();
            let client = runtime.block_on(C::connect(&target));
            let held = runtime.block_on(take_all(&client, &keys));
            let commands = stage.commands(C::SENDS);
            let stopwatch = Stopwatch::start();
            runtime.block_on(async { tokio::time::sleep(duration).await });
            let measured = stopwatch.stop();
            let sent = stage.commands(C::SENDS) - commands;
            let each = "[0-9]".repeat(6);
            let left = stage.count(&format!("*compare:held:{whose}:{each}"));
            runtime.block_on(give_back_all(&client, held));
            runtime.shutdown_background();
            let seconds = measured.wall.as_secs_f64();
            let mut sample = Sample::new();
            sample.set(
                "client CPU, % of a core",
                measured.cpu.as_secs_f64() / seconds * 100.0,
            );
            sample.set("commands a second", sent as f64 / seconds);
            sample.set("lost", keys.len() as f64 - left as f64);
            sample
        };
        self.runs.push(Run::new(C::name(), repetition));
    }
}

async fn take_all<C: Client>(client: &C, keys: &Arc<[String]>) -> Vec<C::Held> {
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut running = JoinSet::new();
    for taker in 0..TAKERS {
        let (client, keys) = (client.clone(), Arc::clone(keys));
        running.spawn(async move {
            let mut held = Vec::new();
            for key in keys.iter().skip(taker).step_by(TAKERS) {
                let Ok(one) = tokio::time::timeout_at(end, client.take(key)).await else {
                    break;
                };
                held.push(one);
            }
            held
        });
    }
    let mut all = Vec::new();
    while let Some(held) = running.join_next().await {
        all.extend(held.expect("no task fails"));
    }
    all
}

async fn give_back_all<C: Client>(client: &C, held: Vec<C::Held>) {
    let mut running = JoinSet::new();
    let share = held.len().div_ceil(TAKERS);
    let mut held = held.into_iter();
    for _ in 0..TAKERS {
        let client = client.clone();
        let part: Vec<_> = held.by_ref().take(share).collect();
        running.spawn(async move {
            for one in part {
                client.give_back(one).await;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no task fails");
    }
    assert_eq!(held.len(), 0, "all are given back");
}
