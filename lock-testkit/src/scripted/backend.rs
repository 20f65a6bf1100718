//! What a scripted backend does with a call: the effect first, then the honest store.

use std::sync::Arc;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Capabilities, Holder, LockBackend,
    LockKey, Owner, Ownership, RenewRequest, Wakeups,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Scripted;
use super::effect::Effect;
use super::request::{Renewal, Reply, Request};
use super::wakeups::{self, Subscribed};

impl Scripted {
    pub(super) async fn call(&self, request: Request) -> Reply {
        match self.log(&request) {
            Effect::Honest => self.apply(&request),
            Effect::Ask => self.ask(request).await,
            Effect::FailBefore(error) => Reply::error(&request, error),
            Effect::LoseReply(error) => {
                self.apply(&request);
                Reply::error(&request, error)
            }
            Effect::HangBefore => std::future::pending().await,
            Effect::HangAfter => {
                self.apply(&request);
                std::future::pending().await
            }
            Effect::DelayBefore(delay) => {
                sleep(delay).await;
                self.apply(&request)
            }
            Effect::DelayBeforeDetached(delay) => {
                let backend = self.clone();
                let request = async move {
                    sleep(delay).await;
                    backend.apply(&request)
                };
                Handle::current()
                    .spawn(request)
                    .await
                    .expect("the request is not aborted")
            }
            Effect::DelayAfter(delay) => {
                let reply = self.apply(&request);
                sleep(delay).await;
                reply
            }
            Effect::DelayBoth(delay) => {
                sleep(delay).await;
                let reply = self.apply(&request);
                sleep(delay).await;
                reply
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
        let records = request.records(state.calls, Instant::now());
        state.records.extend(records);
        state.calls += 1;
        match (
            state.plans.entry(request.op()).or_default().take(),
            state.latency,
        ) {
            (Effect::Honest, Some(each_way)) => Effect::DelayBoth(each_way),
            (effect, _) => effect,
        }
    }

    async fn ask(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.state().asking.push_back((request, reply));
        self.inner.asked.notify_one();
        match answer.await {
            Ok(reply) => reply,
            Err(_) => std::future::pending().await,
        }
    }

    /// Applies `request` at the honest store. The answer may still be lost.
    pub(super) fn apply(&self, request: &Request) -> Reply {
        let mut state = self.state();
        match request {
            Request::Acquire {
                key,
                owner,
                ttl,
                tokens,
                place,
                from,
            } => {
                if from.is_some() && !state.capabilities.hand_over {
                    let kind = BackendErrorKind::Unsupported;
                    return Reply::Acquire(Err(BackendError::new(kind, "no hand-over here")));
                }
                let request = AcquireRequest::new(key, owner, *ttl)
                    .with_tokens(*tokens)
                    .with_place(place.as_ref())
                    .with_from(from.as_ref());
                Reply::Acquire(Ok(state.store.try_acquire(&request)))
            }
            Request::Renew(renewals) => {
                let renew = |one: &Renewal| {
                    state
                        .store
                        .renew(&RenewRequest::new(&one.key, &one.owner, one.ttl, one.how))
                };
                Reply::Renew(renewals.iter().map(renew).map(Ok).collect())
            }
            Request::Release { key, owner } => {
                let answer = state.store.release(key.as_str(), owner);
                let wakes = answer == Ownership::Held && !state.loses_wakeups;
                drop(state);
                if wakes {
                    self.wake(key.as_str());
                }
                Reply::Release(Ok(answer))
            }
            Request::Inspect { key } => Reply::Inspect(Ok(state.store.inspect(key.as_str()))),
            Request::Subscribe { key, .. } => {
                let (kept, given) = wakeups::subscription(key);
                state.subscriptions.retain(Subscribed::is_alive);
                state.subscriptions.push(kept);
                Reply::Subscribe(Ok(given))
            }
            Request::Leave { .. } => Reply::Leave(Ok(())),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl LockBackend for Scripted {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        match self.call(request.into()).await {
            Reply::Acquire(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        match self
            .call(Request::Renew(renewals.iter().map(Renewal::from).collect()))
            .await
        {
            Reply::Renew(answers) => answers,
            other => unreachable!("{other:?}"),
        }
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        match self
            .call(Request::Release {
                key: key.clone(),
                owner: owner.clone(),
            })
            .await
        {
            Reply::Release(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        match self.call(Request::Inspect { key: key.clone() }).await {
            Reply::Inspect(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.state().capabilities
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        if self.capabilities().wakeups {
            Some(Arc::new(self.clone()))
        } else {
            None
        }
    }
}
