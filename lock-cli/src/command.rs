//! The command that runs under the lock, in a process group of its own, and the enforcer beside it. Not when it is ended.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::enforcer::{self, Line};
use crate::exit;
use crate::failure::Failure;

/// How long a line to the enforcer may take. The enforcer knows an earlier deadline then.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is to be run, and how it is to be ended.
pub(crate) struct Plan<'a> {
    pub(crate) command: &'a [OsString],
    pub(crate) environment: Vec<(&'static str, String)>,
    /// How long before the deadline it is asked to end.
    pub(crate) grace: Duration,
    /// How long before the deadline it is killed.
    pub(crate) margin: Duration,
}

/// A command that was started. If this process ends, or drops it, the enforcer ends the command.
pub(crate) struct Running {
    command: Child,
    group: Pid,
    enforcer: Enforcer,
    grace: Duration,
    margin: Duration,
    until: u64,
}

impl Running {
    /// Starts the command under a lock whose deadline is `until`.
    pub(crate) async fn start(plan: Plan<'_>, until: u64) -> Result<Self, Failure> {
        let Some((program, arguments)) = plan.command.split_first() else {
            return Err(Failure::usage("there is no command to run"));
        };
        // First the enforcer, then at once what it watches: killed between the two, we would leave the command alone.
        let enforcer = Enforcer::start(plan.grace, plan.margin)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(plan.environment)
            .process_group(0);
        if io::stdin().is_terminal() {
            // A group in the background that reads from the terminal would be stopped.
            command.stdin(Stdio::null());
        }
        let command = command.spawn().map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::NotFound => exit::NOT_FOUND,
                _ => exit::NOT_EXECUTABLE,
            };
            Failure::new(code, format!("cannot run {program:?}: {error}"))
        })?;
        let group = command
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| Failure::new(exit::SYSTEM, "the command has no process id"))?;
        let mut running = Self {
            command,
            group,
            enforcer,
            grace: plan.grace,
            margin: plan.margin,
            until,
        };
        running.tell_all().await;
        Ok(running)
    }

    /// Resolves when the command itself has ended. Cancel safe.
    pub(crate) async fn exited(&mut self) -> Result<ExitStatus, Failure> {
        let status = self.command.wait().await;
        status.map_err(|error| Failure::system("wait for the command", &error))
    }

    /// Passes a signal on to the command's group.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }

    /// Says what the lock's deadline is now.
    pub(crate) async fn until(&mut self, deadline: u64) -> Result<(), Failure> {
        if !self.enforcer.is_running() {
            self.enforcer = Enforcer::start(self.grace, self.margin)?;
            self.until = deadline;
            self.tell_all().await;
        } else if deadline != self.until {
            self.until = deadline;
            self.enforcer.tell(Line::Until(deadline)).await;
        }
        Ok(())
    }

    /// Says what the lock's deadline is while the command is being ended.
    pub(crate) async fn still_until(&mut self, deadline: u64) {
        self.until = deadline;
        self.enforcer.tell(Line::Until(deadline)).await;
    }

    /// Begins to end what is left of the command's group.
    pub(crate) async fn end(&mut self) {
        self.enforcer.tell(Line::End).await;
    }

    /// Resolves when the group is gone, after [`end`](Self::end). Whether that was the first that the enforcer did about it:
    /// not if it had to end the command because the deadline came near. Cancel safe.
    pub(crate) async fn gone(&mut self) -> Result<bool, Failure> {
        // A command that was not waited for is a zombie, and still in its group.
        self.exited().await?;
        let ended = self.enforcer.process.wait().await;
        let ended = ended.map_err(|error| Failure::system("wait for the enforcer", &error))?;
        Ok(ended.code() != Some(i32::from(enforcer::BY_DEADLINE)))
    }

    async fn tell_all(&mut self) {
        let group = Line::Group(self.group.as_raw_nonzero().get());
        self.enforcer.tell(group).await;
        self.enforcer.tell(Line::Until(self.until)).await;
    }
}

/// The process that ends the command in time, and the pipe to it, whose end tells it that we are gone.
struct Enforcer {
    process: Child,
    pipe: ChildStdin,
}

impl Enforcer {
    fn start(grace: Duration, margin: Duration) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::system("start the enforcer", &error);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        let milliseconds = |time: Duration| time.as_millis().to_string();
        command
            .args(["enforce", "--grace", &milliseconds(grace)])
            .args(["--margin", &milliseconds(margin)])
            // Not in our group: what a terminal sends to that must not end it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut process = command.spawn().map_err(failed)?;
        let pipe = process
            .stdin
            .take()
            .ok_or_else(|| Failure::new(exit::SYSTEM, "the enforcer has no input"))?;
        Ok(Self { process, pipe })
    }

    fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// A line this short is written whole or not at all. One that cannot be written is not missed: the enforcer acts on the
    /// earlier deadline, and one that has died is replaced.
    async fn tell(&mut self, line: Line) {
        let _ = timeout(PATIENCE, self.pipe.write_all(line.text().as_bytes())).await;
    }
}
