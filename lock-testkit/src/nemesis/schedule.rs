//! What goes wrong, and when: a function of a seed. Not how it is done: that is `nemesis.rs`.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

const MS: Duration = Duration::from_millis(1);

/// What a schedule is made for. The same settings give the same schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Where all chance comes from.
    pub seed: u64,
    /// How long it goes on; every fault has ended by then.
    pub time: Duration,
    /// How many processes there are.
    pub processes: usize,
    /// The longest that an entry may last unless it is renewed: some processes are stopped for longer than that.
    pub longest_entry: Duration,
    /// Whether the server's data may be lost, which breaks what exclusion rests on.
    pub lose_data: bool,
}

impl Settings {
    /// Faults for `time` among `processes`, none of which loses data, for entries of at most a second.
    #[must_use]
    pub const fn new(seed: u64, time: Duration, processes: usize) -> Self {
        Self {
            seed,
            time,
            processes,
            longest_entry: Duration::from_secs(1),
            lose_data: false,
        }
    }

    /// The longest that an entry may last unless it is renewed.
    #[must_use]
    pub const fn with_longest_entry(mut self, longest: Duration) -> Self {
        self.longest_entry = longest;
        self
    }

    /// Whether the server's data may be lost.
    #[must_use]
    pub const fn with_lost_data(mut self, lose_data: bool) -> Self {
        self.lose_data = lose_data;
        self
    }
}

/// One thing that goes wrong. Those that take a time are over after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A process is stopped (SIGSTOP) and goes on later as if nothing had happened.
    StopProcess(usize, Duration),
    /// A process is killed (SIGKILL), and another takes its place after this time.
    KillProcess(usize, Duration),
    /// All connections are reset.
    Cut,
    /// Requests and replies take `each_way` longer.
    Latency {
        /// How much longer.
        each_way: Duration,
        /// For how long.
        time: Duration,
    },
    /// Nothing passes, on connections old and new, and none of them ends before the time is over.
    BlackHole(Duration),
    /// The next of these requests meets with this.
    Request(Calls, Mishap, Duration),
    /// Messages of subscriptions are lost: nobody is woken.
    LoseMessages(Duration),
    /// The server forgets its scripts.
    FlushScripts,
    /// The server closes the connections of its clients: those of its subscribers, or all others.
    KillClients {
        /// Whether those of subscribers.
        subscribers: bool,
    },
    /// The server lets its clients wait: all, or those that write.
    PauseClients {
        /// Whether only those that write.
        writers: bool,
        /// For how long.
        time: Duration,
    },
    /// The server is stopped (SIGSTOP) and goes on later.
    StopServer(Duration),
    /// The server forgets all its data.
    FlushData,
    /// The server is killed and comes back empty.
    RestartServer,
}

/// Which requests of a lock's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they say it")]
pub enum Calls {
    Acquire,
    Renew,
    Release,
}

/// What a request meets with. Its connection ends in all cases, or falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The server never gets it.
    RequestLost,
    /// The server has done it, and nobody hears of that.
    ReplyLost,
    /// The same, and the connection stays open.
    Silence,
    /// The client sees the end of the connection; the server gets the request when the fault's time is over.
    Zombie,
}

impl Fault {
    /// How long it goes on.
    #[must_use]
    pub const fn time(&self) -> Duration {
        match self {
            Self::StopProcess(_, time)
            | Self::KillProcess(_, time)
            | Self::Latency { time, .. }
            | Self::BlackHole(time)
            | Self::Request(_, _, time)
            | Self::LoseMessages(time)
            | Self::PauseClients { time, .. }
            | Self::StopServer(time) => *time,
            Self::Cut
            | Self::FlushScripts
            | Self::KillClients { .. }
            | Self::FlushData
            | Self::RestartServer => Duration::ZERO,
        }
    }

    /// Whether it breaks what exclusion rests on: that the store keeps its data.
    #[must_use]
    pub const fn loses_data(&self) -> bool {
        matches!(self, Self::FlushData | Self::RestartServer)
    }

    /// The same word for all faults of a kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::StopProcess(..) => "process stopped",
            Self::KillProcess(..) => "process killed",
            Self::Cut => "connections reset",
            Self::Latency { .. } => "latency",
            Self::BlackHole(_) => "black hole",
            Self::Request(_, Mishap::RequestLost, _) => "request lost",
            Self::Request(_, Mishap::ReplyLost, _) => "reply lost",
            Self::Request(_, Mishap::Silence, _) => "silence",
            Self::Request(_, Mishap::Zombie, _) => "zombie request",
            Self::LoseMessages(_) => "wake-ups lost",
            Self::FlushScripts => "scripts flushed",
            Self::KillClients { .. } => "clients killed",
            Self::PauseClients { .. } => "clients paused",
            Self::StopServer(_) => "server stopped",
            Self::FlushData => "data flushed",
            Self::RestartServer => "server restarted empty",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::StopProcess(which, _) | Self::KillProcess(which, _) => write!(f, ": {which}")?,
            Self::Latency { each_way, .. } => write!(f, ": {each_way:?} each way")?,
            Self::Request(calls, ..) => write!(f, ": {calls:?}")?,
            Self::KillClients { subscribers: true } => f.write_str(": subscribers")?,
            Self::PauseClients { writers: true, .. } => f.write_str(": writers")?,
            _ => {}
        }
        if self.time().is_zero() {
            return Ok(());
        }
        write!(f, ", {:?}", self.time())
    }
}

/// Faults and when they begin, counted from the start: three tracks beside each other, for processes, network and
/// server, on each of which one fault follows the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub(super) processes: Vec<(Duration, Fault)>,
    pub(super) network: Vec<(Duration, Fault)>,
    pub(super) server: Vec<(Duration, Fault)>,
}

