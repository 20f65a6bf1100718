//! Connections: made when needed, shared by all calls, replaced when broken or silent. Not what is sent over them.
//!
//! Tasks are spawned here, in `subscription.rs` and by the client's folder.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use lock_core::BackendError;
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;

use crate::answer::Reply;
use crate::client::{Connection, Given, Part, Target};
use crate::error::{self, Failure};
use crate::scripts::Script;

/// So many calls in a row without an answer, and the connection counts as dead. (In a cluster: calls about one slot, for each
/// node may fall silent by itself.) A lock whose renewals fall on a silent
/// connection must be renewed over another one before its deadline: with the default options, where an answer is given
/// up after a fifth of the ttl, the third renewal comes in time for that and the fourth does not.
const UNANSWERED: u32 = 2;

/// A script to run, as the server is told: `EVALSHA` and a digest, or `EVAL` and a source.
pub(crate) struct Request<'a> {
    pub(crate) command: &'static str,
    pub(crate) script: &'a str,
    pub(crate) keys: &'a [&'a str],
    pub(crate) args: &'a [&'a str],
}

/// How commands that are sent together belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// All go to where the first is led, one directly behind the other.
    Together,
    /// Each goes to where it is led, and where they are led to one place, one behind the other.
    Kept,
    /// Each goes to where it is led.
    Any,
}

/// The connection that all calls of a backend share.
#[derive(Clone)]
pub(crate) enum Link {
    /// Made elsewhere. Whoever made it repairs it.
    Given(Given),
    /// Made here.
    Own(Arc<Own>),
}

