//! What a distributed lock is: how it is taken, kept, lost and given back, on any store. Not a store: this crate names
//! no client library and does no I/O of its own.
//!
//! Two traits meet here. [`LockBackend`] is what a store *implements*: one attempt, renew, release, inspect, without
//! waiting and without policy. [`Lock`] is what an application *calls*; [`DistributedLock`] implements it on any backend.
//! All policy stands between the two, once.
//!
//! Applications depend on `fencelock`, which re-exports this crate and the stores. A crate that brings a store depends
//! on this one and proves itself with `lock-testkit`.
//!
//! # A lock's life
//!
//! ```text
//! Locks ── lock(name) ──▶ DistributedLock ── acquire ──▶ LockGuard ── release, drop ──▶ gone
//!   backend, prefix,        key, options                    │ deadline, fencing token
//!   default options                                         │ lost().await
//!                                                           ▼
//!                     a lease, renewed when its turn comes until it is released or lost
//! ```
//!
//! 1. *Taken.* Key and options are checked before anything is sent. Each attempt has a fresh [`Owner`]. Its moment is read
//!    before the request is sent: the deadline is that moment + ttl − drift (1 % + 2 ms). A grant that comes too late is
//!    given back.
//! 2. *Waited for.* Who wants a lock in one process stands in one line, whose head alone talks to the store. Busy: the head
//!    subscribes to the store's wake-ups, tries again, then waits for a wake-up, the end of the holder's entry, or a timed
//!    look. Without wake-ups, or while the store fails, its [`RetryPolicy`] paces the attempts.
//! 3. *Kept.* A lease stands in a list by the time of its next renewal. One task per backend and runtime renews those
//!    that are due, together. A renewal without an answer changes nothing: the clock decides.
//! 4. *Lost.* Somebody else's entry, no entry, or the deadline end a lease for good, with a [`LossReason`].
//!    [`LockGuard::is_held`] compares clocks and needs no task of ours to have run.
//! 5. *Given back.* To the next in line of the process, with a fencing token of its own and without asking the store, if that
//!    is in order and others had their turn ([`PassingOn`]); otherwise to the store. [`LockGuard::release`] runs in the caller. What must outlive its caller goes to the runtime on which the
//!    lock was taken: the release of a dropped guard, of an attempt that was dropped, and of one whose outcome nobody knows.
//!
//! A call to the store that was begun is finished, also when its caller is dropped. Each has a timeout.
//!
//! # Where to look
//!
//! | Question | File |
//! |---|---|
//! | What must a store do? | `backend.rs` ([`LockBackend`], [`Wakeups`]) |
//! | What does an application call? | `locks.rs` ([`Locks`]), `lock.rs` ([`DistributedLock`], [`Lock`]), `guard.rs` ([`LockGuard`]), `global.rs` ([`with_lock`]) |
//! | What can be set, and what is the default? | `policy/options.rs` ([`LockOptions`]), `policy/retry.rs`, `policy/renewal.rs`, `policy/guard.rs` |
//! | What can go wrong, and what does it mean? | `error.rs` ([`LockError`], [`BackendError`]) |
//! | How is one attempt made? | `acquire.rs` |
//! | How is a lock waited for? | `acquire/waiting.rs`; what a waiter has at the store: `acquire/at_store.rs`, `acquire/place.rs` |
//! | Who of a process may ask the store? | `line.rs` |
//! | How does it go from task to task without the store? | `policy/passing.rs` ([`PassingOn`]), `lease/passing.rs` |
//! | Is it still mine? | `lease.rs` writes, `lease/state.rs` reckons, `guard.rs` reads |
//! | When and how is it renewed? | `renewer.rs` (whose turn), `lease/turn.rs` (what to do), `lease/operation.rs` (one at a time) |
//! | How does it end? | `lease/close.rs` |
//! | Who gives back what nobody holds? | `compensation.rs`; how many at once: `releases.rs` |
//! | What if a future is dropped half way? | `shield.rs` |
//! | What is shared by all locks on a backend? | `store.rs` |
//! | What time is it? | `clock.rs` ([`Moment`], [`Deadline`]); timers: `timer.rs` |
//! | What is locked, and who holds it? | `key.rs` ([`LockKey`]), `name.rs` ([`LockName`]), `owner.rs` ([`Owner`]) |
//! | How are late writes refused? | `fencing.rs` ([`FencingToken`], [`Fence`]) |
//! | How does a lock go to another process? | `ticket.rs` ([`Ticket`]) |
//! | How does an operator take it from its holder? | `force.rs` ([`ForceRelease`]) |
//! | How is it watched? | `observe.rs` (tracing, metrics), `compose/observed.rs` ([`Observed`]) |
//! | How do threads lock, without a runtime? | `blocking/` |
//! | How do I test code that uses locks? | `mock.rs`; `lock-memory` where timing matters |
//!
//! # Features
//!
//! `blocking`: locks for threads. `mock`: doubles of both traits. `test-util`: in a paused test all time is virtual. `tracing`: spans and events. `metrics`: counters and
//! histograms. None is on by default, and each only adds.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[doc(hidden)]
#[path = "locked.rs"]
pub mod __locked;
mod acquire;
#[cfg(all(test, feature = "mock"))]
#[allow(clippy::unwrap_used, reason = "a test with a helper")]
mod allocation_tests;
mod backend;
#[cfg(feature = "blocking")]
pub mod blocking;
mod clock;
mod compensation;
mod compose;
mod error;
mod fencing;
mod force;
mod global;
mod guard;
mod key;
mod lease;
mod line;
mod lock;
mod locks;
#[cfg(feature = "mock")]
pub mod mock;
mod name;
mod observe;
mod owner;
mod policy;
mod releases;
mod renewer;
mod shield;
mod store;
mod ticket;
mod timer;

#[cfg(feature = "mock")]
pub use backend::MockLockBackend;
pub use backend::{
    AcquireRequest, Attempt, Busy, Capabilities, Grant, Holder, LockBackend, MAX_TOKENS, Ownership,
    Place, Renew, RenewRequest, Wakeup, Wakeups,
};
#[cfg(feature = "test-util")]
pub use clock::suspend;
pub use clock::{Deadline, Moment};
pub use compose::{BackendCall, Observed, Observer};
pub use error::{BackendError, BackendErrorKind, LockError, LossReason};
pub use fencing::{Fence, FencingRange, FencingToken, StaleToken};
pub use force::{ForceRelease, Forced};
pub use global::with_lock;
pub use guard::{LockGuard, LossHandle};
pub use key::{KeyHasher, LockKey, MAX_KEY_BYTES};
pub use lease::Released;
#[cfg(feature = "mock")]
pub use lock::MockLock;
pub use lock::{DistributedLock, Lock};
pub use locks::Locks;
pub use name::{LockName, NameWriter};
pub use owner::{MAX_LABEL_BYTES, Owner};
pub use policy::{
    Delays, GuardPolicy, LockOptions, MAX_TTL, MIN_TTL, PassingOn, RenewalPolicy, RetryPolicy,
};
pub use ticket::Ticket;
