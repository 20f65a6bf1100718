//! Every promise of a backend is kept: over RESP3 as the default user, over RESP2 as one with the least rights, and on a server
//! that keeps its data.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use common::Backend;
use lock_core::{ForceRelease, LockKey};
use lock_testkit::server::{RedisOptions, RedisServer, Reply};
use lock_testkit::{Fixture, Gap};

/// The least rights, as in the crate's documentation.
const RIGHTS: &str = "on >pw resetkeys resetchannels -@all ~lock:* &lock:* \
     +evalsha +eval +set +get +getrange +type +del +pexpire +pttl +time \
     +publish +subscribe +unsubscribe +ping";

/// A server of its own for each case: one starts in 20 ms, and is stopped when the case ends, however it ends. None if the case
/// stopped it.
struct Redis<const LEAST_RIGHTS: bool, const KEEPS_DATA: bool> {
    server: Mutex<Option<RedisServer>>,
    port: u16,
}

impl<const LEAST_RIGHTS: bool, const KEEPS_DATA: bool> Redis<LEAST_RIGHTS, KEEPS_DATA> {
    fn with<T>(&self, f: impl FnOnce(&mut RedisServer) -> T) -> T {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        f(server.as_mut().expect("the case stopped the server"))
    }
}

impl<const LEAST_RIGHTS: bool, const KEEPS_DATA: bool> Fixture for Redis<LEAST_RIGHTS, KEEPS_DATA> {
    type Backend = Backend;
    const GAPS: &[Gap] = if KEEPS_DATA {
        &[Gap::Order]
    } else {
        &[Gap::Order, Gap::SurvivesRestart]
    };

    async fn start() -> Self {
        let mut options = RedisOptions::new();
        if LEAST_RIGHTS {
            // In its configuration, so that the user is there from the first connection on, also after a restart.
            options = options.with_args(["--user", "locks"]);
            options = options.with_args(RIGHTS.split_whitespace());
        }
        if KEEPS_DATA {
            options = options.with_args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        let server = options.start();
        let port = server.port();
        Self {
            server: Mutex::new(Some(server)),
            port,
        }
    }

    async fn client(&self) -> Backend {
        let url = if LEAST_RIGHTS {
            format!("redis://locks:pw@127.0.0.1:{}?protocol=resp2", self.port)
        } else {
            format!("redis://127.0.0.1:{}", self.port)
        };
        let builder = Backend::builder(url).with_survives_restart(KEEPS_DATA);
        builder.connect().await.unwrap()
    }

    fn prefix(&self) -> &str {
        if LEAST_RIGHTS { "lock:" } else { "" }
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
        self.with(if KEEPS_DATA {
            RedisServer::restart
        } else {
            RedisServer::restart_empty
        });
        true
    }

    async fn stop(&self) -> bool {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        *server = None;
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
        for kind in ["normal", "pubsub"] {
            self.with(|server| server.cli(&["CLIENT", "KILL", "TYPE", kind]));
        }
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        Some(Arc::new(self.client().await))
    }
}

/// After each case: whatever the backend wrote has an end, and nothing was refused for want of a right.
impl<const LEAST_RIGHTS: bool, const KEEPS_DATA: bool> Drop for Redis<LEAST_RIGHTS, KEEPS_DATA> {
    fn drop(&mut self) {
        let server = self
            .server
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(server) = server.as_ref().filter(|_| !thread::panicking()) else {
            return;
        };
        for (key, left) in strings(server) {
            // 0: it ends now. -2: it has ended since it was listed.
            assert_ne!(left, -1, "{key:?} has no end");
        }
        assert_eq!(common::refusals(server), Vec::<String>::new());
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

mod resp3 {
    lock_testkit::conformance!(super::Redis<false, false>);
}

mod resp2_with_the_least_rights {
    lock_testkit::conformance!(super::Redis<true, false>);
}

mod on_a_server_that_keeps_its_data {
    lock_testkit::conformance!(super::Redis<false, true>);
}
