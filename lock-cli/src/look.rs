//! Looking at locks, and taking one from its holder: `status`, `watch`, `release`. Not holding one.

use std::io::{self, Write as _};
use std::time::Duration;

use fencelock::{FencingToken, Holder, LockKey, Moment};
use tokio::time::{sleep, timeout};

use crate::args::{LockArgs, Release};
use crate::failure::Failure;
use crate::store::Store;

/// How often `watch` looks by itself.
const RECHECK: Duration = Duration::from_secs(1);

/// Says who holds the lock.
pub(crate) async fn status(lock: &LockArgs) -> Result<u8, Failure> {
    let store = Store::connect(lock).await?;
    let holder = store.locks.lock(&lock.key).status().await?;
    say(&describe(holder.as_ref()))?;
    Ok(0)
}

/// What `watch` tells apart. A renewal is no change.
#[derive(PartialEq, Eq)]
enum Seen {
    Free,
    Held(Option<String>, Option<FencingToken>),
    Unknown(String),
}

/// Says who holds the lock, now and at every change, behind the seconds since the start. Ends only by a signal.
pub(crate) async fn watch(lock: &LockArgs) -> Result<u8, Failure> {
    let store = Store::connect(lock).await?;
    let key = LockKey::with_prefix(&lock.prefix, &lock.key)?;
    let watched = store.locks.lock(&lock.key);
    let (start, mut last, mut wakeup) = (Moment::now(), None, None);
    loop {
        if wakeup.is_none()
            && let Some(wakeups) = store.backend.wakeups()
        {
            wakeup = wakeups.subscribe(&key, None).await.ok();
        }
        let (seen, text) = match watched.status().await {
            Ok(None) => (Seen::Free, describe(None)),
            Ok(Some(holder)) => {
                let text = describe(Some(&holder));
                (Seen::Held(holder.label, holder.fencing), text)
            }
            Err(error) => (
                Seen::Unknown(error.to_string()),
                format!("unknown: {error}"),
            ),
        };
        if last.as_ref() != Some(&seen) {
            say(&format!("{:10.3}  {text}", start.elapsed().as_secs_f64()))?;
            last = Some(seen);
        }
        match &mut wakeup {
            Some(wakeup) => drop(timeout(RECHECK, wakeup.notified()).await),
            None => sleep(RECHECK).await,
        }
    }
}

/// Takes the lock from whoever holds it.
pub(crate) async fn release(release: &Release) -> Result<u8, Failure> {
    let store = Store::connect(&release.lock).await?;
    let key = LockKey::with_prefix(&release.lock.prefix, &release.lock.key)?;
    match store.backend.force_release(&key).await? {
        None => say("it was free")?,
        Some(forced) => {
            let fenced = match forced.fencing {
                Some(token) => format!("; fencing tokens below {token} are stale"),
                None => "; the store has no fencing tokens".into(),
            };
            say(&format!(
                "released; it was {}{fenced}",
                describe(Some(&forced.holder))
            ))?;
        }
    }
    Ok(0)
}

/// One line; its first word is `free` or `held`.
fn describe(holder: Option<&Holder>) -> String {
    let Some(holder) = holder else {
        return "free".into();
    };
    let end = match holder.remaining {
        Some(_) => "",
        None => ", without an end",
    };
    let token = match holder.fencing {
        Some(token) => format!(", fencing token {token} at most"),
        None => String::new(),
    };
    format!("{holder}{end}{token}")
}

/// A line on standard output, at once: who reads it may be a program.
fn say(line: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(|error| Failure::system("write to standard output", &error))
}
