//! Real Redis and Valkey servers for tests, as child processes: alone, with replicas, as a cluster, behind Sentinel, over
//! TLS. Not a client: [`RedisServer::cli`] is an oracle that shares no code with what is tested.
//!
//! Each server has a directory and ports of its own, and ends with the value that stands for it: also when the test
//! panics, and when the whole test process is killed.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test without its server cannot go on"
)]

mod cluster;
mod options;
mod oracle;
mod process;
mod program;
mod redis;
mod replicas;
mod sentinel;
#[cfg(feature = "tls")]
mod tls;

pub use cluster::RedisCluster;
pub use options::RedisOptions;
pub use oracle::Reply;
pub use program::Program;
pub use redis::RedisServer;
pub use replicas::RedisReplicas;
pub use sentinel::RedisSentinel;
#[cfg(feature = "tls")]
pub use tls::{Authority, Identity};

use std::time::Duration;

/// Names beside a lock on Redis, one row each: prefix, name, fence key, wake channel; or prefix, name, `error`. A fifth
/// column `one server` marks keys that a cluster cannot serve, because the names would lie in another slot.
/// Separated by tabs; rows that start with `#` are comments.
pub const REDIS_KEY_VECTORS: &str = include_str!("../../vectors/redis-keys.tsv");

/// How long servers may take until they stand together.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is yes.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let pause = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while !done() {
        assert!(waited < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(pause);
        waited += pause;
    }
}
