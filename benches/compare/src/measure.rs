//! What is read off the clocks, and what is made of many readings.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Time of the wall and of this process's processors.
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

pub(crate) struct Measured {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            cpu: cpu(),
            wall: Instant::now(),
        }
    }

    pub(crate) fn stop(self) -> Measured {
        Measured {
            wall: self.wall.elapsed(),
            cpu: cpu().saturating_sub(self.cpu),
        }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// The middle of many values, and where the middle half of them lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            values[below] + (values[above] - values[below]) * place.fract()
        };
        Some(Self {
            lower: at(0.25),
            median: at(0.5),
            upper: at(0.75),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_the_middle_half() {
        assert!(Spread::of(Vec::new()).is_none());
        let spread = Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.lower, spread.median, spread.upper), (2.0, 3.0, 4.0));
        let even = Spread::of(vec![1.0, 2.0]).unwrap();
        assert_eq!(even.median, 1.5);
    }
}
