//! Clients that the application made. They connect again by themselves, as their reconnect policy says.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::Resp3Frame;
use fred::types::config::{Options, Server};
use futures_util::future::BoxFuture;
use lock_core::Moment;
use tokio::runtime::Handle;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use super::target::options;
use super::{Error, Words, answer, failure, send};
use crate::answer::Reply;
use crate::connection::Request;
use crate::error::{self, Cause, Failure};

/// So many calls in a row without an answer, and the client is to connect again.
const UNANSWERED: u32 = 2;

/// How long a client may then take to answer something else.
const PATIENCE: Duration = Duration::from_secs(1);

/// Clients, which take turns.
#[derive(Clone)]
pub(crate) struct Given(Arc<Clients>);

struct Clients {
    clients: Vec<Shared>,
    turn: AtomicUsize,
}

struct Shared {
    client: WithOptions<Client>,
    line: Mutex<Line>,
    /// How many calls in a row it has not answered.
    unanswered: AtomicU32,
}

/// How long a client that calls itself connected may count as told to connect again: behind the `PING`, it hears of that at once.
/// If it has not by then, whoever was to tell it is on a runtime that nobody drives.
const TELLING: Duration = Duration::from_secs(5);

/// The clients that are being asked to connect again, or were and have not done so yet, and since when: by whichever backend, for
/// several may have the same client.
static RECONNECTING: LazyLock<Mutex<HashMap<String, Arc<Moment>>>> = LazyLock::new(Mutex::default);

impl Given {
    pub(crate) fn new(clients: &[Client], response_timeout: Duration) -> Self {
        let options = Options {
            // What cannot be sent now is not to be sent when nobody waits for it any more.
            fail_fast: true,
            ..options(response_timeout)
        };
        let shared = |client: &Client| Shared {
            client: client.with_options(&options),
            line: Mutex::new(Line::of(client)),
            unanswered: AtomicU32::new(0),
        };
        Self(Arc::new(Clients {
            clients: clients.iter().map(shared).collect(),
            turn: AtomicUsize::new(0),
        }))
    }

    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let runtime = Handle::try_current().map_err(|_| {
            Failure::new(
                Cause::NotSent,
                "sending needs a tokio runtime, and there is none here",
            )
        })?;
        let shared = self.0.next()?;
        let unanswered = Unanswered(shared);
        let sent = Sent::new(shared.client.clone(), Words::of_script(request), runtime);
        let result = sent.await.map_err(|error| failure(&error)).and_then(answer);
        match &result {
            Err(failure) if failure.is_read_only() => shared.reconnect(false),
            Err(failure) if failure.is_not_sent() => {
                unanswered.not_asked();
                return result;
            }
            Err(failure) if !failure.is_answer() => return result,
            Ok(reply) if !reply.is_of_a_script() => shared.reconnect(false),
            Ok(reply) if error::answers_read_only(reply) => shared.reconnect(false),
            _ => {}
        }
        unanswered.answered();
        result
    }
}

impl Clients {
    /// The next one in turn that has a connection.
    fn next(&self) -> Result<&Shared, Failure> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let turn = turn.checked_rem(self.clients.len()).unwrap_or_default();
        let (later, first) = self.clients.split_at(turn);
        let mut in_turn = first.iter().chain(later);
        in_turn.find(|shared| shared.is_open()).ok_or_else(|| {
            let why = "the client has no connection at the moment, or ended when its reconnect policy was used up: then \
                       initialise it again";
            Failure::new(Cause::NotSent, why)
        })
    }
}

impl Shared {
    /// Whether what is sent now goes out now.
    fn is_open(&self) -> bool {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.is_up(&*self.client) && self.client.is_connected()
    }

    /// Makes the client connect again. Never while it is about to: it would do so once for each time that it was told.
    /// `silent`: only if it answers nothing now either, for those whom it did not answer may have had no patience.
    fn reconnect(&self, silent: bool) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.is_open() {
            return;
        }
        let Some(told) = Told::first(self.client.id()) else {
            return;
        };
        self.unanswered.store(0, Ordering::Relaxed);
        let client = self.client.clone();
        runtime.spawn(async move {
            if !(silent && answers(&client).await) {
                // Ends when the client has a connection again, or has ended.
                let _ = client.force_reconnection().await;
            }
            drop(told);
        });
    }
}

