//! Keyed locks of one process. None of them has an owner, a deadline, a fencing token or a limit to waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lockable::{AsyncLimit, LockableHashMap};
use tokio::sync::OwnedMutexGuard;

use crate::client::{Client, Target};

/// Its map of owned guards, for ours are owned too.
#[derive(Clone)]
pub(crate) struct Lockable(Arc<LockableHashMap<String, ()>>);

impl Client for Lockable {
    type Held = <LockableHashMap<String, ()> as lockable::Lockable<String, ()>>::OwnedGuard;

    fn name() -> String {
        "lockable".to_owned()
    }

    async fn connect(_target: &Target) -> Self {
        Self(Arc::new(LockableHashMap::new()))
    }

    async fn take(&self, key: &str) -> Self::Held {
        let key = key.to_owned();
        let Ok(held) = self.0.async_lock_owned(key, AsyncLimit::no_limit()).await;
        held
    }

    async fn give_back(&self, held: Self::Held) {
        drop(held);
    }
}

#[derive(Clone)]
pub(crate) struct KeyedLock(Arc<keyed_lock::r#async::KeyedLock<String>>);

impl Client for KeyedLock {
    type Held = keyed_lock::r#async::OwnedGuard<String>;

    fn name() -> String {
        "keyed-lock".to_owned()
    }

    async fn connect(_target: &Target) -> Self {
        Self(Arc::new(keyed_lock::r#async::KeyedLock::new()))
    }

    async fn take(&self, key: &str) -> Self::Held {
        self.0.lock_owned(key.to_owned()).await
    }

    async fn give_back(&self, held: Self::Held) {
        drop(held);
    }
}

#[derive(Clone)]
pub(crate) struct KeyLock(Arc<key_lock::KeyLock<String>>);

impl Client for KeyLock {
    type Held = OwnedMutexGuard<()>;

    fn name() -> String {
        "key-lock".to_owned()
    }

    async fn connect(_target: &Target) -> Self {
        Self(Arc::new(key_lock::KeyLock::new()))
    }

    async fn take(&self, key: &str) -> Self::Held {
        self.0.lock(key.to_owned()).await
    }

    async fn give_back(&self, held: Self::Held) {
        drop(held);
    }
}

type Keys = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

/// What everybody writes first: a map of tokio's mutexes, from which unused ones are removed.
#[derive(Clone)]
pub(crate) struct Plain(Arc<Keys>);

impl Client for Plain {
    type Held = (String, OwnedMutexGuard<()>);

    fn name() -> String {
        "a map of mutexes".to_owned()
    }

    async fn connect(_target: &Target) -> Self {
        Self(Arc::default())
    }

    async fn take(&self, key: &str) -> Self::Held {
        let mutex = {
            let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(keys.entry(key.to_owned()).or_default())
        };
        (key.to_owned(), mutex.lock_owned().await)
    }

    async fn give_back(&self, (key, held): Self::Held) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(held);
        if keys
            .get(&key)
            .is_some_and(|mutex| Arc::strong_count(mutex) == 1)
        {
            keys.remove(&key);
        }
    }
}
