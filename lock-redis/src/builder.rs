//! Where to connect, and how. Not connecting itself: that is `connection.rs` and `client/`.

use std::fmt;
use std::time::Duration;

use lock_core::{BackendError, BackendErrorKind};

use crate::backend::RedisBackend;
use crate::client::{Settings, Target};
use crate::connection::Link;

/// How long making a connection may take, unless the builder says otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer may take, unless the builder says otherwise: just below the longest time that lock-core
/// gives an operation by default (2 s).
pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_millis(1900);

/// How many subscriptions there may be at once, unless the builder says otherwise.
pub const DEFAULT_SUBSCRIPTIONS_AT_MOST: usize = 10_000;

/// Where to connect, and how. Made by [`RedisBackend::builder`], [`RedisBackend::sentinel`] and `RedisBackend::cluster`.
#[derive(Clone)]
#[must_use = "call connect"]
pub struct RedisBackendBuilder {
    place: Place,
    settings: Settings,
    replicas: u16,
    native: bool,
    survives_restart: bool,
}

#[derive(Clone)]
enum Place {
    Server(String),
    Sentinel(Vec<String>, String),
    #[cfg(feature = "cluster")]
    Cluster(Vec<String>),
}

impl RedisBackend {
    /// Connects to the server that `url` names: `redis://[user:password@]host[:port][/database]`, or
    /// `redis+unix:///path[?db=..&user=..&pass=..]`; `rediss://` with the feature `tls`. `valkey` may stand in place of `redis`, and
    /// `unix` of `redis+unix`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for a URL that is none, [`Transient`] if there is no connection within
    /// [`DEFAULT_CONNECT_TIMEOUT`], and [`Permanent`] if the server refuses the credentials. None of them has the URL in
    /// its text. What else the user may not do is [`Permanent`] at the first attempt, and so is a key that another node of a
    /// cluster has: connect to that with `cluster`.
    ///
    /// [`Invalid`]: lock_core::BackendErrorKind::Invalid
    /// [`Transient`]: lock_core::BackendErrorKind::Transient
    /// [`Permanent`]: lock_core::BackendErrorKind::Permanent
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder(url).connect().await
    }

    /// As [`connect`](Self::connect), with settings.
    pub fn builder(url: impl AsRef<str>) -> RedisBackendBuilder {
        Place::Server(url.as_ref().to_owned()).into()
    }

    /// The primary that these sentinels (their URLs) call `primary`. After a failover its successor is found.
    ///
    /// Where the primary wants a user, a database or TLS, `primary` is a URL with the name in place of the host:
    /// `redis://user:password@NAME/1`. Sentinels have credentials of their own, in their URLs.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), lock_redis::lock_core::BackendError> {
    /// let sentinels = ["redis://10.0.0.1:26379", "redis://10.0.0.2:26379", "redis://10.0.0.3:26379"];
    /// let backend = lock_redis::RedisBackend::sentinel(sentinels, "mymaster").connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sentinel(
        sentinels: impl IntoIterator<Item = impl Into<String>>,
        primary: impl Into<String>,
    ) -> RedisBackendBuilder {
        let sentinels = sentinels.into_iter().map(Into::into).collect();
        Place::Sentinel(sentinels, primary.into()).into()
    }

    /// The cluster that these nodes (their URLs) belong to; some are enough, the others are found. All with the same user
    /// and password.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), lock_redis::lock_core::BackendError> {
    /// let nodes = ["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"];
    /// let backend = lock_redis::RedisBackend::cluster(nodes).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "cluster")]
    pub fn cluster(nodes: impl IntoIterator<Item = impl Into<String>>) -> RedisBackendBuilder {
        Place::Cluster(nodes.into_iter().map(Into::into).collect()).into()
    }
}

impl From<Place> for RedisBackendBuilder {
    fn from(place: Place) -> Self {
        Self {
            place,
            settings: Settings::default(),
            replicas: 0,
            native: false,
            survives_restart: false,
        }
    }
}

impl RedisBackendBuilder {
    /// How long making a connection may take; default [`DEFAULT_CONNECT_TIMEOUT`]. Behind Sentinel that includes looking for
    /// the primary; a node of a cluster may be given a part of it.
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long an answer may take; default [`DEFAULT_RESPONSE_TIMEOUT`], and zero is [`Invalid`]. Keep it below the timeout of
    /// an operation.
    ///
    /// [`Invalid`]: lock_core::BackendErrorKind::Invalid
    pub const fn with_response_timeout(mut self, timeout: Duration) -> Self {
        self.settings.response_timeout = timeout;
        self
    }

    /// How many may subscribe to locks at once in order to be woken; default [`DEFAULT_SUBSCRIPTIONS_AT_MOST`]. Who waits beyond
    /// that is told a transient error, and looks at the lock from time to time instead. (Of all that wait for one lock through
    /// one `Locks`, one subscribes.)
    pub const fn with_subscriptions_at_most(mut self, most: usize) -> Self {
        self.settings.subscriptions = most;
        self
    }

