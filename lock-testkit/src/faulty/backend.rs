//! What becomes of a call: the effect first, then the backend inside.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Capabilities, Holder, LockBackend,
    LockKey, Owner, Ownership, RenewRequest, Wakeups,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::effect::Effect;
use super::request::{Renewal, Reply, Request};
use super::wakeups::FaultyWakeups;
use super::{Faulty, Way};

impl Way {
    pub(super) async fn call(self: &Arc<Self>, request: Request) -> Reply {
        match self.log(&request) {
            Effect::Honest => self.apply(&request).await,
            Effect::Ask => self.ask(request).await,
            Effect::FailBefore(error) => Reply::error(&request, error),
            Effect::LoseReply(error) => {
                self.apply(&request).await;
                Reply::error(&request, error)
            }
            Effect::HangBefore => std::future::pending().await,
            Effect::HangAfter => {
                self.apply(&request).await;
                std::future::pending().await
            }
            Effect::DelayBefore(delay) => {
                sleep(delay).await;
                self.apply(&request).await
            }
            Effect::DelayBeforeDetached(delay) => {
                let way = Arc::clone(self);
                let request = async move {
                    sleep(delay).await;
                    way.apply(&request).await
                };
                Handle::current()
                    .spawn(request)
                    .await
                    .expect("the request is not aborted")
            }
            Effect::DelayAfter(delay) => {
                let reply = self.apply(&request).await;
                sleep(delay).await;
                reply
            }
            Effect::DelayBoth(delay) => {
                sleep(delay).await;
                let reply = self.apply(&request).await;
                sleep(delay).await;
                reply
            }
            Effect::Resend => {
                self.apply(&request).await;
                self.apply(&request).await
            }
            Effect::Copy => {
                // Nobody hears the answer to it.
                let (unheard, _) = oneshot::channel();
                self.keep(request.clone(), unheard);
                self.apply(&request).await
            }
            Effect::Panic => panic!("scripted panic in {:?}", request.op()),
        }
    }

    /// Notes the call, and what shall happen to it.
    #[allow(
        clippy::disallowed_methods,
        reason = "a log for people and tests decides nothing"
    )]
    fn log(&self, request: &Request) -> Effect {
        let mut state = self.state();
        if state.straight {
            return Effect::Honest;
        }
        let records = request.records(state.calls, Instant::now());
        let op = request.op();
        let of_its_key = records.iter().find_map(|record| {
            let plan = state.plans.get_mut(&(op, Some(record.key.clone())));
            plan.and_then(super::Plan::take)
        });
        let effect = of_its_key.or_else(|| state.plans.get_mut(&(op, None))?.take());
        state.records.extend(records);
        state.calls += 1;
        match (effect.unwrap_or(Effect::Honest), state.latency) {
            (Effect::Honest, Some(each_way)) => Effect::DelayBoth(each_way),
            (effect, _) => effect,
        }
    }

    async fn ask(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.keep(request, reply);
        match answer.await {
            Ok(reply) => reply,
            Err(_) => std::future::pending().await,
        }
    }

    /// Keeps a request for the test.
    fn keep(&self, request: Request, reply: oneshot::Sender<Reply>) {
        self.state().asking.push_back((request, reply));
        self.asked.notify_one();
    }

    /// Applies `request` at the backend inside. The answer may still be lost.
    pub(super) async fn apply(self: &Arc<Self>, request: &Request) -> Reply {
        match request {
            Request::Acquire {
                key,
                owner,
                ttl,
                tokens,
                place,
                from,
            } => {
                let request = AcquireRequest::new(key, owner, *ttl)
                    .with_tokens(*tokens)
                    .with_place(place.as_ref())
                    .with_from(from.as_ref());
                Reply::Acquire(self.inner.try_acquire(request).await)
            }
            Request::Renew(renewals) => {
                let requests: Vec<_> = renewals
                    .iter()
                    .map(|one| RenewRequest::new(&one.key, &one.owner, one.ttl, one.how))
                    .collect();
                Reply::Renew(self.inner.renew(&requests).await)
            }
            Request::Release { key, owner } => Reply::Release(self.inner.release(key, owner).await),
            Request::Inspect { key } => Reply::Inspect(self.inner.inspect(key).await),
            Request::Subscribe { key, place } => {
                let answer = match self.inner.wakeups() {
                    Some(wakeups) => wakeups.subscribe(key, place.as_ref()).await,
                    None => Err(no_wakeups()),
                };
                Reply::Subscribe(answer.map(|wakeup| self.subscribed(key, wakeup)))
            }
            Request::Leave { key, place } => Reply::Leave(match self.inner.wakeups() {
                Some(wakeups) => wakeups.leave(key, place).await,
                None => Err(no_wakeups()),
            }),
        }
    }
}

/// Only for who asked for them before the backend said that it has none.
fn no_wakeups() -> BackendError {
    BackendError::new(BackendErrorKind::Unsupported, "no wake-ups here")
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: LockBackend> LockBackend for Faulty<B> {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        match self.way.call(request.into()).await {
            Reply::Acquire(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let request = Request::Renew(renewals.iter().map(Renewal::from).collect());
        match self.way.call(request).await {
            Reply::Renew(answers) => answers,
            other => unreachable!("{other:?}"),
        }
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        let request = Request::Release {
            key: key.clone(),
            owner: owner.clone(),
        };
        match self.way.call(request).await {
            Reply::Release(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        match self.way.call(Request::Inspect { key: key.clone() }).await {
            Reply::Inspect(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        inner.with_resends(inner.resends || self.way.state().resends)
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        self.inner.wakeups()?;
        Some(Arc::new(FaultyWakeups(Arc::clone(&self.way))))
    }
}
