#![doc = include_str!("../README.md")]

#[doc(inline)]
pub use lock_core::*;

#[cfg(feature = "macros")]
#[doc(inline)]
pub use lock_macros::locked;

#[cfg(feature = "memory")]
#[doc(inline)]
pub use lock_memory::MemoryBackend;

// `redis` is the client crate itself: for connections that you make and hand over.
#[cfg(feature = "redis")]
#[doc(inline)]
pub use lock_redis::{RedisBackend, RedisBackendBuilder, redis};

// As above.
#[cfg(feature = "fred")]
#[doc(inline)]
pub use lock_fred::{FredBackend, FredBackendBuilder, fred};

// Where others keep locks: the same in both.
#[cfg(all(feature = "fred", not(feature = "redis")))]
#[doc(inline)]
pub use lock_fred::prefix;
#[cfg(feature = "redis")]
#[doc(inline)]
pub use lock_redis::prefix;

#[cfg(all(
    any(doc, doctest),
    feature = "memory",
    feature = "redis",
    feature = "mock"
))]
pub mod guide;
