//! Connections: made when needed, shared by all calls, replaced when broken or silent. Not what is sent over them.
//!
//! Here and in `subscription.rs` alone tasks are spawned and timers made.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use lock_core::BackendError;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    PushInfo, PushKind, RedisError, Value,
};
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;

use crate::error;
use crate::scripts::Script;

/// So many calls in a row without an answer, and the connection counts as dead. A lock whose renewals fall on a silent
/// connection must be renewed over another one before its deadline: with the default options, where an answer is given
/// up after a fifth of the ttl, the third renewal comes in time for that and the fourth does not.
const UNANSWERED: u32 = 2;

/// Where the server is and how long to wait for it.
pub(crate) struct Target {
    client: Client,
    /// The same in RESP2, where the choice between the protocols is ours.
    fallback: Option<Client>,
    address: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
}

impl Target {
    /// The server that `url` names; RESP3 unless the URL has a `protocol`.
    pub(crate) fn of_url(
        url: &str,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Result<Self, BackendError> {
        let info = url
            .into_connection_info()
            .map_err(|error| error::malformed_url(&error))?;
        let chosen = url.split_once('?').is_some_and(|(_, query)| {
            query
                .split('&')
                .any(|pair| pair.split('=').next() == Some("protocol"))
        });
        let open = |protocol: Option<ProtocolVersion>| {
            Client::open(tuned(&info, protocol)).map_err(|error| error::malformed_url(&error))
        };
        let (client, fallback) = if chosen {
            (open(None)?, None)
        } else {
            (
                open(Some(ProtocolVersion::RESP3))?,
                Some(open(Some(ProtocolVersion::RESP2))?),
            )
        };
        Ok(Self {
            address: info.addr().to_string(),
            client,
            fallback,
            connect_timeout,
            response_timeout,
        })
    }

    /// The server of a client that was made elsewhere, with all its settings.
    pub(crate) fn of_client(
        client: Client,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Self {
        let info = client.get_connection_info();
        let address = info.addr().to_string();
        let client = Client::open(tuned(info, None)).unwrap_or(client);
        Self {
            client,
            fallback: None,
            address,
            connect_timeout,
            response_timeout,
        }
    }

    /// Connects; `on_disconnect` is called when the server closes the connection, if the protocol tells.
    async fn connect(
        &self,
        on_disconnect: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, BackendError> {
        self.with_protocol(|client| {
            let on_disconnect = on_disconnect.clone();
            async move {
                let mut config = AsyncConnectionConfig::new()
                    .set_connection_timeout(None)
                    .set_response_timeout(Some(self.response_timeout));
                if client.get_connection_info().redis_settings().protocol()
                    == ProtocolVersion::RESP3
                {
                    config = config.set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                        if push.kind == PushKind::Disconnection {
                            on_disconnect();
                        }
                        Ok(())
                    });
                }
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            }
        })
        .await
    }

    /// A connection of its own for subscriptions.
    pub(crate) async fn subscribe(&self) -> Result<PubSub, BackendError> {
        self.with_protocol(|client| async move { client.get_async_pubsub().await })
            .await
    }

    /// Makes a connection within the connect timeout, with the fallback's protocol if need be.
    async fn with_protocol<'a, T, F: Future<Output = Result<T, RedisError>>>(
        &'a self,
        open: impl Fn(&'a Client) -> F,
    ) -> Result<T, BackendError> {
        let attempts = async {
            match (open(&self.client).await, &self.fallback) {
                (Err(error), Some(fallback)) if error::is_about_protocol(&error) => {
                    open(fallback).await
                }
                (result, _) => result,
            }
        };
        match tokio::time::timeout(self.connect_timeout, attempts).await {
            Ok(result) => result.map_err(|error| error::not_connected(&self.address, &error)),
            Err(_) => Err(BackendError::transient(format!(
                "cannot connect to {}: no answer within {:?}",
                self.address, self.connect_timeout
            ))),
        }
    }
}

/// Host and port, and nothing else.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// What a lock's connection needs: small packets sent at once, and no commands that an ACL would have to allow.
fn tuned(info: &ConnectionInfo, protocol: Option<ProtocolVersion>) -> ConnectionInfo {
    let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(protocol) = protocol {
        settings = settings.set_protocol(protocol);
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    info.clone()
        .set_redis_settings(settings)
        .set_tcp_settings(tcp)
}

/// The connection that all calls of a backend share.
#[derive(Clone)]
pub(crate) enum Link<C> {
    /// Made elsewhere. Whoever made it repairs it.
    Given(C),
    /// Made here.
    Own(Arc<Own>),
}

impl<C: ConnectionLike + Clone + Send + Sync> Link<C> {
    /// Runs a script: by its digest, and if the server does not know that (yet, or any more), by its source.
    pub(crate) async fn run(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Value, BackendError> {
        let line = match self {
            Self::Given(connection) => Line::Given(connection.clone()),
            Self::Own(own) => Line::Own(Arc::clone(own), own.live().await?),
        };
        let command = |name: &str, which: &str| {
            let mut command = redis::cmd(name);
            command.arg(which).arg(keys.len()).arg(keys).arg(args);
            command
        };
        let mut reply = line.send(&command("EVALSHA", &script.sha1)).await;
        if reply.as_ref().is_err_and(error::is_no_script) {
            reply = line.send(&command("EVAL", script.source)).await;
        }
        reply.map_err(|error| error::not_answered(&error))
    }
}

/// The connection that one call uses from beginning to end.
enum Line<C> {
    Given(C),
    Own(Arc<Own>, Arc<Live>),
}

impl<C: ConnectionLike + Clone + Send + Sync> Line<C> {
    async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Given(connection) => command.query_async(&mut connection.clone()).await,
            Self::Own(own, live) => own.send(live, command).await,
        }
    }
}

/// A connection that is replaced when it breaks or falls silent.
///
/// Neither the client nor TCP replaces a connection that is open and silent (a proxy or a firewall that forgot
/// it), so calls without an answer are counted: timed out, or given up by their caller.
pub(crate) struct Own {
    pub(crate) target: Arc<Target>,
    current: ArcSwapOption<Live>,
    opening: Mutex<Option<Opening>>,
}

/// A connection and how many calls in a row it has not answered.
struct Live {
    connection: MultiplexedConnection,
    unanswered: AtomicU32,
}

/// A connection that is being made by a task, on which many calls may wait.
#[derive(Clone)]
struct Opening {
    runtime: Id,
    result: watch::Receiver<Option<Result<Arc<Live>, BackendError>>>,
}

impl Own {
    pub(crate) fn new(target: Arc<Target>) -> Arc<Self> {
        Arc::new(Self {
            target,
            current: ArcSwapOption::empty(),
            opening: Mutex::new(None),
        })
    }

