//! Locks on a Redis server: calls to scripts, and their answers back. No retry, no waiting, no policy.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fred::clients::{Client, Pool};
use fred::interfaces::ClientLike;
use futures_util::future::join_all;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, Capabilities, Grant, Holder,
    LockBackend, LockKey, MAX_TOKENS, Owner, Ownership, Renew, RenewRequest, Wakeups,
};

use crate::answer::Answer;
use crate::client::{self, Given, Part, Settings, Target};
use crate::connection::{Link, Own};
use crate::error::{Cause, Failure};
use crate::native::{Native, Rights};
use crate::replicas::{Granted, Replicas};
use crate::wakeups::{Hub, HubWakeups};
use crate::{error, keys, scripts};

/// How long a fencing counter outlives its last use at least; ten times the ttl if that is longer.
pub(crate) const COUNTER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// When to look again at an entry of which nothing is known: a value of others, without an end and a counter.
const RECHECK: Duration = Duration::from_secs(1);

/// Locks on Redis: one server, a primary that sentinels know, or a cluster. Clones share the connection.
#[derive(Clone)]
pub struct FredBackend {
    pub(crate) link: Link,
    hub: Option<Arc<Hub>>,
    /// Whether releases are told to those who wait.
    tells: bool,
    /// Whether the keys are spread over many servers.
    cluster: bool,
    resends: bool,
    /// Whether the server keeps its data, as whoever made this says.
    pub(crate) survives_restart: bool,
    /// What is sent instead of scripts.
    pub(crate) native: Option<Arc<Native>>,
    /// Who must have a grant before it counts.
    replicas: Option<Arc<Replicas>>,
    /// Whether the server let us run every command that the scripts need: asked with the first attempt.
    checked: Arc<AtomicBool>,
}

impl FredBackend {
    /// Uses a client that the application has initialised. Waiters are woken over a connection of our own with the same
    /// settings.
    ///
    /// No request is written twice, whatever the client's own settings say. A client that leaves two calls in a row
    /// without an answer, and a `PING` behind them, is made to connect again, once. One that has used up its reconnect policy has
    /// ended: until it is initialised again, its calls fail, or go to others of its pool. Other commands that are under way then are treated as that client is told to. While a client has
    /// no connection, nothing is handed to it; what it was handed before is written within [`DEFAULT_RESPONSE_TIMEOUT`] or
    /// never, also if its caller has gone.
    ///
    /// Do not give a client on which you block (`BLPOP`, `XREAD BLOCK`, `WAIT`): renewals queue behind that and come too late.
    /// Nor one that subscribes over RESP2: nothing else can be sent over it then, and each call is a permanent error.
    ///
    /// [`DEFAULT_RESPONSE_TIMEOUT`]: crate::DEFAULT_RESPONSE_TIMEOUT
    ///
    /// A cluster's client lends its settings only, and all connections are our own: while a slot moves, fred may give one
    /// request's reply to another.
    ///
    /// # Errors
    ///
    /// [`Invalid`](BackendErrorKind::Invalid) for a client without a reconnect policy (unless it is a cluster's): the first
    /// connection that it lost would be its last.
    pub fn from_client(client: Client) -> Result<Self, BackendError> {
        Self::given(std::slice::from_ref(&client))
    }

    /// As [`from_client`](Self::from_client), with the clients of a pool in turn.
    ///
    /// # Errors
    ///
    /// As [`from_client`](Self::from_client).
    pub fn from_pool(pool: &Pool) -> Result<Self, BackendError> {
        Self::given(pool.clients())
    }

    fn given(clients: &[Client]) -> Result<Self, BackendError> {
        let invalid = |advice| BackendError::new(BackendErrorKind::Invalid, advice);
        let settings = Settings::default();
        let Some(client) = clients.first() else {
            return Err(invalid("a pool of no clients"));
        };
        let target = Target::of_client(client, &settings);
        if client.is_clustered() {
            return Ok(Self::own(target));
        }
        if !clients.iter().all(ClientLike::has_reconnect_policy) {
            return Err(invalid(
                "a client without a reconnect policy ends with its first connection: give it one (`Builder::set_policy`)",
            ));
        }
        let link = Link::Given(Given::new(clients, settings.response_timeout));
        target.warn_of_exposure();
        Ok(Self {
            hub: Some(Hub::new(Arc::new(target))),
            ..Self::over(link, false)
        })
    }

