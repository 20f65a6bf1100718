//! The Lua scripts: each is one atomic step at the server. Not how they are sent: that is `connection.rs`.

use std::sync::LazyLock;

/// A script and the digest by which a server that has seen it knows it.
pub(crate) struct Script {
    pub(crate) source: &'static str,
    pub(crate) sha1: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self {
            source,
            sha1: sha1_smol::Sha1::from(source).digest().to_string(),
        }
    }
}

macro_rules! script {
    // The usual case goes before the prelude.
    ($(#[$doc:meta])* $name:ident, $($usual:literal,)? then $file:literal) => {
        $(#[$doc])*
        pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                $(include_str!($usual), "\n",)?
                include_str!("lua/prelude.lua"), "\n", include_str!($file)
            ))
        });
    };
}

script!(
    /// KEYS: lock, fencing counter. ARGV: owner, ttl (ms), tokens, owner to take over from or empty, how long
    /// the counter is kept (ms), `1` to check permissions, and then: wake channel, [`PUBLISH`] or nothing, and other commands
    /// that the user must be allowed.
    ACQUIRE, "lua/acquire_free.lua", then "lua/acquire.lua"
);
script!(
    /// KEYS: locks, at most [`RENEWALS_AT_ONCE`]. ARGV, for each: owner, ttl (ms), `1` to shorten too.
    RENEW, then "lua/renew.lua"
);
script!(
    /// KEYS: lock. ARGV: owner, wake channel, [`PUBLISH`] or nothing.
    RELEASE, "lua/release_held.lua", then "lua/release.lua"
);
script!(
    /// KEYS: lock, fencing counter. ARGV: owner, how long the counter is kept (ms).
    SETTLE, then "lua/settle.lua"
);
script!(
    /// KEYS: lock, fencing counter.
    INSPECT, then "lua/inspect.lua"
);

script!(
    /// KEYS: lock, fencing counter. ARGV: wake channel, [`PUBLISH`] or nothing, how long the counter is kept (ms).
    FORCE, then "lua/force.lua"
);

script!(
    /// Neither keys nor arguments.
    EVICTION, then "lua/eviction.lua"
);

/// How many locks one call renews: the server does nothing else meanwhile (below a millisecond).
pub(crate) const RENEWALS_AT_ONCE: usize = 200;

/// The command that wakes waiters, on a single server and behind Sentinel.
pub(crate) const PUBLISH: &str = "PUBLISH";

/// The same in a cluster, where it stays with the servers of the slot.
pub(crate) const SPUBLISH: &str = "SPUBLISH";
