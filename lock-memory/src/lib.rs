//! Locks in the memory of one process: the reference for what a backend does, and the double for unit tests.
//! Not a lock between processes.
//!
//! [`MemoryBackend`] is one client of a store; [`MemoryBackend::client`] is a further client of the same store. It keeps every
//! promise of [`lock_core::LockBackend`], fencing tokens, wake-ups and hand-over included, so that what works
//! here works on a real store. Time is [`lock_core::Moment`]: virtual in a paused test, where with the feature `test-util` of `lock-core` a machine that
//! is busy changes nothing (without it, a second that it stands still counts as one).
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
//! # What does my service do when it loses the lock?
//!
//! What a network does to a client is a method too: [`MemoryBackend::partition`] and [`MemoryBackend::heal`],
//! [`MemoryBackend::fail_next`], [`MemoryBackend::fail_until_healed`], [`MemoryBackend::lose_next_reply`]. In a paused runtime such a test takes no time, although
//! the lock is held for minutes:
//!
//! ```
//! use std::time::Duration;
//! use lock_memory::{MemoryBackend, lock_core::{LockError, Locks}};
//! use tokio::time::sleep;
//!
//! /// The service under test.
//! async fn serve(locks: Locks) -> Result<(), LockError> {
//!     locks.with("leader", async |_| loop { sleep(Duration::from_secs(1)).await }).await
//! }
//!
//! // In your tests: #[tokio::test(start_paused = true)]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let backend = MemoryBackend::new();
//! let service = tokio::spawn(serve(Locks::new(backend.clone())));
//! sleep(Duration::from_secs(300)).await;
//! assert!(!service.is_finished(), "held and renewed for five minutes");
//!
//! backend.partition();
//! let result = service.await.unwrap();
//! assert!(matches!(result, Err(LockError::Lost { .. })), "stopped in time");
//! let other = Locks::new(backend.client()).lock("leader").acquire().await;
//! assert!(other.is_ok(), "who is not cut off goes on");
//! # }
//! ```
//!
//! Inside: `backend.rs` translates the trait to steps of the store, `network.rs` is what a test puts between the two,
//! `store.rs` holds the entries under short mutexes, `wakeups.rs` the subscriptions.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod backend;
mod network;
mod store;
mod wakeups;

pub use backend::MemoryBackend;
pub use lock_core;
