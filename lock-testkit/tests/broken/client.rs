//! A client of the honest store that does one thing wrong, and what it calls a key. What it does with one is in the files beside.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lock_core::{
    BackendError, BackendErrorKind, Busy, Grant, Holder, LockBackend, LockKey, Moment, Owner, Place,
};
use lock_testkit::{Entry, Scripted};
use tokio::sync::watch;
use tokio::task;
use tokio::time::sleep;

use super::Flaw;

/// A client. Clones are one client.
#[derive(Clone)]
pub(crate) struct Broken {
    pub(super) flaw: Flaw,
    pub(super) honest: Scripted,
    pub(super) store: Arc<Store>,
    /// Who this client is, where that stands in for the owner.
    me: Owner,
    /// Of this client and its clones.
    pub(super) life: Arc<Life>,
    /// How often connections had been cut when this client connected.
    pub(super) cuts: usize,
    /// When this client was last answered.
    pub(super) answered: Arc<Mutex<Option<Moment>>>,
    /// What this client was told of keys that were busy, until a wake-up says otherwise.
    pub(super) told: Arc<Mutex<HashMap<String, Busy>>>,
}

/// Ends with the last clone of a client.
pub(super) struct Life {
    flaw: Flaw,
    store: Arc<Store>,
    honest: Scripted,
    /// The keys that this client took.
    pub(super) taken: Mutex<Vec<String>>,
}

impl Life {
    fn begin(flaw: Flaw, store: &Arc<Store>, honest: &Scripted) -> Arc<Self> {
        Arc::new(Self {
            flaw,
            store: Arc::clone(store),
            honest: honest.clone(),
            taken: Mutex::default(),
        })
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.store.ended.fetch_add(1, Ordering::SeqCst);
        if self.flaw == Flaw::EndsWithItsClient {
            self.taken.lock().unwrap().iter().for_each(|key| {
                self.honest.evict(key);
            });
        }
    }
}

/// What all clients of a store share beside its entries.
#[derive(Default)]
pub(super) struct Store {
    /// Keys with something that is no lock.
    pub(super) obstructed: Mutex<HashSet<String>>,
    /// Whether connections are refused.
    pub(super) is_stopped: AtomicBool,
    pub(super) is_stalled: watch::Sender<bool>,
    /// How often all connections were cut.
    pub(super) cuts: AtomicUsize,
    /// The greatest fencing token there was, and what was it when the store forgot that.
    pub(super) newest: AtomicU64,
    pub(super) forgotten: AtomicU64,
    /// How many clients have ended.
    pub(super) ended: AtomicUsize,
    /// How many subscriptions were dropped.
    pub(super) dropped: AtomicUsize,
    /// A lock around the connection that a dropped call does not give back.
    pub(super) stuck: AtomicBool,
    /// The task that took each key.
    pub(super) takers: Mutex<HashMap<String, Option<task::Id>>>,
    /// When the first attempt for each key was refused.
    pub(super) refused: Mutex<HashMap<String, Moment>>,
    /// The owners whose releases were sent.
    pub(super) released: Mutex<HashSet<String>>,
    /// Which client released each key last.
    pub(super) last: Mutex<HashMap<String, Owner>>,
    /// The owners whose entries were renewed.
    pub(super) renewed: Mutex<HashSet<String>>,
    /// Who took each key last and did not release it, and what came with that.
    pub(super) granted: Mutex<HashMap<String, (Owner, Grant)>>,
    /// How many attempts are under way.
    pub(super) attempts: AtomicUsize,
    /// When the first token was given.
    pub(super) begun: OnceLock<Moment>,
    /// Who held each key before the last step.
    pub(super) replica: Mutex<HashMap<String, Option<Holder>>>,
    /// Keys that somebody has subscribed to before.
    pub(super) subscribed: Mutex<HashSet<String>>,
    /// Who stands in line, and since when the first does as such.
    pub(super) line: Mutex<Vec<(Place, Option<Moment>)>>,
    /// Whether a call has blocked its thread.
    has_blocked: AtomicBool,
}

impl Broken {
    pub(super) fn new(flaw: Flaw) -> Self {
        let (store, honest) = (Arc::<Store>::default(), honest(flaw));
        Self {
            flaw,
            life: Life::begin(flaw, &store, &honest),
            honest,
            store,
            me: Owner::fresh(None).unwrap(),
            cuts: 0,
            answered: Arc::default(),
            told: Arc::default(),
        }
    }

    pub(super) fn client(&self) -> Self {
        if self.flaw == Flaw::ForgetsTokensWhenAClientComes {
            let newest = self.store.newest.load(Ordering::SeqCst);
            self.store.forgotten.store(newest, Ordering::SeqCst);
        }
        Self {
            me: Owner::fresh(None).unwrap(),
            life: Life::begin(self.flaw, &self.store, &self.honest),
            cuts: self.store.cuts.load(Ordering::SeqCst),
            answered: Arc::default(),
            told: Arc::default(),
            ..self.clone()
        }
    }

