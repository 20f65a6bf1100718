//! What can go wrong, sorted by what the caller can do about it. Not what a client library calls it: that is
//! the `source`.

mod io;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Holder;
use crate::key::LockKey;

/// Why a lock was not taken, kept, or given back. An error is never permission to proceed.
///
/// No variant carries an owner, a password or a URL.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The request makes no sense and nothing was sent: change it.
    #[error("invalid {what}: {advice}")]
    #[non_exhaustive]
    Invalid {
        /// What was wrong: `"ttl"`, `"key"`, `"label"` ...
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// Somebody else holds the lock; one attempt was made.
    #[error("lock {key} is busy: {holder}")]
    #[non_exhaustive]
    Busy {
        /// The lock.
        key: LockKey,
        /// Who holds it, and for how long yet.
        holder: Holder,
    },
    /// Somebody else still held the lock when the wait was over or the retries were used up.
    #[error("lock {key} is still busy after {waited:.1?}: {holder}")]
    #[non_exhaustive]
    TimedOut {
        /// The lock.
        key: LockKey,
        /// How long was waited.
        waited: Duration,
        /// Who held it at the last attempt.
        holder: Holder,
    },
    /// The store failed, and it is known that the request was not applied.
    #[error("lock {key}: the store failed and changed nothing: {source}")]
    #[non_exhaustive]
    Backend {
        /// The lock.
        key: LockKey,
        /// What the backend says.
        source: BackendError,
        /// Whether trying again can help.
        transient: bool,
    },
    /// The store did not answer for certain: the request may have been applied. What it may have left behind is
    /// being cleaned up.
    #[error("lock {key}: the store may or may not have done it: {source}")]
    #[non_exhaustive]
    Unknown {
        /// The lock.
        key: LockKey,
        /// What the backend says.
        source: BackendError,
    },
    /// The lock was granted with too little validity left, and was given back.
    #[error(
        "lock {key} was granted too late: {remaining:.1?} of validity left; \
         the store is slow for this ttl, use a longer one"
    )]
    #[non_exhaustive]
    Late {
        /// The lock.
        key: LockKey,
        /// What was left of the validity when the grant arrived.
        remaining: Duration,
    },
    /// The lock was held and is not held any more.
    #[error("lock {key} is lost: {reason}")]
    #[non_exhaustive]
    Lost {
        /// The lock.
        key: LockKey,
        /// How it was lost.
        reason: LossReason,
    },
    /// At the lock's key the store has something that is no lock. It was left alone.
    #[error(
        "lock {key}: the store has {found} there, which is no lock; choose another name or remove it"
    )]
    #[non_exhaustive]
    Conflict {
        /// The lock.
        key: LockKey,
        /// What was found, in the store's words.
        found: String,
    },
    /// The backend cannot do this.
    #[error("lock {key}: this backend does not support {what}")]
    #[non_exhaustive]
    Unsupported {
        /// The lock.
        key: LockKey,
        /// What it cannot do.
        what: String,
    },
    /// The locks, or the backend's client, were shut down.
    #[error("lock {key}: the locks were shut down")]
    #[non_exhaustive]
    Closed {
        /// The lock.
        key: LockKey,
    },
    /// There is no tokio runtime with timers here.
    #[error("lock {key}: call this inside a tokio runtime that has its time driver enabled")]
    #[non_exhaustive]
    NoRuntime {
        /// The lock.
        key: LockKey,
    },
    /// The operating system has no randomness to give, so that no owner can be made.
    #[error("the operating system's random source failed: {source}")]
    #[non_exhaustive]
    Entropy {
        /// What the system says.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl LockError {
    pub(crate) fn invalid(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// What a backend's error means for a call about `key`.
    pub(crate) fn from_backend(key: &LockKey, error: BackendError) -> Self {
        let key = key.clone();
        match error.kind {
            BackendErrorKind::Transient => Self::Backend {
                key,
                source: error,
                transient: true,
            },
            BackendErrorKind::Permanent => Self::Backend {
                key,
                source: error,
                transient: false,
            },
            BackendErrorKind::Unknown => Self::Unknown { key, source: error },
            BackendErrorKind::Conflict => Self::Conflict {
                key,
                found: error.message,
            },
            BackendErrorKind::Unsupported => Self::Unsupported {
                key,
                what: error.message,
            },
            BackendErrorKind::Invalid => Self::Invalid {
                what: format!("request for {key}"),
                advice: error.message,
            },
            BackendErrorKind::Closed => Self::Closed { key },
        }
    }

    /// The lock this is about, where it is about one.
    #[must_use]
    pub fn key(&self) -> Option<&LockKey> {
        match self {
            Self::Busy { key, .. }
            | Self::TimedOut { key, .. }
            | Self::Backend { key, .. }
            | Self::Unknown { key, .. }
            | Self::Late { key, .. }
            | Self::Lost { key, .. }
            | Self::Conflict { key, .. }
            | Self::Unsupported { key, .. }
            | Self::Closed { key }
            | Self::NoRuntime { key } => Some(key),
            Self::Invalid { .. } | Self::Entropy { .. } => None,
        }
    }

    /// The holder, if somebody else holds the lock.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Busy { holder, .. } | Self::TimedOut { holder, .. } => Some(holder),
            _ => None,
        }
    }

    /// Whether somebody else holds the lock: [`Busy`](Self::Busy) or [`TimedOut`](Self::TimedOut).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.holder().is_some()
    }

    /// Whether the same call may succeed later without anything being changed by people.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::TimedOut { .. }
            | Self::Unknown { .. }
            | Self::Late { .. } => true,
            Self::Backend { transient, .. } => *transient,
            _ => false,
        }
    }
}

