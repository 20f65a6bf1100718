//! The store under test: what a backend's author writes, about twenty lines.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{ForceRelease, LockBackend, LockKey, PassingOn};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::cases::scaled;
use crate::gap::Gap;
use crate::others::{self, Told};
use crate::report::Case;

/// How long one case may take. Virtual time in a paused fixture.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(scaled(120, 1800))
}

/// A store under test, and whatever must live as long as the test: a server process, a directory.
///
/// Each case starts one of its own and drops it at the end. Several run at the same time; if their fixtures share a
/// server, that does no harm, because every case uses keys of its own.
///
/// The hooks do to the store what no client can. The default of each answers `false`, "this fixture cannot", or nobody; that is
/// then a [`Gap`] to be declared in [`GAPS`](Self::GAPS), like everything that the store itself cannot.
///
/// ```
/// use lock_core::LockKey;
/// use lock_testkit::{Fixture, Gap, Scripted};
///
/// struct Honest(Scripted);
///
/// impl Fixture for Honest {
///     type Backend = Scripted;
///     const PAUSED: bool = true;
///     const GAPS: &[Gap] = &[
///         Gap::Order,
///         Gap::SurvivesRestart,
///         Gap::Expire,
///         Gap::Obstruct,
///         Gap::Restart,
///         Gap::Stop,
///         Gap::Stall,
///         Gap::CutConnections,
///         Gap::ForceRelease,
///         Gap::Processes,
///     ];
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

    /// What the store cannot do, and which hooks are not there. Default: nothing is lacking.
    ///
    /// The cases that need it are skipped, aloud and in the [`Report`](crate::Report). Whatever is not listed here is
    /// tested, and whatever is listed although it is there fails in a case of its own.
    const GAPS: &'static [Gap] = &[];

    /// What the store counts in: it rounds a ttl up to a multiple of it, and may tell as much less of what is left of an
    /// entry. Two seconds at the most. Default: 1 ms.
    ///
    /// An entry that lasts longer than asked by more than this fails, as does one that ends too early by anything.
    const RESOLUTION: Duration = Duration::from_millis(1);

    /// How often a lock goes from hand to hand in the cases before others get their turn. Default: as in applications, 64
    /// times within 5 ms.
    const PASSING_ON: PassingOn = PassingOn::at_most(64);

    /// Whether the store can be had here. Where it cannot, this says so aloud (in CI it panics), and the cases are skipped.
    /// Default: it can.
    fn is_here() -> bool {
        true
    }

    /// Starts the store, or connects to it. Panics if it cannot: in CI nothing is skipped for want of a server.
    fn start() -> impl Future<Output = Self> + Send;

    /// As [`start`](Self::start), for one case. Default: as for all others. Where a store takes long to start, cases can share
    /// it, but for [those that disturb it](Case::disturbs).
    fn start_for(case: &Case) -> impl Future<Output = Self> + Send {
        let _ = case;
        Self::start()
    }

    /// A fresh client of the store, with a connection of its own where there are connections.
    fn client(&self) -> impl Future<Output = Self::Backend> + Send;

    /// What all keys start with, for a store that allows no others. Default: nothing.
    fn prefix(&self) -> &str {
        ""
    }

    /// Deletes the entry of `key` behind the clients' backs.
    fn evict(&self, key: &LockKey) -> impl Future<Output = bool> + Send {
        let _ = key;
        async { false }
    }

    /// Ends the entry of `key` as if its ttl were over.
    fn expire(&self, key: &LockKey) -> impl Future<Output = bool> + Send {
        let _ = key;
        async { false }
    }

    /// Puts something that is no lock at `key`, such as a value of another type.
    fn obstruct(&self, key: &LockKey) -> impl Future<Output = bool> + Send {
        let _ = key;
        async { false }
    }

    /// Stops the store, whatever it was doing, and starts it again, with what it kept beyond that. Only where no other
    /// fixture uses the same store; the same goes for the hooks below.
    fn restart(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Stops the store, whatever it was doing, for the rest of the case: connections are refused.
    fn stop(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// While `stalled` the store answers nothing, and connections stay open. What it was sent meanwhile it does when it
    /// goes on.
    fn stall(&self, stalled: bool) -> impl Future<Output = bool> + Send {
        let _ = stalled;
        async { false }
    }

    /// Cuts all connections of all clients, now. They may connect again at once.
    fn cut_connections(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// A client that can take a lock from its holder: the backend, where it is a [`ForceRelease`] too.
    fn operator(&self) -> impl Future<Output = Option<Arc<dyn ForceRelease>>> + Send {
        async { None }
    }

    /// Where another process of this machine finds the store: what it is to [`join`](Self::join). Default: `None`, it cannot.
    fn address(&self) -> Option<String> {
        None
    }

    /// The fixture in another process: of the store at `address`, which is not this one's to start or to end.
    fn join(address: String) -> impl Future<Output = Option<Self>> + Send {
        let _ = address;
        async { None }
    }
}

/// Runs one case on a runtime of its own, or says on stderr that it is skipped and why.
/// [`conformance!`](crate::conformance) does this; cases of several processes run only there.
///
/// # Panics
///
/// If the backend breaks the case's promise, the case is not over after two minutes (half an hour with `FENCELOCK_LONG`), or the backend does not declare what the
/// case needs although that is no gap of the fixture.
pub fn run_case<F: Fixture, Fut: Future<Output = ()>>(case: Case, body: impl FnOnce(F) -> Fut) {
    const {
        // The cases wait for ten seconds for what ends by itself.
        assert!(F::RESOLUTION.as_millis() <= 2000, "too coarse to be tested");
    }
    if let Some(why) = skipped::<F>(&case) {
        say_skipped(&case.to_string(), &why);
        return;
    }
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
    runtime.block_on(async {
        let run = async {
            let fixture = match Told::here() {
                None => F::start_for(&case).await,
                Some(told) => F::join(told.address())
                    .await
                    .unwrap_or_else(|| panic!("{}", Gap::Processes.advice())),
            };
            if !case.needs.is_empty() {
                assert_declared(&fixture, case).await;
            }
            body(fixture).await;
        };
        let patience = patience();
        assert!(
            timeout(patience, run).await.is_ok(),
            "{case} is not over after {patience:?}"
        );
    });
}

/// As [`run_case`], for a test of this path, which other processes can be told to run.
#[doc(hidden)]
pub fn __run_test<F: Fixture, Fut: Future<Output = ()>>(
    test: &'static str,
    case: Case,
    body: impl FnOnce(F) -> Fut,
) {
    others::this_is(test);
    run_case(case, body);
}

/// Why `case` is not run.
/// Not by `println!`, whose output the test harness swallows. In one piece: other tests print at the same time.
fn say_skipped(case: &str, why: &str) {
    let line = format!("SKIPPED: {case}, because {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn skipped<F: Fixture>(case: &Case) -> Option<String> {
    if !F::is_here() {
        return Some("the store is not here".to_owned());
    }
    let lacks = case.lacks::<F>();
    (!lacks.is_empty()).then(|| format!("of the declared gaps {lacks:?}"))
}

/// The backend must declare what the case needs, which the fixture does not declare to be lacking.
async fn assert_declared<F: Fixture>(fixture: &F, case: Case) {
    let declared = fixture.client().await.capabilities();
    for need in case.needs {
        assert!(
            need.is_declared_in(&declared) != Some(false),
            "{case} needs {need}: {}",
            need.advice()
        );
    }
}
