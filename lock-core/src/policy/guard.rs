//! What becomes of the lock when its guard is dropped.

/// What dropping a guard does to the lock. `release` and `leave_to_expire` do what they say whatever this is,
/// and a guard that nobody received (its `acquire` was cancelled) is always released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GuardPolicy {
    /// Releases it in the background. The default.
    #[default]
    Release,
    /// Stops renewing and leaves the entry to its ttl, so that nobody gets the lock before: for work that shall
    /// happen at most once per period.
    LeaveToExpire,
}
