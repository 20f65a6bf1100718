//! From one process's release to another's grant.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::client::{Client, Enter};
use crate::measure::Spread;
use crate::rotation::{Run, Sample, Stage};

/// How long the second waits before the first lets go: all have subscribed, or asked in vain, by then.
const SETTLED: Duration = Duration::from_millis(5);

/// Two clients, of which one waits until the other releases, `times` in one repetition.
pub(crate) struct Passed<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) times: usize,
    pub(crate) runs: Vec<Run<'a>>,
}

impl Enter for Passed<'_> {
    fn enter<C: Client>(&mut self) {
        if !self.stage.admits(&C::name()) {
            return;
        }
        let (stage, times) = (self.stage, self.times);
        let (first, second) = stage.runtime.block_on(async {
            let target = stage.target();
            (C::connect(&target).await, C::connect(&target).await)
        });
        let repetition = move || {
            let delays = stage.runtime.block_on(pass(&first, &second, times));
            let spread = Spread::of(delays).expect("some");
            let mut sample = Sample::new();
            sample.set("release to grant, us", spread.median);
            sample
        };
        self.runs.push(Run::new(C::name(), repetition));
    }
}

async fn pass<C: Client>(first: &C, second: &C, times: usize) -> Vec<f64> {
    let mut delays = Vec::new();
    for _ in 0..times {
        let held = first.take("compare:passed").await;
        let (granted, when) = oneshot::channel();
        let waiter = tokio::spawn({
            let second = second.clone();
            async move {
                let held = second.take("compare:passed").await;
                granted.send(Instant::now()).expect("somebody listens");
                second.give_back(held).await;
            }
        });
        tokio::time::sleep(SETTLED).await;
        let released = Instant::now();
        first.give_back(held).await;
        let granted = when.await.expect("granted");
        delays.push(granted.duration_since(released).as_secs_f64() * 1e6);
        waiter.await.expect("no task fails");
    }
    delays
}
