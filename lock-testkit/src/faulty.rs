//! What is between a caller and a store when a test says so: errors, lost replies, late copies. Not a store.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::LockBackend;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

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
pub(crate) use wakeups::{Subscribers, Subscription};

/// How long [`Faulty::next_call`] waits: longer than any ttl. Virtual time in a paused test.
const PATIENCE: Duration = Duration::from_secs(48 * 3600);

/// A backend that passes each call on to another one, except where an [`Effect`] says otherwise.
///
/// It is a backend itself, and around any: a real one in a test of what its users see when the network fails, or the
/// in-memory one of [`Scripted`](crate::Scripted), which is for tests in virtual time. Without effects it keeps every
/// promise that the backend inside keeps. Clones are handles of one client: give one to the code under test, keep another.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{BackendError, LockBackend, LockError, Locks};
/// use lock_testkit::{Effect, Faulty, Op};
///
/// /// What your callers see when a reply is lost, on your backend.
/// async fn a_lost_reply_is_not_taken_for_a_refusal(client: impl LockBackend) {
///     let client = Faulty::around(client);
///     let lock = Locks::new(client.clone()).lock("order:7");
///     client.on(Op::Acquire).next(Effect::LoseReply(BackendError::unknown("cut")));
///     let error = lock.try_acquire().await.unwrap_err();
///     assert!(matches!(error, LockError::Unknown { .. }));
///     // What was granted without our knowing is given back.
///     assert!(lock.acquire().await.is_ok());
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// a_lost_reply_is_not_taken_for_a_refusal(lock_testkit::Scripted::honest()).await;
/// # }
/// ```
///
/// A request that overtakes another is an [`Effect::Ask`]: the test keeps the [`Call`] and lets it
/// [apply](Call::apply) when it likes.
///
/// ```
/// # use std::time::Duration;
/// # use lock_core::{AcquireRequest, LockBackend, LockKey, Owner, Ownership};
/// # use lock_testkit::{Effect, Op, Scripted};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = Scripted::honest();
/// # let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(None)?);
/// # let request = AcquireRequest::new(&key, &owner, Duration::from_secs(30));
/// client.on(Op::Acquire).next(Effect::Ask);
/// let given_up = tokio::time::timeout(Duration::from_secs(1), client.try_acquire(request)).await;
/// assert!(given_up.is_err());
/// assert_eq!(client.release(&key, &owner).await?, Ownership::Absent);
/// client.next_call().await.apply().await;
/// assert!(client.inspect(&key).await?.is_some(), "it came after the release");
/// # Ok(())
/// # }
/// ```
pub struct Faulty<B> {
    inner: Arc<B>,
    way: Arc<Way>,
}

/// The way to the backend inside, whatever that is.
struct Way {
    inner: Arc<dyn LockBackend>,
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Default)]
struct State {
    resends: bool,
    latency: Option<Duration>,
    loses_wakeups: bool,
    /// Nothing happens to a call, and it leaves no trace.
    straight: bool,
    /// By method, for one key or for all.
    plans: HashMap<(Op, Option<String>), Plan>,
    asking: VecDeque<(Request, oneshot::Sender<Reply>)>,
    calls: usize,
    records: Vec<Record>,
    subscribers: Subscribers,
}

impl<B: LockBackend> Faulty<B> {
    /// A client of `inner` between which and its callers nothing happens yet.
    #[must_use]
    pub fn around(inner: B) -> Self {
        let inner = Arc::new(inner);
        let way = Way {
            inner: Arc::clone(&inner) as Arc<dyn LockBackend>,
            state: Mutex::default(),
            asked: Notify::new(),
        };
        Self {
            inner,
            way: Arc::new(way),
        }
    }

    /// Makes every call without another effect take `each_way` before and again after it is passed on. A caller that
    /// drops its future on the way there was never heard.
    #[must_use]
    pub fn with_latency(self, each_way: Duration) -> Self {
        self.way.state().latency = Some(each_way);
        self
    }

    /// Declares [`Capabilities::resends`](lock_core::Capabilities::resends), as a client must whose requests may arrive
    /// twice: see [`Effect::Resend`].
    #[must_use]
    pub fn with_resends(self) -> Self {
        self.way.state().resends = true;
        self
    }

    /// The backend inside: the way around all effects.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }
}

impl<B> Faulty<B> {
    /// The script of one method.
    #[must_use]
    pub fn on(&self, op: Op) -> Script<'_> {
        Script {
            way: &self.way,
            op,
            key: None,
        }
    }

    /// The next call that is kept for the test ([`Effect::Ask`], [`Effect::Copy`]), in the order they were made.
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
                self.way.asked.notified().await;
            }
        };
        timeout(PATIENCE, next)
            .await
            .expect("no further call was made")
    }

    /// The next call that is kept for the test by now, if there is one.
    #[must_use]
    pub fn try_next_call(&self) -> Option<Call> {
        let (request, reply) = self.way.state().asking.pop_front()?;
        Some(Call {
            request,
            reply,
            way: Arc::clone(&self.way),
        })
    }

    /// All calls so far, in order. A call is made when its future is first polled.
    #[must_use]
    pub fn calls(&self) -> Vec<Record> {
        self.way.state().records.clone()
    }

    /// The calls of one method so far.
    #[must_use]
    pub fn calls_of(&self, op: Op) -> Vec<Record> {
        self.calls()
            .into_iter()
            .filter(|record| record.op == op)
            .collect()
    }

    /// Forgets the calls so far, which take memory.
    pub(crate) fn forget_calls(&self) {
        self.way.state().records.clear();
    }

    /// Whether calls pass straight from now on: without an effect, without latency, and without a record. For what a test
    /// needs first and is not about.
    pub fn pass_straight(&self, straight: bool) {
        self.way.state().straight = straight;
    }

    /// Wakes all who subscribe to `key`, for no reason, and also while wake-ups are lost.
    pub fn wake(&self, key: &str) {
        self.way.state().subscribers.wake(key);
    }

    /// Whether wake-ups from the backend inside are lost from now on. One that came while nobody waited for it is lost if
    /// they are lost when somebody does.
    pub fn lose_wakeups(&self, lose: bool) {
        self.way.state().loses_wakeups = lose;
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.way.state().subscribers.alive()
    }
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Clone for Faulty<B> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            way: Arc::clone(&self.way),
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for Faulty<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("inner", &self.inner)
            .field("calls", &self.way.state().calls)
            .finish_non_exhaustive()
    }
}
