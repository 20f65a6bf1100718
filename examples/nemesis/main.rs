//! Several processes lock on a real Redis server while everything goes wrong, and what they believed is checked.
//!
//! Processes are stopped for longer than their locks last, killed and started anew; connections are reset, delayed and
//! silenced; requests and replies are lost or come late; the server stands still, closes connections and forgets its
//! scripts. Each process records when it believed to hold what, and writes under its locks to a register that refuses
//! old fencing tokens. Afterwards no two holds of a key may overlap, no holder may have been refused, and no stale
//! write may have been admitted.
//!
//! ```sh
//! cargo run --release --features redis --example nemesis -- --seconds 60 --processes 5
//! cargo run --release --features redis,fred --example nemesis -- --client both
//! ```

#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod task;
#[cfg(target_os = "linux")]
mod worker;

use std::process::ExitCode;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("nemesis: this needs Linux, for a clock that all processes share");
    ExitCode::from(2)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ops::RangeInclusive;
    use std::process::{Command, ExitCode};
    use std::str::FromStr;

    use lexopt::prelude::*;
    use tokio::signal::unix::{SignalKind, signal};

    use super::Result;
    use super::run::{Options, run};
    use super::worker::{Client, Worker};

    const HELP: &str = "\
Several processes lock on a Redis server of their own while everything goes
wrong; what they believed and what they wrote is checked afterwards.

Usage: nemesis [--seconds N] [--processes N] [--seed N] [--lose-data]
               [--client redis|fred|both] [--broken lock|clock|token]
               [--schedule]

  --seconds N    how long, 1 to 86400. Default: 60
  --processes N  how many processes, 2 to 64. Default: 5
  --seed N       what goes wrong and when, and what each task does, is a
                 function of this number and the other arguments; how they
                 meet is up to the operating system. Default: by chance
  --lose-data    also flushes the server, and restarts it empty: two may then
                 hold a lock for as long as the first one's validity lasts,
                 but the register still admits no stale write
  --client NAME  by which client they lock: redis, fred, or some by the one and
                 some by the other. Default: redis
  --broken HOW   does wrong on purpose, to show that it is found out:
                 lock: no lock is taken. clock: locks are not renewed, and
                 their holders do not look at their deadlines. token: fencing
                 tokens repeat and go back
  --schedule     only prints what would go wrong, and when
  -h, --help     this text

Exit code: 0 if all was sound, 1 if not or if something failed, 2 if the
arguments make no sense. Needs redis-server, and leaves nothing behind but
the histories of a run that was not sound.";

    #[tokio::main]
    async fn start(options: Options) -> Result<bool> {
        let program = std::env::current_exe()?;
        // First of all: whatever becomes of the run, it can be done again.
        println!("{}", options.command());
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        // Dropped half way, a run takes server and processes along.
        let outcome = tokio::select! {
            outcome = run(options, move || Command::new(&program)) => outcome?,
            _ = terminated.recv() => return Err("terminated".into()),
            _ = interrupted.recv() => return Err("interrupted".into()),
        };
        println!("{outcome}");
        println!("seed {}", options.seed);
        Ok(outcome.is_sound())
    }

    pub(super) fn main() -> ExitCode {
        let ended = match Worker::told() {
            Ok(Some(worker)) => worker.run().map(|()| true),
            Err(error) => Err(error),
            Ok(None) => match parse() {
                Ok(Some((options, false))) => start(options),
                Ok(Some((options, true))) => print_schedule(&options),
                Ok(None) => {
                    println!("{HELP}");
                    return ExitCode::SUCCESS;
                }
                Err(error) => {
                    eprintln!("nemesis: {error}\nTry --help.");
                    return ExitCode::from(2);
                }
            },
        };
        match ended {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("nemesis: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn print_schedule(options: &Options) -> Result<bool> {
        println!("seed {}", options.seed);
        for (at, fault) in options.schedule()?.faults() {
            println!("{:9.3} s  {fault}", at.as_secs_f64());
        }
        Ok(true)
    }

    /// What is asked for, and whether only the schedule is; `None` where help is.
    fn parse() -> Result<Option<(Options, bool)>> {
        let mut parser = lexopt::Parser::from_env();
        let mut options = Options {
            seconds: 60,
            processes: 5,
            // Short enough to be typed.
            seed: fastrand::u64(..1_000_000),
            lose_data: false,
            broken: None,
            client: Client::Redis,
        };
        let mut only_schedule = false;
        while let Some(argument) = parser.next()? {
            match argument {
                Long("seconds") => options.seconds = number("--seconds", &mut parser, 1..=86_400)?,
                Long("processes") => {
                    options.processes = number("--processes", &mut parser, 2..=64)?;
                }
                Long("seed") => options.seed = number("--seed", &mut parser, 0..=u64::MAX)?,
                Long("lose-data") => options.lose_data = true,
                Long("broken") => options.broken = Some(parser.value()?.string()?.parse()?),
                Long("client") => options.client = parser.value()?.string()?.parse()?,
                Long("schedule") => only_schedule = true,
                Short('h') | Long("help") => return Ok(None),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(Some((options, only_schedule)))
    }

    fn number<N: FromStr + PartialOrd + std::fmt::Display>(
        option: &str,
        parser: &mut lexopt::Parser,
        bounds: RangeInclusive<N>,
    ) -> Result<N> {
        let text = parser.value()?.string()?;
        match text.parse() {
            Ok(number) if bounds.contains(&number) => Ok(number),
            _ => {
                let (least, most) = bounds.into_inner();
                Err(format!("{option} {text:?}: use a number from {least} to {most}").into())
            }
        }
    }
}
