//! Several processes that exclude each other on a real Redis server.
//!
//! Each process reads a counter, pauses, and writes it back plus one, as often as asked. Nothing protects the counter
//! but the lock, so the final count says whether the lock did its work. Beside the count stands the fencing token of
//! who wrote it: each writer checks that its own is greater.
//!
//! ```sh
//! cargo run --release --features redis --example counter -- --url redis://127.0.0.1:6379
//! cargo run --release --features redis,fred --example counter -- --url fred+redis://127.0.0.1:6379
//! ```

use std::error::Error;
use std::ops::RangeInclusive;
use std::process::{ExitCode, Stdio};
use std::str::FromStr;
use std::time::Duration;

use fencelock::redis::aio::MultiplexedConnection;
use fencelock::redis::{self, cmd};
use fencelock::{BackendError, Locks, Moment, RedisBackend};
use lexopt::prelude::*;
use tokio::process::Command;
use tokio::task::JoinSet;

const HELP: &str = "\
Several processes count together on a Redis server, under one lock.

Usage: counter --url URL [--processes N] [--increments N] [--without-lock]

  --url URL        the server: redis://[user:password@]host[:port][/database],
                   or fred+redis://.. for locks through fred, if built with it.
                   Default: the environment variable LOCK_URL, which other
                   users of this machine cannot read, unlike arguments
  --processes N    how many processes to start, 1 to 64. Default: 4
  --increments N   how often each of them counts, 1 to 1000000. Default: 500
  --without-lock   leave the lock out, to see that the count is wrong then
  -h, --help       this text

Exit code: 0 if the count is right, 1 if it is wrong or something failed,
2 if the arguments make no sense. Removes its keys at the end.";

/// How the URL reaches the processes: it may hold a password, and everybody can read arguments.
const URL_VARIABLE: &str = "LOCK_URL";

/// In front of the URL where locks are to go through fred.
const FRED: &str = "fred+";

/// Between reading the counter and writing it.
const PAUSE: Duration = Duration::from_micros(300);

/// How long a process waits for the lock, which is unfair.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keys of a run that was killed end by themselves after this many seconds.
const KEYS_EXPIRE_AFTER: u64 = 3600;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