/// Whether it answers what is sent behind all that it did not answer.
async fn answers(client: &WithOptions<Client>) -> bool {
    let pong = tokio::time::timeout(PATIENCE, send(client, Words::new(&["PING"])));
    matches!(pong.await, Ok(Ok(_)))
}

/// A client was told to connect again. It no longer counts as told when this is gone, also with its runtime.
struct Told {
    client: String,
    since: Arc<Moment>,
}

impl Told {
    /// Unless it was told already, by somebody who does so.
    fn first(client: &str) -> Option<Self> {
        let mut all = Self::all();
        if all
            .get(client)
            .is_some_and(|since| since.elapsed() < TELLING)
        {
            return None;
        }
        let since = Arc::new(Moment::now());
        all.insert(client.to_owned(), Arc::clone(&since));
        Some(Self {
            client: client.to_owned(),
            since,
        })
    }

    fn all() -> MutexGuard<'static, HashMap<String, Arc<Moment>>> {
        RECONNECTING.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let mut all = Self::all();
        // By now it may have been told by somebody else.
        if all
            .get(&self.client)
            .is_some_and(|since| Arc::ptr_eq(since, &self.since))
        {
            all.remove(&self.client);
        }
    }
}

/// What a client tells of its connection. It calls itself connected also in the pause before it connects again, when it queues
/// what it is to send, and when its policy is used up for ever after.
struct Line {
    up: bool,
    lost: Receiver<(Error, Option<Server>)>,
    made: Receiver<Server>,
}

impl Line {
    fn of(client: &impl EventInterface) -> Self {
        Self {
            up: true,
            lost: client.error_rx(),
            made: client.reconnect_rx(),
        }
    }

    fn is_up(&mut self, client: &impl EventInterface) -> bool {
        // In this order: of a loss and a connection that come in between, the connection is seen later.
        match (news(&mut self.made), news(&mut self.lost)) {
            // It has quit, and may have been initialised again.
            (None, _) | (_, None) => *self = Self::of(client),
            // Of both, which are not told in order, the later one is a connection nearly always.
            (Some(true), _) => self.up = true,
            (_, Some(true)) => self.up = false,
            _ => {}
        }
        self.up
    }
}

/// Whether there is any; `None` if there will be no more.
fn news<T: Clone>(events: &mut Receiver<T>) -> Option<bool> {
    let mut any = false;
    loop {
        match events.try_recv() {
            Ok(_) | Err(TryRecvError::Lagged(_)) => any = true,
            Err(TryRecvError::Empty) => return Some(any),
            Err(TryRecvError::Closed) => return None,
        }
    }
}

/// A request that was handed to a client. If its caller goes, it is waited for all the same: the client does not send a
/// request that waits for a connection longer than an answer may take, but only if somebody waited with it.
struct Sent {
    sent: Option<BoxFuture<'static, Result<Resp3Frame, Error>>>,
    begun: bool,
    runtime: Handle,
}

impl Sent {
    fn new(client: WithOptions<Client>, request: Words, runtime: Handle) -> Self {
        let sent = async move { send(&client, request).await };
        Self {
            sent: Some(Box::pin(sent)),
            begun: false,
            runtime,
        }
    }
}

impl Future for Sent {
    type Output = Result<Resp3Frame, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.begun = true;
        let Some(sent) = &mut self.sent else {
            return Poll::Pending;
        };
        let polled = sent.as_mut().poll(context);
        if polled.is_ready() {
            self.sent = None;
        }
        polled
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let (Some(sent), true) = (self.sent.take(), self.begun) {
            self.runtime.spawn(sent);
        }
    }
}

/// A call without an answer, as long as nothing else is known of it. Also one that its caller gave up.
struct Unanswered<'a>(&'a Shared);

impl Unanswered<'_> {
    fn answered(self) {
        self.0.unanswered.store(0, Ordering::Relaxed);
        self.not_asked();
    }

    fn not_asked(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let before = self.0.unanswered.fetch_add(1, Ordering::Relaxed);
        if before.saturating_add(1) >= UNANSWERED {
            self.0.reconnect(true);
        }
    }
}
