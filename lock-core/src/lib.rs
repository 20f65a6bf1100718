//! What a distributed lock is.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod acquire;
mod backend;
mod clock;
mod compensation;
mod compose;
mod error;
mod fencing;
mod guard;
mod key;
mod lease;
mod lock;
mod locks;
#[cfg(feature = "mock")]
pub mod mock;
mod observe;
mod owner;
mod policy;
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
pub use clock::Moment;
pub use compose::{BackendCall, Observed, Observer};
pub use error::{BackendError, BackendErrorKind, LockError, LossReason};
pub use fencing::{Fence, FencingRange, FencingToken, StaleToken};
pub use guard::{LockGuard, LossHandle};
pub use key::{LockKey, MAX_KEY_BYTES};
pub use lease::Released;
#[cfg(feature = "mock")]
pub use lock::MockLock;
pub use lock::{DistributedLock, Lock};
pub use locks::Locks;
pub use owner::{MAX_LABEL_BYTES, Owner};
pub use policy::{Delays, GuardPolicy, LockOptions, MAX_TTL, MIN_TTL, RenewalPolicy, RetryPolicy};
pub use ticket::Ticket;
