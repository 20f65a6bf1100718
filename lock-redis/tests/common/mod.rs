//! What several test files need: keys, owners, short forms of requests, and patience.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod alone;
mod client;
pub mod deploy;
#[cfg(feature = "tracing")]
pub mod log;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, DistributedLock, FencingRange,
    LockBackend, LockError, LockGuard, LockKey, Locks, Moment, Owner, Ownership, Released, Renew,
    RenewRequest,
};
use lock_testkit::server::{RedisServer, Reply};

pub use client::*;

pub const TTL: Duration = Duration::from_secs(30);

/// A ttl that no test lives to see the end of: what is gone before was given back.
pub const LASTING: Duration = Duration::from_secs(60);

/// For what comes soon if it comes at all. Machines are busy.
const PATIENCE: Duration = Duration::from_secs(20);

pub const MS: Duration = Duration::from_millis(1);

pub const SECOND: Duration = Duration::from_secs(1);

/// What fits a test that all wait for, or, with `FENCELOCK_LONG` set (`scripts/test --long`), what the catalogue of scenarios
/// says.
pub fn scaled<T>(usual: T, long: T) -> T {
    if std::env::var_os("FENCELOCK_LONG").is_some() {
        long
    } else {
        usual
    }
}

/// What a user of the prefix `lock:` must be allowed at least, as in the crate's documentation.
pub const LEAST_RIGHTS: &str = "resetkeys resetchannels -@all ~lock:* &lock:* \
     +evalsha +eval +set +get +getrange +type +del +pexpire +pttl +time \
     +publish +subscribe +unsubscribe +ping";

/// The same on a cluster.
pub const LEAST_RIGHTS_OF_A_CLUSTER: &str = "resetkeys resetchannels -@all ~lock:* &lock:* \
     +evalsha +eval +set +get +getrange +type +del +pexpire +pttl +time \
     +spublish +ssubscribe +sunsubscribe +ping +cluster|slots +asking";

/// And without scripts, on Valkey; of a cluster too.
pub const LEAST_RIGHTS_WITHOUT_SCRIPTS: &str = "resetkeys resetchannels -@all ~lock:* &lock:* \
     +set +delifeq +type +getrange +pttl +publish +subscribe +unsubscribe +ping";

pub const LEAST_RIGHTS_OF_A_CLUSTER_WITHOUT_SCRIPTS: &str = "resetkeys resetchannels -@all ~lock:* &lock:* \
     +set +delifeq +type +getrange +pttl \
     +spublish +ssubscribe +sunsubscribe +ping +cluster|slots +asking";

/// Each command that a user of these `rights` may send, and the rights without it.
pub fn each_missing(rights: &str) -> Vec<(&str, String)> {
    let commands = rights
        .split_whitespace()
        .filter_map(|right| right.strip_prefix('+'));
    let without = |missing: &str| {
        let others = rights.split_whitespace();
        let others: Vec<_> = others
            .filter(|right| right.strip_prefix('+') != Some(missing))
            .collect();
        others.join(" ")
    };
    commands
        .map(|missing| (missing, without(missing)))
        .collect()
}

