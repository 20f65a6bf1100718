//! A primary and a replica that three sentinels watch.

use std::time::Duration;

use super::options::{RedisOptions, Role};
use super::oracle::Reply;
use super::redis::RedisServer;
use super::replicas::RedisReplicas;

/// A primary with replicas, and three sentinels of which two must agree that the primary is down.
#[derive(Debug)]
pub struct RedisSentinel {
    /// Those who watch.
    pub sentinels: Vec<RedisServer>,
    /// Those who are watched. Which of them is the primary changes: [`primary`](Self::primary).
    pub servers: Vec<RedisServer>,
}

impl RedisSentinel {
    /// What the sentinels call the primary.
    pub const NAME: &str = "fencelock";

    /// How long a primary is silent until it is taken for down.
    pub const DOWN_AFTER: Duration = Duration::from_millis(1500);

    /// A primary with one replica, and three sentinels which know each other and both.
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&RedisOptions::new())
    }

    /// The same of such servers. (Without a password.) Over TLS, the sentinels speak it too.
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn with(options: &RedisOptions) -> Self {
        Self::assemble(options, None)
    }

    /// As [`start`](Self::start), with sentinels that ask for this password.
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn start_with_password(password: &str) -> Self {
        Self::assemble(&RedisOptions::new(), Some(password))
    }

    fn assemble(options: &RedisOptions, password: Option<&str>) -> Self {
        let RedisReplicas { primary, replicas } = RedisReplicas::with(options, 1);
        let (name, port) = (Self::NAME, primary.port());
        let down_after = Self::DOWN_AFTER.as_millis();
        // The last but one also says how soon a replica of the wrong primary is set right.
        let configuration = format!(
            "sentinel monitor {name} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {name} {down_after}\n\
             sentinel failover-timeout {name} 10000\n\
             sentinel parallel-syncs {name} 1\n"
        );
        let watcher = RedisOptions::new().with_program(options.program);
        #[cfg(feature = "tls")]
        let watcher = match &options.identity {
            Some(identity) => watcher.with_tls(identity.clone()),
            None => watcher,
        };
        let (watcher, configuration) = match password {
            // Among each other too.
            Some(password) => (
                watcher.with_password(password),
                format!(
                    "{configuration}requirepass {password}\nsentinel sentinel-pass {password}\n"
                ),
            ),
            None => (watcher, configuration),
        };
        let watcher = watcher.with_role(Role::Watch(configuration));
        let sentinels: Vec<_> = (0..3).map(|_| watcher.clone().start()).collect();
        let sentinel = Self {
            sentinels,
            servers: std::iter::once(primary).chain(replicas).collect(),
        };
        super::eventually("the sentinels know each other and the replica", || {
            sentinel.sentinels.iter().all(|one| sentinel.knows_all(one))
        });
        sentinel
    }

    /// The URLs of the sentinels.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// The server that the sentinels call the primary. It need not be up, nor know it yet.
    ///
    /// # Panics
    ///
    /// If no sentinel answers.
    #[must_use]
    pub fn primary(&self) -> &RedisServer {
        &self.servers[self.primary_index()]
    }

    /// Its place among [`servers`](Self::servers).
    ///
    /// # Panics
    ///
    /// As [`primary`](Self::primary).
    #[must_use]
    pub fn primary_index(&self) -> usize {
        let up = self.sentinels.iter().find(|sentinel| sentinel.is_started());
        let up = up.expect("a sentinel that was not stopped");
        let address = up.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::NAME]);
        let port = address.array()[1].text();
        let is_it = |server: &RedisServer| server.port().to_string() == port;
        let index = self.servers.iter().position(is_it);
        index.unwrap_or_else(|| panic!("the sentinels name {address:?}, which is none of ours"))
    }

    /// Kills the primary. The sentinels make another one in a few seconds: [`wait_for_failover`](Self::wait_for_failover).
    ///
    /// # Panics
    ///
    /// If no sentinel answers.
    pub fn kill_primary(&mut self) -> usize {
        let index = self.primary_index();
        self.servers[index].stop();
        index
    }

    /// Waits until the sentinels name another primary than the one at `index` of the servers, and it accepts writes.
    ///
    /// # Panics
    ///
    /// If that takes a minute.
    pub fn wait_for_failover(&self, index: usize) -> &RedisServer {
        super::eventually("another server is the primary", || {
            let now = self.primary_index();
            let role = || self.servers[now].info("replication", "role");
            now != index && role().as_deref() == Some("master")
        });
        self.primary()
    }

    /// Cuts the replica off: it keeps what it has and learns nothing more. It can be promoted for a few seconds yet.
    ///
    /// # Panics
    ///
    /// If the primary does not answer.
    pub fn pause_replication(&self) {
        self.primary().lock_replicas_out();
    }

    fn knows_all(&self, sentinel: &RedisServer) -> bool {
        let asked =
            |what: &str| sentinel.ask(&[b"SENTINEL", what.as_bytes(), Self::NAME.as_bytes()]);
        let others = asked("SENTINELS").is_ok_and(
            |reply| matches!(reply, Reply::Array(others) if others.len() + 1 == self.sentinels.len()),
        );
        let replicas = asked("REPLICAS").is_ok_and(
            |reply| matches!(reply, Reply::Array(replicas) if replicas.len() + 1 == self.servers.len()),
        );
        let quorum = asked("CKQUORUM").is_ok_and(|reply| matches!(reply, Reply::Status(_)));
        others && replicas && quorum
    }
}
