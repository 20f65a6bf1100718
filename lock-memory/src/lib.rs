//! Locks in the memory of one process: the reference for what a backend does, and the double for unit tests.
//! Not a lock between processes.
//!
//! [`MemoryBackend`] is one client of a store; its clones are further clients of the same store. It keeps every
//! promise of [`lock_core::LockBackend`], fencing tokens, wake-ups and hand-over included, so that what works
//! here works on a real store. Time is [`lock_core::Moment`]: virtual in a paused test.
//!
//! What a real store does to a lock behind your back is a method here: [`MemoryBackend::evict`],
//! [`MemoryBackend::expire`], [`MemoryBackend::steal`]. That nothing was left behind is
//! `assert!(backend.is_empty())`.
//!
//! ```
//! use std::time::Duration;
//! use lock_memory::MemoryBackend;
//! use lock_memory::lock_core::{AcquireRequest, Attempt, LockBackend, LockKey, Owner, Ownership};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = MemoryBackend::new();
//! let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(Some("web-1"))?);
//!
//! let request = AcquireRequest::new(&key, &owner, Duration::from_secs(30));
//! assert!(matches!(backend.try_acquire(request).await?, Attempt::Granted(_)));
//!
//! let other = Owner::fresh(None)?;
//! let request = AcquireRequest::new(&key, &other, Duration::from_secs(30));
//! let Attempt::Busy(busy) = backend.try_acquire(request).await? else { panic!("granted twice") };
//! assert_eq!(busy.holder.label.as_deref(), Some("web-1"));
//!
//! assert_eq!(backend.release(&key, &owner).await?, Ownership::Held);
//! assert!(backend.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Inside: `backend.rs` translates the trait to steps of the store, `store.rs` holds the entries under short
//! mutexes, `wakeups.rs` the subscriptions.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod backend;
mod store;
mod wakeups;

pub use backend::MemoryBackend;
pub use lock_core;
