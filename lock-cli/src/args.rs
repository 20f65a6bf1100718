//! What can be asked for, and the help that teaches it. Not how it is done.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Runs a command while it holds a distributed lock.
#[derive(Debug, Parser)]
#[command(
    name = "fencelock",
    version,
    about = "Runs a command while it holds a distributed lock, and ends it in time when the lock is lost",
    after_help = "\
Examples:
  export LOCK_URL=redis://127.0.0.1:6379
  fencelock run --key nightly --ttl 30s --try -- ./backup.sh /srv
  fencelock run --key deploy --wait 10m -- make deploy
  fencelock status --key nightly
  fencelock watch --key nightly
  fencelock release --force --key nightly

`fencelock run --help` says what happens when the lock is lost, and lists the exit codes."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run a command while holding a lock
    #[command(after_long_help = RUN_HELP)]
    Run(Run),
    /// Say who holds a lock: `free`, or `held` with label, remaining time and fencing token
    Status(LockArgs),
    /// Say so now and whenever it changes, until interrupted
    Watch(LockArgs),
    /// Take a lock from its holder, for operators: needs --force
    #[command(after_long_help = RELEASE_HELP)]
    Release(Release),
    /// For `run` itself: ends a command in time
    #[command(name = "enforce", hide = true)]
    Enforce(Enforce),
    /// For `run` itself: becomes the command
    #[command(name = "start", hide = true)]
    Start(Start),
}

const RUN_HELP: &str = "\
What happens:
  The lock is taken first: by one attempt with --try, else by waiting for it. The command then
  runs in a process group of its own while the lock is renewed, three times per ttl. When the
  command ends, what it left running in its group is ended, the lock is released, and its exit
  code becomes that of fencelock.

  If the lock is lost (the store is down for too long, somebody removed the entry), the command
  gets SIGTERM, and what is left of its group gets SIGKILL early enough to be over before the
  lock's deadline; a second later at most if somebody else has the lock already. A ttl of 30s
  leaves a command that ignores nothing about 10 s to end: see --grace.

  A second process sees to that even if fencelock itself is stopped or killed. If both are killed
  at one blow, the command gets SIGTERM on Linux and is left alone elsewhere. Out of reach is what
  leaves the command's group, as a daemon does (setsid), or becomes another user's, as with sudo: it
  may outlive the lock. A fencelock within a fencelock ends its own command, within its own grace.

  SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are forwarded to the command's group,
  except (on Linux) those that were ignored at the start, as with nohup: they stay ignored.
  Its standard input is that of fencelock unless that is a terminal, and empty then. A command that
  opens the terminal itself, to ask for a password, is stopped by the system: Ctrl-C ends it.

The command's environment is that of fencelock, LOCK_URL included, and:
  FENCELOCK_KEY       the key, prefix included
  FENCELOCK_TOKEN     the fencing token: send it along with every write, and let the resource
                      refuse smaller numbers. Absent where the store has none
  FENCELOCK_DEADLINE  when the lock would have ended as of the start, in milliseconds since
                      1970-01-01 UTC; it moves on while the lock is renewed

Exit codes:
  the command's own, 128 + N if signal N ended it, and otherwise
   64  the arguments make no sense
   69  the store is down, refused, or did not answer
   71  something on this machine failed
   75  somebody else holds the lock (another one: --busy-code)
   79  the lock was lost while the command ran, and the command was ended
  126  the command cannot be executed
  127  the command was not found";

const RELEASE_HELP: &str = "\
Removes the entry whoever owns it, and reserves a fencing token above the holder's: it is printed,
and a resource that has seen it refuses what the old holder still writes. The old holder hears of
its loss at its next renewal; until then it believes that it holds the lock, so somebody else who
takes it now may run beside it. For holders that are known to be dead or stuck.";

