//! Where other libraries keep a lock of a name, as prefixes for [`Locks::with_prefix`](lock_core::Locks::with_prefix). What
//! is not here keeps it under the name itself, or is not served: see [the table](crate#other-libraries).
//!
//! ```
//! use lock_core::Locks;
//! use lock_redis::{RedisBackend, prefix};
//!
//! # async fn example(backend: RedisBackend) {
//! let locks = Locks::new(backend).with_prefix(prefix::POTTERY);
//! assert_eq!(locks.lock("order:7").key().as_str(), "redlock:order:7");
//! # }
//! ```

/// The mutex of distkit (Rust), unless its namespace was set to another.
pub const DISTKIT: &str = "distkit-locks:";

/// distributed-lock (Rust, its Redis backend).
pub const DISTRIBUTED_LOCK: &str = "distributed-lock:";

/// pottery (Python), with one master.
pub const POTTERY: &str = "redlock:";

/// python-redis-lock (Python).
///
/// Who waits there sleeps until its library's own release pushes to a list, or until its own timeout; our release does
/// not push. So let it wait with a timeout, after which it looks again, or not wait at all: without one it may sleep for
/// ever.
pub const PYTHON_REDIS_LOCK: &str = "lock:";

/// RedLock.net (.NET) with one server, unless its key format was set to another.
pub const RED_LOCK_NET: &str = "redlock:";

/// rueidislock (Go) with a majority of 1, unless its key prefix was set to another.
pub const RUEIDISLOCK: &str = "rueidislock:0:";

/// ShedLock (Java) on Redis, in this environment, unless its key prefix was set to another.
#[must_use]
pub fn shed_lock(environment: &str) -> String {
    format!("job-lock:{environment}:")
}