/// How a lock was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// The store's entry is gone: expired, evicted, deleted, or the store forgot it.
    Absent,
    /// The store's entry belongs to another owner.
    Taken,
    /// The deadline came before the store confirmed a renewal, or there was none to come.
    Unconfirmed,
    /// `hold_at_most` is over.
    HeldTooLong,
    /// The holder made no progress, so that the lock was not renewed.
    NoProgress,
    /// The locks were shut down.
    ShutDown,
    /// The guard is no more: it was released, dropped, or made into a ticket.
    Released,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "the store has no entry for it any more",
            Self::Taken => "somebody else holds it",
            Self::Unconfirmed => "its deadline came before the store confirmed a renewal",
            Self::HeldTooLong => "it was held for as long as was allowed",
            Self::NoProgress => "the holder made no progress, so it was not renewed",
            Self::ShutDown => "the locks were shut down",
            Self::Released => "its guard was released",
        })
    }
}

/// What a [`LockBackend`](crate::LockBackend) answers when it cannot answer.
///
/// The kind decides what lock-core does; [`source`](Error::source) is the client's own error. Neither may carry
/// a secret. Making one:
///
/// ```
/// use lock_core::{BackendError, BackendErrorKind};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = BackendError::transient("cannot connect to 127.0.0.1:6379").with_source(refused);
/// assert_eq!(error.kind(), BackendErrorKind::Transient);
/// ```
#[derive(Debug, Clone)]
pub struct BackendError {
    kind: BackendErrorKind,
    message: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What a backend knows about a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// Not applied; trying again can help: refused connection, failover, a store that is loading.
    Transient,
    /// Not applied, and trying again cannot help: bad credentials, missing permission.
    Permanent,
    /// May have been applied: no answer, a connection that broke after sending.
    Unknown,
    /// Not applied: at the key there is something that is no lock. The message says what.
    Conflict,
    /// Not applied: the store cannot do this. The message says what.
    Unsupported,
    /// Not applied: the store cannot take such a request. The message says what to do.
    Invalid,
    /// Not applied: the client was closed by its owner.
    Closed,
}

impl BackendError {
    /// Not applied; trying again can help.
    #[must_use]
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(BackendErrorKind::Transient, message)
    }

    /// Not applied, and trying again cannot help.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(BackendErrorKind::Permanent, message)
    }

    /// May have been applied.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(BackendErrorKind::Unknown, message)
    }

    /// An error of `kind`. `message` is one line for people, without secrets.
    #[must_use]
    pub fn new(kind: BackendErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same with the client's own error behind it, which must not print secrets either.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What is known about the request.
    #[must_use]
    pub const fn kind(&self) -> BackendErrorKind {
        self.kind
    }

    /// Whether the request may have been applied.
    #[must_use]
    pub const fn may_have_been_applied(&self) -> bool {
        matches!(self.kind, BackendErrorKind::Unknown)
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
