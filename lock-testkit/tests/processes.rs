//! A store that is wrong only where there are several processes is found out by the cases that are of several.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

use std::collections::{HashMap, HashSet};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, process, thread};

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, Capabilities, Holder, LockBackend, LockKey, Owner,
    Ownership, RenewRequest, Wakeups,
};
use lock_testkit::{__run_test, CASES, Case, Fixture, Gap, cases};
use tokio::runtime::Handle;
use tokio::time::sleep;

#[allow(dead_code, reason = "its main function")]
#[path = "../examples/file_backend.rs"]
mod file_backend;
use file_backend::FileBackend;

/// Each process has a store of its own, although its fixture says otherwise.
const PRIVATE: u8 = 0;
/// No entry ends by itself: the client that took it deletes it when its ttl is over.
const ENDS_IN_THE_CLIENT: u8 = 1;
/// A client that believes in an entry deletes it without comparing; and its clock stands still while its process does.
const CLOCK_STANDS_STILL: u8 = 2;

/// How often that clock ticks.
const TICK: Duration = Duration::from_millis(5);

/// Files in a directory, with what is wrong.
struct Files<const FLAW: u8> {
    directory: PathBuf,
    is_ours: bool,
}

impl<const FLAW: u8> Fixture for Files<FLAW> {
    type Backend = Broken<FLAW>;

    async fn start() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("broken-files-{}-{number}", process::id());
        Self {
            directory: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name),
            is_ours: true,
        }
    }

    async fn client(&self) -> Broken<FLAW> {
        Broken(Client::new(&self.directory))
    }

    fn address(&self) -> Option<String> {
        self.directory.to_str().map(str::to_owned)
    }

    async fn join(directory: String) -> Option<Self> {
        if FLAW == PRIVATE {
            return Some(Self::start().await);
        }
        Some(Self {
            directory: directory.into(),
            is_ours: false,
        })
    }
}

impl<const FLAW: u8> Drop for Files<FLAW> {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

#[derive(Debug)]
struct Broken<const FLAW: u8>(Arc<Client>);

#[derive(Debug)]
struct Client {
    files: FileBackend,
    /// Of a clock of the client's own.
    ticks: AtomicU64,
    /// Until which tick it believes in the entry of a key.
    held: Mutex<HashMap<LockKey, u64>>,
}

impl Client {
    fn new(directory: &Path) -> Arc<Self> {
        let client = Arc::new(Self {
            files: FileBackend::new(directory),
            ticks: AtomicU64::new(0),
            held: Mutex::default(),
        });
        let clock = Arc::downgrade(&client);
        thread::spawn(move || {
            while let Some(client) = clock.upgrade() {
                client.ticks.fetch_add(1, Ordering::SeqCst);
                drop(client);
                thread::sleep(TICK);
            }
        });
        client
    }

    fn believe(&self, key: &LockKey, ttl: Duration) {
        let ticks = u64::try_from(ttl.as_millis() / TICK.as_millis()).unwrap();
        let until = self.ticks.load(Ordering::SeqCst).saturating_add(ticks);
        self.held.lock().unwrap().insert(key.clone(), until);
    }

    fn believes(&self, key: &LockKey) -> bool {
        let until = self.held.lock().unwrap().get(key).copied();
        until.is_some_and(|until| self.ticks.load(Ordering::SeqCst) < until)
    }
}

#[async_trait]
impl<const FLAW: u8> LockBackend for Broken<FLAW> {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let mut wrong = request;
        if FLAW == ENDS_IN_THE_CLIENT {
            wrong.ttl = request.ttl.saturating_mul(1000);
        }
        let answer = self.0.files.try_acquire(wrong).await?;
        if let Attempt::Granted(_) = answer {
            self.0.believe(request.key, request.ttl);
            if FLAW == ENDS_IN_THE_CLIENT {
                let client = Arc::clone(&self.0);
                let (key, owner) = (request.key.clone(), request.owner.clone());
                Handle::current().spawn(async move {
                    while client.believes(&key) {
                        sleep(TICK).await;
                    }
                    client.files.release(&key, &owner).await
                });
            }
        }
        Ok(answer)
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        for renewal in renewals {
            self.0.believe(renewal.key, renewal.ttl);
        }
        self.0.files.renew(renewals).await
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        if FLAW == CLOCK_STANDS_STILL && self.0.believes(key) {
            let _ = fs::remove_file(self.0.files.path(key));
            return Ok(Ownership::Held);
        }
        self.0.files.release(key, owner).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        let mut found = self.0.files.inspect(key).await?;
        if let (ENDS_IN_THE_CLIENT, Some(holder)) = (FLAW, &mut found) {
            holder.remaining = Some(Duration::from_secs(1));
        }
        Ok(found)
    }

    fn capabilities(&self) -> Capabilities {
        self.0.files.capabilities()
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        self.0.files.wakeups()
    }
}

/// Whether this process was started by a case, of which it does a part.
fn is_a_part() -> bool {
    env::var_os("FENCELOCK_CASE_NUMBER").is_some()
}

/// Each case, the flaw that it must find, and what it says then.
macro_rules! verdicts {
    ($($case:ident: $flaw:ident, $verdict:literal;)*) => {
        const TESTED: &[&str] = &[$(stringify!($case)),*];

        $(
            #[test]
            fn $case() {
                let run = || {
                    __run_test::<Files<$flaw>, _>(
                        concat!(module_path!(), "::", stringify!($case)),
                        *CASES.iter().find(|case| case.name == stringify!($case)).unwrap(),
                        cases::processes::$case,
                    );
                };
                if is_a_part() {
                    return run();
                }
                let panic = catch_unwind(run).unwrap_err();
                let said = panic.downcast_ref::<String>().unwrap();
                assert!(said.contains($verdict), "{said}");
            }
        )*
    };
}

verdicts! {
    holds_of_several_processes_do_not_overlap: PRIVATE, "two holds overlap";
    the_lock_of_a_process_that_was_killed_comes_free_after_its_ttl: ENDS_IN_THE_CLIENT, "should be granted";
    a_process_that_was_stopped_leaves_the_next_holder_alone: CLOCK_STANDS_STILL, "Ok(Released)";
}

#[test]
fn every_case_of_several_processes_catches_something() {
    let tested: HashSet<_> = TESTED.iter().copied().collect();
    let is_of_several = |case: &&Case| case.needs.contains(&Gap::Processes);
    let all = CASES.iter().filter(is_of_several).map(|case| case.name);
    assert_eq!(all.collect::<HashSet<_>>(), tested);
}
