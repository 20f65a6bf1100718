//! Contestants take turns, so that whatever else the machine does falls on all of them alike.

use std::time::Duration;

use lock_testkit::server::{RedisServer, Reply};
use tokio::runtime::{Builder, Runtime};

use crate::client::Target;
use crate::measure::Spread;

/// Where all of it happens.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    pub(crate) server: RedisServer,
    /// Only contestants whose name contains one of these; all if there is none.
    pub(crate) only: Vec<String>,
}

pub(crate) fn two_threads() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

impl Stage {
    pub(crate) fn admits(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// The server, and a ttl that nobody needs to renew within a repetition.
    pub(crate) fn target(&self) -> Target {
        Target {
            url: self.server.url(),
            ttl: Duration::from_secs(30),
        }
    }

    pub(crate) fn server_version(&self) -> String {
        let info = self.server.cli(&["INFO", "server"]).text().to_owned();
        let version = info
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"));
        version.unwrap_or_default().trim().to_owned()
    }

    /// How many of the keys of `names` there are.
    pub(crate) fn count(&self, names: &str) -> usize {
        let count = "return #redis.call('KEYS', ARGV[1])";
        let reply = self.server.cli(&["EVAL", count, "0", names]);
        match reply {
            Reply::Integer(count) => usize::try_from(count).unwrap_or_default(),
            other => panic!("no number: {other:?}"),
        }
    }

    /// How many of the commands of these names the server has run so far.
    pub(crate) fn commands(&self, names: &[&str]) -> u64 {
        let info = self.server.cli(&["INFO", "commandstats"]).text().to_owned();
        let calls = |name: &str| {
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")))?;
            line.split(',').next()?.parse::<u64>().ok()
        };
        names.iter().filter_map(|name| calls(name)).sum()
    }
}

/// What one repetition of one contestant gave, by the name of the figure.
#[derive(Default, Clone)]
pub(crate) struct Sample(Vec<(&'static str, f64)>);

impl Sample {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn set(&mut self, figure: &'static str, value: f64) {
        self.0.push((figure, value));
    }

    fn value(&self, figure: &str) -> Option<f64> {
        let found = self.0.iter().find(|(name, _)| *name == figure)?;
        Some(found.1)
    }
}

/// A contestant in a workload, ready to go.
pub(crate) struct Run<'a> {
    name: String,
    repetition: Box<dyn FnMut() -> Sample + 'a>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(name: String, repetition: impl FnMut() -> Sample + 'a) -> Self {
        Self {
            name,
            repetition: Box::new(repetition),
        }
    }
}

/// What all contestants gave, by repetition.
pub(crate) struct Outcome {
    pub(crate) title: String,
    contestants: Vec<(String, Vec<Sample>)>,
}

/// Runs each once unmeasured, then all of them `repetitions` times, each time beginning with another.
pub(crate) fn rotate(title: &str, mut runs: Vec<Run<'_>>, repetitions: usize) -> Outcome {
    for run in &mut runs {
        (run.repetition)();
    }
    rotate_cold(title, runs, repetitions)
}

/// The same for repetitions that are long, and prepared each by itself.
pub(crate) fn rotate_cold(title: &str, mut runs: Vec<Run<'_>>, repetitions: usize) -> Outcome {
    let mut samples: Vec<Vec<Sample>> = runs.iter().map(|_| Vec::new()).collect();
    for repetition in 0..repetitions {
        for place in 0..runs.len() {
            let index = (repetition + place) % runs.len();
            samples[index].push((runs[index].repetition)());
        }
    }
    let names = runs.into_iter().map(|run| run.name);
    Outcome {
        title: title.to_owned(),
        contestants: names.zip(samples).collect(),
    }
}

impl Outcome {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.contestants.iter().map(|(name, _)| name.as_str())
    }

    /// The names of all figures, in the order in which they were first given.
    pub(crate) fn figures(&self) -> Vec<&'static str> {
        let mut figures = Vec::new();
        for (_, samples) in &self.contestants {
            for (figure, _) in samples.iter().flat_map(|sample| &sample.0) {
                if !figures.contains(figure) {
                    figures.push(figure);
                }
            }
        }
        figures
    }

    fn samples(&self, name: &str) -> Option<&[Sample]> {
        let found = self.contestants.iter().find(|(of, _)| of == name)?;
        Some(&found.1)
    }

    pub(crate) fn spread(&self, name: &str, figure: &str) -> Option<Spread> {
        let samples = self.samples(name)?.iter();
        Spread::of(samples.filter_map(|sample| sample.value(figure)).collect())
    }

    /// The figure of `name` as a multiple of that of `base` in the same repetition.
    pub(crate) fn ratio(&self, name: &str, base: &str, figure: &str) -> Option<Spread> {
        let (samples, bases) = (self.samples(name)?, self.samples(base)?);
        let ratios = samples.iter().zip(bases).filter_map(|(sample, base)| {
            let ratio = sample.value(figure)? / base.value(figure)?;
            ratio.is_finite().then_some(ratio)
        });
        Spread::of(ratios.collect())
    }
}
