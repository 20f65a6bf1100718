//! Locks without scripts, by the commands of newer servers. They give no fencing tokens.
//!
//! `SET .. IFEQ` takes over and renews, `DELIFEQ` (Valkey from 9.0) or `DELEX .. IFEQ` (Redis from 8.4) gives up. Each of
//! them is one atomic step. What else an answer tells (who holds the lock, and for how long yet) is asked behind it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, Grant, Holder, Moment, Owner,
    Ownership, RenewRequest,
};
use tokio::runtime::Handle;

use crate::answer::Reply;
use crate::backend::{busy, milliseconds};
use crate::connection::{Order, Own};
use crate::error::{self, Failure};

/// An owner is at most 32 hex digits, a colon and a label of 128 bytes. Whatever is longer is somebody else's.
const LONGEST_OWNER: usize = 161;

/// The commands that delete an entry of an owner's.
const DELETES: [&str; 2] = ["DELIFEQ", "DELEX"];

/// How long an attempt may take to find out what waiting takes.
const LONGEST_TRIAL: Duration = Duration::from_secs(1);

/// Not known yet which of [`DELETES`] the server has.
const UNKNOWN: u8 = u8::MAX;

/// The commands, and the connection over which they are sent.
pub(crate) struct Native {
    own: Arc<Own>,
    /// Which of [`DELETES`] the server has.
    delete: AtomicU8,
    /// Whether the server let us run whatever telling and waiting take.
    checked: AtomicBool,
    /// Whether it lets us wait, as long as that is not known.
    trial: Mutex<Option<Trial>>,
}

/// Subscribing in vain, on a task of its own: it may take longer than an attempt can wait for it.
#[derive(Clone)]
struct Trial {
    since: Moment,
    outcome: Shared<BoxFuture<'static, Tried>>,
}

/// None if nothing came of it: there is no connection to be had, say.
type Tried = Option<Result<(), BackendError>>;

/// What telling and waiting take.
pub(crate) struct Rights<'a> {
    pub(crate) channel: &'a str,
    /// None if nothing is told.
    pub(crate) publish: &'a str,
    /// Whether anybody may want to be woken.
    pub(crate) waits: bool,
}

/// What stands at a key.
struct Seen {
    ownership: Ownership,
    holder: Holder,
}

impl Native {
    pub(crate) const fn new(own: Arc<Own>) -> Self {
        Self {
            own,
            delete: AtomicU8::new(UNKNOWN),
            checked: AtomicBool::new(false),
            trial: Mutex::new(None),
        }
    }

    pub(crate) async fn try_acquire(
        &self,
        request: &AcquireRequest<'_>,
        rights: &Rights<'_>,
    ) -> Result<Attempt, BackendError> {
        let (key, owner) = (request.key.as_str(), request.owner.expose());
        if self.delete.load(Ordering::Relaxed) == UNKNOWN {
            // A command or a right that is missing shows now, and not when the lock is to be given back. In the name of
            // nobody, so that nothing is deleted: this owner may have the lock already, by an earlier copy of the request.
            let nobody = Owner::fresh(None)
                .map_err(|error| BackendError::permanent("no randomness").with_source(error))?;
            let deleted = self.delete(key, nobody.expose(), &[]).await?.remove(0);
            if let Err(failure) = deleted
                && !failure.is_about_type()
            {
                return Err(error::not_answered(failure));
            }
            self.look(key, owner).await?;
        }
        if !self.checked.load(Ordering::Relaxed) {
            self.check(key, request.ttl, rights).await?;
        }
        let ttl = milliseconds(request.ttl);
        let set = match request.from {
            None => vec!["SET", key, owner, "NX", "PX", &ttl],
            Some(from) => vec!["SET", key, owner, "IFEQ", from.expose(), "PX", &ttl],
        };
        let taken = self.send(key, &[set], Order::Kept).await?.remove(0);
        if matches!(&taken, Ok(Reply::Text(text)) if text == b"OK") {
            return Ok(Attempt::Granted(Grant::new(None)));
        }
        // Somebody has it, perhaps this owner by an earlier copy of the request. Looked at also when the SET was refused
        // (out of memory, say): "not applied" must stay true for the earlier copy as well.
        let seen = self.look(key, owner).await?;
        match (seen.ownership, taken) {
            (Ownership::Held, _) => Ok(Attempt::Granted(Grant::new(None))),
            (Ownership::Absent, Ok(Reply::Nil)) => Ok(Attempt::Busy(Busy::default())),
            (Ownership::Taken, Ok(Reply::Nil)) => Ok(Attempt::Busy(busy(request, seen.holder))),
            (_, Err(failure)) => Err(error::not_answered(failure)),
            (_, Ok(_)) => Err(error::senseless()),
        }
    }

