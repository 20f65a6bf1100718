//! A whole backend on files, for the processes of one machine: one file a key, changed under flock(2) and replaced by
//! rename(2). It passes `conformance!` in `tests/file_backend.rs`. The guide to it is lock-testkit's crate docs.
//!
//! `cargo run -p lock-testkit --example file_backend -- /run/lock/example` in two terminals.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, Capabilities, FencingRange,
    FencingToken, Grant, Holder, LockBackend, LockKey, Locks, Owner, Ownership, Renew,
    RenewRequest, Wakeups,
};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

/// Shared by all processes, and nobody sets it. On Linux it also counts while the system is suspended.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// A client of the locks in one directory. That should be emptied by a reboot, which also restarts the clock: a place in
/// `/run`. The files of keys that are free stay there, for their fencing tokens.
#[derive(Debug, Clone)]
pub(crate) struct FileBackend {
    directory: Arc<Path>,
}

/// What the file of a key says. One that is missing says the default.
#[derive(Debug, Clone, Default, PartialEq)]
struct Slot {
    /// The owner, with its label. Empty: the key is free.
    owner: String,
    /// When the entry ends, in nanoseconds of [`CLOCK`].
    ends: u64,
    /// The fencing tokens of the last grant.
    first: u64,
    last: u64,
}

