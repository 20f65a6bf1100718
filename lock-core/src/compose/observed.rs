//! A backend that tells of every call. Not tracing and not metrics of locks: those are features of this crate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{
    AcquireRequest, Attempt, Capabilities, Holder, LockBackend, Ownership, RenewRequest, Wakeups,
};
use crate::clock::Moment;
use crate::error::{BackendError, BackendErrorKind};
use crate::key::LockKey;
use crate::observe::contained;
use crate::owner::Owner;

/// Hears of every call to an [`Observed`] backend.
pub trait Observer: Send + Sync + 'static {
    /// A call is over. Called in the caller's own task: be quick. A panic is contained.
    fn call(&self, call: &BackendCall<'_>);
}

impl<F: Fn(&BackendCall<'_>) + Send + Sync + 'static> Observer for F {
    fn call(&self, call: &BackendCall<'_>) {
        self(call);
    }
}

/// One call to a backend, answered or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendCall<'a> {
    /// The method: `"try_acquire"`, `"renew"`, `"release"`, `"inspect"`.
    pub method: &'static str,
    /// The key; `None` for a batch of renewals.
    pub key: Option<&'a LockKey>,
    /// How many entries it was about: 1, or the size of a batch.
    pub entries: usize,
    /// How long it took.
    pub took: Duration,
    /// `"granted"`, `"busy"`, `"held"`, `"absent"`, `"taken"`, `"free"`, for a batch `"answered"`; for errors
    /// `"transient"`, `"permanent"`, `"unknown"`, `"conflict"` ...; `"dropped"` if its caller did not wait for the
    /// answer.
    pub outcome: &'static str,
}

/// A backend that tells an [`Observer`] of every call to the backend inside.
///
/// ```
/// use lock_core::{BackendCall, LockBackend, Locks, Observed};
///
/// # fn doc(backend: impl LockBackend) {
/// let locks = Locks::new(Observed::new(backend, |call: &BackendCall<'_>| {
///     println!("{} of {} entries: {} after {:?}", call.method, call.entries, call.outcome, call.took);
/// }));
/// # }
/// ```
pub struct Observed<B> {
    backend: B,
    observer: Arc<dyn Observer>,
}

impl<B: LockBackend> Observed<B> {
    /// Wraps `backend`.
    #[must_use]
    pub fn new(backend: B, observer: impl Observer) -> Self {
        Self {
            backend,
            observer: Arc::new(observer),
        }
    }

    async fn observe<T>(
        &self,
        method: &'static str,
        key: Option<&LockKey>,
        entries: usize,
        call: impl Future<Output = T>,
        outcome: impl FnOnce(&T) -> &'static str,
    ) -> T {
        let mut report = Report {
            observer: &*self.observer,
            method,
            key,
            entries,
            start: Moment::now(),
            outcome: "dropped",
        };
        let answer = call.await;
        report.outcome = outcome(&answer);
        answer
    }
}

/// Tells the observer when it is dropped, so that a call which nobody waited for is told of too.
struct Report<'a> {
    observer: &'a dyn Observer,
    method: &'static str,
    key: Option<&'a LockKey>,
    entries: usize,
    start: Moment,
    outcome: &'static str,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        // An observer that panics must not cost a lock, and this may run during a panic already.
        contained(|| {
            self.observer.call(&BackendCall {
                method: self.method,
                key: self.key,
                entries: self.entries,
                took: self.start.elapsed(),
                outcome: self.outcome,
            });
        });
    }
}

fn error_outcome(error: &BackendError) -> &'static str {
    match error.kind() {
        BackendErrorKind::Transient => "transient",
        BackendErrorKind::Permanent => "permanent",
        BackendErrorKind::Unknown => "unknown",
        BackendErrorKind::Conflict => "conflict",
        BackendErrorKind::Unsupported => "unsupported",
        BackendErrorKind::Invalid => "invalid",
        BackendErrorKind::Closed => "closed",
    }
}

fn ownership_outcome(answer: &Result<Ownership, BackendError>) -> &'static str {
    match answer {
        Ok(Ownership::Held) => "held",
        Ok(Ownership::Absent) => "absent",
        Ok(Ownership::Taken) => "taken",
        Err(error) => error_outcome(error),
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: LockBackend> LockBackend for Observed<B> {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let call = self.backend.try_acquire(request);
        let outcome = |answer: &Result<Attempt, BackendError>| match answer {
            Ok(Attempt::Granted(_)) => "granted",
            Ok(Attempt::Busy(_)) => "busy",
            Err(error) => error_outcome(error),
        };
        self.observe("try_acquire", Some(request.key), 1, call, outcome)
            .await
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let key = match renewals {
            [one] => Some(one.key),
            _ => None,
        };
        let outcome = |answers: &Vec<Result<Ownership, BackendError>>| match answers.as_slice() {
            [one] => ownership_outcome(one),
            _ => "answered",
        };
        self.observe(
            "renew",
            key,
            renewals.len(),
            self.backend.renew(renewals),
            outcome,
        )
        .await
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        let call = self.backend.release(key, owner);
        self.observe("release", Some(key), 1, call, ownership_outcome)
            .await
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        let outcome = |answer: &Result<Option<Holder>, BackendError>| match answer {
            Ok(Some(_)) => "held",
            Ok(None) => "free",
            Err(error) => error_outcome(error),
        };
        self.observe("inspect", Some(key), 1, self.backend.inspect(key), outcome)
            .await
    }

    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        self.backend.wakeups()
    }
}

impl<B: fmt::Debug> fmt::Debug for Observed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}
