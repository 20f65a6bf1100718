//! The conformance suite on servers that belong together. They take seconds to start, so all cases of a test program share some,
//! each with keys of its own; only a case that disturbs them has others to itself.

use std::marker::PhantomData;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::{mem, thread};

use lock_core::{ForceRelease, LockKey};
use lock_testkit::server::{RedisReplicas, RedisSentinel, RedisServer, Reply};
use lock_testkit::{Case, Fixture, Gap};

use super::alone::assert_all_end;
use super::{Backend, CLUSTER_RESENDS};

/// Servers that are killed have written all that they answered for. (One that must outlive its machine has `appendfsync always`.)
pub const KEEP_DATA: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "no"];

/// In front of all keys of a case that disturbs: they lie in one slot, whose server is the one that is disturbed.
const OWN: &str = "{own}:";

/// Between URLs, where a process is told about them in one piece.
const BETWEEN: &str = "|";

/// What is lacking on a cluster that forgets everything when it restarts.
pub const GAPS_OF_A_CLUSTER: &[Gap] = if CLUSTER_RESENDS {
    &[Gap::Order, Gap::SurvivesRestart, Gap::SendsOnce]
} else {
    &[Gap::Order, Gap::SurvivesRestart]
};

/// Servers that belong together.
pub trait Together: Send + Sync + 'static {
    /// Those that have keys. Their places never change.
    fn servers(&self) -> Vec<&RedisServer>;

    fn servers_mut(&mut self) -> Vec<&mut RedisServer>;

    /// The place of the one that has `key`. All must be up.
    fn place_of(&self, key: &str) -> usize;

    /// Waits until all is as before a server was started again.
    fn wait_until_up(&self);
}

/// A kind of servers that belong together, and how their clients connect to them.
pub trait Deployment: Send + Sync + 'static {
    type Servers: Together;
    const GAPS: &'static [Gap] = &[Gap::Order, Gap::SurvivesRestart];
    const PREFIX: &'static str = "";

    fn is_here() -> bool {
        true
    }

    fn pool() -> &'static Pool<Self::Servers>;

    /// What a client must know of them, in this process or in another.
    fn urls(servers: &Self::Servers) -> Vec<String>;

    fn client(urls: Vec<String>) -> impl Future<Output = Backend> + Send;

    /// After each case, besides that all entries have an end.
    fn check(_: &RedisServer) {}
}

/// Servers that stand as long as the test program, which started them when they were first needed.
pub struct Pool<S> {
    start: fn() -> S,
    shared: LazyLock<S>,
    /// What one case disturbed and the next one may disturb.
    idle: Mutex<Vec<S>>,
}

impl<S> Pool<S> {
    pub const fn new(start: fn() -> S) -> Self {
        Self {
            start,
            shared: LazyLock::new(start),
            idle: Mutex::new(Vec::new()),
        }
    }

    pub fn shared(&self) -> &S {
        &self.shared
    }

