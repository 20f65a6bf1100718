//! A lock on its way from one process to another. Not a lock: whoever has it must resume it first.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::LockError;
use crate::key::LockKey;
use crate::owner::Owner;

/// The first part of a ticket's text.
const HEADER: &str = "fencelock-ticket-1";

/// What [`LockGuard::into_ticket`](crate::LockGuard::into_ticket) makes of a held lock, for
/// [`Locks::resume`](crate::Locks::resume) in this process or another. Works once.
///
/// Its text lets whoever has it take the lock: send it where you would send a password. `Debug` does not print it.
///
/// ```
/// use lock_core::{LockError, Ticket};
/// # fn doc(ticket: Ticket) -> Result<(), LockError> {
/// let text = ticket.expose();
/// let same: Ticket = text.parse()?;
/// assert_eq!(same.key(), ticket.key());
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    key: LockKey,
    owner: Owner,
    remaining: Duration,
}

impl Ticket {
    pub(crate) fn new(key: LockKey, owner: Owner, remaining: Duration) -> Self {
        Self {
            key,
            owner,
            remaining,
        }
    }

    /// The lock.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        &self.key
    }

    /// How long the lock lasted yet when the ticket was made. For information: what counts is the store's answer when
    /// it is resumed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.remaining
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The ticket as one line of text, to be parsed by [`FromStr`]. Secret.
    #[must_use]
    pub fn expose(&self) -> String {
        let (owner, key) = (self.owner.expose(), self.key.as_str());
        let (millis, prefix) = (self.remaining.as_millis(), self.key.prefix().len());
        // The owner's label and the key may contain anything, so lengths lead the way.
        format!("{HEADER} {millis} {prefix} {} {owner} {key}", owner.len())
    }
}

impl FromStr for Ticket {
    type Err = LockError;

    /// # Errors
    ///
    /// [`LockError::Invalid`] if the text is no ticket.
    fn from_str(text: &str) -> Result<Self, LockError> {
        parse(text).ok_or_else(|| {
            LockError::invalid(
                "ticket",
                "this is no ticket's text; pass on what expose() gave",
            )
        })
    }
}

fn parse(text: &str) -> Option<Ticket> {
    let mut parts = text.splitn(5, ' ');
    if parts.next()? != HEADER {
        return None;
    }
    let millis = parts.next()?.parse().ok()?;
    let prefix: usize = parts.next()?.parse().ok()?;
    let owner: usize = parts.next()?.parse().ok()?;
    let (owner, key) = parts.next()?.split_at_checked(owner)?;
    let (prefix, name) = key.strip_prefix(' ')?.split_at_checked(prefix)?;
    if owner.is_empty() {
        return None;
    }
    Some(Ticket {
        key: LockKey::with_prefix(prefix, name).ok()?,
        owner: Owner::from_exposed(owner),
        remaining: Duration::from_millis(millis),
    })
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("key", &self.key)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_its_text() {
        for (prefix, name) in [("", "a"), ("p:", "a b \n 5 "), ("é ", "é")] {
            let key = LockKey::with_prefix(prefix, name).unwrap();
            let owner = Owner::fresh(Some("a label 7")).unwrap();
            let ticket = Ticket::new(key, owner, Duration::from_millis(1234));
            let same: Ticket = ticket.expose().parse().unwrap();
            assert_eq!(same, ticket);
            assert_eq!(same.key().prefix(), prefix);
            assert!(!format!("{ticket:?}").contains(&ticket.owner.expose()[..32]));
        }
    }

    #[test]
    fn what_is_no_ticket_is_invalid() {
        let good = Ticket::new(
            LockKey::new("k").unwrap(),
            Owner::from_exposed("o"),
            Duration::ZERO,
        );
        assert_eq!(good.expose(), "fencelock-ticket-1 0 0 1 o k");
        for bad in [
            "",
            "fencelock-ticket-1",
            "fencelock-ticket-2 0 0 1 o k",
            "fencelock-ticket-1 x 0 1 o k",
            "fencelock-ticket-1 0 9 1 o k",
            "fencelock-ticket-1 0 0 9 o k",
            "fencelock-ticket-1 0 0 0  k",
            "fencelock-ticket-1 0 0 1 o ",
            "fencelock-ticket-1 0 0 18446744073709551616 o k",
        ] {
            assert!(bad.parse::<Ticket>().is_err(), "{bad:?}");
        }
    }
}
