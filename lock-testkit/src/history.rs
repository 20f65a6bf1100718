//! Who held what from when to when, and whether that could be. Not what the store says: only what its clients believed.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{FencingToken, LockGuard, Moment};

mod check;
mod json;

pub use check::Violation;

/// A record of holds, from many tasks, clients and processes, which is then [checked](Self::check).
///
/// A clone is another handle of the same history. To record costs a short mutex and, with a
/// [log](Self::with_log), one write.
///
/// Stamps are nanoseconds of `CLOCK_BOOTTIME` (clock_gettime(2)), which all processes of a machine share and which goes
/// on while the system is suspended; on other systems than Linux they count from the history's start, which
/// is also what [`in_paused_time`](Self::in_paused_time) does. No two stamps of one history are equal, so
/// that order is kept even where time stands still.
///
/// What it says is on the safe side: a hold counts from when its grant was received until just before its release was
/// sent. Two holds that overlap here did overlap.
///
/// ```
/// use lock_core::{LockError, Locks};
/// use lock_testkit::{History, Scripted};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), LockError> {
/// let (locks, history) = (Locks::new(Scripted::honest()), History::in_paused_time());
/// for worker in ["one", "two"] {
///     let attempt = history.attempt("order:7", worker);
///     let guard = locks.lock("order:7").acquire().await?;
///     let hold = attempt.granted(&guard);
///     // Work.
///     hold.renewed(&guard);
///     hold.released();
///     guard.release().await?;
/// }
/// assert_eq!(history.holds().len(), 2);
/// history.assert_sound();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct History {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where stamps count from, if not from the system's start.
    start: Option<Moment>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    newest: u64,
    holds: Vec<Hold>,
    log: Option<Box<dyn Write + Send>>,
}

/// One hold: who had what from when to when. Times are nanoseconds; see [`History`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// What was held.
    pub key: String,
    /// Who held it: task, client and process, as far as they are to be told apart.
    pub who: String,
    /// Just before the request was sent.
    pub called: u64,
    /// When the grant was received.
    pub granted: u64,
    /// When the hold ends by itself, as far as was known last.
    pub valid_until: u64,
    /// When the holder gave it back or learnt that it was lost; `None` if neither was recorded.
    pub ended: Option<u64>,
    /// How it ended, if it did.
    pub end: End,
    /// The fencing token, where the store has them.
    pub token: Option<u64>,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, if at all: nobody said.
    Open,
    /// Its holder gave it back.
    Released,
    /// Its holder learnt that it was lost.
    Lost,
}

impl Hold {
    /// When the holder stopped believing that it holds the key: the first of its end and of its validity's.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.ended
            .map_or(self.valid_until, |ended| ended.min(self.valid_until))
    }

    /// Whether it was held for any time at all. A grant that came too late was not.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.granted < self.until()
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} held {:?}", self.who, self.key)?;
        if let Some(token) = self.token {
            write!(f, " with token {token}")?;
        }
        write!(f, " from {} to {} ns", self.granted, self.until())?;
        match self.end {
            End::Open => f.write_str(" (the end of its validity)"),
            End::Released => f.write_str(" (released)"),
            End::Lost => f.write_str(" (lost)"),
        }
    }
}

impl History {
    /// An empty history on the clock that all processes of this machine share.
    #[must_use]
    #[allow(
        clippy::new_without_default,
        reason = "which of the two clocks would be the default?"
    )]
    pub fn new() -> Self {
        let start = (!cfg!(target_os = "linux")).then(Moment::now);
        Self::starting_at(start)
    }

    /// An empty history in tokio's time, for a paused test. It counts from now.
    #[must_use]
    pub fn in_paused_time() -> Self {
        Self::starting_at(Some(Moment::now()))
    }

    fn starting_at(start: Option<Moment>) -> Self {
        let state = Mutex::default();
        Self {
            inner: Arc::new(Inner { start, state }),
        }
    }

    /// Also writes each change to `log` as one line of JSON with one `write_all`, for other processes to [`read`](Self::read),
    /// and so that a process that is killed leaves what it knew. Give it an unbuffered file that was opened to append.
    ///
    /// Recording panics where writing fails.
    #[must_use]
    pub fn with_log(self, log: impl Write + Send + 'static) -> Self {
        self.state().log = Some(Box::new(log));
        self
    }

    /// Adds what other histories of this machine have logged. Of several lines of one hold the last counts; a last line
    /// without an end, whose writer was killed, does not.
    ///
    /// # Errors
    ///
    /// Those of reading, and `InvalidData` for a line that no history wrote.
    pub fn read(&self, mut log: impl BufRead) -> io::Result<()> {
        let (mut line, mut read) = (String::new(), Vec::<Hold>::new());
        while log.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let hold = json::parse(&line).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("no hold: {line}"))
            })?;
            line.clear();
            read.push(hold);
        }
        // Stable: the lines of one hold stay in their order.
        read.sort_by(|a, b| (&a.who, a.called).cmp(&(&b.who, b.called)));
        let mut state = self.state();
        for hold in read {
            match state.holds.last_mut() {
                Some(last) if (&last.who, last.called) == (&hold.who, hold.called) => *last = hold,
                _ => state.holds.push(hold),
            }
        }
        Ok(())
    }

    /// Notes that `who` is about to ask for `key`. An attempt that is not granted leaves no trace.
    #[must_use = "it is recorded when it is granted"]
    pub fn attempt(&self, key: impl Into<String>, who: impl Into<String>) -> Attempted {
        Attempted {
            key: key.into(),
            who: who.into(),
            called: self.stamp(),
            history: self.clone(),
        }
    }

    /// Adds a hold that was put together by hand.
    pub fn add(&self, hold: Hold) {
        self.state().write(&hold);
        self.state().holds.push(hold);
    }

    /// All holds, in the order in which their grants were recorded.
    #[must_use]
    pub fn holds(&self) -> Vec<Hold> {
        self.state().holds.clone()
    }

    /// What cannot be, if locks exclude and fencing tokens rise. Takes n log n steps.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        check::check(self.holds())
    }

    /// That [`check`](Self::check) finds nothing.
    ///
    /// # Panics
    ///
    /// If it finds something; the message names the first few.
    pub fn assert_sound(&self) {
        let found = self.check();
        let first: Vec<_> = found.iter().take(5).map(ToString::to_string).collect();
        assert!(
            found.is_empty(),
            "{} violations, first:\n{}",
            found.len(),
            first.join("\n")
        );
    }

    /// Now, and later than every stamp before.
    fn stamp(&self) -> u64 {
        let mut state = self.state();
        let now = match &self.inner.start {
            Some(start) => start.elapsed(),
            None => since_boot(),
        };
        state.newest = nanoseconds(now).max(state.newest.saturating_add(1));
        state.newest
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("holds", &self.state().holds.len())
            .finish_non_exhaustive()
    }
}

