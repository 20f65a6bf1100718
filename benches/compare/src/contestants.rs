//! Who takes part in what. The first is the one that the others are compared with.

#[macro_use]
mod script;
pub(crate) mod in_process;
pub(crate) mod keeper;
pub(crate) mod ours;
pub(crate) mod raw;
pub(crate) mod rivals;

use crate::client::{Again, Enter};

/// Where nobody waits.
pub(crate) fn uncontended(to: &mut impl Enter) {
    to.enter::<raw::Redis>();
    to.enter::<Again<raw::Redis>>();
    to.enter::<raw::OurScripts>();
    to.enter::<ours::OnRedis>();
    to.enter::<raw::Fred>();
    to.enter::<raw::OurScriptsByFred>();
    to.enter::<ours::OnFred>();
    to.enter::<rivals::Rslock>();
    to.enter::<rivals::DistributedLock>();
}

/// Where many wait for one key. Others poll, so that they take part as they come and well tuned.
pub(crate) fn contended(to: &mut impl Enter) {
    to.enter::<rivals::Rslock>();
    to.enter::<rivals::RslockEvery<10>>();
    to.enter::<ours::OnRedis>();
    to.enter::<ours::OnFred>();
    to.enter::<rivals::DistributedLock>();
    to.enter::<rivals::DistributedLock<2>>();
}

/// Where one waits for one other.
pub(crate) fn passed(to: &mut impl Enter) {
    to.enter::<keeper::Told>();
    to.enter::<Again<keeper::Told>>();
    to.enter::<ours::OnRedis>();
    to.enter::<ours::OnFred>();
    to.enter::<rivals::Rslock>();
    to.enter::<rivals::RslockEvery<5>>();
    to.enter::<rivals::DistributedLock<2>>();
}

/// Who keeps keys for longer than their ttl.
pub(crate) fn renewing(to: &mut impl Enter) {
    to.enter::<rivals::DistributedLock>();
    to.enter::<keeper::Kept<false>>();
    to.enter::<keeper::Kept<true>>();
    to.enter::<ours::OnRedis>();
    to.enter::<ours::OnFred>();
}

/// Whoever remembers what it holds.
pub(crate) fn held(to: &mut impl Enter) {
    to.enter::<raw::Redis>();
    to.enter::<ours::OnRedisUnrenewed>();
    to.enter::<ours::OnRedis>();
    to.enter::<ours::OnFred>();
    to.enter::<rivals::Rslock>();
    to.enter::<rivals::DistributedLock>();
}

/// Within one process.
pub(crate) fn in_process(to: &mut impl Enter) {
    to.enter::<in_process::Lockable>();
    to.enter::<Again<in_process::Lockable>>();
    to.enter::<ours::InMemory>();
    to.enter::<ours::MemoryStore>();
    to.enter::<in_process::KeyedLock>();
    to.enter::<in_process::KeyLock>();
    to.enter::<in_process::Plain>();
}

/// How it grows.
pub(crate) fn growing(to: &mut impl Enter) {
    to.enter::<ours::OnRedis>();
    to.enter::<raw::Redis>();
}

/// How the number of waiters tells.
pub(crate) fn growing_contended(to: &mut impl Enter) {
    to.enter::<ours::OnRedis>();
    to.enter::<rivals::RslockEvery<10>>();
}
