//! The answers of the store are those of one lock that does one thing at a time, whatever happens at the same time.
//!
//! Checked by stateright's `LinearizabilityTester` over random histories of at most five clients and forty calls.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, Capabilities, Holder, LockBackend, LockKey, Owner,
    Ownership, RenewRequest, Wakeups,
};
use lock_memory::{MemoryBackend, lock_core};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use tokio::runtime::Builder;

const CLIENTS: usize = 5;
const CALLS_EACH: usize = 8;

/// The lock as it should be: who owns it, one call at a time.
#[derive(Debug, Clone, Default)]
struct Spec {
    owner: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    TryAcquire(usize),
    Release(usize),
    Inspect,
}

#[derive(Debug, Clone, PartialEq)]
enum Ret {
    Granted,
    BusyWith(usize),
    Released(Ownership),
    HeldBy(Option<usize>),
}

impl SequentialSpec for Spec {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match *op {
            Op::TryAcquire(me) => match *self.owner.get_or_insert(me) {
                owner if owner == me => Ret::Granted,
                owner => Ret::BusyWith(owner),
            },
            Op::Release(me) => Ret::Released(match self.owner {
                None => Ownership::Absent,
                Some(owner) if owner != me => Ownership::Taken,
                Some(_) => {
                    self.owner = None;
                    Ownership::Held
                }
            }),
            Op::Inspect => Ret::HeldBy(self.owner),
        }
    }
}

type Tester = LinearizabilityTester<usize, Spec>;

/// Runs one random history on `backend`, from one thread a client; each client has its number as its label.
fn history(backend: &(impl LockBackend + Clone), clients: usize, calls_each: usize) -> Tester {
    let tester = Mutex::new(Tester::new(Spec::default()));
    let (start, key) = (Barrier::new(clients), LockKey::new("k").unwrap());
    let seed = fastrand::u64(..);
    thread::scope(|scope| {
        for me in 0..clients {
            let (tester, start, key, backend) = (&tester, &start, &key, backend.clone());
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ me as u64);
                let runtime = Builder::new_current_thread().enable_time().build().unwrap();
                let owner = Owner::fresh(Some(&me.to_string())).unwrap();
                start.wait();
                for _ in 0..calls_each {
                    let op = match random.u8(..5) {
                        0 | 1 => Op::TryAcquire(me),
                        2 | 3 => Op::Release(me),
                        _ => Op::Inspect,
                    };
                    tester.lock().unwrap().on_invoke(me, op).unwrap();
                    let ret = runtime.block_on(call(&backend, key, &owner, op));
                    tester.lock().unwrap().on_return(me, ret).unwrap();
                    if random.bool() {
                        thread::yield_now();
                    }
                }
            });
        }
    });
    tester.into_inner().unwrap()
}

async fn call(backend: &impl LockBackend, key: &LockKey, owner: &Owner, op: Op) -> Ret {
    let number = |holder: Holder| holder.label.unwrap().parse().unwrap();
    match op {
        Op::TryAcquire(_) => {
            let request = AcquireRequest::new(key, owner, Duration::from_secs(3600));
            match backend.try_acquire(request).await.unwrap() {
                Attempt::Granted(_) => Ret::Granted,
                Attempt::Busy(busy) => Ret::BusyWith(number(busy.holder)),
            }
        }
        Op::Release(_) => Ret::Released(backend.release(key, owner).await.unwrap()),
        Op::Inspect => Ret::HeldBy(backend.inspect(key).await.unwrap().map(number)),
    }
}

#[test]
fn random_small_histories_are_linearizable() {
    for round in 0..200 {
        let clients = 2 + round % (CLIENTS - 1);
        let tester = history(&MemoryBackend::new(), clients, CALLS_EACH);
        assert!(tester.is_consistent(), "{tester:#?}");
    }
}

/// Reads, lets others go first, and then writes: never read, then write.
#[derive(Debug, Clone, Default)]
struct ReadsThenWrites(Arc<Mutex<Option<Owner>>>);

impl ReadsThenWrites {
    fn read(&self) -> Option<Owner> {
        let read = self.0.lock().unwrap().clone();
        thread::sleep(Duration::from_micros(50));
        read
    }
}

#[async_trait]
impl LockBackend for ReadsThenWrites {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        match self.read() {
            Some(owner) if owner != *request.owner => {
                let holder = Holder::new().with_label(owner.label().map(str::to_owned));
                Ok(Attempt::Busy(lock_core::Busy::new(holder)))
            }
            _ => {
                *self.0.lock().unwrap() = Some(request.owner.clone());
                Ok(Attempt::Granted(lock_core::Grant::default()))
            }
        }
    }

    async fn renew<'a>(&self, _: &'a [RenewRequest<'a>]) -> Vec<Result<Ownership, BackendError>> {
        Vec::new()
    }

    async fn release(&self, _: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        match self.read() {
            None => Ok(Ownership::Absent),
            Some(found) if found != *owner => Ok(Ownership::Taken),
            Some(_) => {
                *self.0.lock().unwrap() = None;
                Ok(Ownership::Held)
            }
        }
    }

    async fn inspect(&self, _: &LockKey) -> Result<Option<Holder>, BackendError> {
        let owner = self.read();
        Ok(owner.map(|owner| Holder::new().with_label(owner.label().map(str::to_owned))))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        None
    }
}

#[test]
fn a_store_that_reads_and_then_writes_is_rejected() {
    // Fewer clients: to refute a history takes all its orders.
    let is_rejected = |_| !history(&ReadsThenWrites::default(), 3, 6).is_consistent();
    assert!((0..500).any(is_rejected), "500 histories were accepted");
}

/// Two threads that are granted the same lock, in the order that a broken store would answer.
#[test]
fn two_grants_without_a_release_between_them_are_rejected() {
    let mut tester = Tester::new(Spec::default());
    for me in 0..2 {
        tester.on_invoke(me, Op::TryAcquire(me)).unwrap();
        tester.on_return(me, Ret::Granted).unwrap();
    }
    assert!(!tester.is_consistent());
    // With a release that overlaps both, it could be.
    let mut tester = Tester::new(Spec::default());
    tester.on_invoke(0, Op::TryAcquire(0)).unwrap();
    tester.on_return(0, Ret::Granted).unwrap();
    tester.on_invoke(0, Op::Release(0)).unwrap();
    tester.on_invoke(1, Op::TryAcquire(1)).unwrap();
    tester.on_return(1, Ret::Granted).unwrap();
    tester.on_return(0, Ret::Released(Ownership::Held)).unwrap();
    assert!(tester.is_consistent());
}
