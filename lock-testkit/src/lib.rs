//! What every backend must do, and tools to test lock code with. Not for production code: it panics on purpose.
//!
//! - [`Faulty`]: any backend, with what the test puts between it and its callers: errors, lost replies, late copies.
//! - [`Scripted`]: the same around a store in memory, for tests in virtual time.
//! - [`cancel_sweep`]: drops a future at each of its await points in turn.
//! - [`LeakCheck`]: no task was left behind.
//! - [`seed()`]: what is tried at random can be tried again.
//! - [`History`]: who held what from when to when, in many tasks and processes, and whether that could be.
//! - [`Honest`]: the model of a store, in 100 lines; [`HonestStore`] is the same as a backend.
//! - [`server`]: real servers, as child processes: alone, with replicas, as a cluster, behind Sentinel, over TLS (on Unix).
//! - [`proxy`]: stands between a Redis client and a real server, and loses, delays or garbles what the test says.
//! - [`nemesis`]: everything goes wrong at once, for several processes, as a seed says (on Linux).
//! - [`conformance!`]: every promise of [`lock_core::LockBackend`] as a test of your backend, for which you write
//!   a [`Fixture`], and a [`Report`] of what it was spared. The [`cases`] are functions, one module a promise.
//!
//! # Bring your own backend
//!
//! From nothing to green in five steps. `examples/file_backend.rs` is a whole backend, in about 250 lines on files, that
//! went this way; `tests/file_backend.rs` is its fixture.
//!
//! **1. See whether the store can.** It needs one atomic step that reads and writes (a script, a transaction, a
//! compare-and-swap, a file lock), and a clock that all clients share: the store's own, or that of the one machine on which
//! all run. Without the first there is no lock; without the second no ttl.
//!
//! **2. Write the table.** Implement [`lock_core::LockBackend`], an `#[async_trait]` trait, with two `[dependencies]` besides
//! your client: `lock-core = { path = "../fencelock/lock-core" }` and `async-trait = "0.1"`. Each method is one step of the
//! store. Retries, waiting, renewal, timeouts and logs are not yours. An entry is an owner and an end:
//!
//! | Method | If there is no entry, or it has ended | If it is this owner's | If it is somebody else's |
//! |---|---|---|---|
//! | `try_acquire` | set it, answer `Granted` | answer the same grant, touch nothing | `Busy`, touch nothing |
//! | `try_acquire` with `from` | `Busy`, with an empty holder | the same grant | set it if it is `from`'s, else `Busy` |
//! | `renew` | `Absent`, never recreate it | set its end, answer `Held` | `Taken` |
//! | `release` | `Absent` | delete it, answer `Held` | `Taken` |
//! | `inspect` | `None` | its holder | its holder |
//!
//! An entry that has ended and is still there, as a row or a file may be, is none, whoever asks: also its owner of before, and who
//! hands over from it.
//!
//! The holder, in `Busy` too, is the label that the owner's text carries ([`Owner::label_in`](lock_core::Owner::label_in)),
//! what is left of the entry, which you have to tell, and the last fencing token that it was granted, or a greater one that
//! was given, where you have any.
//!
//! **3. Say what went wrong.** [`BackendError::unknown`](lock_core::BackendError::unknown) unless you know that the request was
//! not applied: a lost reply is unknown, a refused connection is not. Something at the key that is no lock is a conflict.
//! No error prints an owner.
//!
//! **4. Declare what it can do,** and no more: what is declared is tested, and so is that nothing is missing unsaid. A
//! client that may send a request again by itself declares [`resends`](field@lock_core::Capabilities::resends), and its fixture
//! [`Gap::SendsOnce`]; not tested is whether it ever does.
//! Start with [`Capabilities::new`](lock_core::Capabilities::new), which declares nothing, and the [gaps](Gap) that are left; add
//! fencing tokens first. They have to rise also after
//! the entry was deleted and after the store lost its data: the greater of the last token + 1 and the store's time in
//! microseconds does. The file backend has no wake-ups, and its waiters look again every now and then.
//!
//! Where operators shall be able to take a lock from a holder that is stuck, implement [`lock_core::ForceRelease`] too.
//!
//! **5. Write the fixture,** in `tests/conformance.rs` of your crate, with `lock-testkit` as a dev-dependency. Where the store
//! counts in more than milliseconds, say so with [`Fixture::RESOLUTION`]: it rounds a ttl up to a multiple of it, and nothing
//! else may make an entry longer. Nothing is to be said of how long a request takes: a store is as good as others up to 300 ms, on
//! which a suite of ours runs. A case that says `no answer to acquire within` has met a slower one.
//!
//! ```
//! # use lock_core::LockKey;
//! # use lock_testkit::{Fixture, Gap, Scripted};
//! struct MyFixture(Scripted); // What must live as long as a test: a server, a directory.
//!
//! impl Fixture for MyFixture {
//!     type Backend = Scripted; // Your backend.
//!
//!     // What the store cannot do, and which hooks are missing below.
//!     const GAPS: &[Gap] = &[
//!         Gap::Order,
//!         Gap::SurvivesRestart,
//!         Gap::Expire,
//!         Gap::Obstruct,
//!         Gap::Restart,
//!         Gap::Stop,
//!         Gap::Stall,
//!         Gap::CutConnections,
//!         Gap::ForceRelease,
//!         Gap::Processes,
//!     ];
//!
//!     async fn start() -> Self {
//!         Self(Scripted::honest())
//!     }
//!
//!     async fn client(&self) -> Scripted {
//!         self.0.clone()
//!     }
//!
//!     // The hooks do what no client can. This one deletes an entry behind the clients' backs.
//!     async fn evict(&self, key: &LockKey) -> bool {
//!         self.0.evict(key.as_str());
//!         true
//!     }
//! }
//!
//! mod conformance {
//!     lock_testkit::conformance!(super::MyFixture);
//! }
//! # fn main() {}
//! ```
//!
//! `cargo test` runs a test for each case (so does `cargo nextest run`, each in a process of its own),
//! `cargo test conformance::renewal` those of one promise. A test that fails has the
//! promise as its name; its documentation in [`cases`] says more. Where it failed in `steps.rs`, in what many cases do, `RUST_BACKTRACE=1`
//! shows the line of the case. What you declare in [`GAPS`](Fixture::GAPS) is skipped, with a
//! line that begins with `SKIPPED`, and `cargo test conformance::report -- --nocapture` prints the whole list for your readers.
//! What you declare although it is there fails, as does what is missing and not declared. A new version of lock-testkit brings its
//! new cases along.
//!
//! Green? Then what is left is what only your store can suffer. Put [`Faulty`] around your backend where a fault is one of
//! calls, and do to the store itself what its network and its operators do; let several processes take locks meanwhile, as
//! in [`nemesis`], record them in a [`History`], and [check](History::check) that. Break your backend on purpose, each
//! command in turn, and see that a case says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test library: to panic is how it says no"
)]

pub mod cases;
mod faulty;
mod fixture;
mod gap;
mod history;
mod honest;
mod leak;
mod linear;
#[cfg(target_os = "linux")]
pub mod nemesis;
mod others;
pub mod proxy;
mod report;
mod scripted;
mod seed;
#[cfg(unix)]
pub mod server;
mod sweep;

pub use cases::CASES;
pub use faulty::{Call, Effect, Faulty, Op, Record, Renewal, Request, Script};
pub use fixture::{__run_test, Fixture, run_case};
pub use gap::Gap;
pub use history::{Attempted, End, Held, History, Hold, Violation};
pub use honest::{Entry, Honest, HonestStore};
pub use leak::LeakCheck;
pub use report::{Case, Report};
pub use scripted::Scripted;
pub use seed::seed;
pub use sweep::cancel_sweep;
