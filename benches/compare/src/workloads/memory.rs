//! What is allocated for a pair, and for a key that is held. On one thread, whose allocations alone are counted.

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use tokio::runtime::{Builder, Runtime};

use crate::client::{Client, Enter};
use crate::rotation::{Run, Sample, Stage};

/// Allocations of `count` pairs one after the other, once the client has warmed up.
pub(crate) struct Allocations<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) count: usize,
    pub(crate) runs: Vec<Run<'a>>,
}

impl Enter for Allocations<'_> {
    fn enter<C: Client>(&mut self) {
        if !self.stage.admits(&C::name()) {
            return;
        }
        let runtime = one_thread();
        let client = runtime.block_on(C::connect(&self.stage.target()));
        let count = self.count;
        let repetition = move || {
            let counted = counted(&runtime, pairs(&client, count));
            let mut sample = Sample::new();
            sample.set(
                "allocations a pair",
                counted.count_total as f64 / count as f64,
            );
            sample.set("bytes a pair", counted.bytes_total as f64 / count as f64);
            sample
        };
        self.runs.push(Run::new(C::name(), repetition));
    }
}

async fn pairs<C: Client>(client: &C, count: usize) {
    for _ in 0..count {
        let held = client.take("compare:counted").await;
        client.give_back(held).await;
    }
}

/// Bytes of the client's for each of `count` keys that are held.
pub(crate) struct BytesHeld<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) count: usize,
    pub(crate) runs: Vec<Run<'a>>,
}

impl Enter for BytesHeld<'_> {
    fn enter<C: Client>(&mut self) {
        if !self.stage.admits(&C::name()) {
            return;
        }
        let runtime = one_thread();
        let client = runtime.block_on(C::connect(&self.stage.target()));
        let keys: Arc<[String]> = (0..self.count)
            .map(|number| format!("compare:{number:07}"))
            .collect();
        let repetition = move || {
            let mut held = Vec::with_capacity(keys.len());
            let taking = async {
                for key in keys.iter() {
                    held.push(client.take(key).await);
                }
            };
            let counted = counted(&runtime, taking);
            runtime.block_on(async {
                for one in held {
                    client.give_back(one).await;
                }
            });
            let handles = size_of::<C::Held>() as f64;
            let mut sample = Sample::new();
            sample.set(
                "bytes a held key",
                counted.bytes_current as f64 / keys.len() as f64 + handles,
            );
            sample
        };
        self.runs.push(Run::new(C::name(), repetition));
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn counted(runtime: &Runtime, work: impl Future<Output = ()>) -> AllocationInfo {
    measure(|| runtime.block_on(work))
}
