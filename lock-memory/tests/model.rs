//! Random histories: lock-memory answers what the model answers, step by step, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, Holder, LockBackend, LockKey, Owner, Renew, RenewRequest,
};
use lock_memory::{MemoryBackend, lock_core};
use lock_testkit::Honest;

/// What is left is counted from two clocks, of which one is real: equal up to a stall of the machine.
const TOLERANCE: Duration = Duration::from_millis(400);

struct Both {
    backend: MemoryBackend,
    model: Honest,
    keys: Vec<LockKey>,
    owners: Vec<Owner>,
    random: fastrand::Rng,
}

impl Both {
    fn new(seed: u64) -> Self {
        Self {
            backend: MemoryBackend::new(),
            model: Honest::new(),
            keys: (0..3)
                .map(|n| LockKey::new(format!("k{n}")).unwrap())
                .collect(),
            owners: (0..4)
                .map(|n| Owner::fresh(Some(&format!("o{n}"))).unwrap())
                .collect(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    async fn step(&mut self) -> String {
        let key = self.keys[self.random.usize(..self.keys.len())].clone();
        let owner = self.owners[self.random.usize(..self.owners.len())].clone();
        let from = self.owners[self.random.usize(..self.owners.len())].clone();
        // Half seconds for ttls and whole ones for sleeps, so that nothing ends just now.
        let ttl = Duration::from_millis(1000 * self.random.u64(1..10) + 500);
        match self.random.u8(..12) {
            choice @ 0..4 => {
                let request = AcquireRequest::new(&key, &owner, ttl)
                    .with_tokens(self.random.u16(1..=64))
                    .with_from((choice == 0).then_some(&from));
                let answer = self.backend.try_acquire(request).await.unwrap();
                match (&answer, &self.model.try_acquire(&request)) {
                    (Attempt::Busy(is), Attempt::Busy(should)) => same(&is.holder, &should.holder),
                    (is, should) => assert_eq!(is, should),
                }
                format!("{request:?}: {answer:?}")
            }
            choice @ 4..7 => {
                let how = if choice == 4 {
                    Renew::Exactly
                } else {
                    Renew::AtLeast
                };
                let renewal = RenewRequest::new(&key, &owner, ttl, how);
                let answer = self.backend.renew(&[renewal]).await.remove(0).unwrap();
                assert_eq!(answer, self.model.renew(&renewal));
                format!("{renewal:?}: {answer:?}")
            }
            7 | 8 => {
                let answer = self.backend.release(&key, &owner).await.unwrap();
                assert_eq!(answer, self.model.release(key.as_str(), &owner));
                format!("release {key} {owner:?}: {answer:?}")
            }
            9 => {
                assert_eq!(
                    self.backend.evict(key.as_str()),
                    self.model.evict(key.as_str())
                );
                format!("evict {key}")
            }
            _ => {
                let seconds = self.random.u64(0..4);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                format!("{seconds} s pass")
            }
        }
    }

    async fn compare(&self) {
        assert_eq!(self.backend.len(), self.model.entries().len());
        for key in &self.keys {
            let is = self.backend.inspect(key).await.unwrap().unwrap_or_default();
            same(&is, &self.model.inspect(key.as_str()).unwrap_or_default());
        }
    }
}

fn same(is: &Holder, should: &Holder) {
    let (left, should_be_left) = (
        is.remaining.unwrap_or_default(),
        should.remaining.unwrap_or_default(),
    );
    assert!(
        left.abs_diff(should_be_left) < TOLERANCE,
        "{is:?}, should be {should:?}"
    );
    assert_eq!((&is.label, is.fencing), (&should.label, should.fencing));
}

#[tokio::test(start_paused = true)]
async fn it_answers_what_the_model_answers() {
    for seed in 0..200 {
        let mut both = Both::new(seed);
        let mut history = History {
            seed,
            steps: Vec::new(),
        };
        for _ in 0..100 {
            history.steps.push(both.step().await);
            both.compare().await;
        }
        history.steps.clear();
    }
}

/// Prints itself if the test panics.
struct History {
    seed: u64,
    steps: Vec<String>,
}

impl Drop for History {
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            println!(
                "seed {}, steps before the failing one:\n{}",
                self.seed,
                self.steps.join("\n")
            );
        }
    }
}
