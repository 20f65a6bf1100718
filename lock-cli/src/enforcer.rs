//! A process of its own that ends a command in time, whatever becomes of the one that holds the lock: stopped, killed,
//! starved. Not who decides that the lock is lost, but the one place where a command is ended.
//!
//! Its standard input says what to watch, a line each: `group ID`, `until NANOSECONDS` (the lock's deadline on the
//! system's clock that counts suspended time) and `end`. The end of the input means `end` as well: its writer is gone.

use std::io::{self, BufRead as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{self, Pid, Signal};

use crate::args::Enforce;

/// The longest sleep: the clock of sleeps stands still while the system is suspended, the deadline does not.
const LONGEST_SLEEP: Duration = Duration::from_millis(200);

/// How often it is looked whether a group that is being ended is gone.
const LOOK: Duration = Duration::from_millis(10);

/// How long it is looked after SIGKILL where nobody waits for the answer. All get it at once, but those that nobody reaps are in
/// their group for ever, as under a container's first process that is no init.
const LAST_LOOKS: u64 = 1_000_000_000;

/// Nanoseconds on the clock that all processes of the system share and that goes on while it is suspended.
pub(crate) fn now() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// What the writer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// The process group to end in time.
    Group(i32),
    /// The lock's deadline, on [`now`]'s clock.
    Until(u64),
    /// End it now.
    End,
}

impl Line {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Group(id) => format!("group {id}\n"),
            Self::Until(deadline) => format!("until {deadline}\n"),
            Self::End => "end\n".into(),
        }
    }

    /// What makes no sense ends the command: better too early than too late.
    fn parse(text: &str) -> Self {
        let (word, rest) = text.trim_end().split_once(' ').unwrap_or((text, ""));
        match (word, rest.parse(), rest.parse()) {
            ("group", Ok(id), _) => Self::Group(id),
            ("until", _, Ok(deadline)) => Self::Until(deadline),
            _ => Self::End,
        }
    }
}

/// The exit code that says that the command was ended because the deadline came near, and not because it was said.
pub(crate) const BY_DEADLINE: u8 = 1;

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait(Duration),
    Terminate,
    Kill,
}

/// What is known of the command.
#[derive(Debug)]
struct Watch {
    grace: u64,
    margin: u64,
    group: Option<i32>,
    until: Option<u64>,
    /// Since when it is being ended.
    ending: Option<u64>,
    /// Whether that began because the deadline came near.
    by_deadline: bool,
    terminated: bool,
}

impl Watch {
    fn hear(&mut self, line: Line, now: u64) {
        match line {
            Line::Group(id) => self.group = Some(id),
            Line::Until(deadline) => self.until = Some(deadline),
            Line::End => {
                self.ending.get_or_insert(now);
            }
        }
    }

    fn step(&mut self, now: u64) -> Step {
        let terminate_at = self.until.map(|until| until.saturating_sub(self.grace));
        if self.ending.is_none() && terminate_at.is_some_and(|at| now >= at) {
            self.ending = Some(now);
            self.by_deadline = true;
        }
        let Some(ending) = self.ending else {
            let left = terminate_at.map_or(u64::MAX, |at| at.saturating_sub(now));
            return Step::Wait(Duration::from_nanos(left).min(LONGEST_SLEEP));
        };
        let last = self.until.map(|until| until.saturating_sub(self.margin));
        let kill_at = ending
            .saturating_add(self.grace)
            .min(last.unwrap_or(u64::MAX));
        if now >= kill_at {
            return Step::Kill;
        }
        if !self.terminated {
            self.terminated = true;
            return Step::Terminate;
        }
        Step::Wait(Duration::from_nanos(kill_at.saturating_sub(now)).min(LOOK))
    }
}