    /// What the store calls `key`, once it answers; or why it does not.
    pub(super) async fn spell(&self, key: &LockKey) -> Result<LockKey, BackendError> {
        if self.flaw == Flaw::BlocksTheThread && *self.store.is_stalled.borrow() {
            self.block();
            return Err(BackendError::transient("the socket's timeout is over"));
        }
        let mut stalled = self.store.is_stalled.subscribe();
        stalled.wait_for(|is_stalled| !is_stalled).await.unwrap();
        if self.flaw == Flaw::NeverReconnects && self.is_cut() {
            return Err(BackendError::transient("broken pipe"));
        }
        if self.store.is_stopped.load(Ordering::SeqCst) {
            return Err(BackendError::transient("connection refused"));
        }
        let text = key.as_str();
        if self.store.obstructed.lock().unwrap().contains(text) {
            return Err(BackendError::new(BackendErrorKind::Conflict, "a list"));
        }
        let text = match self.flaw {
            Flaw::RefusesControlCharacters if text.chars().any(char::is_control) => {
                return Err(BackendError::permanent("control character"));
            }
            Flaw::IgnoresCase => text.to_lowercase(),
            Flaw::CutsAtNul => text.split('\0').next().unwrap_or_default().to_owned(),
            Flaw::TrimsNames => text.trim().to_owned(),
            Flaw::LocksNamesWithoutPrefix => key.name().to_owned(),
            Flaw::NormalizesNames => text.replace("e\u{301}", "\u{e9}"),
            Flaw::MatchesPatterns => {
                let start = text.strip_suffix('_').unwrap_or(text);
                let is_match = |other: &String| {
                    start != text && other.starts_with(start) && other.len() == text.len()
                };
                let found = self.honest.entries().into_keys().find(is_match);
                found.unwrap_or_else(|| text.to_owned())
            }
            Flaw::CutsLongKeys => text.chars().take(500).collect(),
            _ => text.to_owned(),
        };
        Ok(LockKey::new(text).unwrap())
    }

    /// As a client does that is not asynchronous; once, so that its test does not take all day. Longer than any case allows.
    pub(super) fn block(&self) {
        if !self.store.has_blocked.swap(true, Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(9));
        }
    }

    /// Whether connections were cut since this client connected.
    pub(super) fn is_cut(&self) -> bool {
        self.cuts != self.store.cuts.load(Ordering::SeqCst)
    }

    /// Whether connections were cut while a call was under way that began when they had been cut so often. It is under way for
    /// a while yet.
    pub(super) async fn is_cut_off(&self, cuts: usize) -> bool {
        sleep(Duration::from_millis(1)).await;
        cuts != self.store.cuts.load(Ordering::SeqCst)
    }

    /// Whose entry it is that `owner` asks about.
    pub(super) fn identify<'a>(&'a self, owner: &'a Owner) -> &'a Owner {
        match self.flaw {
            Flaw::OneOwnerPerClient => &self.me,
            _ => owner,
        }
    }

    /// Who took `key` last, did not release it and has it no more.
    pub(super) fn ended(&self, key: &LockKey) -> Option<(Owner, Grant)> {
        let granted = self.store.granted.lock().unwrap();
        let last = granted.get(key.as_str()).cloned();
        last.filter(|_| self.entry(key).is_none())
    }

    pub(super) fn note_release(&self, key: &LockKey) {
        let mut last = self.store.last.lock().unwrap();
        last.insert(key.as_str().to_owned(), self.me.clone());
    }

    /// Whether another client released `key` last.
    pub(super) fn is_for_another(&self, key: &LockKey) -> bool {
        let last = self.store.last.lock().unwrap();
        last.get(key.as_str()).is_some_and(|who| *who != self.me)
    }

    pub(super) fn entry(&self, key: &LockKey) -> Option<Entry> {
        self.honest.entries().remove(key.as_str())
    }

    /// The replica learns what the store has before the step that comes.
    pub(super) async fn replicate(&self, key: &LockKey) -> Result<(), BackendError> {
        let found = self.honest.inspect(key).await?;
        let mut replica = self.store.replica.lock().unwrap();
        replica.insert(key.as_str().to_owned(), found);
        Ok(())
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flaw == Flaw::PrintsOwners {
            for (key, entry) in self.honest.entries() {
                write!(f, "{key} = {:?}", entry.owner.expose())?;
            }
        }
        f.write_str("Broken")
    }
}

/// With a line of waiters.
fn honest(flaw: Flaw) -> Scripted {
    let store = Scripted::honest();
    if flaw == Flaw::KeepsThePlacesOfTheDead {
        store
            .inner()
            .with_model(|model| model.set_patience(Duration::MAX));
    }
    let capabilities = store.capabilities().with_order(true);
    store.with_capabilities(capabilities)
}
