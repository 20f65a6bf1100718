//! A whole run: server, proxy, register, workers, faults, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fencelock::{Locks, RedisBackend};
use lock_testkit::nemesis::{self, Audit, Done, Processes, Register, Schedule, Settings, Write};
use lock_testkit::proxy::Proxy;
use lock_testkit::server::RedisServer;
use lock_testkit::{End, History, Hold};

use super::Result;
use super::plan::{KEYS, LONGEST_ENTRY};
use super::worker::{Broken, Client, PREFIX, Worker};

/// A run of so many seconds has stopped processes for longer than their locks last, and they have woken to write.
const LONG_ENOUGH_FOR_STALE_WRITES: u32 = 20;

/// How long workers have to end when all is mended, and locks to become free.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) seconds: u32,
    pub(crate) processes: u32,
    pub(crate) seed: u64,
    pub(crate) lose_data: bool,
    pub(crate) broken: Option<Broken>,
    pub(crate) client: Client,
}

impl Options {
    /// What goes wrong and when.
    pub(crate) fn schedule(&self) -> Result<Schedule> {
        let time = Duration::from_secs(self.seconds.into());
        let settings = Settings::new(self.seed, time, usize::try_from(self.processes)?)
            .with_longest_entry(LONGEST_ENTRY)
            .with_lost_data(self.lose_data);
        Ok(Schedule::new(&settings))
    }

    /// How to run the same again.
    pub(crate) fn command(&self) -> String {
        let features = match self.client {
            Client::Redis => "redis",
            Client::Fred | Client::Both => "redis,fred",
        };
        format!("cargo run --release --features {features} --example nemesis -- {self}")
    }
}

/// As arguments.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--seconds {} --processes {} --seed {}",
            self.seconds, self.processes, self.seed
        )?;
        if self.lose_data {
            f.write_str(" --lose-data")?;
        }
        if self.client != Client::Redis {
            write!(f, " --client {}", self.client)?;
        }
        match self.broken {
            None => Ok(()),
            Some(Broken::Lock) => f.write_str(" --broken lock"),
            Some(Broken::Clock) => f.write_str(" --broken clock"),
            Some(Broken::Token) => f.write_str(" --broken token"),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) options: Options,
    pub(crate) done: Vec<Done>,
    pub(crate) holds: Vec<Hold>,
    pub(crate) writes: Vec<Write>,
    pub(crate) audit: Audit,
    /// What else is not as it should be: processes that ended by themselves, entries that were left.
    pub(crate) flaws: Vec<String>,
    /// How often the workers that were not killed had what.
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) processes: usize,
    /// Where the workers' histories are, if they were kept.
    pub(crate) folder: Option<PathBuf>,
}

impl Outcome {
    /// Whether nothing is wrong, in a run that shows anything.
    pub(crate) fn is_sound(&self) -> bool {
        self.audit.breaches.is_empty() && self.flaws.is_empty() && self.lacks().is_none()
    }

    /// What happened too seldom for the run to show anything. An idle machine has fifty times as many grants and ten times as
    /// many faults; a heavily loaded one has so many.
    pub(crate) fn lacks(&self) -> Option<String> {
        let seconds = usize::try_from(self.options.seconds).unwrap_or(usize::MAX);
        let stale = usize::from(self.options.seconds >= LONG_ENOUGH_FOR_STALE_WRITES);
        [
            ("grants", self.holds.len(), seconds),
            ("faults", self.done.len(), seconds / 4),
            ("stale writes refused", self.refused(), stale),
        ]
        .into_iter()
        .find(|(_, count, least)| count < least)
        .map(|(what, count, least)| format!("{what}: {count}, at least {least} are needed"))
    }

    pub(crate) fn refused(&self) -> usize {
        self.writes.iter().filter(|write| !write.admitted).count()
    }
}

/// Runs it. `worker` makes a command that calls [`Worker::told`].
pub(crate) async fn run(
    options: Options,
    worker: impl Fn() -> Command + Send + 'static,
) -> Result<Outcome> {
    let server = Arc::new(Mutex::new(RedisServer::start()));
    let (port, direct) = {
        let server = server.lock().unwrap_or_else(PoisonError::into_inner);
        (server.port(), server.url())
    };
    let proxy = Proxy::start(port).await;
    let register = Register::start().await;
    let folder = Folder::new(port)?;
    let (url, address, logs) = (proxy.url(), register.address(), folder.path.clone());
    let start = move |place: usize, generation: u32| {
        let mut command = worker();
        Worker {
            seed: options.seed,
            place,
            generation,
            broken: options.broken,
            client: options.client,
            url: url.clone(),
            register: address,
            log: logs.join(format!("{place}.{generation}.jsonl")),
        }
        .tell(&mut command);
        command
    };
    let mut processes = Processes::start(usize::try_from(options.processes)?, start)?;
    let done = nemesis::unleash(&options.schedule()?, &mut processes, &proxy, &server).await?;
    let count = processes.count();
    let (mut flaws, mut counts) = (Vec::new(), BTreeMap::new());
    match processes.end(PATIENCE).await {
        Ok(outputs) => outputs.iter().for_each(|output| add(output, &mut counts)),
        Err(ended_otherwise) => flaws.extend(ended_otherwise),
    }
    flaws.extend(entries(&server));
    let history = merge(&folder.path, options.broken)?;
    let (holds, writes) = (history.holds(), register.writes());
    flaws.extend(take_all(&direct, &holds).await);
    let losses: Vec<_> = done
        .iter()
        .filter(|done| done.fault.loses_data())
        .map(|done| (done.from, done.to))
        .collect();
    let audit = Audit::of(&history, &writes, &losses);
    let mut outcome = Outcome {
        options,
        done,
        holds,
        writes,
        audit,
        flaws,
        counts,
        processes: count,
        folder: None,
    };
    if !outcome.is_sound() {
        outcome.folder = Some(folder.keep());
    }
    Ok(outcome)
}

