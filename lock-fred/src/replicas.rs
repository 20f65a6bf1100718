//! Waiting for replicas: a grant counts only when so many of them have it. Not what a replica is worth: a failover may choose
//! one that has nothing.
//!
//! `WAIT` waits for what was written over its own connection, and stalls that. So it goes over another connection than all
//! other calls, behind a small write of its own, which comes after the grant in what replicas are told.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{BackendError, Ownership};

use crate::answer::{Answer, Reply};
use crate::connection::{Order, Own};
use crate::{error, scripts};

/// How many replicas must have a grant, and the connection over which they are waited for.
pub(crate) struct Replicas {
    least: u16,
    own: Arc<Own>,
}

/// A grant that replicas are to have.
pub(crate) struct Granted<'a> {
    pub(crate) key: &'a str,
    pub(crate) fence: &'a str,
    pub(crate) owner: &'a str,
    pub(crate) ttl: Duration,
    /// How long the counter is kept, in milliseconds.
    pub(crate) keep: &'a str,
}

impl Replicas {
    pub(crate) const fn new(least: u16, own: Arc<Own>) -> Self {
        Self { least, own }
    }

    /// Resolves when enough replicas have the grant. Else it is to be given back.
    pub(crate) async fn settle(&self, grant: &Granted<'_>) -> Result<(), BackendError> {
        let patience = self.patience(grant.ttl);
        let milliseconds = patience.as_millis().max(1).to_string();
        let least = self.least.to_string();
        let commands = |name, script| {
            let keys = ["2", grant.key, grant.fence, grant.owner, grant.keep];
            let write = [&[name, script][..], &keys].concat();
            [write, vec!["WAIT", &least, &milliseconds]]
        };
        let script = &*scripts::SETTLE;
        let by_digest = commands("EVALSHA", &script.sha1);
        let mut replies = self
            .own
            .send_all(grant.key, &by_digest, Order::Together)
            .await?;
        if matches!(replies.first(), Some(Err(failure)) if failure.is_no_script()) {
            let by_source = commands("EVAL", script.source);
            replies = self
                .own
                .send_all(grant.key, &by_source, Order::Together)
                .await?;
        }
        let mut replies = replies.into_iter();
        let (Some(written), Some(waited)) = (replies.next(), replies.next()) else {
            return Err(error::senseless());
        };
        let written = written.map_err(error::not_answered)?;
        if Answer::of(&written, grant.fence)?.ownership()? != Ownership::Held {
            return Err(BackendError::transient(
                "granted, and gone before any replica had it",
            ));
        }
        match waited.map_err(error::not_answered)? {
            Reply::Number(count) if count >= i64::from(self.least) => Ok(()),
            Reply::Number(count) => Err(BackendError::transient(format!(
                "granted, but only {count} of {least} replicas had it within {patience:?}"
            ))),
            _ => Err(error::senseless()),
        }
    }

    /// Well within the time that lock-core gives an operation by default, a fifth of the ttl and 2 s at most.
    fn patience(&self, ttl: Duration) -> Duration {
        let tenth = ttl.mul_f64(0.1);
        tenth.min(self.own.target.response_timeout.mul_f64(0.5))
    }
}
