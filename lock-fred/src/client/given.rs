//! Clients that the application made. They connect again by themselves, as their reconnect policy says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::config::Options;
use tokio::runtime::Handle;

use super::target::options;
use super::{Words, answer, failure, send};
use crate::answer::Reply;
use crate::connection::Request;
use crate::error::{self, Cause, Failure};

/// So many calls in a row without an answer, and the client is to connect again.
const UNANSWERED: u32 = 2;

/// How long a client may take to connect again, before it is told so once more.
const LONGEST_RECONNECT: Duration = Duration::from_secs(5);

/// Clients, which take turns.
#[derive(Clone)]
pub(crate) struct Given(Arc<Clients>);

struct Clients {
    clients: Vec<Shared>,
    turn: AtomicUsize,
}

struct Shared {
    client: WithOptions<Client>,
    /// How many calls in a row it has not answered.
    unanswered: AtomicU32,
    reconnecting: Arc<AtomicBool>,
}

impl Given {
    pub(crate) fn new(clients: &[Client], response_timeout: Duration) -> Self {
        let options = Options {
            // What cannot be sent now is not to be sent when nobody waits for it any more.
            fail_fast: true,
            ..options(response_timeout)
        };
        let shared = |client: &Client| Shared {
            client: client.with_options(&options),
            unanswered: AtomicU32::new(0),
            reconnecting: Arc::default(),
        };
        Self(Arc::new(Clients {
            clients: clients.iter().map(shared).collect(),
            turn: AtomicUsize::new(0),
        }))
    }

    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let Some(shared) = self.0.next() else {
            return Err(Failure::new(Cause::NotSent, "no client was given"));
        };
        let unanswered = Unanswered(shared);
        let sent = send(&shared.client, Words::of_script(request)).await;
        let result = sent.map_err(|error| failure(&error)).and_then(answer);
        match &result {
            Err(failure) if failure.is_read_only() => shared.reconnect(),
            Err(failure) if !failure.is_answer() => return result,
            Ok(reply) if !reply.is_of_a_script() => shared.reconnect(),
            Ok(reply) if error::answers_read_only(reply) => shared.reconnect(),
            _ => {}
        }
        unanswered.answered();
        result
    }
}

impl Clients {
    /// The next one in turn that is connected, if any is.
    fn next(&self) -> Option<&Shared> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let turn = turn.checked_rem(self.clients.len())?;
        let (later, first) = self.clients.split_at(turn);
        let mut in_turn = first.iter().chain(later);
        in_turn
            .find(|shared| shared.client.is_connected())
            .or_else(|| first.first())
    }
}

impl Shared {
    /// Makes the client connect again, if it would do so by itself too: one without a policy would end for good.
    fn reconnect(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.client.has_reconnect_policy() || self.reconnecting.swap(true, Ordering::SeqCst) {
            return;
        }
        self.unanswered.store(0, Ordering::Relaxed);
        let (client, reconnecting) = (self.client.clone(), Arc::clone(&self.reconnecting));
        runtime.spawn(async move {
            // Without an answer where the client is stuck on the old connection.
            let _ = tokio::time::timeout(LONGEST_RECONNECT, client.force_reconnection()).await;
            reconnecting.store(false, Ordering::SeqCst);
        });
    }
}

/// A call without an answer, as long as nothing else is known of it. Also one that its caller gave up.
struct Unanswered<'a>(&'a Shared);

impl Unanswered<'_> {
    fn answered(self) {
        self.0.unanswered.store(0, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let before = self.0.unanswered.fetch_add(1, Ordering::Relaxed);
        if before.saturating_add(1) >= UNANSWERED {
            self.0.reconnect();
        }
    }
}
