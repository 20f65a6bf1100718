//! One of the processes, with its tasks. What they do is a function of the seed (`plan.rs`); how it goes is not.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use fencelock::{BackendError, BackendErrorKind, Locks, RedisBackend};
use lock_testkit::History;
use lock_testkit::nemesis::{Writer, end_with_parent};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Result;
use super::task::Task;

/// In front of all keys.
pub(crate) const PREFIX: &str = "nemesis:";

/// Tasks in each process.
const TASKS: u64 = 8;

/// How soon a worker that could not connect tries again.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);

/// How a worker learns what it is to do: all of it in the order of [`Worker`]'s fields, the log last.
const VARIABLE: &str = "FENCELOCK_NEMESIS_WORKER";

/// A worker that does wrong on purpose, to show that it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Takes no lock at all.
    Lock,
    /// Takes locks, does not renew them, and believes to hold them until its work is done, whatever the deadline says.
    Clock,
    /// Writes with fencing tokens that repeat and go back.
    Token,
}

impl FromStr for Broken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lock" => Ok(Self::Lock),
            "clock" => Ok(Self::Clock),
            "token" => Ok(Self::Token),
            _ => Err(format!("--broken {text:?}: use lock, clock or token")),
        }
    }
}

/// By which client the processes lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Redis,
    Fred,
    /// Two by the one, two by the other, and so on: in either kind of runtime.
    Both,
}

impl Client {
    /// Which of the two the worker at `place` has.
    const fn at(self, place: usize) -> Self {
        match self {
            Self::Both if (place / 2).is_multiple_of(2) => Self::Redis,
            Self::Both => Self::Fred,
            one => one,
        }
    }
}

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "redis" => Ok(Self::Redis),
            "fred" | "both" if !cfg!(feature = "fred") => Err(format!(
                "--client {text}: this was built without the feature fred"
            )),
            "fred" => Ok(Self::Fred),
            "both" => Ok(Self::Both),
            _ => Err(format!("--client {text:?}: use redis, fred or both")),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "redis",
            Self::Fred => "fred",
            Self::Both => "both",
        })
    }
}

/// What a process is told.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) seed: u64,
    pub(crate) place: usize,
    pub(crate) generation: u32,
    pub(crate) broken: Option<Broken>,
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) register: SocketAddr,
    /// Where the history goes.
    pub(crate) log: PathBuf,
}

impl Worker {
    /// Lets `command`, which must call [`told`](Self::told), be this worker.
    pub(crate) fn tell(&self, command: &mut Command) {
        let broken = match self.broken {
            None => "no",
            Some(Broken::Lock) => "lock",
            Some(Broken::Clock) => "clock",
            Some(Broken::Token) => "token",
        };
        let Self {
            seed,
            place,
            generation,
            client,
            url,
            register,
            log,
            ..
        } = self;
        let log = log.display();
        command.env(
            VARIABLE,
            format!("{seed} {place} {generation} {broken} {client} {url} {register} {log}"),
        );
    }

    /// The worker that this process is, if it is one.
    pub(crate) fn told() -> Result<Option<Self>> {
        let Ok(text) = std::env::var(VARIABLE) else {
            return Ok(None);
        };
        let parts: Vec<_> = text.splitn(8, ' ').collect();
        let [seed, place, generation, broken, client, url, register, log] = parts[..] else {
            return Err(format!("{VARIABLE} makes no sense").into());
        };
        Ok(Some(Self {
            seed: seed.parse()?,
            place: place.parse()?,
            generation: generation.parse()?,
            broken: broken.parse().ok(),
            client: client.parse()?,
            url: url.to_owned(),
            register: register.parse()?,
            log: log.into(),
        }))
    }

    /// Works until the standard input ends. Prints how often what happened.
    pub(crate) fn run(self) -> Result<()> {
        end_with_parent()?;
        // Both kinds of runtime.
        let mut runtime = if self.place.is_multiple_of(2) {
            tokio::runtime::Builder::new_current_thread()
        } else {
            tokio::runtime::Builder::new_multi_thread()
        };
        let runtime = runtime.worker_threads(2).enable_all().build()?;
        runtime.block_on(self.work())
    }

    async fn work(self) -> Result<()> {
        let (tell, told) = watch::channel(false);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            tell.send_replace(true);
        });
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let history = History::new().with_log(log);
        let Some(locks) = self.connect(&told).await? else {
            return Ok(());
        };
        let name = format!("{}.{}", self.place, self.generation);
        let locks = locks.with_prefix(PREFIX).with_label(&name);
        let outcomes = Arc::<Mutex<BTreeMap<String, u64>>>::default();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            // As far apart as seeds of neighbours must be: each number has its own bits.
            let place = u64::try_from(self.place)?;
            let number = (place << 40) | (u64::from(self.generation) << 8) | task;
            let task = Task {
                locks: locks.clone(),
                history: history.clone(),
                outcomes: Arc::clone(&outcomes),
                who: format!("{name}.{task}"),
                rng: Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                writer: Writer::new(self.register),
                broken: self.broken,
            };
            tasks.spawn(task.run(told.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        if !locks.shutdown().await {
            return Err("the locks were not shut down in time".into());
        }
        let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        for (outcome, count) in &*outcomes {
            println!("{count} {outcome}");
        }
        Ok(())
    }

    /// Connects, whatever happens meanwhile; `None` if it is over before.
    async fn connect(&self, over: &watch::Receiver<bool>) -> Result<Option<Locks>> {
        loop {
            match self.locks().await {
                Ok(locks) => return Ok(Some(locks)),
                Err(error) if error.kind() != BackendErrorKind::Transient => {
                    return Err(error.into());
                }
                Err(_) if *over.borrow() => return Ok(None),
                Err(_) => sleep(RECONNECT_AFTER).await,
            }
        }
    }

    async fn locks(&self) -> Result<Locks, BackendError> {
        match self.client.at(self.place) {
            #[cfg(feature = "fred")]
            Client::Fred => Ok(Locks::new(
                fencelock::FredBackend::connect(&self.url).await?,
            )),
            _ => Ok(Locks::new(RedisBackend::connect(&self.url).await?)),
        }
    }
}
