//! The store under test: what a backend's author writes, about twenty lines.

use std::io::Write as _;
use std::time::Duration;

use lock_core::{LockBackend, LockKey};
use tokio::runtime::Builder;
use tokio::time::timeout;

/// How long one case may take. Virtual time in a paused fixture.
const PATIENCE: Duration = Duration::from_secs(120);

tokio::task_local! {
    /// The case that runs, for messages.
    static CASE: &'static str;
}

/// A store under test, and whatever must live as long as the test: a server process, a directory.
///
/// Each case starts one of its own and drops it at the end. Several run at the same time; if their fixtures share a
/// server, that does no harm, because every case uses keys of its own.
///
/// The hooks do to the store what no client can. The default of each is "this fixture cannot", and the
/// cases that need it are then skipped, loudly, or wait instead.
///
/// ```
/// use lock_core::LockKey;
/// use lock_testkit::{Fixture, Scripted};
///
/// struct Honest(Scripted);
///
/// impl Fixture for Honest {
///     type Backend = Scripted;
///     const PAUSED: bool = true;
///
///     async fn start() -> Self {
///         Self(Scripted::honest())
///     }
///
///     async fn client(&self) -> Scripted {
///         self.0.clone()
///     }
///
///     async fn evict(&self, key: &LockKey) -> bool {
///         self.0.evict(key.as_str());
///         true
///     }
/// }
///
/// mod conformance {
///     lock_testkit::conformance!(super::Honest);
/// }
/// # fn main() {}
/// ```
pub trait Fixture: Sized + Send + Sync + 'static {
    /// The backend under test.
    type Backend: LockBackend;

    /// Whether the backend lives in tokio's paused time: no sockets, no processes. The cases then take no real time.
    const PAUSED: bool = false;

    /// Starts the store, or connects to it. Panics if it cannot: in CI nothing is skipped for want of a server.
    fn start() -> impl Future<Output = Self> + Send;

    /// A fresh client of the store, with a connection of its own where there are connections.
    fn client(&self) -> impl Future<Output = Self::Backend> + Send;

    /// What all keys start with, for a store that allows no others. Default: nothing.
    fn prefix(&self) -> &str {
        ""
    }

    /// Deletes the entry of `key` behind the clients' backs. `false`: this fixture cannot, which is the default.
    fn evict(&self, key: &LockKey) -> impl Future<Output = bool> + Send {
        let _ = key;
        async { false }
    }

    /// Ends the entry of `key` as if its ttl were over. `false`: this fixture cannot, which is the default;
    /// the cases then wait for the ttl.
    fn expire(&self, key: &LockKey) -> impl Future<Output = bool> + Send {
        let _ = key;
        async { false }
    }

    /// Puts something that is no lock at `key`, such as a value of another type. `false`: this fixture
    /// cannot, which is the default.
    fn obstruct(&self, key: &LockKey) -> impl Future<Output = bool> + Send {
        let _ = key;
        async { false }
    }
}

/// Runs one case, named `name`, on a runtime of its own. [`conformance!`](crate::conformance) calls this.
///
/// # Panics
///
/// If the backend breaks the case's promise, or the case is not over after two minutes.
pub fn run_case<F: Fixture, Fut: Future<Output = ()>>(
    name: &'static str,
    case: impl FnOnce(F) -> Fut,
) {
    let mut builder = if F::PAUSED {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    // Ignored where there is one thread.
    builder
        .worker_threads(2)
        .enable_all()
        .start_paused(F::PAUSED);
    let runtime = builder.build().expect("a runtime can be started");
    runtime.block_on(CASE.scope(name, async {
        let run = async { case(F::start().await).await };
        assert!(
            timeout(PATIENCE, run).await.is_ok(),
            "{name} is not over after {PATIENCE:?}"
        );
    }));
}

/// Says that a case is skipped unless the store `has` what it needs. Whether it is skipped.
pub(crate) fn lacks(what: &str, has: bool) -> bool {
    if !has {
        let case = CASE.try_with(|case| *case).unwrap_or("a case");
        // Not `println!`, whose output the test harness swallows.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {case}, because the store has no {what}"
        );
    }
    !has
}
