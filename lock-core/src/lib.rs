//! What a distributed lock is.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod backend;
mod clock;
mod error;
mod fencing;
mod key;
mod owner;

pub use backend::{
    AcquireRequest, Attempt, Busy, Capabilities, Grant, Holder, LockBackend, MAX_TOKENS, Ownership,
    Place, Renew, RenewRequest, Wakeup, Wakeups,
};
#[cfg(feature = "mock")]
pub use backend::MockLockBackend;
pub use clock::Moment;
pub use error::{BackendError, BackendErrorKind, LockError, LossReason};
pub use fencing::{Fence, FencingRange, FencingToken, StaleToken};
pub use key::{LockKey, MAX_KEY_BYTES};
pub use owner::{MAX_LABEL_BYTES, Owner};
