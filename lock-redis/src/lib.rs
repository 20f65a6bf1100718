//! Locks on Redis and Valkey, through [redis-rs](redis).
//!
//! ```no_run
//! use lock_redis::RedisBackend;
//!
//! # async fn example() -> Result<(), lock_redis::lock_core::BackendError> {
//! let backend = RedisBackend::connect("redis://127.0.0.1:6379").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What stands at the server
//!
//! | Where | What |
//! |---|---|
//! | the caller's key, prefix + name | the owner: 32 lower-case hex digits, then `:label` if it has one; expires with the lock |
//! | `<prefix>{<key>}:fencelock:fence` | the last fencing token given; expires after long disuse (24 h, or ten times the ttl if that is longer) |
//! | `<prefix>{<key>}:fencelock:wake` | the channel on which a release is told |
//!
//! A key that has a hash tag of its own is followed by `:fencelock:tag:fence` and `:fencelock:tag:wake` instead.
//! So all of them start with the prefix, and lie in one cluster slot.
//!
//! The entry is taken like `SET key value NX PX ttl`, given up by compare-and-delete and renewed by
//! compare-and-`PEXPIRE`. That excludes, and is excluded by, everybody who locks the same key with `SET NX`:
//! redis-py, redsync, redislock, node-redlock and others. Their values are their secrets and are not shown. A key of
//! another type (Redisson's locks are hashes) is a conflict, and left alone.
//!
//! Fencing tokens are the greater of the last one + 1 and the server's time in microseconds. So they grow also
//! when the server was flushed or came back empty, as long as its clock is not set back.
//!
//! # Servers and deployments
//!
//! Redis from 6.2 and Valkey from 7.2: a single server, or the primary behind an address that follows a failover.
//! Replication is asynchronous: a lock that was taken just before a failover may be gone after it, and fencing
//! tokens are what then keeps writes in order. RESP3 is used where the server has it, RESP2 else.
//! Redis Cluster and Sentinel are not served yet.
//!
//! The server must not evict locks: use `maxmemory-policy noeviction` or a `volatile-` policy with room to spare.
//!
//! # What the user may do
//!
//! Redis runs scripts with the rights of who sends them. The least for locks with the prefix `lock:`:
//!
//! ```text
//! ACL SETUSER locks on >password resetkeys resetchannels -@all ~lock:* &lock:*
//!     +evalsha +eval +set +get +getrange +type +del +pexpire +pttl +time
//!     +publish +subscribe +unsubscribe +ping
//! ```
//!
//! Give the prefix as the prefix of the keys: the counter and the channel of a key that only looks as if it had one
//! do not start with it. What is missing is named by the first attempt. Without the last line, or without the channels, waiters look at the lock from time to time instead of being
//! woken. A database other than 0 needs `+select`.
//!
//! # Failures
//!
//! Each call sends its request once. A request that was refused, or could not be sent because there was no
//! connection, is known not to be applied; one without an answer is [unknown]. A broken connection is made anew by
//! the next call. One that is open but silent is given up after two calls in a row without an answer, and one on which
//! something comes that no script of ours answers, at once.
//!
//! [unknown]: lock_core::BackendErrorKind::Unknown
//!
//! # Map
//!
//! `backend.rs` translates calls to scripts, `answer.rs` their answers back, `scripts.rs` and `lua/` are the steps at
//! the server, `keys.rs` the names, `error.rs` decides what a failure means, `client.rs` speaks to redis-rs,
//! `connection.rs` keeps the connection, `wakeups.rs` and `subscription.rs` wake waiters, `force.rs` is for operators.

mod answer;
mod backend;
mod client;
mod connection;
mod error;
mod force;
mod keys;
mod scripts;
mod subscription;
mod wakeups;

pub use backend::{
    DEFAULT_CONNECT_TIMEOUT, DEFAULT_RESPONSE_TIMEOUT, RedisBackend, RedisBackendBuilder,
};
pub use lock_core;
pub use redis;