    /// Runs what telling and waiting take, in vain. So a missing right shows now, and not when somebody waits.
    async fn check(
        &self,
        key: &str,
        ttl: Duration,
        rights: &Rights<'_>,
    ) -> Result<(), BackendError> {
        let refused = |failure: Failure| error::not_answered(failure.about(&[rights.channel]));
        if !rights.publish.is_empty() {
            let told = vec![rights.publish, rights.channel, ""];
            let mut replies = self.send(key, &[told], Order::Kept).await?;
            replies.remove(0).map_err(refused)?;
        }
        if self.own.target.is_cluster() {
            // Taken back by what follows, which is of no interest.
            let asking = [vec!["ASKING"], vec!["TYPE", key]];
            let mut replies = self.send(key, &asking, Order::Together).await?;
            replies.remove(0).map_err(refused)?;
        }
        if rights.waits {
            // An attempt must not wait for another connection for longer than it has time: with the default options, half of
            // that. A later one sees what came of it.
            let trial = self.try_subscribing(rights.channel);
            let patience = ttl.mul_f64(0.1).min(LONGEST_TRIAL);
            let left = patience.saturating_sub(trial.since.elapsed());
            let Ok(tried) = tokio::time::timeout(left, trial.outcome.clone()).await else {
                return Ok(());
            };
            self.trial()
                .take_if(|known| known.outcome.ptr_eq(&trial.outcome));
            match tried {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
        self.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn trial(&self) -> MutexGuard<'_, Option<Trial>> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trial that is under way or of which nobody knows yet what came of it, or else a new one.
    fn try_subscribing(&self, channel: &str) -> Trial {
        let (target, channel) = (Arc::clone(&self.own.target), channel.to_owned());
        let patience = target
            .connect_timeout
            .saturating_add(target.response_timeout);
        let mut trial = self.trial();
        // Of one that is not over by then, the runtime is not driven any more.
        let known = trial.as_ref();
        if let Some(known) =
            known.filter(|known| known.since.elapsed() <= patience.saturating_mul(2))
        {
            return known.clone();
        }
        let task = Handle::current().spawn(tokio::time::timeout(patience, async move {
            match target.try_subscribing(&channel).await {
                Ok(()) => Some(Ok(())),
                Err(failure) if failure.is_answer() => {
                    Some(Err(error::not_answered(failure.about(&[&channel]))))
                }
                Err(_) => None,
            }
        }));
        let outcome = async move { task.await.ok()?.ok()? };
        let started = Trial {
            since: Moment::now(),
            outcome: outcome.boxed().shared(),
        };
        trial.insert(started).clone()
    }

    /// Renewals of keys of one slot.
    pub(crate) async fn renew(
        &self,
        renewals: &[(usize, &RenewRequest<'_>)],
    ) -> Vec<Result<Ownership, BackendError>> {
        let ttls: Vec<_> = renewals
            .iter()
            .map(|(_, renewal)| milliseconds(renewal.ttl))
            .collect();
        let commands: Vec<_> = renewals
            .iter()
            .zip(&ttls)
            .map(|((_, renewal), ttl)| {
                let (key, owner) = (renewal.key.as_str(), renewal.owner.expose());
                vec!["SET", key, owner, "IFEQ", owner, "PX", ttl]
            })
            .collect();
        let Some((_, first)) = renewals.first() else {
            return Vec::new();
        };
        let replies = match self.send(first.key.as_str(), &commands, Order::Any).await {
            Ok(replies) => replies,
            Err(error) => return renewals.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut answers = Vec::with_capacity(renewals.len());
        for ((_, renewal), reply) in renewals.iter().zip(replies) {
            answers.push(match reply {
                Ok(Reply::Text(text)) if text == b"OK" => Ok(Ownership::Held),
                Err(failure) if !failure.is_about_type() => Err(error::not_answered(failure)),
                // Rare: the lock is lost.
                _ => match self
                    .look(renewal.key.as_str(), renewal.owner.expose())
                    .await
                {
                    Ok(seen) if seen.ownership == Ownership::Held => Err(error::senseless()),
                    seen => seen.map(|seen| seen.ownership),
                },
            });
        }
        answers
    }

    /// Deletes the entry, and tells `channel` by `publish`.
    pub(crate) async fn release(
        &self,
        key: &str,
        owner: &Owner,
        (channel, publish): (&str, &str),
    ) -> Result<Ownership, BackendError> {
        // In this order; what becomes of the last does not matter, waiters also look by themselves.
        let behind = [vec!["TYPE", key], vec![publish, channel, ""]];
        let replies = self.delete(key, owner.expose(), &behind).await?;
        let mut replies = replies.into_iter();
        match (replies.next(), replies.next()) {
            (Some(Ok(Reply::Number(1))), _) => Ok(Ownership::Held),
            (Some(Err(failure)), _) if !failure.is_about_type() => {
                Err(error::not_answered(failure))
            }
            (Some(_), Some(Ok(Reply::Text(kind)))) => match &*kind {
                b"none" => Ok(Ownership::Absent),
                b"string" => Ok(Ownership::Taken),
                kind => Err(conflict(kind)),
            },
            // Nothing was deleted; why is not known.
            (Some(_), Some(Err(failure))) => Err(error::not_answered(failure)),
            _ => Err(error::senseless()),
        }
    }

    pub(crate) async fn inspect(&self, key: &str) -> Result<Option<Holder>, BackendError> {
        let seen = self.look(key, "").await?;
        Ok((seen.ownership != Ownership::Absent).then_some(seen.holder))
    }

    /// Deletes the entry of `key` if it is `owner`'s, by the command that the server has; its reply, and those to what is sent
    /// directly behind.
    async fn delete(
        &self,
        key: &str,
        owner: &str,
        behind: &[Vec<&str>],
    ) -> Result<Vec<Result<Reply, Failure>>, BackendError> {
        let known = self.delete.load(Ordering::Relaxed);
        // The one that is known first. It may be another server since.
        let mut order = [0, 1];
        if known == 1 {
            order.reverse();
        }
        for index in order {
            let delete = match DELETES.get(usize::from(index)) {
                Some(&"DELEX") => vec!["DELEX", key, "IFEQ", owner],
                _ => vec!["DELIFEQ", key, owner],
            };
            let replies = self
                .send(key, &[&[delete], behind].concat(), Order::Kept)
                .await?;
            match replies.first() {
                Some(Err(failure)) if failure.lacks_command() => {}
                Some(Err(failure)) if !failure.is_about_type() => return Ok(replies),
                _ => {
                    self.delete.store(index, Ordering::Relaxed);
                    return Ok(replies);
                }
            }
        }
        self.delete.store(UNKNOWN, Ordering::Relaxed);
        Err(BackendError::permanent(
            "the server has neither DELIFEQ nor DELEX: native commands need Valkey 9.0 or Redis 8.4",
        ))
    }

    /// What stands at `key`, and whether it is `owner`'s.
    async fn look(&self, key: &str, owner: &str) -> Result<Seen, BackendError> {
        let last = LONGEST_OWNER.to_string();
        let commands = [
            vec!["TYPE", key],
            vec!["GETRANGE", key, "0", &last],
            vec!["PTTL", key],
        ];
        let mut replies = self.send(key, &commands, Order::Kept).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Reply::Other));
        let (kind, value, left) = (next(), next(), next());
        match kind.map_err(error::not_answered)? {
            Reply::Text(kind) if matches!(&*kind, b"none" | b"string") => {}
            Reply::Text(kind) => return Err(conflict(&kind)),
            _ => return Err(error::senseless()),
        }
        let (value, left) = (
            value.map_err(error::not_answered)?,
            left.map_err(error::not_answered)?,
        );
        let (Reply::Text(value), Reply::Number(left)) = (value, left) else {
            return Err(error::senseless());
        };
        // -2: it is not there, perhaps since it was asked for its type.
        if left == -2 {
            return Ok(Seen {
                ownership: Ownership::Absent,
                holder: Holder::new(),
            });
        }
        let is_owners = value == owner.as_bytes();
        let value = String::from_utf8_lossy(&value);
        let label = (value.len() <= LONGEST_OWNER).then(|| Owner::label_in(&value));
        Ok(Seen {
            ownership: if is_owners {
                Ownership::Held
            } else {
                Ownership::Taken
            },
            holder: Holder::new()
                .with_label(label.flatten().map(str::to_owned))
                .with_remaining(u64::try_from(left).ok().map(Duration::from_millis)),
        })
    }

    async fn send(
        &self,
        key: &str,
        commands: &[Vec<&str>],
        order: Order,
    ) -> Result<Vec<Result<Reply, Failure>>, BackendError> {
        let replies = self.own.send_all(key, commands, order).await?;
        if replies.len() == commands.len() {
            Ok(replies)
        } else {
            Err(error::senseless())
        }
    }
}

fn conflict(kind: &[u8]) -> BackendError {
    let kind = String::from_utf8_lossy(kind);
    BackendError::new(BackendErrorKind::Conflict, format!("a {kind}"))
}
