//! A backend that does what the test says. Not a mock: behind the script stands an honest store.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Capabilities, LockBackend, Owner};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::honest::{Entry, Honest};

mod backend;
mod call;
mod effect;
mod request;
mod wakeups;

pub use call::Call;
use effect::Plan;
pub use effect::{Effect, Script};
use request::Reply;
pub use request::{Op, Record, Renewal, Request};
use wakeups::Subscribed;

/// How long [`Scripted::next_call`] waits: longer than any ttl. Virtual time in a paused test.
const PATIENCE: Duration = Duration::from_secs(48 * 3600);

/// A backend in which each call is answered, failed, delayed or left hanging by the test.
///
/// Clones are handles of one backend: give one to the code under test, keep another. There are two
/// ways to use it, and [`Script`]s to mix them:
///
/// - [`Scripted::honest`] answers from an honest store, except where an [`Effect`] says otherwise;
/// - [`Scripted::new`] shows every call to the test as a [`Call`] and waits for its answer.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{AcquireRequest, Attempt, BackendError, LockBackend, LockKey, Owner};
/// use lock_testkit::{Effect, Op, Scripted};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = Scripted::honest();
/// let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(None)?);
/// let request = AcquireRequest::new(&key, &owner, Duration::from_secs(30));
///
/// backend.on(Op::Acquire).next(Effect::LoseReply(BackendError::unknown("cut")));
/// assert!(backend.try_acquire(request).await.is_err());
/// assert_eq!(backend.entries()["order:7"].owner, owner, "it was applied");
///
/// backend.on(Op::Acquire).always(Effect::Ask);
/// let (answer, ()) = tokio::join!(backend.try_acquire(request), async {
///     let call = backend.next_call().await;
///     assert_eq!(call.owner(), &owner);
///     call.reply_granted(7..=9);
/// });
/// assert!(matches!(answer?, Attempt::Granted(_)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Scripted {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    asked: Notify,
}

struct State {
    store: Honest,
    capabilities: Capabilities,
    latency: Option<Duration>,
    loses_wakeups: bool,
    plans: HashMap<Op, Plan>,
    asking: VecDeque<(Request, oneshot::Sender<Reply>)>,
    calls: usize,
    records: Vec<Record>,
    subscriptions: Vec<Subscribed>,
}

impl Scripted {
    /// A backend whose every call waits for the test: see [`next_call`](Self::next_call).
    #[must_use]
    #[allow(
        clippy::new_without_default,
        reason = "which of the two would be the default?"
    )]
    pub fn new() -> Self {
        let backend = Self::honest();
        for op in Op::ALL {
            backend.on(op).always(Effect::Ask);
        }
        backend
    }

    /// A backend that answers every call at once from an honest store, which can all but keep a line of
    /// waiters and survive a restart.
    #[must_use]
    pub fn honest() -> Self {
        let state = State {
            store: Honest::new(),
            capabilities: Capabilities::new()
                .with_fencing(true)
                .with_wakeups(true)
                .with_hand_over(true)
                .with_any_ttl(true),
            latency: None,
            loses_wakeups: false,
            plans: HashMap::new(),
            asking: VecDeque::new(),
            calls: 0,
            records: Vec::new(),
            subscriptions: Vec::new(),
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                asked: Notify::new(),
            }),
        }
    }

    /// Declares other capabilities. Without fencing, grants carry no tokens; without hand-over, a request for
    /// one is an error; without wake-ups, nobody can subscribe.
    #[must_use]
    pub fn with_capabilities(self, capabilities: Capabilities) -> Self {
        let mut state = self.state();
        state.capabilities = capabilities;
        state.store.set_fencing(capabilities.fencing);
        drop(state);
        self
    }

    /// Switches wake-ups on (the default) or off.
    #[must_use]
    pub fn with_wakeups(self, wakeups: bool) -> Self {
        let capabilities = self.capabilities().with_wakeups(wakeups);
        self.with_capabilities(capabilities)
    }

    /// Makes every honest call take `each_way` before and again after it is applied. A caller that drops its
    /// future on the way there was never heard.
    #[must_use]
    pub fn with_latency(self, each_way: Duration) -> Self {
        self.state().latency = Some(each_way);
        self
    }

    /// The script of one method.
    #[must_use]
    pub const fn on(&self, op: Op) -> Script<'_> {
        Script { backend: self, op }
    }

    /// The next call that asks for an answer ([`Effect::Ask`]), in the order they were made.
    ///
    /// # Panics
    ///
    /// If there is none for 48 h, which is soon in a paused test.
    pub async fn next_call(&self) -> Call {
        let next = async {
            loop {
                if let Some(call) = self.try_next_call() {
                    return call;
                }
                self.inner.asked.notified().await;
            }
        };
        timeout(PATIENCE, next)
            .await
            .expect("no further call was made")
    }

    /// The next call that has been made and asks for an answer, if there is one.
    #[must_use]
    pub fn try_next_call(&self) -> Option<Call> {
        let (request, reply) = self.state().asking.pop_front()?;
        Some(Call {
            request,
            reply,
            backend: self.clone(),
        })
    }

    /// All calls so far, in order. A call is made when its future is first polled.
    #[must_use]
    pub fn calls(&self) -> Vec<Record> {
        self.state().records.clone()
    }

    /// The calls of one method so far.
    #[must_use]
    pub fn calls_of(&self, op: Op) -> Vec<Record> {
        self.calls()
            .into_iter()
            .filter(|record| record.op == op)
            .collect()
    }

    /// The oracle: what the honest store holds, by whole key.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, Entry> {
        self.state().store.entries()
    }

    /// The oracle deletes the entry of `key` and wakes nobody. Whether there was one.
    pub fn evict(&self, key: &str) -> bool {
        self.state().store.evict(key)
    }

    /// The oracle ends the entry of `key` as if its ttl were over. Whether there was one.
    pub fn expire(&self, key: &str) -> bool {
        self.evict(key)
    }

    /// The oracle makes a new owner hold `key` for `ttl`, whoever held it before.
    pub fn steal(&self, key: &str, ttl: Duration) -> Owner {
        self.state().store.steal(key, ttl)
    }

    /// Wakes all who subscribe to `key`, for no reason, and also while wake-ups are lost.
    pub fn wake(&self, key: &str) {
        self.state()
            .subscriptions
            .iter()
            .filter(|one| one.key == key)
            .for_each(Subscribed::wake);
    }

    /// Whether releases fail to wake anybody from now on.
    pub fn lose_wakeups(&self, lose: bool) {
        self.state().loses_wakeups = lose;
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.state()
            .subscriptions
            .iter()
            .filter(|one| one.is_alive())
            .count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted")
            .field("calls", &self.state().calls)
            .finish_non_exhaustive()
    }
}