    /// Waits with each grant until `least` replicas have it.
    pub(crate) fn with_replicas(mut self, least: u16) -> Self {
        if let (Link::Own(own), 1..) = (&self.link, least) {
            let another = Own::new(own.target.apart());
            self.replicas = Some(Arc::new(Replicas::new(least, another)));
        }
        self
    }

    /// Sends no scripts.
    pub(crate) fn with_native_commands(mut self) -> Self {
        if let Link::Own(own) = &self.link {
            self.native = Some(Arc::new(Native::new(Arc::clone(own))));
        }
        self
    }

    pub(crate) fn own(target: Target) -> Self {
        target.warn_of_exposure();
        let target = Arc::new(target);
        let cluster = target.is_cluster();
        let hub = target.has_messages().then(|| Hub::new(Arc::clone(&target)));
        Self {
            hub,
            cluster,
            ..Self::over(
                Link::Own(Own::new(target)),
                cluster && client::CLUSTER_RESENDS,
            )
        }
    }

    fn over(link: Link, resends: bool) -> Self {
        Self {
            link,
            hub: None,
            tells: true,
            cluster: false,
            resends,
            survives_restart: false,
            native: None,
            replicas: None,
            checked: Arc::default(),
        }
    }

    /// The fencing counter of `key`.
    pub(crate) fn fence(&self, key: &LockKey) -> Result<String, BackendError> {
        self.place(key)?;
        keys::fence(key)
    }

    /// Neither wakes waiters nor has them woken: all look at their locks from time to time, the waiters of others for a lock of
    /// ours too. For a user who may neither publish nor subscribe, which is else an error of the first attempt.
    #[must_use]
    pub fn without_wakeups(mut self) -> Self {
        self.hub = None;
        self.tells = false;
        self
    }

    /// The channel of `key`, and the command that tells it something; none if it is not told.
    pub(crate) fn wake(&self, key: &LockKey) -> Result<(String, &'static str), BackendError> {
        self.place(key)?;
        let publish = match (self.tells, self.cluster) {
            (false, _) => "",
            (true, true) => scripts::SPUBLISH,
            (true, false) => scripts::PUBLISH,
        };
        Ok((keys::wake(key)?, publish))
    }

    /// What else a user must be allowed than what scripts run.
    fn rights(&self) -> &'static [&'static str] {
        match (self.cluster, self.hub.is_some()) {
            (false, false) => &[],
            (false, true) => &["SUBSCRIBE", "UNSUBSCRIBE", "PING"],
            (true, false) => &["ASKING"],
            (true, true) => &["ASKING", "SSUBSCRIBE", "SUNSUBSCRIBE", "PING"],
        }
    }

    fn place(&self, key: &LockKey) -> Result<(), BackendError> {
        if self.cluster {
            keys::shard(key)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for FredBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.link {
            Link::Own(own) => write!(f, "FredBackend({})", own.target),
            Link::Given(_) => f.write_str("FredBackend(a given connection)"),
        }
    }
}