/// Uses a backend for the first time, whose user has all these `rights` but one: that is named, no other is, and there is no lock.
pub async fn is_missed_at_the_first_use(
    missing: &str,
    rights: &str,
    connecting: impl Future<Output = Result<Backend, BackendError>>,
) {
    let key = LockKey::with_prefix("lock:", "k").unwrap();
    let used = async { attempt(&connecting.await?, &key, &owner()).await };
    let error = match used.await {
        Ok(attempt) => panic!("without {missing}: {attempt:?}"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    let said = error.to_string().to_lowercase();
    let words: Vec<_> = said
        .split(|c: char| !c.is_alphanumeric() && c != '|')
        .collect();
    let named = rights
        .split_whitespace()
        .filter_map(|right| right.strip_prefix('+'))
        .filter(|right| words.contains(right));
    assert_eq!(named.collect::<Vec<_>>(), [missing], "{error}");
}

/// Locks on a client of their own, as another process has them.
pub async fn locks(server: &RedisServer) -> Locks {
    Locks::new(connected(server.url()).await)
}

/// A client of the server at `url`, for a test that is not about connecting.
pub async fn connected(url: impl AsRef<str>) -> Backend {
    patient(Backend::builder(url)).connect().await.unwrap()
}

/// For a test that only wants to be connected: on a loaded machine that takes its time, and by default there is a second.
pub fn patient(builder: BackendBuilder) -> BackendBuilder {
    builder.with_connect_timeout(10 * SECOND)
}

/// The number of the guard's fencing token.
pub fn token(guard: &LockGuard) -> u64 {
    guard.fencing_token().unwrap().get()
}

/// All keys but the fencing counters.
pub fn entries(server: &RedisServer) -> Vec<String> {
    let keys = server.cli(&["KEYS", "*"]);
    let keys = keys.array().iter().map(|key| key.text());
    keys.filter(|key| !key.ends_with(":fence")).collect()
}

pub fn exists(server: &RedisServer, key: &str) -> bool {
    server.cli(&["EXISTS", key]).integer() == 1
}

pub fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

pub fn owner() -> Owner {
    Owner::fresh(Some("tester")).unwrap()
}

pub async fn attempt(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
) -> Result<Attempt, BackendError> {
    backend
        .try_acquire(AcquireRequest::new(key, owner, TTL))
        .await
}

/// Takes the lock or panics.
pub async fn take(backend: &impl LockBackend, key: &LockKey, owner: &Owner) -> FencingRange {
    granted(attempt(backend, key, owner).await)
}

pub fn granted(answer: Result<Attempt, BackendError>) -> FencingRange {
    match answer.unwrap() {
        Attempt::Granted(grant) => grant.fencing.unwrap(),
        Attempt::Busy(busy) => panic!("busy: {}", busy.holder),
    }
}

pub fn busy(answer: Result<Attempt, BackendError>) -> Busy {
    match answer.unwrap() {
        Attempt::Busy(busy) => busy,
        Attempt::Granted(_) => panic!("granted"),
    }
}

pub async fn renew(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    ttl: Duration,
    how: Renew,
) -> Result<Ownership, BackendError> {
    let mut answers = backend
        .renew(&[RenewRequest::new(key, owner, ttl, how)])
        .await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// Takes the lock, is busy for others, renews it and gives it up.
pub async fn round_trip(backend: &impl LockBackend) {
    let (key, mine) = (key("k"), owner());
    take(backend, &key, &mine).await;
    assert_eq!(
        busy(attempt(backend, &key, &owner()).await)
            .holder
            .label
            .as_deref(),
        Some("tester")
    );
    assert_eq!(
        renew(backend, &key, &mine, TTL, Renew::Exactly)
            .await
            .unwrap(),
        Ownership::Held
    );
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
}

/// What the server refused for want of a right, but for what clients do without.
pub fn refusals(server: &RedisServer) -> Vec<String> {
    let mut refused = all_refusals(server);
    refused.retain(|object| !ASKED_WHEN_CONNECTING.contains(&object.as_str()));
    refused
}

/// All that the server refused for want of a right.
pub fn all_refusals(server: &RedisServer) -> Vec<String> {
    let log = server.cli(&["ACL", "LOG"]);
    let objects = log.array().iter().map(|entry| {
        let mut fields = entry.array().iter();
        fields.find(|field| matches!(field, Reply::Bulk(name) if name == b"object"));
        fields.next().unwrap().text()
    });
    objects.collect()
}

pub fn pttl(server: &RedisServer, key: &str) -> i64 {
    server.cli(&["PTTL", key]).integer()
}

/// How often the server ran `command`, by its own count.
pub fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]).text();
    let row = stats
        .lines()
        .find_map(|row| row.strip_prefix(&format!("cmdstat_{command}:calls=")));
    row.map_or(0, |row| row.split(',').next().unwrap().parse().unwrap())
}

pub fn is_unknown(error: &LockError) -> bool {
    matches!(error, LockError::Unknown { .. })
}

/// The lock's entry goes long before its ttl does it.
pub async fn given_back(server: &RedisServer, key: &str) {
    eventually(&format!("{key} is given back"), async || {
        !exists(server, key)
    })
    .await;
}

/// Takes the lock, sooner or later, and gives it up: all is as before.
pub async fn works(lock: &DistributedLock) {
    let guard = soon("a grant", lock.acquire()).await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

/// The guard's holder does not believe in more than the server keeps.
pub fn is_honest(server: &RedisServer, guard: &LockGuard) {
    let looked = Moment::now();
    let believed = guard.remaining();
    let left = pttl(server, guard.key().as_str());
    // -2: there is nothing.
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
    let took = looked.elapsed();
    assert!(believed <= left + took + MS, "{believed:?} of {left:?}");
}

/// How many bytes of memory this process uses; 0 where nobody says.
pub fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.map_or(0, |pages: usize| pages * 4096)
}

/// How many files and connections this process has open; 0 where nobody says.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Waits until `done`, within a bound.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let start = Moment::now();
    while !done().await {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(10 * MS).await;
    }
}

/// What must come within a bound.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Does something to the server again and again, on a thread of its own, until it is dropped.
pub struct Nuisance(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Nuisance {
    /// Sends `command` after each `pause`.
    pub fn commands(server: &Arc<RedisServer>, pause: Duration, command: &'static [&str]) -> Self {
        let server = Arc::clone(server);
        Self::start(pause, move || drop(server.cli(command)))
    }

    pub fn start(pause: Duration, act: impl Fn() + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                act();
                std::thread::sleep(pause);
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Nuisance {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        let ended = self.1.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}