/// Which lock, on which store.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The lock's key
    #[arg(long, value_name = "KEY")]
    pub(crate) key: String,

    /// What stands in front of the key, as the services that use it have it set
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: String,

    /// The store's URL.
    #[arg(
        long,
        value_name = "URL",
        env = "LOCK_URL",
        hide_env_values = true,
        help = "The store: redis://[user:password@]host[:port][/db], rediss://.., redis+unix:///path",
        long_help = "The store: redis://[user:password@]host[:port][/db], rediss://.., redis+unix:///path[?db=..&user=..&pass=..],
or the same with valkey in place of redis;
fred+redis://.. and so on for the same through fred, in a build with that feature

Others on this machine can read arguments: give a URL with a password in the environment variable."
    )]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) lock: LockArgs,

    /// How long the lock outlives a renewal, 1s to 24h: what others wait for if this machine dies
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = ttl)]
    pub(crate) ttl: Duration,

    /// How long to wait for the lock at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,

    /// Do not wait: one attempt
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) one_attempt: bool,

    /// How long before the lock's deadline the command gets SIGTERM if the lock cannot be renewed.
    /// Default: a third of the ttl, 10s at most
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) grace: Option<Duration>,

    /// End the command when it has held the lock for so long: SIGTERM comes the grace before that, and the exit code is 79
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) hold_at_most: Option<Duration>,

    /// Leave the lock to its ttl instead of releasing it when the command succeeds: at most one run per ttl
    #[arg(long)]
    pub(crate) leave_to_expire: bool,

    /// A label that others see while this holds the lock, 128 bytes at most
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,

    /// The exit code that says busy
    #[arg(long, value_name = "CODE", default_value_t = crate::exit::BUSY)]
    pub(crate) busy_code: u8,

    /// The command and its arguments, behind `--`
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

impl Run {
    /// How long before the deadline the command is asked to end.
    pub(crate) fn grace(&self) -> Duration {
        let third = self.ttl.checked_div(3).unwrap_or_default();
        self.grace.unwrap_or(third.min(Duration::from_secs(10)))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    #[command(flatten)]
    pub(crate) lock: LockArgs,

    /// Yes: take it from whoever holds it
    #[arg(long, required = true)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Enforce {
    /// How long before the deadline the group gets SIGTERM, in milliseconds
    #[arg(long)]
    pub(crate) grace: u64,

    /// How long before the deadline what is left of it gets SIGKILL, in milliseconds
    #[arg(long)]
    pub(crate) margin: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    #[arg(required = true, last = true)]
    pub(crate) command: Vec<OsString>,
}

/// A ttl that leaves time to end a command.
fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if ttl < Duration::from_secs(1) || ttl > fencelock::MAX_TTL {
        return Err("it must be 1s to 24h".into());
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Run, clap::Error> {
        let head = ["fencelock", "run", "--key", "k", "--url", "redis://h"];
        match Arguments::try_parse_from(head.iter().chain(arguments))?.task {
            Task::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_stands_behind_the_dashes_is_the_commands() {
        let run = parse(&["--try", "--", "echo", "--try", "-x"]).unwrap();
        assert_eq!(run.command, ["echo", "--try", "-x"]);
        assert!(run.one_attempt && run.ttl == Duration::from_secs(30));
    }

    #[test]
    fn a_grace_is_a_third_of_the_ttl_and_ten_seconds_at_most() {
        for (ttl, grace) in [("3s", 1), ("30s", 10), ("10m", 10)] {
            let run = parse(&["--ttl", ttl, "--", "true"]).unwrap();
            assert_eq!(run.grace(), Duration::from_secs(grace), "{ttl}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &["--"][..],
            &["true"],
            &["--ttl", "900ms", "--", "true"],
            &["--ttl", "25h", "--", "true"],
            &["--ttl", "30", "--", "true"],
            &["--wait", "5", "--", "true"],
            &["--try", "--wait", "5s", "--", "true"],
            &["--busy-code", "256", "--", "true"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let release = ["fencelock", "release", "--key", "k", "--url", "redis://h"];
        assert!(
            Arguments::try_parse_from(release).is_err(),
            "without --force"
        );
    }
}
