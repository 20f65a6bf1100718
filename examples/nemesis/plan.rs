//! What each task of a worker does: drawn from the seed, whatever happens. Not how it goes.

use std::time::Duration;

use fastrand::Rng;
use fencelock::RenewalPolicy;

/// Held for short times only, and often.
const HOT: &str = "hot";

/// What is locked.
pub(crate) const KEYS: [&str; 4] = [HOT, "a", "b", "c"];

/// No entry lasts longer unless it is renewed: the longest ttl and the longest extension.
pub(crate) const LONGEST_ENTRY: Duration = Duration::from_millis(1500);

/// What a task is about to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) key: &'static str,
    pub(super) ttl: Duration,
    pub(super) renewal: RenewalPolicy,
    pub(super) way: Way,
    pub(super) steps: u32,
    pub(super) pace: Duration,
    /// At which step what is done to what remains of the lock.
    pub(super) change: Option<(u32, Change)>,
    /// Does not look at the guard while it works, so that it writes late if it was stopped meanwhile.
    pub(super) careless: bool,
    pub(super) ending: Ending,
    /// Writes once more after it has learnt that the lock is lost.
    pub(super) late: bool,
    pub(super) rest: Duration,
}

#[derive(Debug)]
pub(super) enum Way {
    Try,
    Wait(Duration),
    /// Waits, but drops the future after this time.
    Drop(Duration),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Extend(Duration),
    Shorten(Duration),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Release,
    Drop,
    LeaveToExpire,
    HandOver,
    /// All of it in `with`.
    With,
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        // Tasks wait long for the other keys, so that few of them would get around to this one.
        let hot = rng.u32(..10) < 7;
        let key = if hot {
            HOT
        } else {
            rng.choice(KEYS).unwrap_or(HOT)
        };
        let ttl = Duration::from_millis(rng.choice([400, 700, 1000]).unwrap_or_default());
        let hot = key == HOT;
        let renewal = match rng.u32(..10) {
            0..2 => RenewalPolicy::never(),
            2 => RenewalPolicy::default().hold_at_most(milliseconds(rng, 50, 1500)),
            3 => RenewalPolicy::per_ttl(10),
            _ => RenewalPolicy::default(),
        };
        let (steps, pace) = match rng.u32(..100) {
            _ if hot => (rng.u32(0..3), milliseconds(rng, 1, 1)),
            // Up to the deadline, often: that is where two are nearest to each other.
            0..50 if renewal == RenewalPolicy::never() => {
                (rng.u32(60..80), milliseconds(rng, 20, 20))
            }
            0..85 => (rng.u32(0..6), milliseconds(rng, 1, 4)),
            85..97 => (rng.u32(10..40), milliseconds(rng, 12, 12)),
            // Longer than any ttl.
            _ => (rng.u32(50..80), milliseconds(rng, 20, 20)),
        };
        let change = (steps > 0 && rng.u32(..5) == 0).then(|| {
            let time = milliseconds(rng, 50, 500);
            let change = if rng.bool() {
                Change::Extend(time)
            } else {
                Change::Shorten(time)
            };
            (rng.u32(..steps), change)
        });
        Self {
            key,
            ttl,
            renewal,
            way: match rng.u32(..10) {
                0..3 => Way::Try,
                3 => Way::Drop(milliseconds(rng, 1, 60)),
                _ => Way::Wait(milliseconds(rng, 50, 2000)),
            },
            steps,
            pace,
            change,
            careless: rng.u32(..3) == 0,
            ending: match rng.u32(..100) {
                0 if !hot => Ending::LeaveToExpire,
                0..50 => Ending::Release,
                50..65 => Ending::Drop,
                65..75 => Ending::HandOver,
                _ => Ending::With,
            },
            late: rng.bool(),
            rest: milliseconds(rng, 0, 15),
        }
    }
}

fn milliseconds(rng: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.u64(least..=most))
}
