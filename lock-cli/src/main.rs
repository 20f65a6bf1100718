//! The `fencelock` command: runs a command while it holds a lock, and looks after locks. Not a library.
//!
//! `args.rs` is what can be asked for, and the help. `run.rs` is the life of `fencelock run`; its child processes are in
//! `command.rs`: `starter.rs` becomes the command, and `enforcer.rs` ends it in time whatever becomes of us.
//! `look.rs` is `status`, `watch` and `release`. `store.rs` finds the store, `exit.rs` lists the exit codes.

#[cfg(not(unix))]
compile_error!("the fencelock command needs process groups and signals, which only Unix has");

mod args;
mod command;
mod enforcer;
mod exit;
mod failure;
mod look;
mod run;
mod starter;
mod store;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use args::{Arguments, Task};
use clap::Parser as _;
use failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap, which print to standard output.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match start(arguments.task) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// A line for people. If nobody reads it, that is no reason to fail: `eprintln!` would panic.
pub(crate) fn complain(what: &impl Display) {
    let _ = writeln!(io::stderr(), "fencelock: {what}");
}

fn start(task: Task) -> Result<u8, Failure> {
    match &task {
        Task::Enforce(enforce) => return Ok(enforcer::run(enforce)),
        Task::Start(start) => return Err(starter::run(start)),
        _ => {}
    }
    // One thread: what renews the lock and what watches the command never wait for one another.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::system("start a runtime", &error))?;
    runtime.block_on(async {
        match task {
            Task::Run(run) => run::run(run).await,
            Task::Status(lock) => look::status(&lock).await,
            Task::Watch(watch) => look::watch(&watch).await,
            Task::Release(release) => look::release(&release).await,
            Task::Enforce(_) | Task::Start(_) => Ok(exit::USAGE),
        }
    })
}
