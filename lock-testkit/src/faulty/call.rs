//! A call that waits for the test's answer.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Attempt, BackendError, Busy, FencingRange, FencingToken, Grant, Holder, LockKey, Owner,
    Ownership,
};
use tokio::sync::oneshot;

use super::Way;
use super::request::{Op, Renewal, Reply, Request};

/// A call that was made and not answered yet: answer it, fail it, or keep it to leave its caller waiting.
///
/// Dropping it never answers: the caller's future stays pending for ever.
pub struct Call {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Reply>,
    pub(super) way: Arc<Way>,
}

impl Call {
    /// The method that was called.
    #[must_use]
    pub const fn op(&self) -> Op {
        self.request.op()
    }

    /// All arguments.
    #[must_use]
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// The key; the first one of a batch.
    ///
    /// # Panics
    ///
    /// For an empty batch.
    #[must_use]
    pub fn key(&self) -> &LockKey {
        match &self.request {
            Request::Renew(renewals) => &renewals[0].key,
            Request::Acquire { key, .. }
            | Request::Release { key, .. }
            | Request::Inspect { key }
            | Request::Subscribe { key, .. }
            | Request::Leave { key, .. } => key,
        }
    }

    /// The owner who asks; the first one of a batch.
    ///
    /// # Panics
    ///
    /// For a call that has none.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        match &self.request {
            Request::Renew(renewals) => &renewals[0].owner,
            Request::Acquire { owner, .. } | Request::Release { owner, .. } => owner,
            _ => panic!("a call of {:?} has no owner", self.op()),
        }
    }

    /// The ttl that is asked for; the first one of a batch.
    ///
    /// # Panics
    ///
    /// For a call that has none.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        match &self.request {
            Request::Renew(renewals) => renewals[0].ttl,
            Request::Acquire { ttl, .. } => *ttl,
            _ => panic!("a call of {:?} has no ttl", self.op()),
        }
    }

    /// The renewals of a batch; empty for every other call.
    #[must_use]
    pub fn renewals(&self) -> &[Renewal] {
        if let Request::Renew(renewals) = &self.request {
            renewals
        } else {
            &[]
        }
    }

    /// Whether the caller has dropped its future.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Waits until the caller has dropped its future.
    pub async fn abandoned(&mut self) {
        self.reply.closed().await;
    }

    /// Applies the call at the backend inside, also if its caller has gone, and does not answer it: what follows is a lost
    /// reply. Returns when the backend has answered.
    pub async fn apply(&self) {
        self.way.apply(&self.request).await;
    }

    /// Applies the call at the backend inside and gives its answer. The way to confirm a subscription.
    pub async fn reply_honestly(self) {
        let reply = self.way.apply(&self.request).await;
        self.send(reply);
    }

    /// Answers an attempt with a grant of the fencing tokens `first..=last`. The backend inside does not hear of it.
    pub fn reply_granted(self, tokens: RangeInclusive<u64>) {
        let (first, last) = (
            FencingToken::new(*tokens.start()),
            FencingToken::new(*tokens.end()),
        );
        self.reply_grant(Grant::new(Some(FencingRange::new(first, last))));
    }

    /// Answers an attempt with a grant; `Grant::default()` is one without fencing tokens.
    pub fn reply_grant(self, grant: Grant) {
        self.send(Reply::Acquire(Ok(Attempt::Granted(grant))));
    }

    /// Answers an attempt with a refusal.
    pub fn reply_busy(self, busy: Busy) {
        self.send(Reply::Acquire(Ok(Attempt::Busy(busy))));
    }

    /// Answers a batch of renewals, or a release with the only one of `answers`. A batch may be answered short.
    ///
    /// # Panics
    ///
    /// For any other call, and for a release with more or fewer than one answer.
    pub fn reply_ownership(self, answers: impl Into<Vec<Ownership>>) {
        let answers = answers.into();
        let reply = match (self.op(), answers.as_slice()) {
            (Op::Release, [answer]) => Reply::Release(Ok(*answer)),
            _ => Reply::Renew(answers.into_iter().map(Ok).collect()),
        };
        self.send(reply);
    }

    /// Answers a batch of renewals, each for itself. The batch may be answered short.
    pub fn reply_renewals(self, answers: impl Into<Vec<Result<Ownership, BackendError>>>) {
        self.send(Reply::Renew(answers.into()));
    }

    /// Answers an inspection.
    pub fn reply_holder(self, holder: Option<Holder>) {
        self.send(Reply::Inspect(Ok(holder)));
    }

    /// Answers with an error, each renewal of a batch with its own copy. Nothing is applied; for the error after
    /// the fact, [`apply`](Self::apply) before.
    pub fn fail(self, error: BackendError) {
        let reply = Reply::error(&self.request, error);
        self.send(reply);
    }

    /// Never answers. To see whether the caller gives up, keep the call instead.
    pub fn hang(self) {
        drop(self);
    }

    fn send(self, reply: Reply) {
        let fits = matches!(
            (self.op(), &reply),
            (Op::Acquire, Reply::Acquire(_))
                | (Op::Renew, Reply::Renew(_))
                | (Op::Release, Reply::Release(_))
                | (Op::Inspect, Reply::Inspect(_))
                | (Op::Subscribe, Reply::Subscribe(_))
                | (Op::Leave, Reply::Leave(_))
        );
        assert!(
            fits,
            "a call of {:?} cannot be answered with {reply:?}",
            self.op()
        );
        // A caller that has gone does not hear the answer.
        let _ = self.reply.send(reply);
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}
