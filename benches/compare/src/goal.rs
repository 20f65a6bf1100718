//! What we want to reach.

use std::fmt;

use crate::measure::Spread;
use crate::report::number;
use crate::rotation::Outcome;

/// A figure of one contestant, or how many times that of another it is, and its bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) figure: &'static str,
    pub(crate) of: &'static str,
    pub(crate) base: Option<&'static str>,
    pub(crate) bound: Bound,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    /// The figure of `of` by itself.
    pub(crate) const fn of(of: &'static str, figure: &'static str, bound: Bound) -> Self {
        Self {
            figure,
            of,
            base: None,
            bound,
        }
    }

    /// As a multiple of that of `base`.
    pub(crate) const fn over(mut self, base: &'static str) -> Self {
        self.base = Some(base);
        self
    }

    pub(crate) fn seen(&self, outcome: &Outcome) -> Option<Spread> {
        match self.base {
            Some(base) => outcome.ratio(self.of, base, self.figure),
            None => outcome.spread(self.of, self.figure),
        }
    }
}

impl Bound {
    pub(crate) fn admits(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.figure, self.of)?;
        match self.base {
            Some(base) => write!(f, " ÷ {base}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {}", number(*bound)),
            Self::AtLeast(bound) => write!(f, "≥ {}", number(*bound)),
        }
    }
}
