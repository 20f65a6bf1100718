//! What to do when, as plain data: print it, compare it, write it into a configuration. Nothing here acts.

mod guard;
mod options;
mod passing;
mod renewal;
mod retry;
mod terms;

pub use guard::GuardPolicy;
pub use options::{LockOptions, MAX_TTL, MIN_TTL};
pub(crate) use options::{check_ttl, validity};
pub use passing::PassingOn;
pub use renewal::RenewalPolicy;
pub use retry::{Delays, RetryPolicy};
pub(crate) use retry::{MIN_DELAY, nth, part_of};
pub(crate) use terms::Terms;
