//! What a store, or the fixture around it, may lack. Not what it has: that is tested.

use std::fmt;

use lock_core::Capabilities;

/// What a fixture declares not to be there, in [`Fixture::GAPS`](crate::Fixture::GAPS).
///
/// A case that needs it is then skipped, aloud. What is not declared is tested, and fails where it is missing; and so does
/// a gap that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gap {
    /// The store gives no fencing tokens: [`Capabilities::fencing`].
    Fencing,
    /// The store wakes nobody: [`Capabilities::wakeups`].
    Wakeups,
    /// The store keeps no line of waiters: [`Capabilities::order`].
    Order,
    /// A lock cannot be handed over: [`Capabilities::hand_over`].
    HandOver,
    /// A renewal is for the ttl of the grant and no other: [`Capabilities::any_ttl`].
    AnyTtl,
    /// The store forgets everything when it restarts: [`Capabilities::survives_restart`].
    SurvivesRestart,
    /// The client may send again what was under way when its connection was cut: [`Capabilities::resends`].
    SendsOnce,
    /// There is no [`Fixture::evict`](crate::Fixture::evict).
    Evict,
    /// There is no [`Fixture::expire`](crate::Fixture::expire). Cases that can wait for the ttl do that instead.
    Expire,
    /// There is no [`Fixture::obstruct`](crate::Fixture::obstruct).
    Obstruct,
    /// There is no [`Fixture::restart`](crate::Fixture::restart).
    Restart,
    /// There is no [`Fixture::stop`](crate::Fixture::stop).
    Stop,
    /// There is no [`Fixture::stall`](crate::Fixture::stall).
    Stall,
    /// There is no [`Fixture::cut_connections`](crate::Fixture::cut_connections).
    CutConnections,
    /// There is no [`Fixture::operator`](crate::Fixture::operator): no lock can be taken from its holder.
    ForceRelease,
    /// There is no [`Fixture::address`](crate::Fixture::address): the store is in the process that tests it.
    Processes,
    /// Nobody can stop another process and let it go on: the tests do not run on Unix, or there are no
    /// [other processes](Self::Processes).
    Signals,
}

impl Gap {
    /// All that may be lacking.
    pub const ALL: &'static [Self] = &[
        Self::Fencing,
        Self::Wakeups,
        Self::Order,
        Self::HandOver,
        Self::AnyTtl,
        Self::SurvivesRestart,
        Self::SendsOnce,
        Self::Evict,
        Self::Expire,
        Self::Obstruct,
        Self::Restart,
        Self::Stop,
        Self::Stall,
        Self::CutConnections,
        Self::ForceRelease,
        Self::Processes,
        Self::Signals,
    ];

    /// Whether a backend declares that it has it; `None` of a hook, which is the fixture's.
    pub(crate) const fn is_declared_in(self, capabilities: &Capabilities) -> Option<bool> {
        match self {
            Self::Fencing => Some(capabilities.fencing),
            Self::Wakeups => Some(capabilities.wakeups),
            Self::Order => Some(capabilities.order),
            Self::HandOver => Some(capabilities.hand_over),
            Self::AnyTtl => Some(capabilities.any_ttl),
            Self::SurvivesRestart => Some(capabilities.survives_restart),
            Self::SendsOnce => Some(!capabilities.resends),
            Self::Evict
            | Self::Expire
            | Self::Obstruct
            | Self::Restart
            | Self::Stop
            | Self::Stall
            | Self::CutConnections
            | Self::ForceRelease
            | Self::Processes
            | Self::Signals => None,
        }
    }

    /// What to do about it where it is neither there nor declared missing.
    pub(crate) fn advice(self) -> String {
        let what = match self {
            Self::Fencing => "`Capabilities::fencing` and what it promises",
            Self::Wakeups => "`Capabilities::wakeups` and what it promises",
            Self::Order => "`Capabilities::order` and what it promises",
            Self::HandOver => "`Capabilities::hand_over` and what it promises",
            Self::AnyTtl => "`Capabilities::any_ttl` and what it promises",
            Self::SurvivesRestart => "`Capabilities::survives_restart` and what it promises",
            Self::SendsOnce => "a client that sends nothing again, without `Capabilities::resends`",
            Self::Evict => "`Fixture::evict`",
            Self::Expire => "`Fixture::expire`",
            Self::Obstruct => "`Fixture::obstruct`",
            Self::Restart => "`Fixture::restart`",
            Self::Stop => "`Fixture::stop`",
            Self::Stall => "`Fixture::stall`",
            Self::CutConnections => "`Fixture::cut_connections`",
            Self::ForceRelease => "`Fixture::operator`",
            Self::Processes => "`Fixture::address` and `Fixture::join`",
            Self::Signals => "`Fixture::address` on Unix",
        };
        format!("implement {what}, or declare `Gap::{self:?}` in `Fixture::GAPS`")
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fencing => "fencing tokens",
            Self::Wakeups => "wake-ups",
            Self::Order => "order among waiters",
            Self::HandOver => "hand-over",
            Self::AnyTtl => "renewals with any ttl",
            Self::SurvivesRestart => "memory beyond a restart",
            Self::SendsOnce => "client that sends each request once",
            Self::Evict => "way to delete an entry",
            Self::Expire => "way to end an entry early",
            Self::Obstruct => "other things to put at a key",
            Self::Restart => "way to restart the store",
            Self::Stop => "way to stop the store",
            Self::Stall => "way to stall the store",
            Self::CutConnections => "connections to cut",
            Self::ForceRelease => "way to take a lock from its holder",
            Self::Processes => "way for other processes to find the store",
            Self::Signals => "way to stop a process",
        })
    }
}
