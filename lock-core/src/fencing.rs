//! Fencing tokens: numbers that grow with each grant of a key, and the gate that refuses older ones.
//!
//! A lease ends when its time is over, whether its holder has noticed or not. Only the resource itself can
//! refuse a write that arrives too late: by refusing every fencing token that is lower than one it has seen
//! (Martin Kleppmann, "How to do distributed locking", 2016).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that is greater than that of every earlier grant of the same key.
///
/// Send it along with each write that the lock protects, and let the resource refuse lower ones: see [`Fence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number. Stores may use only numbers below 2^53.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

/// A block of fencing tokens that one grant reserved, from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencingRange {
    first: FencingToken,
    last: FencingToken,
}

impl FencingRange {
    /// The tokens from `first` to `last`, both included; a `last` below `first` counts as `first`.
    #[must_use]
    pub fn new(first: FencingToken, last: FencingToken) -> Self {
        Self {
            first,
            last: last.max(first),
        }
    }

    /// The lowest token.
    #[must_use]
    pub const fn first(&self) -> FencingToken {
        self.first
    }

    /// The highest token.
    #[must_use]
    pub const fn last(&self) -> FencingToken {
        self.last
    }
}

/// The checking half of fencing: admits a token unless a greater one was admitted before.
///
/// Checking and writing must be one step: an old holder that pauses between the two would write after a newer one. So
/// one `Fence` lives beside its resource under one mutex, and [`admit`](Self::admit) is called with that locked:
///
/// ```
/// use std::sync::Mutex;
/// use lock_core::{Fence, FencingToken, StaleToken};
///
/// struct Account { fence: Fence, balance: u64 }
///
/// fn deposit(account: &Mutex<Account>, token: FencingToken, amount: u64) -> Result<(), StaleToken> {
///     let mut account = account.lock().unwrap();
///     account.fence.admit(token)?;
///     account.balance += amount;
///     Ok(())
/// }
///
/// let account = Mutex::new(Account { fence: Fence::new(), balance: 0 });
/// deposit(&account, FencingToken::new(7), 10)?;
/// deposit(&account, FencingToken::new(7), 10)?; // one holder writes many times
/// let stale = deposit(&account, FencingToken::new(6), 10).unwrap_err();
/// assert_eq!(stale.newest.get(), 7);
/// # Ok::<(), StaleToken>(())
/// ```
///
/// A resource outside the process makes the same comparison in the same step as its write. In SQL, with a row that
/// exists:
///
/// ```sql
/// -- no row changed = the token is too old: stop
/// UPDATE account SET balance = :balance, fence = :token WHERE id = :id AND fence <= :token;
/// ```
///
/// For a file, keep the token in a file beside it and hold an exclusive file lock from the look at the old token
/// until the data is written: refuse if the old one is greater, else write the new token, then the data.
#[derive(Debug, Default)]
pub struct Fence {
    newest: AtomicU64,
}

impl Fence {
    /// A fence that has admitted nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            newest: AtomicU64::new(0),
        }
    }

    /// A fence for a resource whose newest admitted token is known, for example after a restart.
    #[must_use]
    pub const fn starting_at(newest: FencingToken) -> Self {
        Self {
            newest: AtomicU64::new(newest.get()),
        }
    }

    /// Admits `token` unless a greater one was admitted before.
    ///
    /// # Errors
    ///
    /// [`StaleToken`] if a later holder has been here: the caller has lost its lock and must not write.
    pub fn admit(&self, token: FencingToken) -> Result<(), StaleToken> {
        let newest = FencingToken(self.newest.fetch_max(token.get(), Ordering::AcqRel));
        if newest > token {
            Err(StaleToken { token, newest })
        } else {
            Ok(())
        }
    }
}

/// A fencing token that came after a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "fencing token {token} is stale: {newest} was admitted before; the lock has a later holder"
)]
#[non_exhaustive]
pub struct StaleToken {
    /// The token that was refused.
    pub token: FencingToken,
    /// The greatest token admitted so far.
    pub newest: FencingToken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_never_admits_an_older_token_after_a_newer_one() {
        let fence = Fence::starting_at(FencingToken::new(5));
        assert!(fence.admit(FencingToken::new(4)).is_err());
        assert!(fence.admit(FencingToken::new(5)).is_ok());
        assert!(fence.admit(FencingToken::new(9)).is_ok());
        assert_eq!(
            fence.admit(FencingToken::new(8)),
            Err(StaleToken {
                token: FencingToken::new(8),
                newest: FencingToken::new(9)
            })
        );
    }
}