impl Link {
    /// Runs a script: by its digest, and if the server does not know that (yet, or any more), by its source.
    pub(crate) async fn run(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Reply, BackendError> {
        let reply = self.try_run(script, keys, args).await?;
        reply.map_err(error::not_answered)
    }

    /// The same, for callers who can do something about a failure. The outer error: there was no connection.
    pub(crate) async fn try_run(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Result<Reply, Failure>, BackendError> {
        let line = match self {
            Self::Given(given) => Line::Given(given),
            Self::Own(own) => Line::Own(own, own.live().await?),
        };
        let mut request = Request {
            command: "EVALSHA",
            script: &script.sha1,
            keys,
            args,
        };
        let mut reply = line.send(&request).await;
        if reply.as_ref().is_err_and(Failure::is_no_script) {
            request.command = "EVAL";
            request.script = script.source;
            reply = line.send(&request).await;
        }
        Ok(reply.map_err(|failure| {
            let failure = failure.about(keys);
            if self.is_cluster() {
                failure
            } else {
                failure.alone()
            }
        }))
    }
}

impl Link {
    fn is_cluster(&self) -> bool {
        match self {
            Self::Given(_) => false,
            Self::Own(own) => own.target.is_cluster(),
        }
    }
}

/// The connection that one call uses from beginning to end.
enum Line<'a> {
    Given(&'a Given),
    Own(&'a Arc<Own>, Arc<Live>),
}

impl Line<'_> {
    async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        match self {
            Self::Given(given) => given.send(request).await,
            Self::Own(own, live) => own.send(live, request).await,
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
pub(crate) struct Live {
    pub(crate) connection: Connection,
    unanswered: Mutex<HashMap<Part, u32>>,
    /// Whether there are any: the common path does not lock.
    in_doubt: AtomicBool,
}

impl Live {
    /// Whether whoever has `key` answers.
    async fn answers(&self, key: &str) -> bool {
        let kind = [vec!["TYPE", key]];
        let replies = self.connection.send_all(key, &kind, Order::Kept).await;
        let is_answer =
            |reply: &Result<_, Failure>| reply.as_ref().err().is_none_or(Failure::is_answer);
        replies.is_ok_and(|replies| replies.iter().any(is_answer))
    }

    fn answered(&self, part: Part) {
        if self.in_doubt.load(Ordering::Relaxed) {
            let mut unanswered = self.unanswered();
            unanswered.remove(&part);
            self.in_doubt
                .store(!unanswered.is_empty(), Ordering::Relaxed);
        }
    }

    /// Whether that was one too many.
    fn not_answered(&self, part: Part) -> bool {
        let mut unanswered = self.unanswered();
        let count = unanswered.entry(part).or_default();
        *count = count.saturating_add(1);
        self.in_doubt.store(true, Ordering::Relaxed);
        *count >= UNANSWERED
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<Part, u32>> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection over which whoever has a key is silent.
struct Silent {
    live: Arc<Live>,
    key: String,
}

/// A connection that is being made by a task, on which many calls may wait.
#[derive(Clone)]
struct Opening {
    runtime: Id,
    result: watch::Receiver<Option<Result<Arc<Live>, BackendError>>>,
}

/// The task on `runtime` that makes a connection, if there is one.
fn under_way(slot: &Option<Opening>, runtime: Id) -> Option<&Opening> {
    slot.as_ref().filter(|opening| {
        // The sender travels in the task, so that a task that was dropped unfinished blocks nobody.
        opening.runtime == runtime && opening.result.has_changed().is_ok()
    })
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
    pub(crate) async fn live(self: &Arc<Self>) -> Result<Arc<Live>, BackendError> {
        if let Some(live) = self.current.load_full() {
            return Ok(live);
        }
        let mut opening = self.opening()?;
        match opening.result.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(BackendError::transient(
                "connecting was cut off: the runtime has ended, or has no timers or no I/O (`enable_all`)",
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
        if let Some(opening) = under_way(&slot, runtime) {
            return Ok(opening.clone());
        }
        Ok(self.begin_opening(&handle, &mut slot, None))
    }

    /// Starts the task that makes a connection: the first one, or one instead of another.
    fn begin_opening(
        self: &Arc<Self>,
        handle: &Handle,
        slot: &mut Option<Opening>,
        old: Option<Silent>,
    ) -> Opening {
        let runtime = handle.id();
        let (answer, result) = watch::channel(None);
        let opening = Opening { runtime, result };
        *slot = Some(opening.clone());
        let own = Arc::clone(self);
        handle.spawn(async move {
            let result = match old {
                None => own.open().await,
                Some(old) => own.open_instead(old).await,
            };
            own.slot().take_if(|opening| opening.runtime == runtime);
            answer.send_replace(Some(result));
        });
        opening
    }

    /// What `live` leads to has fallen silent. If that is one of many servers, and somebody asks for `key` there, the others
    /// are reached over it until there is another connection, which may take long because of the silent one too.
    fn replace(self: &Arc<Self>, live: &Arc<Live>, key: Option<&str>) {
        let handle = Handle::try_current().ok();
        let (Some(handle), Some(key), true) = (handle, key, live.connection.is_cluster()) else {
            return self.discard(live);
        };
        let mut slot = self.slot();
        if self.is_current(live) && under_way(&slot, handle.id()).is_none() {
            let old = Silent {
                live: Arc::clone(live),
                key: key.to_owned(),
            };
            self.begin_opening(&handle, &mut slot, Some(old));
        }
    }

    fn is_current(&self, live: &Arc<Live>) -> bool {
        let current = self.current.load_full();
        current.is_some_and(|current| Arc::ptr_eq(&current, live))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Opening>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(self: &Arc<Self>) -> Result<Arc<Live>, BackendError> {
        let live = self.make().await?;
        self.current.store(Some(Arc::clone(&live)));
        Ok(live)
    }

    /// The same, unless the server that is silent is so over the new connection too: then that is worth no more, and perhaps
    /// less, for a client may hold up everything while it looks for one server in vain.
    async fn open_instead(self: &Arc<Self>, old: Silent) -> Result<Arc<Live>, BackendError> {
        let live = match self.make().await {
            Ok(live) => live,
            Err(error) => {
                self.discard(&old.live);
                return Err(error);
            }
        };
        if self.is_current(&old.live) && !live.answers(&old.key).await && self.is_current(&old.live)
        {
            return Ok(old.live);
        }
        self.current.store(Some(Arc::clone(&live)));
        Ok(live)
    }

    async fn make(self: &Arc<Self>) -> Result<Arc<Live>, BackendError> {
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
            unanswered: Mutex::default(),
            in_doubt: AtomicBool::new(false),
        });
        let _ = cell.set(Arc::downgrade(&live));
        Ok(live)
    }

    /// Sends over `live` and learns from the outcome what it is worth.
    pub(crate) async fn send(
        self: &Arc<Self>,
        live: &Arc<Live>,
        request: &Request<'_>,
    ) -> Result<Reply, Failure> {
        let key = request.keys.first().copied();
        let cluster = live.connection.is_cluster();
        self.watch(live, key, live.connection.send(request), |reply| {
            // Replies carry no number: one that is not ours may be followed by others' all along.
            !reply.is_of_a_script() || (!cluster && error::answers_read_only(reply))
        })
        .await
    }

    /// Sends commands about keys of the slot of `key`. The outer error: what became of any of them is not known, or there was
    /// no connection.
    pub(crate) async fn send_all(
        self: &Arc<Self>,
        key: &str,
        commands: &[Vec<&str>],
        order: Order,
    ) -> Result<Vec<Result<Reply, Failure>>, BackendError> {
        let live = self.live().await?;
        let cluster = live.connection.is_cluster();
        let sent = live.connection.send_all(key, commands, order);
        self.watch(&live, Some(key), sent, |replies| {
            let ends = |failure: &Failure| failure.ends_connection(cluster);
            replies.len() != commands.len()
                || replies.iter().any(|reply| reply.as_ref().is_err_and(ends))
        })
        .await
        .map(|replies| {
            let named = |failure: Failure| {
                let failure = failure.about(&[key]);
                if cluster { failure } else { failure.alone() }
            };
            let replies = replies.into_iter();
            replies.map(|reply| reply.map_err(named)).collect()
        })
        .map_err(error::not_answered)
    }

    /// Waits for what is sent over `live` and learns from the outcome what that is worth. `is_bad`: of replies after which
    /// another connection is needed.
    async fn watch<T>(
        self: &Arc<Self>,
        live: &Arc<Live>,
        key: Option<&str>,
        sent: impl Future<Output = Result<T, Failure>>,
        is_bad: impl Fn(&T) -> bool,
    ) -> Result<T, Failure> {
        let unanswered = Unanswered {
            own: self,
            live,
            key,
            part: live.connection.part_of(key),
        };
        let result = sent.await;
        let cluster = live.connection.is_cluster();
        match &result {
            Err(failure) if failure.ends_connection(cluster) => self.discard(live),
            Err(failure) if failure.is_silence(cluster) => return result,
            Ok(reply) if is_bad(reply) => self.discard(live),
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
    own: &'a Arc<Own>,
    live: &'a Arc<Live>,
    key: Option<&'a str>,
    part: Part,
}

impl Unanswered<'_> {
    fn answered(self) {
        self.live.answered(self.part);
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.live.not_answered(self.part) {
            self.own.replace(self.live, self.key);
        }
    }
}
