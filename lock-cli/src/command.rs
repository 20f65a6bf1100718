//! The command that runs under the lock, in a process group of its own, and the enforcer beside it. Not when it is ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpgid};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::enforcer::{self, Line};
use crate::exit;
use crate::failure::Failure;
use crate::starter;

/// How often it is looked whether the group is gone.
const LOOK: Duration = Duration::from_millis(10);

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
        // First the enforcer, then what it watches, and only when it has heard of that the command: see `starter.rs`.
        let enforcer = Enforcer::start(plan.grace, plan.margin)?;
        let failed = |error: io::Error| Failure::system("start the command", &error);
        let (socket, its_end) = UnixStream::pair().map_err(failed)?;
        let command = itself("start")
            .and_then(|mut starter| {
                starter
                    .arg("--")
                    .args(plan.command)
                    .envs(plan.environment)
                    .process_group(0)
                    .stdin(Stdio::from(OwnedFd::from(its_end)))
                    .spawn()
            })
            .map_err(failed)?;
        let group = command
            .id()
            .and_then(pid)
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
        // When it would be asked to end already.
        let end = until.saturating_sub(u64::try_from(plan.grace.as_nanos()).unwrap_or(u64::MAX));
        let told = if io::stdin().is_terminal() {
            // A group in the background that reads from the terminal would be stopped.
            File::open("/dev/null").and_then(|nothing| starter::go(&socket, end, nothing))
        } else {
            starter::go(&socket, end, io::stdin())
        };
        // One that is gone was ended by somebody: its exit code says how.
        match told {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
            _ => Ok(running),
        }
    }

    /// Resolves when the command itself has ended. Cancel safe.
    pub(crate) async fn exited(&mut self) -> Result<ExitStatus, Failure> {
        let status = self.command.wait().await;
        status.map_err(|error| Failure::system("wait for the command", &error))
    }

    /// Passes a signal on to the command's group.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
        if signal != Signal::USR1 && signal != Signal::USR2 {
            // A stopped process ends only when it goes on.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// Says what the lock's deadline is now. Where nobody is left to heed it, the command is killed before that is an error.
    pub(crate) async fn until(&mut self, deadline: u64) -> Result<(), Failure> {
        if !self.enforcer.is_running() {
            self.enforcer = match Enforcer::start(self.grace, self.margin) {
                Ok(enforcer) => enforcer,
                Err(failure) => {
                    self.kill().await;
                    return Err(failure);
                }
            };
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
    /// not if it had to end the command because the deadline came near. Nothing if the enforcer was killed before it was done
    /// (by somebody who ends all that a service has started, say), and another one is needed. Cancel safe.
    pub(crate) async fn gone(&mut self) -> Result<Option<bool>, Failure> {
        // A command that was not waited for is a zombie, and still in its group.
        self.exited().await?;
        let ended = loop {
            self.reap();
            if let Ok(ended) = timeout(LOOK, self.enforcer.process.wait()).await {
                break ended;
            }
        };
        let ended = ended.map_err(|error| Failure::system("wait for the enforcer", &error))?;
        Ok(ended
            .code()
            .map(|code| code != i32::from(enforcer::BY_DEADLINE)))
    }

    /// Kills the group, and returns when it is gone.
    async fn kill(&mut self) {
        while kill_process_group(self.group, Signal::KILL).is_ok() {
            let _ = timeout(LOOK, self.command.wait()).await;
            if matches!(self.command.try_wait(), Ok(Some(_))) {
                self.reap();
            }
        }
    }

    /// Waits for those of the group that were left to us. Where we are a container's first process nobody else does, and
    /// they would be in their group for ever. Only when the command itself was waited for.
    fn reap(&self) {
        while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
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
        let mut command = itself("enforce").map_err(failed)?;
        let milliseconds = |time: Duration| time.as_millis().to_string();
        command
            .args(["--grace", &milliseconds(grace)])
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
        // Stopped, it would end nothing.
        if let Some(id) = self.process.id().and_then(pid) {
            let _ = kill_process(id, Signal::CONT);
        }
        let _ = timeout(PATIENCE, self.pipe.write_all(line.text().as_bytes())).await;
    }
}

/// This program, for another of its tasks.
fn itself(task: &str) -> io::Result<Command> {
    // Also if its file was replaced since. It means the process that is to run it, which is a copy of ours until then.
    #[cfg(target_os = "linux")]
    let program = std::path::Path::new("/proc/self/exe");
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.arg0("fencelock").arg(task);
    Ok(command)
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(id.cast_signed())
}
