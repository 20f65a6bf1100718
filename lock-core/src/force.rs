//! For operators: taking a lock from its holder. Not for applications, and not to be reached from a lock or a guard.

use async_trait::async_trait;

use crate::backend::{Holder, LockBackend};
use crate::error::BackendError;
use crate::fencing::FencingToken;
use crate::key::LockKey;

/// A store in which an operator can take a lock from a holder that is dead or stuck.
///
/// Use it from tools that people run, such as `fencelock release --force`: the holder believes in its lock until its next
/// renewal, so whoever takes the lock before that may run beside it. What then keeps writes in order is the fencing token.
#[async_trait]
pub trait ForceRelease: LockBackend {
    /// Deletes the entry of `key` whoever owns it, wakes waiters, and answers whose it was; `None` if there was none.
    ///
    /// 1. One atomic step at the store. `force::a_lock_that_was_taken_by_force_is_free_and_whose_it_was_is_told`,
    ///    `force::a_free_lock_is_nobodys_to_be_taken_from`, `force::force_wakes_all_who_wait`
    /// 2. Where the store has fencing, it reserves a token in the same step, greater than any given before for this key: a
    ///    resource that has seen it refuses the old holder's writes. `force::tokens_rise_across_force`
    /// 3. Something that is no lock at the key is [`Conflict`](crate::BackendErrorKind::Conflict), and left alone.
    ///    `force::what_is_no_lock_is_not_taken_by_force`
    ///
    /// # Errors
    ///
    /// As those of [`LockBackend::release`].
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, it is done or not.
    async fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError>;
}

/// What [`ForceRelease::force_release`] found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forced {
    /// Who held the lock.
    pub holder: Holder,
    /// The token that was reserved: greater than the holder's. `None` where the store has none.
    pub fencing: Option<FencingToken>,
}

impl Forced {
    /// A lock that was taken from `holder`.
    #[must_use]
    pub const fn new(holder: Holder, fencing: Option<FencingToken>) -> Self {
        Self { holder, fencing }
    }
}
