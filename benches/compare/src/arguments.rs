//! What the command line asks for.

use std::fs;
use std::path::PathBuf;

use lexopt::prelude::*;

pub(crate) const USAGE: &str = "\
fencelock-compare [--quick] [--workload NAME]... [--contestant PART]... [--repetitions N] [--plots FOLDER]

  --quick          few and short repetitions: whether it works, not how fast
  --workload NAME  only those whose name begins with NAME: w1, w2, w3-processes, w3-clients, w4, w5, w7,
                   memory-one, memory-own, memory-same, allocations, growth-waiters, growth-held, growth-keys
  --contestant P   only those whose name contains P; the first that is left is what the others are compared with
  --repetitions N  how often each contestant has its turn
  --plots FOLDER   draw plots (SVG) there";

pub(crate) struct Arguments {
    pub(crate) quick: bool,
    pub(crate) workloads: Vec<String>,
    pub(crate) contestants: Vec<String>,
    repetitions: Option<usize>,
    plots: Option<PathBuf>,
}

impl Arguments {
    /// None if help is wanted.
    pub(crate) fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut parser = lexopt::Parser::from_env();
        let mut arguments = Self {
            quick: false,
            workloads: Vec::new(),
            contestants: Vec::new(),
            repetitions: None,
            plots: None,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Long("quick") => arguments.quick = true,
                Long("workload") => arguments.workloads.push(parser.value()?.string()?),
                Long("contestant") => arguments.contestants.push(parser.value()?.string()?),
                Long("repetitions") => arguments.repetitions = Some(parser.value()?.parse()?),
                Long("plots") => arguments.plots = Some(parser.value()?.into()),
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(arguments))
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        let begins = |wanted: &String| name.starts_with(wanted.as_str());
        self.workloads.is_empty() || self.workloads.iter().any(begins)
    }

    /// How often each contestant has its turn, where `usual` is enough for a figure.
    pub(crate) fn repetitions(&self, usual: usize) -> usize {
        if self.quick {
            2
        } else {
            self.repetitions.unwrap_or(usual)
        }
    }

    /// A size or a time, a tenth of it where it is only to be seen that it works.
    pub(crate) fn size(&self, usual: usize) -> usize {
        if self.quick {
            usual.div_ceil(10)
        } else {
            usual
        }
    }

    pub(crate) fn plot(&self, name: &str, svg: impl FnOnce() -> String) {
        let Some(folder) = &self.plots else { return };
        fs::create_dir_all(folder).expect("the folder for the plots");
        fs::write(folder.join(format!("{name}.svg")), svg()).expect("a plot is written");
    }
}