    /// Makes a connection now, to learn whether that works.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<(), BackendError> {
        self.live().await.map(drop)
    }

    /// The connection; a new one if there is none. Nothing was sent for the caller if this fails.
    async fn live(self: &Arc<Self>) -> Result<Arc<Live>, BackendError> {
        if let Some(live) = self.current.load_full() {
            return Ok(live);
        }
        let mut opening = self.opening()?;
        match opening.result.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(BackendError::transient(
                "connecting was cut off by the end of a runtime",
            )),
        }
    }

    /// Joins the task that makes a connection, or starts it. It is a task because a caller with little time may
    /// go before a connection is made, and the next one must not have to begin again. A task on another runtime
    /// is not waited for: nobody may be driving that.
    fn opening(self: &Arc<Self>) -> Result<Opening, BackendError> {
        let handle = Handle::try_current().map_err(|_| {
            BackendError::transient("connecting needs a tokio runtime, and there is none here")
        })?;
        let runtime = handle.id();
        let mut slot = self.slot();
        if let Some(live) = self.current.load_full() {
            // Made since the caller looked.
            let (_, result) = watch::channel(Some(Ok(live)));
            return Ok(Opening { runtime, result });
        }
        if let Some(opening) = slot.as_ref()
            && opening.runtime == runtime
            // The sender travels in the task, so that a task that was dropped unfinished blocks nobody.
            && opening.result.has_changed().is_ok()
        {
            return Ok(opening.clone());
        }
        let (answer, result) = watch::channel(None);
        let opening = Opening { runtime, result };
        *slot = Some(opening.clone());
        drop(slot);
        let own = Arc::clone(self);
        handle.spawn(async move {
            let result = own.open().await;
            own.slot().take_if(|opening| opening.runtime == runtime);
            answer.send_replace(Some(result));
        });
        Ok(opening)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Opening>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(self: &Arc<Self>) -> Result<Arc<Live>, BackendError> {
        let own = Arc::downgrade(self);
        let cell: Arc<OnceLock<Weak<Live>>> = Arc::default();
        let on_disconnect = {
            let cell = Arc::clone(&cell);
            move || {
                if let (Some(own), Some(live)) = (own.upgrade(), cell.get().and_then(Weak::upgrade))
                {
                    own.discard(&live);
                }
            }
        };
        let connection = self.target.connect(on_disconnect).await?;
        let live = Arc::new(Live {
            connection,
            unanswered: AtomicU32::new(0),
        });
        let _ = cell.set(Arc::downgrade(&live));
        self.current.store(Some(Arc::clone(&live)));
        Ok(live)
    }

    /// Sends over `live` and learns from the outcome what it is worth.
    async fn send(&self, live: &Arc<Live>, command: &Cmd) -> Result<Value, RedisError> {
        let unanswered = Unanswered { own: self, live };
        let result = command.query_async(&mut live.connection.clone()).await;
        match &result {
            Err(error) if error.is_unrecoverable_error() || error::is_read_only(error) => {
                self.discard(live)
            }
            Err(error) if !error::is_answer(error) => return result,
            Ok(reply) if error::answers_read_only(reply) => self.discard(live),
            _ => {}
        }
        unanswered.answered();
        result
    }

    /// Makes the next call connect anew. Calls under way keep the old connection until they end.
    fn discard(&self, live: &Arc<Live>) {
        self.current.compare_and_swap(live, None);
    }
}

/// A call without an answer, as long as nothing else is known of it. Also one that its caller gave up.
struct Unanswered<'a> {
    own: &'a Own,
    live: &'a Arc<Live>,
}

impl Unanswered<'_> {
    fn answered(self) {
        self.live.unanswered.store(0, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self
            .live
            .unanswered
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
            >= UNANSWERED
        {
            self.own.discard(self.live);
        }
    }
}