impl Schedule {
    /// The schedule for these settings.
    ///
    /// # Panics
    ///
    /// If there are no processes.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        assert!(settings.processes > 0, "no processes");
        let mut rng = Rng::with_seed(settings.seed);
        Self {
            processes: track(settings, &mut rng, &[0, 0, 1, 2, 2], process_fault),
            network: track(
                settings,
                &mut rng,
                &[0, 0, 1, 1, 2, 3, 3, 3, 3, 4],
                network_fault,
            ),
            server: track(
                settings,
                &mut rng,
                if settings.lose_data {
                    &[0, 1, 2, 3, 4, 5, 6]
                } else {
                    &[0, 0, 1, 2, 3, 4]
                },
                server_fault,
            ),
        }
    }

    /// All faults in the order in which they begin.
    #[must_use]
    pub fn faults(&self) -> Vec<(Duration, Fault)> {
        let mut all = [&self.processes[..], &self.network, &self.server].concat();
        all.sort_by_key(|(at, _)| *at);
        all
    }
}

/// One fault after the other until the time is over. Kinds are dealt like cards, so that each comes soon.
fn track(
    settings: &Settings,
    rng: &mut Rng,
    kinds: &[u8],
    draw: fn(u8, &Settings, &mut Rng) -> Fault,
) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    let mut deck = Vec::new();
    let mut at = between(rng, 50, 400);
    loop {
        if deck.is_empty() {
            deck = kinds.to_vec();
            rng.shuffle(&mut deck);
        }
        let fault = draw(deck.pop().unwrap_or_default(), settings, rng);
        if at + fault.time() > settings.time {
            return faults;
        }
        faults.push((at, fault));
        at += fault.time() + between(rng, 100, 900);
    }
}

fn process_fault(kind: u8, settings: &Settings, rng: &mut Rng) -> Fault {
    let which = rng.usize(..settings.processes);
    match kind {
        0 => Fault::StopProcess(which, between(rng, 20, 300)),
        1 => Fault::StopProcess(which, settings.longest_entry + between(rng, 100, 1000)),
        _ => Fault::KillProcess(which, between(rng, 0, 400)),
    }
}

fn network_fault(kind: u8, _: &Settings, rng: &mut Rng) -> Fault {
    match kind {
        0 => Fault::Cut,
        1 => Fault::Latency {
            each_way: between(rng, 1, 80),
            time: between(rng, 300, 1500),
        },
        2 => Fault::BlackHole(between(rng, 100, 1200)),
        3 => {
            let calls = [Calls::Acquire, Calls::Renew, Calls::Release][rng.usize(..3)];
            let mishap = [
                Mishap::RequestLost,
                Mishap::ReplyLost,
                Mishap::Silence,
                Mishap::Zombie,
            ][rng.usize(..4)];
            Fault::Request(calls, mishap, between(rng, 50, 600))
        }
        _ => Fault::LoseMessages(between(rng, 100, 800)),
    }
}

fn server_fault(kind: u8, _: &Settings, rng: &mut Rng) -> Fault {
    match kind {
        0 => Fault::FlushScripts,
        1 => Fault::KillClients { subscribers: false },
        2 => Fault::KillClients { subscribers: true },
        3 => Fault::PauseClients {
            writers: rng.bool(),
            time: between(rng, 50, 800),
        },
        4 => Fault::StopServer(between(rng, 20, 600)),
        5 => Fault::FlushData,
        _ => Fault::RestartServer,
    }
}

fn between(rng: &mut Rng, least: u32, most: u32) -> Duration {
    rng.u32(least..=most) * MS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn settings(seed: u64) -> Settings {
        Settings::new(seed, Duration::from_secs(60), 5)
    }

    #[test]
    fn a_seed_replays_its_schedule() {
        for seed in 0..20 {
            assert_eq!(
                Schedule::new(&settings(seed)),
                Schedule::new(&settings(seed))
            );
            assert_ne!(
                Schedule::new(&settings(seed)),
                Schedule::new(&settings(seed + 1))
            );
        }
    }

    #[test]
    fn faults_of_one_track_follow_each_other_and_end_in_time() {
        let schedule = Schedule::new(&settings(7));
        for track in [&schedule.processes, &schedule.network, &schedule.server] {
            assert!(track.len() > 20);
            let mut free = Duration::ZERO;
            for (at, fault) in track {
                assert!(*at >= free, "{fault} begins too early");
                free = *at + fault.time();
            }
            assert!(free <= Duration::from_secs(60));
        }
        let faults = schedule.faults();
        assert!(faults.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn every_kind_comes_and_data_is_lost_only_if_that_is_asked_for() {
        let kinds = |settings: &Settings| -> BTreeSet<_> {
            let faults = Schedule::new(settings).faults();
            faults.iter().map(|(_, fault)| fault.kind()).collect()
        };
        assert_eq!(kinds(&settings(1)).len(), 14);
        let losing = settings(1).with_lost_data(true);
        assert_eq!(kinds(&losing).len(), 16);
        let lost = |settings: &Settings| {
            let faults = Schedule::new(settings).faults();
            faults
                .iter()
                .filter(|(_, fault)| fault.loses_data())
                .count()
        };
        assert_eq!(lost(&settings(1)), 0);
        assert!(lost(&losing) > 2);
    }

    #[test]
    fn some_process_is_stopped_for_longer_than_an_entry_lasts_in_the_first_seconds() {
        for seed in 0..50 {
            let settings = Settings::new(seed, Duration::from_secs(8), 3)
                .with_longest_entry(Duration::from_millis(1500));
            let faults = Schedule::new(&settings).faults();
            assert!(faults.iter().any(|(_, fault)| matches!(
                fault,
                Fault::StopProcess(_, time) if *time > settings.longest_entry
            )));
        }
    }
}