    /// Trusts this authority, or shows this certificate, to every server at a `rediss://` URL. Default: the system's
    /// authorities, and no certificate.
    #[cfg(feature = "tls")]
    pub fn with_certificates(mut self, certificates: crate::client::Certificates) -> Self {
        self.settings.certificates = Some(certificates);
        self
    }

    /// A grant counts only when so many replicas have it (`WAIT`); default 0. One that they do not get within a tenth of the
    /// ttl, and half of the response timeout at most, is given back, and the error is transient.
    ///
    /// This narrows what a failover can do and does not rule it out: the replica that is promoted may be another one, and
    /// renewals are not waited for. It costs a second round trip and a second connection.
    pub const fn with_replicas(mut self, least: u16) -> Self {
        self.replicas = least;
        self
    }

    /// Says that the server keeps what it has answered over a crash and a restart (`appendonly yes` and `appendfsync always`),
    /// which the backend then declares as [`Capabilities::survives_restart`](lock_core::Capabilities::survives_restart).
    /// Default: false. The server is not asked, and nothing else changes.
    pub const fn with_survives_restart(mut self, survives_restart: bool) -> Self {
        self.survives_restart = survives_restart;
        self
    }

    /// Never sends a script (`EVAL`, `EVALSHA`), but `SET` with `IFEQ`, and `DELIFEQ` (Valkey from 9.0) or `DELEX` (Redis from
    /// 8.4): which of these, the server is asked at the first attempt, which is a permanent error if it has neither. Tested
    /// on Valkey; `DELEX` through a proxy that gives a Valkey server that command in place of its own.
    ///
    /// The first attempt also subscribes once, over another connection, so that a right that waiters lack is named then; where that
    /// takes longer than a tenth of the ttl or a second, by a later one.
    ///
    /// There are no fencing tokens then, a lock is renewed with its one ttl only (`extend` and `renew_for` are
    /// [`Unsupported`](lock_core::BackendErrorKind::Unsupported)), and a renewal is refused by a server that is out of memory.
    /// Nor is there a [`force_release`](lock_core::ForceRelease::force_release), which is unsupported too, and
    /// `may_evict` does not know.
    /// **Do not use it on a key together with holders that have fencing tokens**: it gives none, so a resource that checks
    /// them cannot tell its holders from stale ones.
    pub const fn with_native_commands(mut self) -> Self {
        self.native = true;
        self
    }

    /// Connects. With the feature `tracing`, a password that goes over a network in the clear is a warning, of the target
    /// `fencelock`. Where somebody listens to those, the server is then asked whether it
    /// [may evict](RedisBackend::may_evict) locks, for no longer than connecting may take; if it may, that is a warning.
    ///
    /// # Errors
    ///
    /// As [`RedisBackend::connect`], [`Invalid`](lock_core::BackendErrorKind::Invalid) for a response timeout of zero, and
    /// [`Unsupported`](lock_core::BackendErrorKind::Unsupported) for
    /// [native commands](Self::with_native_commands) together with [replicas](Self::with_replicas).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(self) -> Result<RedisBackend, BackendError> {
        if self.settings.response_timeout.is_zero() {
            return Err(BackendError::new(
                BackendErrorKind::Invalid,
                "no answer comes in no time: the response timeout is zero",
            ));
        }
        let target = match &self.place {
            Place::Server(url) => Target::of_url(url, &self.settings),
            Place::Sentinel(sentinels, primary) => {
                Target::of_sentinels(sentinels, primary, &self.settings)
            }
            #[cfg(feature = "cluster")]
            Place::Cluster(nodes) => Target::of_cluster(nodes, &self.settings),
        };
        let mut backend = RedisBackend::own(target?).with_replicas(self.replicas);
        if self.native && self.replicas > 0 {
            return Err(BackendError::new(
                BackendErrorKind::Unsupported,
                "waiting for replicas without scripts",
            ));
        }
        if self.native {
            backend = backend.with_native_commands();
        }
        backend.survives_restart = self.survives_restart;
        if let Link::Own(own) = &backend.link {
            own.connect().await?;
        }
        #[cfg(feature = "tracing")]
        backend
            .warn_of_eviction(self.settings.connect_timeout)
            .await;
        Ok(backend)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            response_timeout: DEFAULT_RESPONSE_TIMEOUT,
            subscriptions: DEFAULT_SUBSCRIPTIONS_AT_MOST,
            #[cfg(feature = "tls")]
            certificates: None,
        }
    }
}

/// URLs may have a password in them and are not printed.
impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackendBuilder")
            .field("connect_timeout", &self.settings.connect_timeout)
            .field("response_timeout", &self.settings.response_timeout)
            .finish_non_exhaustive()
    }
}