struct Arguments {
    url: String,
    processes: u32,
    increments: u32,
    without_lock: bool,
    /// Set in the processes that count: what their keys start with.
    worker: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("counter: {error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    let outcome = match &arguments.worker {
        Some(prefix) => count(&arguments, prefix).await.map(|()| true),
        None => start(&arguments).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("counter: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first process: sets the counter to zero, starts the others, and looks at what they made of it.
async fn start(arguments: &Arguments) -> Result<bool> {
    // Its errors have advice, and no password.
    drop(locks(&arguments.url).await?);
    let mut connection = connect(&arguments.url).await?;
    let prefix = format!("fencelock-counter-{}:", std::process::id());
    let is_new: bool = cmd("SET")
        .arg(counter_key(&prefix))
        .arg(Counter::default().to_string())
        .arg("NX")
        .arg("EX")
        .arg(KEYS_EXPIRE_AFTER)
        .query_async(&mut connection)
        .await?;
    if !is_new {
        let key = counter_key(&prefix);
        return Err(format!("{key} exists: another run is using it; try again").into());
    }
    let run = run(arguments, &prefix, &mut connection).await;
    let cleaned = remove_keys(&prefix, &mut connection).await;
    let is_right = run?;
    cleaned?;
    Ok(is_right)
}

async fn run(
    arguments: &Arguments,
    prefix: &str,
    connection: &mut MultiplexedConnection,
) -> Result<bool> {
    let start = Moment::now();
    let mut workers = JoinSet::new();
    for _ in 0..arguments.processes {
        let mut worker = Command::new(std::env::current_exe()?);
        worker
            .env(URL_VARIABLE, &arguments.url)
            .args(["--worker", prefix])
            .args(["--increments", &arguments.increments.to_string()])
            .args(arguments.without_lock.then_some("--without-lock"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        workers.spawn(async move { worker.status().await });
    }
    let mut failed = 0_u32;
    while let Some(status) = workers.join_next().await {
        if !status??.success() {
            failed = failed.saturating_add(1);
        }
    }
    let took = start.elapsed();
    if failed > 0 {
        return Err(format!("{failed} of {} processes failed", arguments.processes).into());
    }
    let expected = u64::from(arguments.processes).saturating_mul(arguments.increments.into());
    let counter = read(prefix, connection).await?;
    let is_right = counter.count == expected;
    println!(
        "{} processes x {} increments {} the lock, in {took:.2?}",
        arguments.processes,
        arguments.increments,
        if arguments.without_lock {
            "without"
        } else {
            "under"
        },
    );
    println!(
        "final count: {} of {expected}: {}",
        counter.count,
        match (is_right, arguments.without_lock) {
            (true, false) => "right",
            (true, true) => "right, by luck: try more processes or increments",
            (false, false) => "WRONG",
            (false, true) => "wrong, as was to be expected",
        }
    );
    if !arguments.without_lock {
        println!(
            "highest fencing token: {}; each was greater than the one before",
            counter.token
        );
    }
    Ok(is_right)
}

/// One of the processes that count.
async fn count(arguments: &Arguments, prefix: &str) -> Result<()> {
    let mut connection = connect(&arguments.url).await?;
    if arguments.without_lock {
        for _ in 0..arguments.increments {
            increment(prefix, &mut connection, 0).await?;
        }
        return Ok(());
    }
    let lock = locks(&arguments.url)
        .await?
        .with_prefix(prefix)
        .lock("lock")
        .with_label(format!("pid {}", std::process::id()))
        .with_wait(PATIENCE);
    let mut last = None;
    for _ in 0..arguments.increments {
        let guard = lock.acquire().await?;
        let token = guard.fencing_token();
        if token <= last {
            return Err(format!("fencing token {token:?} came after {last:?}").into());
        }
        last = token;
        let token = token.ok_or("a grant without a fencing token")?.get();
        guard
            .run(increment(prefix, &mut connection, token))
            .await??;
        guard.release().await?;
    }
    Ok(())
}

/// What must not happen twice at a time.
async fn increment(prefix: &str, connection: &mut MultiplexedConnection, token: u64) -> Result<()> {
    let found = read(prefix, connection).await?;
    if token > 0 && token <= found.token {
        return Err(format!("fencing token {token} came after {}", found.token).into());
    }
    tokio::time::sleep(PAUSE).await;
    let next = Counter {
        count: found.count.saturating_add(1),
        token,
    };
    cmd("SET")
        .arg(counter_key(prefix))
        .arg(next.to_string())
        .arg("KEEPTTL")
        .exec_async(connection)
        .await?;
    Ok(())
}

/// What stands at the server: the count, and the fencing token of who wrote it.
#[derive(Debug, Default, Clone, Copy)]
struct Counter {
    count: u64,
    token: u64,
}

impl std::fmt::Display for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.count, self.token)
    }
}

impl FromStr for Counter {
    type Err = Box<dyn Error + Send + Sync>;

    fn from_str(text: &str) -> Result<Self> {
        let (count, token) = text.split_once(' ').ok_or("not a counter")?;
        Ok(Self {
            count: count.parse()?,
            token: token.parse()?,
        })
    }
}

fn counter_key(prefix: &str) -> String {
    format!("{prefix}count")
}

async fn read(prefix: &str, connection: &mut MultiplexedConnection) -> Result<Counter> {
    let text: Option<String> = cmd("GET")
        .arg(counter_key(prefix))
        .query_async(connection)
        .await?;
    text.ok_or("the counter is gone")?.parse()
}

/// Removes the counter, and what the lock keeps for its fencing tokens.
async fn remove_keys(prefix: &str, connection: &mut MultiplexedConnection) -> Result<()> {
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<String>) = cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{prefix}*"))
            .arg("COUNT")
            .arg(1000)
            .query_async(connection)
            .await?;
        if !keys.is_empty() {
            cmd("DEL").arg(keys).exec_async(connection).await?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

async fn locks(url: &str) -> Result<Locks, BackendError> {
    #[cfg(feature = "fred")]
    if let Some(url) = url.strip_prefix(FRED) {
        return Ok(Locks::new(fencelock::FredBackend::connect(url).await?));
    }
    Ok(Locks::new(RedisBackend::connect(url).await?))
}

/// For the counter, whoever has the locks.
async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(url.strip_prefix(FRED).unwrap_or(url))?;
    Ok(client.get_multiplexed_async_connection().await?)
}

/// `None` where help is asked for.
fn parse() -> Result<Option<Arguments>> {
    let mut parser = lexopt::Parser::from_env();
    let mut arguments = Arguments {
        url: std::env::var(URL_VARIABLE).unwrap_or_default(),
        processes: 4,
        increments: 500,
        without_lock: false,
        worker: None,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("url") => arguments.url = parser.value()?.string()?,
            Long("processes") => arguments.processes = number("--processes", &mut parser, 1..=64)?,
            Long("increments") => {
                arguments.increments = number("--increments", &mut parser, 1..=1_000_000)?;
            }
            Long("without-lock") => arguments.without_lock = true,
            Long("worker") => arguments.worker = Some(parser.value()?.string()?),
            Short('h') | Long("help") => return Ok(None),
            // Not repeated: it may be the URL.
            Value(_) => return Err("arguments start with --; the server is --url URL".into()),
            other => return Err(other.unexpected().into()),
        }
    }
    if arguments.url.is_empty() {
        return Err(format!("which server? Say --url URL, or set {URL_VARIABLE}").into());
    }
    Ok(Some(arguments))
}

fn number(option: &str, parser: &mut lexopt::Parser, bounds: RangeInclusive<u32>) -> Result<u32> {
    let text = parser.value()?.string()?;
    match text.parse() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => {
            let (least, most) = bounds.into_inner();
            Err(format!("{option} {text:?}: use a number from {least} to {most}").into())
        }
    }
}
