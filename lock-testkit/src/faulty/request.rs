//! What a call asks and what it is answered, as owned data.

use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, Holder, LockKey, Owner, Ownership, Place, Renew,
    RenewRequest, Wakeup,
};
use tokio::time::Instant;

/// Which method was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`lock_core::LockBackend::try_acquire`]
    Acquire,
    /// [`lock_core::LockBackend::renew`]
    Renew,
    /// [`lock_core::LockBackend::release`]
    Release,
    /// [`lock_core::LockBackend::inspect`]
    Inspect,
    /// [`lock_core::Wakeups::subscribe`]
    Subscribe,
    /// [`lock_core::Wakeups::leave`]
    Leave,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Acquire,
        Self::Renew,
        Self::Release,
        Self::Inspect,
        Self::Subscribe,
        Self::Leave,
    ];
}

/// The arguments of a call.
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the method of the same name"
)]
pub enum Request {
    /// [`AcquireRequest`]
    Acquire {
        key: LockKey,
        owner: Owner,
        ttl: Duration,
        tokens: u16,
        place: Option<Place>,
        from: Option<Owner>,
    },
    /// A batch of [`RenewRequest`]s.
    Renew(Vec<Renewal>),
    /// A release.
    Release { key: LockKey, owner: Owner },
    /// An inspection.
    Inspect { key: LockKey },
    /// A subscription.
    Subscribe { key: LockKey, place: Option<Place> },
    /// A waiter that gives up.
    Leave { key: LockKey, place: Place },
}

/// One [`RenewRequest`].
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are those of RenewRequest")]
pub struct Renewal {
    pub key: LockKey,
    pub owner: Owner,
    pub ttl: Duration,
    pub how: Renew,
}

/// One line of the log of calls. A batch of renewals is one line for each renewal.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which call it belongs to, counted from 0.
    pub call: usize,
    /// When the call was made, on tokio's clock.
    pub at: Instant,
    /// The method.
    pub op: Op,
    /// The whole key, prefix included.
    pub key: String,
    /// Who asked, where the method tells. `Owner::expose` is its text.
    pub owner: Option<Owner>,
    /// The ttl asked for, if any.
    pub ttl: Option<Duration>,
    /// How a renewal was meant.
    pub how: Option<Renew>,
    /// How many fencing tokens an attempt asked for.
    pub tokens: Option<u16>,
    /// From whom a hand-over was asked for.
    pub from: Option<Owner>,
    /// The place in line that the asker named.
    pub place: Option<Place>,
}

impl Request {
    /// The method.
    #[must_use]
    pub const fn op(&self) -> Op {
        match self {
            Self::Acquire { .. } => Op::Acquire,
            Self::Renew(_) => Op::Renew,
            Self::Release { .. } => Op::Release,
            Self::Inspect { .. } => Op::Inspect,
            Self::Subscribe { .. } => Op::Subscribe,
            Self::Leave { .. } => Op::Leave,
        }
    }

    /// The lines that this request adds to the log as call number `call`.
    pub(super) fn records(&self, call: usize, at: Instant) -> Vec<Record> {
        let line = |key: &LockKey| Record {
            call,
            at,
            op: self.op(),
            key: key.as_str().to_owned(),
            owner: None,
            ttl: None,
            how: None,
            tokens: None,
            from: None,
            place: None,
        };
        match self {
            Self::Acquire {
                key,
                owner,
                ttl,
                tokens,
                place,
                from,
            } => vec![Record {
                owner: Some(owner.clone()),
                ttl: Some(*ttl),
                tokens: Some(*tokens),
                from: from.clone(),
                place: place.clone(),
                ..line(key)
            }],
            Self::Renew(renewals) => renewals
                .iter()
                .map(|renewal| Record {
                    owner: Some(renewal.owner.clone()),
                    ttl: Some(renewal.ttl),
                    how: Some(renewal.how),
                    ..line(&renewal.key)
                })
                .collect(),
            Self::Release { key, owner } => {
                vec![Record {
                    owner: Some(owner.clone()),
                    ..line(key)
                }]
            }
            Self::Inspect { key } => vec![line(key)],
            Self::Subscribe { key, place } => vec![Record {
                place: place.clone(),
                ..line(key)
            }],
            Self::Leave { key, place } => vec![Record {
                place: Some(place.clone()),
                ..line(key)
            }],
        }
    }
}

impl From<AcquireRequest<'_>> for Request {
    fn from(request: AcquireRequest<'_>) -> Self {
        Self::Acquire {
            key: request.key.clone(),
            owner: request.owner.clone(),
            ttl: request.ttl,
            tokens: request.tokens,
            place: request.place.cloned(),
            from: request.from.cloned(),
        }
    }
}

impl From<&RenewRequest<'_>> for Renewal {
    fn from(request: &RenewRequest<'_>) -> Self {
        Self {
            key: request.key.clone(),
            owner: request.owner.clone(),
            ttl: request.ttl,
            how: request.how,
        }
    }
}

/// What a call is answered. Always of the method that was called.
#[derive(Debug)]
pub(super) enum Reply {
    Acquire(Result<Attempt, BackendError>),
    Renew(Vec<Result<Ownership, BackendError>>),
    Release(Result<Ownership, BackendError>),
    Inspect(Result<Option<Holder>, BackendError>),
    Subscribe(Result<Box<dyn Wakeup>, BackendError>),
    Leave(Result<(), BackendError>),
}

impl Reply {
    /// The answer that `request` failed, each renewal of a batch for itself.
    pub(super) fn error(request: &Request, error: BackendError) -> Self {
        match request {
            Request::Acquire { .. } => Self::Acquire(Err(error)),
            Request::Renew(renewals) => {
                Self::Renew(renewals.iter().map(|_| Err(error.clone())).collect())
            }
            Request::Release { .. } => Self::Release(Err(error)),
            Request::Inspect { .. } => Self::Inspect(Err(error)),
            Request::Subscribe { .. } => Self::Subscribe(Err(error)),
            Request::Leave { .. } => Self::Leave(Err(error)),
        }
    }
}