#[async_trait]
impl LockBackend for FredBackend {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let key = request.key;
        let fence = self.fence(key)?;
        if let Some(native) = &self.native {
            let (wake, publish) = self.wake(key)?;
            let rights = Rights {
                channel: &wake,
                publish,
                waits: self.hub.is_some(),
            };
            // Boxed, as what is rare is here, so that what is usual is small.
            return Box::pin(native.try_acquire(&request, &rights)).await;
        }
        let (owner, ttl) = (request.owner.expose(), milliseconds(request.ttl));
        let tokens = request.tokens.clamp(1, MAX_TOKENS).to_string();
        let from = request.from.map_or("", Owner::expose);
        let keep = milliseconds(COUNTER_KEPT.max(request.ttl.saturating_mul(10)));
        let keys = [key.as_str(), &fence];
        let usual = [owner, &ttl, &tokens, from, &keep, ""];
        // Only the first time.
        let (told, checking);
        let args = if self.checked.load(Ordering::Relaxed) {
            &usual[..]
        } else {
            told = self.wake(key)?;
            let check = ["1", &told.0, told.1];
            let before = usual.iter().take(5).chain(&check);
            checking = before.chain(self.rights()).copied().collect::<Vec<_>>();
            &checking
        };
        let reply = self.link.run(&scripts::ACQUIRE, &keys, args).await?;
        match Answer::of(&reply, &fence)? {
            Answer::Granted(fencing) => {
                let grant = Granted {
                    key: key.as_str(),
                    fence: &fence,
                    owner,
                    ttl: request.ttl,
                    keep: &keep,
                };
                if let Some(replicas) = &self.replicas {
                    Box::pin(self.settle(replicas, &request, &grant)).await?;
                }
                if request.from.is_none() {
                    self.checked.store(true, Ordering::Relaxed);
                }
                Ok(Attempt::Granted(Grant::new(Some(fencing))))
            }
            Answer::Busy(holder) => Ok(Attempt::Busy(busy(&request, holder))),
            // Nothing to take over.
            Answer::Owner(Ownership::Absent) => Ok(Attempt::Busy(Busy::default())),
            Answer::Owner(_) => Err(error::senseless()),
        }
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let batches = self.batches(renewals);
        let patience = renewals.iter().filter_map(|renewal| renewal.patience).min();
        let requests = batches
            .iter()
            .map(|batch| self.renew_in_time(batch, patience));
        let answers = join_all(requests).await;
        let mut sorted: Vec<_> = renewals.iter().map(|_| None).collect();
        for ((index, _), answer) in batches.iter().flatten().zip(answers.into_iter().flatten()) {
            if let Some(place) = sorted.get_mut(*index) {
                *place = Some(answer);
            }
        }
        let or_odd = |answer: Option<_>| answer.unwrap_or_else(|| Err(error::senseless()));
        sorted.into_iter().map(or_odd).collect()
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        let (wake, publish) = self.wake(key)?;
        if let Some(native) = &self.native {
            let wake = (wake.as_str(), publish);
            return Box::pin(native.release(key.as_str(), owner, wake)).await;
        }
        let args = [owner.expose(), &wake, publish];
        let reply = self
            .link
            .run(&scripts::RELEASE, &[key.as_str()], &args)
            .await?;
        Answer::of(&reply, "")?.ownership()
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        let fence = self.fence(key)?;
        if let Some(native) = &self.native {
            return Box::pin(native.inspect(key.as_str())).await;
        }
        let reply = self
            .link
            .run(&scripts::INSPECT, &[key.as_str(), &fence], &[])
            .await?;
        match Answer::of(&reply, &fence)? {
            Answer::Busy(holder) => Ok(Some(holder)),
            Answer::Owner(Ownership::Absent) => Ok(None),
            _ => Err(error::senseless()),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_fencing(self.native.is_none())
            .with_wakeups(self.hub.is_some())
            .with_hand_over(true)
            .with_any_ttl(self.native.is_none())
            .with_survives_restart(self.survives_restart)
            .with_resends(self.resends)
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        self.hub
            .as_ref()
            .map(|hub| Arc::new(HubWakeups(Arc::clone(hub))) as Arc<dyn Wakeups>)
    }
}

impl FredBackend {
    /// Waits until enough replicas have a grant, and gives it back if they do not get it.
    async fn settle(
        &self,
        replicas: &Replicas,
        request: &AcquireRequest<'_>,
        grant: &Granted<'_>,
    ) -> Result<(), BackendError> {
        let Err(error) = replicas.settle(grant).await else {
            return Ok(());
        };
        match self.release(request.key, request.owner).await {
            // Whatever is not known of the waiting, the grant is gone now.
            Ok(_) if error.kind() == BackendErrorKind::Unknown => {
                Err(BackendError::transient(format!("{error}; given back")).with_source(error))
            }
            Ok(_) => Err(error),
            Err(_) => Err(BackendError::unknown(format!(
                "{error}; not given back yet"
            ))),
        }
    }
}

/// Renewals for one request, each with its place among all.
type Batch<'a> = Vec<(usize, &'a RenewRequest<'a>)>;

