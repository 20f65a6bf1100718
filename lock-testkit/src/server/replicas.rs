//! A server and its replicas. Nobody watches them: a failover is what the test does.

use super::options::RedisOptions;
use super::redis::{REPLICATION, RedisServer};

/// A primary and its replicas, each with everything the primary had when this was made.
///
/// Servers can be killed, paused and promoted one by one; the replicas can be cut off from what the primary is told.
#[derive(Debug)]
pub struct RedisReplicas {
    /// The server that starts as the primary.
    pub primary: RedisServer,
    /// Those that start as its replicas.
    pub replicas: Vec<RedisServer>,
}

impl RedisReplicas {
    /// A Redis server with so many replicas, which are linked to it.
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn start(replicas: usize) -> Self {
        Self::with(&RedisOptions::new(), replicas)
    }

    /// The same of such servers. (Not with a password: replicas have a user of their own.)
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn with(options: &RedisOptions, replicas: usize) -> Self {
        // At once, not after the five seconds in which other replicas might come.
        let options = options.clone().with_args(REPLICATION);
        let options = options.with_args(["--repl-diskless-sync-delay", "0"]);
        let primary = options.clone().start();
        let port = primary.port().to_string();
        let replicas: Vec<_> = (0..replicas)
            .map(|_| {
                let of = ["--replicaof", "127.0.0.1", &port];
                options.clone().with_args(of).start()
            })
            .collect();
        let pair = Self { primary, replicas };
        pair.wait_until_linked();
        pair
    }

    /// Waits until every replica has what the primary has.
    ///
    /// # Panics
    ///
    /// If that takes a minute.
    pub fn wait_until_linked(&self) {
        super::eventually("the replicas are linked", || {
            self.primary.replicas() == self.replicas.len()
                && self.replicas.iter().all(RedisServer::is_linked)
        });
    }

    /// Cuts the replicas off: they keep what they have and learn nothing more.
    ///
    /// # Panics
    ///
    /// If the primary does not answer.
    pub fn pause_replication(&self) {
        self.primary.lock_replicas_out();
    }

    /// Lets the replicas in again, and waits until they are linked.
    ///
    /// # Panics
    ///
    /// If that takes a minute.
    pub fn resume_replication(&self) {
        self.primary.let_replicas_in();
        self.wait_until_linked();
    }

    /// Makes replica `index` a primary that accepts writes. The one before stays one too, if it lives.
    ///
    /// # Panics
    ///
    /// If there is no such replica, or it does not answer.
    pub fn promote(&self, index: usize) -> &RedisServer {
        let replica = &self.replicas[index];
        replica.cli(&["REPLICAOF", "NO", "ONE"]);
        replica
    }
}