impl State {
    fn write(&mut self, hold: &Hold) {
        if let Some(log) = &mut self.log {
            log.write_all(json::line(hold).as_bytes())
                .expect("the log of the history can be written");
        }
    }
}

/// An attempt that was begun: see [`History::attempt`].
#[derive(Debug)]
pub struct Attempted {
    history: History,
    key: String,
    who: String,
    called: u64,
}

impl Attempted {
    /// Notes that it was granted just now, as `guard`.
    #[must_use = "its end is worth recording"]
    pub fn granted(self, guard: &LockGuard) -> Held {
        // The stamp first: validity is not overstated by what happens between the two.
        let granted = self.history.stamp();
        let valid_until = granted.saturating_add(nanoseconds(guard.remaining()));
        self.record(granted, valid_until, guard.fencing_token())
    }

    /// Notes that a backend granted it just now, for `ttl` from when it was asked.
    #[must_use = "its end is worth recording"]
    pub fn granted_for(self, ttl: Duration, token: Option<FencingToken>) -> Held {
        let granted = self.history.stamp();
        let valid_until = self.called.saturating_add(nanoseconds(ttl));
        self.record(granted, valid_until, token)
    }

    fn record(self, granted: u64, valid_until: u64, token: Option<FencingToken>) -> Held {
        let hold = Hold {
            key: self.key,
            who: self.who,
            called: self.called,
            granted,
            valid_until,
            ended: None,
            end: End::Open,
            token: token.map(FencingToken::get),
        };
        let mut state = self.history.state();
        state.write(&hold);
        state.holds.push(hold);
        let index = state.holds.len() - 1;
        drop(state);
        Held {
            history: self.history,
            index,
        }
    }
}

/// A hold that was recorded. Dropped, it ends with its validity: its holder may have been killed.
#[derive(Debug)]
pub struct Held {
    history: History,
    index: usize,
}

impl Held {
    /// Notes for how long `guard` is held now. Without it, a hold counts only for as long as was granted at first.
    pub fn renewed(&self, guard: &LockGuard) {
        let now = self.history.stamp();
        let remaining = guard.remaining();
        if !remaining.is_zero() {
            let until = now.saturating_add(nanoseconds(remaining));
            self.change(|hold| hold.valid_until = until);
        }
    }

    /// Notes that the holder is about to ask for `ttl` instead of what is left, which may be more. To be called before
    /// that is sent: the store may know before the holder does.
    pub fn shortening(&self, ttl: Duration) {
        let until = self.history.stamp().saturating_add(nanoseconds(ttl));
        self.change(|hold| hold.valid_until = hold.valid_until.min(until));
    }

    /// Notes that the holder is about to give it back. To be called before the release is sent.
    pub fn released(self) {
        self.end(End::Released);
    }

    /// Notes that the holder has learnt that it is lost.
    pub fn lost(self) {
        self.end(End::Lost);
    }

    fn end(self, end: End) {
        let now = self.history.stamp();
        self.change(|hold| (hold.ended, hold.end) = (Some(now), end));
    }

    fn change(&self, change: impl FnOnce(&mut Hold)) {
        let mut state = self.history.state();
        change(&mut state.holds[self.index]);
        let hold = state.holds[self.index].clone();
        state.write(&hold);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Now, in the nanoseconds of [`History::new`].
#[cfg(target_os = "linux")]
pub(crate) fn now() -> u64 {
    nanoseconds(since_boot())
}

#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests;