/// Adds what a worker printed: lines of a number and a text. (A test program prints others too.)
fn add(output: &str, counts: &mut BTreeMap<String, u64>) {
    for line in output.lines() {
        if let Some((count, what)) = line.split_once(' ')
            && let Ok(count) = count.parse::<u64>()
        {
            let sum = counts.entry(what.to_owned()).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

/// What all workers recorded.
fn merge(folder: &Path, broken: Option<Broken>) -> Result<History> {
    let merged = History::new();
    for entry in std::fs::read_dir(folder)? {
        merged.read(BufReader::new(File::open(entry?.path())?))?;
    }
    if broken != Some(Broken::Clock) {
        return Ok(merged);
    }
    // These believe until they say otherwise, and a process that was killed believes nothing.
    let finite = History::new();
    for mut hold in merged.holds() {
        if hold.end == End::Open {
            (hold.ended, hold.end) = (Some(hold.granted), End::Lost);
        }
        finite.add(hold);
    }
    Ok(finite)
}

/// What is left of killed workers' locks ends with its ttl.
fn entries(server: &Mutex<RedisServer>) -> Vec<String> {
    let server = server.lock().unwrap_or_else(PoisonError::into_inner);
    let longest = i64::try_from(LONGEST_ENTRY.as_millis()).unwrap_or(i64::MAX);
    let keys = server.cli(&["KEYS", "*"]);
    let keys = keys.array().iter().map(|key| key.text());
    keys.filter(|key| !key.ends_with(":fence"))
        .filter_map(|key| {
            let left = server.cli(&["PTTL", &key]).integer();
            // Gone meanwhile is -2.
            let ends = left == -2 || (0..=longest).contains(&left);
            (!ends).then(|| format!("the entry {key:?} was left for {left} ms"))
        })
        .collect()
}

/// In the end everything can be taken again, by others, with a fencing token above all others; then nothing is left.
async fn take_all(url: &str, holds: &[Hold]) -> Vec<String> {
    let builder = RedisBackend::builder(url).with_connect_timeout(PATIENCE);
    let backend = match builder.connect().await {
        Ok(backend) => backend,
        Err(error) => return vec![error.to_string()],
    };
    let locks = Locks::new(backend).with_prefix(PREFIX).with_wait(PATIENCE);
    let mut flaws = Vec::new();
    for key in KEYS {
        let tokens = holds.iter().filter(|hold| hold.key == key);
        let greatest = tokens.filter_map(|hold| hold.token).max();
        match locks.lock(key).acquire().await {
            Ok(guard) => {
                let token = guard.fencing_token().map(u64::from);
                if token <= greatest {
                    flaws.push(format!("{key:?}: {token:?} was granted after {greatest:?}"));
                }
                if let Err(error) = guard.release().await {
                    flaws.push(error.to_string());
                }
            }
            Err(error) => flaws.push(format!("in the end: {error}")),
        }
    }
    flaws
}

/// A folder for the workers' histories, removed on drop.
struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// `number` is nobody else's in this process.
    fn new(number: u16) -> Result<Self> {
        let name = format!("fencelock-nemesis-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)
            .map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        Ok(Self { path, kept: false })
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            seconds, processes, ..
        } = self.options;
        writeln!(
            f,
            "{processes} processes ({} with those that took the place of killed ones), {seconds} s",
            self.processes
        )?;
        let mut kinds = BTreeMap::<_, usize>::new();
        for done in &self.done {
            let count = kinds.entry(done.fault.kind()).or_default();
            *count = count.saturating_add(1);
        }
        writeln!(f, "faults: {} ({})", self.done.len(), list(&kinds))?;
        let ended = |end| self.holds.iter().filter(|hold| hold.end == end).count();
        writeln!(
            f,
            "grants: {} ({} given back, {} lost, {} ended with their holders or their validity)",
            self.holds.len(),
            ended(End::Released),
            ended(End::Lost),
            ended(End::Open)
        )?;
        writeln!(
            f,
            "in processes that were not killed: {}",
            list(&self.counts)
        )?;
        writeln!(
            f,
            "writes: {} admitted, {} stale ones refused",
            self.writes.len().saturating_sub(self.refused()),
            self.refused()
        )?;
        writeln!(
            f,
            "overlaps: {}; breaches at the register: {}; breaches in all: {}; explained by loss of data: {}",
            self.audit.overlaps(),
            self.audit.at_the_register(),
            self.audit.breaches.len(),
            self.audit.explained.len()
        )?;
        for breach in self.audit.breaches.iter().take(5) {
            writeln!(f, "  {breach}")?;
        }
        for flaw in &self.flaws {
            writeln!(f, "  {flaw}")?;
        }
        if let Some(folder) = &self.folder {
            writeln!(f, "histories: {}", folder.display())?;
        }
        if !self.audit.breaches.is_empty() || !self.flaws.is_empty() {
            return f.write_str("NOT SOUND");
        }
        match self.lacks() {
            Some(what) => write!(f, "TOO LITTLE SHOWN: {what}"),
            None => f.write_str("SOUND"),
        }
    }
}

fn list<K: fmt::Display, V: fmt::Display>(counts: &BTreeMap<K, V>) -> String {
    let counts: Vec<_> = counts
        .iter()
        .map(|(what, n)| format!("{what} {n}"))
        .collect();
    counts.join(", ")
}
