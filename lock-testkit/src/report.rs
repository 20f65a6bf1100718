//! Which cases a fixture is put to, and which it is spared and why. Not whether they pass: that is what the tests say.

use std::any::type_name;
use std::fmt;

use crate::cases::CASES;
use crate::fixture::Fixture;
use crate::gap::Gap;

/// One case of the suite: `promise::name` in [`cases`](crate::cases).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Case {
    /// The module, which is the promise.
    pub promise: &'static str,
    /// The function.
    pub name: &'static str,
    /// What the store or its fixture must have.
    pub needs: &'static [Gap],
}

impl Case {
    /// For the macros; the cases are in [`CASES`].
    #[doc(hidden)]
    #[must_use]
    pub const fn new(promise: &'static str, name: &'static str, needs: &'static [Gap]) -> Self {
        Self {
            promise,
            name,
            needs,
        }
    }

    /// What `F` declares to lack of what the case needs. It is skipped unless this is empty.
    #[must_use]
    pub fn lacks<F: Fixture>(&self) -> Vec<Gap> {
        let is_lacking = |need: &Gap| F::GAPS.contains(need);
        self.needs.iter().copied().filter(is_lacking).collect()
    }

    /// Whether it stops, restarts or stalls the store or cuts its connections, which others who use the same store would notice.
    #[must_use]
    pub fn disturbs(&self) -> bool {
        let disturbs = [Gap::Restart, Gap::Stop, Gap::Stall, Gap::CutConnections];
        self.needs.iter().any(|need| disturbs.contains(need))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.promise, self.name)
    }
}

/// What becomes of each case with one fixture. Printed, it is a table in Markdown.
///
/// It follows from what the fixture declares alone, so it is the same in every process and needs no running store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    fixture: &'static str,
    is_here: bool,
    rows: Vec<(Case, Vec<Gap>)>,
}

impl Report {
    /// The report of `F`.
    #[must_use]
    pub fn of<F: Fixture>() -> Self {
        let row = |case: &Case| (*case, case.lacks::<F>());
        Self {
            fixture: type_name::<F>(),
            is_here: F::is_here(),
            rows: CASES.iter().map(row).collect(),
        }
    }

    /// The cases that are run.
    pub fn tested(&self) -> impl Iterator<Item = &Case> {
        let tested = |lacks: &[Gap]| self.is_here && lacks.is_empty();
        self.rows
            .iter()
            .filter(move |(_, lacks)| tested(lacks))
            .map(|(case, _)| case)
    }

    /// The cases that are skipped, and what they would need; nothing more if the store is [not here](Fixture::is_here).
    pub fn skipped(&self) -> impl Iterator<Item = (&Case, &[Gap])> {
        let skipped = |lacks: &[Gap]| !self.is_here || !lacks.is_empty();
        self.rows
            .iter()
            .filter(move |(_, lacks)| skipped(lacks))
            .map(|(case, lacks)| (case, lacks.as_slice()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "`{}`: {} cases tested, {} skipped.\n",
            self.fixture,
            self.tested().count(),
            self.skipped().count()
        )?;
        writeln!(f, "| Case | Needs | |\n|---|---|---|")?;
        for (case, lacks) in &self.rows {
            let needs: Vec<_> = case.needs.iter().map(|need| format!("{need:?}")).collect();
            write!(f, "| `{case}` | {} | ", needs.join(", "))?;
            if !self.is_here {
                writeln!(f, "**skipped**: the store is not here |")?;
            } else if lacks.is_empty() {
                writeln!(f, "tested |")?;
            } else {
                let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
                writeln!(f, "**skipped**: no {} |", lacks.join(", no "))?;
            }
        }
        Ok(())
    }
}
