//! What every backend must do, and tools to test lock code with. Not for production code: it panics on purpose.
//!
//! - [`Scripted`]: a backend in which each call is answered, failed, delayed or left hanging by the test.
//! - [`cancel_sweep`]: drops a future at each of its await points in turn.
//! - [`LeakCheck`]: no task was left behind.
//! - [`Honest`]: the model of a store, in 100 lines.
//! - [`server`]: real servers, as child processes (on Unix).
//! - [`proxy`]: stands between a Redis client and a real server, and loses, delays or garbles what the test says.
//! - [`conformance!`]: every promise of [`lock_core::LockBackend`] as a test of your backend, for which you write
//!   a [`Fixture`]. The [`cases`] are functions, one module a promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test library: to panic is how it says no"
)]

pub mod cases;
mod fixture;
mod honest;
mod leak;
pub mod proxy;
mod scripted;
#[cfg(unix)]
pub mod server;
mod sweep;

pub use cases::CASES;
pub use fixture::{Fixture, run_case};
pub use honest::{Entry, Honest};
pub use leak::LeakCheck;
pub use scripted::{Call, Effect, Op, Record, Renewal, Request, Script, Scripted};
pub use sweep::cancel_sweep;