/// Watches until the group is gone. The exit code of the process.
pub(crate) fn run(enforce: &Enforce) -> u8 {
    let nanoseconds = |milliseconds: u64| milliseconds.saturating_mul(1_000_000);
    let mut watch = Watch {
        grace: nanoseconds(enforce.grace),
        margin: nanoseconds(enforce.margin),
        group: None,
        until: None,
        ending: None,
        by_deadline: false,
        terminated: false,
    };
    let lines = read_lines();
    let mut pause = Duration::ZERO;
    let mut killed = None;
    loop {
        match lines.recv_timeout(pause) {
            Ok(line) => watch.hear(line, now()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                if killed.is_some_and(|at| now() > LAST_LOOKS.saturating_add(at)) {
                    return BY_DEADLINE;
                }
                if watch.ending.is_some() {
                    // It returns at once from now on.
                    thread::sleep(pause);
                }
                watch.hear(Line::End, now());
            }
        }
        let group = watch.group.and_then(Pid::from_raw);
        if watch.ending.is_some() && group.is_none_or(is_gone) {
            return if watch.by_deadline { BY_DEADLINE } else { 0 };
        }
        pause = match watch.step(now()) {
            Step::Wait(pause) => pause,
            Step::Terminate => {
                send(group, Signal::TERM);
                // A stopped process ends only when it goes on.
                send(group, Signal::CONT);
                LOOK
            }
            Step::Kill => {
                killed.get_or_insert_with(now);
                send(group, Signal::KILL);
                LOOK
            }
        };
    }
}

fn read_lines() -> Receiver<Line> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(Line::parse(&line)).is_err() {
                return;
            }
        }
    });
    lines
}

fn is_gone(group: Pid) -> bool {
    process::test_kill_process_group(group).is_err_and(|error| error == rustix::io::Errno::SRCH)
}

fn send(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It may be gone by now.
        let _ = process::kill_process_group(group, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch {
            grace: 1000,
            margin: 100,
            group: Some(1),
            until: None,
            ending: None,
            by_deadline: false,
            terminated: false,
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for line in [Line::Group(7), Line::Until(u64::MAX), Line::End] {
            assert_eq!(Line::parse(line.text().trim_end()), line);
        }
        for odd in ["", "group", "group x", "until -1", "what 1"] {
            assert_eq!(Line::parse(odd), Line::End, "{odd:?}");
        }
    }

    #[test]
    fn a_lock_that_is_renewed_is_left_alone() {
        let mut watch = watch();
        for now in (0..100_000).step_by(500) {
            watch.hear(Line::Until(now + 2000), now);
            assert!(matches!(watch.step(now), Step::Wait(_)), "at {now}");
        }
    }

    #[test]
    fn a_lock_that_fades_ends_the_command_before_the_deadline() {
        let mut watch = watch();
        watch.hear(Line::Until(5000), 0);
        assert!(matches!(watch.step(3999), Step::Wait(_)));
        assert_eq!(watch.step(4000), Step::Terminate);
        assert!(matches!(watch.step(4899), Step::Wait(_)));
        // It was asked to end: a renewal at the last moment does not change that.
        watch.hear(Line::Until(5300), 4899);
        assert!(matches!(watch.step(4999), Step::Wait(_)));
        assert_eq!(watch.step(5000), Step::Kill);
        assert_eq!(watch.step(5001), Step::Kill);
        watch.hear(Line::End, 5001);
        assert!(watch.by_deadline, "what began it stays");
    }

    #[test]
    fn an_end_leaves_the_grace_or_what_is_left_of_the_lock() {
        for (until, killed) in [(None, 1500), (Some(9000), 1500), (Some(1200), 1100)] {
            let mut watch = watch();
            until.inspect(|until| watch.hear(Line::Until(*until), 0));
            watch.hear(Line::End, 500);
            assert_eq!(watch.step(500), Step::Terminate);
            assert!(matches!(watch.step(killed - 1), Step::Wait(_)), "{until:?}");
            assert_eq!(watch.step(killed), Step::Kill, "{until:?}");
            assert!(!watch.by_deadline);
        }
    }

    #[test]
    fn a_deadline_that_has_passed_kills_at_once() {
        let mut watch = watch();
        watch.hear(Line::Until(5000), 0);
        assert_eq!(watch.step(6000), Step::Kill);
    }
}