    fn take(&self) -> S {
        let idle = self.idle().pop();
        idle.unwrap_or_else(self.start)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<S>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct On<D: Deployment> {
    servers: Servers<D::Servers>,
    address: String,
    prefix: String,
    kind: PhantomData<D>,
}

enum Servers<S: 'static> {
    Shared(&'static S),
    /// And the place of the one that is disturbed.
    Own(Mutex<S>, usize),
    /// They are another process's.
    Elsewhere,
}

impl<D: Deployment> On<D> {
    fn at(servers: Servers<D::Servers>, address: String) -> Self {
        let own = match servers {
            Servers::Own(..) => OWN,
            _ => "",
        };
        Self {
            servers,
            address,
            prefix: format!("{}{own}", D::PREFIX),
            kind: PhantomData,
        }
    }

    fn own(&self) -> (MutexGuard<'_, D::Servers>, usize) {
        let Servers::Own(own, place) = &self.servers else {
            panic!("others use the same servers");
        };
        (own.lock().unwrap_or_else(PoisonError::into_inner), *place)
    }

    /// Asks the server that has `key`.
    fn cli(&self, key: &LockKey, command: &[&str]) {
        let ask = |servers: &D::Servers, place: usize| servers.servers()[place].cli(command);
        let reply = match &self.servers {
            Servers::Shared(shared) => ask(shared, shared.place_of(key.as_str())),
            Servers::Own(..) => {
                let (own, place) = self.own();
                ask(&own, place)
            }
            Servers::Elsewhere => panic!("they are another process's"),
        };
        assert!(matches!(reply, Reply::Integer(_)), "{reply:?}");
    }
}

impl<D: Deployment> Fixture for On<D> {
    type Backend = Backend;
    const GAPS: &'static [Gap] = D::GAPS;

    fn is_here() -> bool {
        D::is_here()
    }

    async fn start() -> Self {
        let shared = D::pool().shared();
        Self::at(Servers::Shared(shared), D::urls(shared).join(BETWEEN))
    }

    async fn start_for(case: &Case) -> Self {
        if !case.disturbs() {
            return Self::start().await;
        }
        let servers = D::pool().take();
        let (urls, place) = (D::urls(&servers), servers.place_of(OWN));
        Self::at(Servers::Own(Mutex::new(servers), place), urls.join(BETWEEN))
    }

    async fn client(&self) -> Backend {
        let urls = self.address.split(BETWEEN).map(str::to_owned);
        D::client(urls.collect()).await
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.cli(key, &["DEL", key.as_str()]);
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        self.cli(key, &["PEXPIRE", key.as_str(), "1"]);
        true
    }

    async fn obstruct(&self, key: &LockKey) -> bool {
        self.cli(key, &["HSET", key.as_str(), "a", "b"]);
        true
    }

    async fn restart(&self) -> bool {
        let (mut own, place) = self.own();
        let server = &mut own.servers_mut()[place];
        if D::GAPS.contains(&Gap::SurvivesRestart) {
            server.restart_empty();
        } else {
            server.restart();
        }
        own.wait_until_up();
        true
    }

    async fn stop(&self) -> bool {
        let (mut own, place) = self.own();
        own.servers_mut()[place].stop();
        true
    }

    async fn stall(&self, stalled: bool) -> bool {
        let (own, place) = self.own();
        let server = own.servers()[place];
        if stalled {
            server.pause();
        } else {
            server.resume();
        }
        true
    }

    async fn cut_connections(&self) -> bool {
        let (own, _) = self.own();
        for server in own.servers() {
            for kind in ["normal", "pubsub"] {
                server.cli(&["CLIENT", "KILL", "TYPE", kind]);
            }
        }
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        if D::GAPS.contains(&Gap::ForceRelease) {
            return None;
        }
        Some(Arc::new(self.client().await))
    }

    fn address(&self) -> Option<String> {
        Some(self.address.clone())
    }

    async fn join(address: String) -> Option<Self> {
        Some(Self::at(Servers::Elsewhere, address))
    }
}

/// After each case: whatever the backend wrote has an end.
impl<D: Deployment> Drop for On<D> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let check = |servers: &D::Servers| {
            let servers = servers.servers();
            let up = servers.iter().filter(|server| server.is_started());
            for server in up.clone() {
                assert_all_end(server);
                D::check(server);
            }
            up.count() == servers.len()
        };
        match mem::replace(&mut self.servers, Servers::Elsewhere) {
            Servers::Shared(shared) => {
                check(shared);
            }
            Servers::Own(own, _) => {
                let own = own.into_inner().unwrap_or_else(PoisonError::into_inner);
                if check(&own) {
                    D::pool().idle().push(own);
                }
            }
            Servers::Elsewhere => {}
        }
    }
}

#[cfg(feature = "cluster")]
impl Together for lock_testkit::server::RedisCluster {
    fn servers(&self) -> Vec<&RedisServer> {
        self.nodes.iter().collect()
    }

    fn servers_mut(&mut self) -> Vec<&mut RedisServer> {
        self.nodes.iter_mut().collect()
    }

    fn place_of(&self, key: &str) -> usize {
        self.master_of(self.slot_of(key))
    }

    fn wait_until_up(&self) {
        self.wait_until_up();
    }
}

/// By itself.
impl Together for RedisServer {
    fn servers(&self) -> Vec<&RedisServer> {
        vec![self]
    }

    fn servers_mut(&mut self) -> Vec<&mut RedisServer> {
        vec![self]
    }

    fn place_of(&self, _: &str) -> usize {
        0
    }

    fn wait_until_up(&self) {}
}

impl Together for RedisSentinel {
    fn servers(&self) -> Vec<&RedisServer> {
        self.servers.iter().collect()
    }

    fn servers_mut(&mut self) -> Vec<&mut RedisServer> {
        self.servers.iter_mut().collect()
    }

    fn place_of(&self, _: &str) -> usize {
        self.primary_index()
    }

    fn wait_until_up(&self) {}
}

impl Together for RedisReplicas {
    fn servers(&self) -> Vec<&RedisServer> {
        std::iter::once(&self.primary)
            .chain(&self.replicas)
            .collect()
    }

    fn servers_mut(&mut self) -> Vec<&mut RedisServer> {
        std::iter::once(&mut self.primary)
            .chain(&mut self.replicas)
            .collect()
    }

    fn place_of(&self, _: &str) -> usize {
        0
    }

    fn wait_until_up(&self) {
        self.wait_until_linked();
    }
}