impl FileBackend {
    /// A client of the locks in `directory`, which is made when it is first needed.
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into().into(),
        }
    }

    /// The file of `key`: its bytes in hexadecimal, because a name may hold anything, in parts, because a file's name may not
    /// be long. A part that goes on ends in `+`, so no file is where another key needs a directory.
    pub(crate) fn path(&self, key: &LockKey) -> PathBuf {
        let mut path = self.directory.to_path_buf();
        let mut parts = key.as_str().as_bytes().chunks(100).peekable();
        while let Some(part) = parts.next() {
            let mut name: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
            name.push_str(if parts.peek().is_some() { "+" } else { "" });
            path.push(name);
        }
        path
    }

    /// One atomic step, on a thread that may block. Dropping the future does not undo it.
    async fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(Self) -> T + Send + 'static,
    ) -> Result<T, BackendError> {
        let backend = self.clone();
        tokio::task::spawn_blocking(move || step(backend))
            .await
            .map_err(|error| BackendError::unknown("the step did not end").with_source(error))
    }

    /// Changes what the file of `key` says, under its lock. Until the rename nothing has happened, so errors say "not applied".
    fn change<T>(
        &self,
        key: &LockKey,
        change: impl FnOnce(&mut Slot, u64) -> T,
    ) -> Result<T, BackendError> {
        let failed = |error: io::Error| BackendError::transient("files failed").with_source(error);
        let path = self.path(key);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        // A file of its own, because rename replaces the other. Closed at the end, which unlocks it.
        let lock = File::create(path.with_extension("lock")).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let now = now();
        let mut slot = match fs::read_to_string(&path) {
            Ok(text) => Slot::parse(&text).ok_or_else(|| {
                BackendError::new(BackendErrorKind::Conflict, "the file holds no lock")
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Slot::default(),
            Err(error) => return Err(failed(error)),
        };
        if slot.ends <= now {
            slot.owner.clear();
        }
        let before = slot.clone();
        let answer = change(&mut slot, now);
        if slot != before {
            let new = path.with_extension("new");
            fs::write(&new, slot.to_text()).map_err(failed)?;
            fs::rename(&new, &path).map_err(failed)?;
        }
        Ok(answer)
    }
}

impl Slot {
    /// The owner stands last, because a label may hold anything.
    fn to_text(&self) -> String {
        format!("{} {} {} {}", self.ends, self.first, self.last, self.owner)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        let mut number = || parts.next()?.parse().ok();
        let (ends, first, last) = (number()?, number()?, number()?);
        let owner = parts.next()?.to_owned();
        Some(Self {
            owner,
            ends,
            first,
            last,
        })
    }

    fn ownership(&self, owner: &str) -> Ownership {
        match self.owner.as_str() {
            "" => Ownership::Absent,
            found if found == owner => Ownership::Held,
            _ => Ownership::Taken,
        }
    }

    fn grant(&self) -> Grant {
        let (first, last) = (FencingToken::new(self.first), FencingToken::new(self.last));
        Grant::new(Some(FencingRange::new(first, last)))
    }

    /// Who holds it; nobody if it is free.
    fn holder(&self, now: u64) -> Option<Holder> {
        let holder = || {
            Holder::new()
                .with_label(Owner::label_in(&self.owner).map(str::to_owned))
                .with_remaining(Some(Duration::from_nanos(self.ends.saturating_sub(now))))
                .with_fencing(Some(FencingToken::new(self.last)))
        };
        (!self.owner.is_empty()).then(holder)
    }
}

#[async_trait]
impl LockBackend for FileBackend {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let (key, owner) = (request.key.clone(), request.owner.expose().to_owned());
        let from = request.from.map(|from| from.expose().to_owned());
        let (ttl, tokens) = (request.ttl, request.tokens);
        self.step(move |backend| {
            backend.change(&key, |slot, now| {
                if slot.owner == owner {
                    return Attempt::Granted(slot.grant());
                }
                // Free for who asks anew; for a hand-over, held by the one it comes from.
                if slot.owner != from.unwrap_or_default() {
                    return Attempt::Busy(Busy::new(slot.holder(now).unwrap_or_default()));
                }
                let first = slot.last.saturating_add(1).max(wall_clock());
                let last = first.saturating_add(u64::from(tokens).saturating_sub(1));
                let ends = now.saturating_add(nanoseconds(ttl));
                *slot = Slot {
                    owner,
                    ends,
                    first,
                    last,
                };
                Attempt::Granted(slot.grant())
            })
        })
        .await?
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let all: Vec<_> = renewals
            .iter()
            .map(|one| {
                (
                    one.key.clone(),
                    one.owner.expose().to_owned(),
                    one.ttl,
                    one.how,
                )
            })
            .collect();
        let renew_all = |backend: Self| {
            let renew = |(key, owner, ttl, how): (LockKey, String, _, _)| {
                backend.change(&key, |slot, now| {
                    let ownership = slot.ownership(&owner);
                    if ownership == Ownership::Held {
                        let ends = now.saturating_add(nanoseconds(ttl));
                        slot.ends = match how {
                            Renew::AtLeast => slot.ends.max(ends),
                            Renew::Exactly => ends,
                        };
                    }
                    ownership
                })
            };
            all.into_iter().map(renew).collect()
        };
        match self.step(renew_all).await {
            Ok(answers) => answers,
            Err(error) => renewals.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        let (key, owner) = (key.clone(), owner.expose().to_owned());
        self.step(move |backend| {
            backend.change(&key, |slot, _| {
                let ownership = slot.ownership(&owner);
                if ownership == Ownership::Held {
                    slot.owner.clear();
                }
                ownership
            })
        })
        .await?
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        let key = key.clone();
        self.step(move |backend| backend.change(&key, |slot, now| slot.holder(now)))
            .await?
    }

    /// No wake-ups: waiters look again. No line. Nothing outlives a reboot.
    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_fencing(true)
            .with_hand_over(true)
            .with_any_ttl(true)
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        None
    }
}

fn now() -> u64 {
    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let within = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(within)
}

/// Microseconds of the wall clock: where new fencing tokens start at least, so that they also rise after a reboot.
#[allow(clippy::disallowed_methods, reason = "it only lifts fencing tokens")]
fn wall_clock() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    time.map_or(0, |time| {
        u64::try_from(time.as_micros()).unwrap_or_default()
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).ok_or("say which directory")?;
    let locks = Locks::new(FileBackend::new(directory)).with_label(std::process::id().to_string());
    let guard = locks.lock("example").acquire().await?;
    println!("held, with fencing token {:?}", guard.fencing_token());
    tokio::time::sleep(Duration::from_secs(5)).await;
    guard.release().await?;
    Ok(())
}
