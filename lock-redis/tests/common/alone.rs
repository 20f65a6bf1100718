//! The conformance suite on a server of its own for each case, which the case may stop, stall, restart and cut off.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use lock_core::{ForceRelease, LockKey, PassingOn};
use lock_testkit::server::{RedisOptions, RedisServer, Reply};
use lock_testkit::{Fixture, Gap};

use super::{Backend, all_refusals};

/// A kind of server, and how its clients connect to it.
pub trait Kind: Send + Sync + 'static {
    const GAPS: &'static [Gap] = &[Gap::Order, Gap::SurvivesRestart];
    const PREFIX: &'static str = "";
    const PASSING_ON: PassingOn = PassingOn::at_most(64);

    fn is_here() -> bool {
        true
    }

    fn options() -> RedisOptions {
        RedisOptions::new()
    }

    /// What a client must know of the server whose URL, as its only or its first user, is `url`; in this process or in another.
    fn address(url: String) -> String {
        url
    }

    fn client(address: &str) -> impl Future<Output = Backend> + Send;
}

/// One starts in 20 ms, and is stopped when the case ends, however it ends.
pub struct Alone<K: Kind> {
    /// None if the case stopped it, or it is another process's.
    server: Mutex<Option<RedisServer>>,
    address: String,
    kind: PhantomData<K>,
}

impl<K: Kind> Alone<K> {
    fn server(&self) -> MutexGuard<'_, Option<RedisServer>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, f: impl FnOnce(&mut RedisServer) -> T) -> T {
        f(self.server().as_mut().unwrap())
    }

    /// Nothing was refused for want of a right. A server that ends forgets that.
    fn check_rights(&self) {
        if let Some(server) = &*self.server() {
            assert_eq!(all_refusals(server), Vec::<String>::new());
        }
    }
}

impl<K: Kind> Fixture for Alone<K> {
    type Backend = Backend;
    const GAPS: &'static [Gap] = K::GAPS;
    const PASSING_ON: PassingOn = K::PASSING_ON;

    fn is_here() -> bool {
        K::is_here()
    }

    async fn start() -> Self {
        let server = K::options().start();
        Self {
            address: K::address(server.url()),
            server: Mutex::new(Some(server)),
            kind: PhantomData,
        }
    }

    async fn client(&self) -> Backend {
        K::client(&self.address).await
    }

    fn prefix(&self) -> &str {
        K::PREFIX
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.with(|server| server.cli(&["DEL", key.as_str()]));
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.with(|server| server.cli(&["PEXPIRE", key.as_str(), "1"]));
        true
    }

    async fn obstruct(&self, key: &LockKey) -> bool {
        self.with(|server| server.cli(&["HSET", key.as_str(), "a", "b"]));
        true
    }

    async fn restart(&self) -> bool {
        if K::GAPS.contains(&Gap::Restart) {
            return false;
        }
        self.check_rights();
        self.with(if K::GAPS.contains(&Gap::SurvivesRestart) {
            RedisServer::restart_empty
        } else {
            RedisServer::restart
        });
        true
    }

    async fn stop(&self) -> bool {
        self.check_rights();
        *self.server() = None;
        true
    }

    async fn stall(&self, stalled: bool) -> bool {
        self.with(|server| {
            if stalled {
                server.pause();
            } else {
                server.resume();
            }
        });
        true
    }

    async fn cut_connections(&self) -> bool {
        if K::GAPS.contains(&Gap::CutConnections) {
            return false;
        }
        for kind in ["normal", "pubsub"] {
            self.with(|server| server.cli(&["CLIENT", "KILL", "TYPE", kind]));
        }
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        if K::GAPS.contains(&Gap::ForceRelease) {
            return None;
        }
        Some(Arc::new(self.client().await))
    }

    fn address(&self) -> Option<String> {
        Some(self.address.clone())
    }

    async fn join(address: String) -> Option<Self> {
        Some(Self {
            server: Mutex::new(None),
            address,
            kind: PhantomData,
        })
    }
}

/// After each case: whatever the backend wrote has an end, and nothing was refused for want of a right.
impl<K: Kind> Drop for Alone<K> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if let Some(server) = &*self.server() {
            assert_all_end(server);
        }
        self.check_rights();
    }
}

/// Whatever a backend wrote there has an end.
pub fn assert_all_end(server: &RedisServer) {
    for (key, left) in strings(server) {
        // 0: it ends now. -2: it has ended since it was listed.
        assert_ne!(left, -1, "{key:?} has no end");
    }
}

/// All keys that hold strings, which is what the backend writes, and their PTTL.
fn strings(server: &RedisServer) -> Vec<(Vec<u8>, i64)> {
    let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let page = server.cli(&["SCAN", &cursor, "COUNT", "1000", "TYPE", "string"]);
        for key in page.array()[1].array() {
            let Reply::Bulk(key) = key else {
                panic!("{key:?} is no key")
            };
            let left = server.cli_bytes(&[b"PTTL", key]).integer();
            found.push((key.clone(), left));
        }
        cursor = page.array()[0].text();
        if cursor == "0" {
            return found;
        }
    }
}