impl FredBackend {
    /// Renewals that can go together: in a cluster those of one slot.
    fn batches<'a>(&self, renewals: &'a [RenewRequest<'a>]) -> Vec<Batch<'a>> {
        let mut parts: HashMap<Part, Batch<'a>> = HashMap::new();
        if self.cluster {
            for renewal in renewals.iter().enumerate() {
                let part = client::slot_of(renewal.1.key.as_str());
                parts.entry(part).or_default().push(renewal);
            }
        } else {
            parts.insert(Part::All, renewals.iter().enumerate().collect());
        }
        let chunks = parts
            .values()
            .flat_map(|part| part.chunks(scripts::RENEWALS_AT_ONCE));
        chunks.map(<[_]>::to_vec).collect()
    }

    /// Gives up on a node of a cluster that is silent while there is time yet to answer for the others.
    async fn renew_in_time(
        &self,
        batch: &[(usize, &RenewRequest<'_>)],
        patience: Option<Duration>,
    ) -> Vec<Result<Ownership, BackendError>> {
        let renewed = self.renew_batch(batch);
        let Some(patience) = patience.filter(|_| self.cluster) else {
            return renewed.await;
        };
        match tokio::time::timeout(patience.mul_f64(0.9), renewed).await {
            Ok(answers) => answers,
            Err(_) => {
                let late = error::not_answered(Failure::new(Cause::Late, "no answer"));
                batch.iter().map(|_| Err(late.clone())).collect()
            }
        }
    }

    async fn renew_batch(
        &self,
        batch: &[(usize, &RenewRequest<'_>)],
    ) -> Vec<Result<Ownership, BackendError>> {
        if let Some(native) = &self.native {
            return native.renew(batch).await;
        }
        match self.renew_together(batch).await {
            // Their slot is on the move, and some are here and some there.
            Ok(Err(failure)) if failure.is_split() && batch.len() > 1 => {
                let mut answers = Vec::with_capacity(batch.len());
                // One after the other: beside each other they would be led astray, see `client/cluster.rs`.
                for one in batch.chunks(1) {
                    answers.extend(match self.renew_together(one).await {
                        Ok(Ok(answers)) => answers,
                        Ok(Err(failure)) => vec![Err(error::not_answered(failure))],
                        Err(error) => vec![Err(error)],
                    });
                }
                answers
            }
            Ok(Ok(answers)) => answers,
            Ok(Err(failure)) => {
                let error = error::not_answered(failure);
                batch.iter().map(|_| Err(error.clone())).collect()
            }
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// One request. The outer error: there was no connection.
    async fn renew_together(
        &self,
        batch: &[(usize, &RenewRequest<'_>)],
    ) -> Result<Result<Vec<Result<Ownership, BackendError>>, Failure>, BackendError> {
        let keys: Vec<_> = batch
            .iter()
            .map(|(_, renewal)| renewal.key.as_str())
            .collect();
        // Most are the same.
        let mut ttls = BTreeMap::new();
        for (_, renewal) in batch {
            let text = || milliseconds(renewal.ttl);
            ttls.entry(renewal.ttl).or_insert_with(text);
        }
        let args: Vec<_> = batch
            .iter()
            .flat_map(|(_, renewal)| {
                let ttl = ttls.get(&renewal.ttl).map_or("", String::as_str);
                let exactly = if renewal.how == Renew::Exactly {
                    "1"
                } else {
                    ""
                };
                [renewal.owner.expose(), ttl, exactly]
            })
            .collect();
        let reply = self.link.try_run(&scripts::RENEW, &keys, &args).await?;
        Ok(reply.map(|reply| Answer::of_renewals(&reply, batch.len())))
    }
}

/// Somebody has the lock. To who wants to take it over, to say nothing of it would mean that nobody has.
pub(crate) fn busy(request: &AcquireRequest<'_>, holder: Holder) -> Busy {
    let busy = Busy::new(holder);
    if request.from.is_some() && busy == Busy::default() {
        busy.with_recheck(RECHECK)
    } else {
        busy
    }
}

/// A ttl in whole milliseconds, rounded up and at least one.
pub(crate) fn milliseconds(ttl: Duration) -> String {
    let milliseconds = ttl.as_nanos().div_ceil(1_000_000).max(1);
    i64::try_from(milliseconds).unwrap_or(i64::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_rounded_up_to_whole_milliseconds() {
        for (nanoseconds, text) in [(0, "1"), (1, "1"), (10_500_000, "11"), (11_000_000, "11")] {
            assert_eq!(milliseconds(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(milliseconds(Duration::MAX), i64::MAX.to_string());
    }
}
