//! A proxy between a client and a real Redis server, which loses, delays, holds and garbles what the test says. Not a
//! server: whatever it does not touch passes through.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

mod link;
mod resp;
mod rule;
mod slots;

use rule::Rule;
pub use rule::{Action, Gate, Match, Matched, On};

/// How many new connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Stands between clients and a Redis server, on a port of its own of 127.0.0.1. Understands requests, so that a test
/// says which of them is to meet with what: see [`Match`] and [`Action`]. All its connections end when it is dropped.
///
/// Whoever sends no more still gets the replies to what was sent; only while they are held or stalled it counts as gone.
/// The protocol that it must know is that of Redis clients: no `MONITOR`, no `CLIENT REPLY`.
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use lock_testkit::proxy::{Action, Match, Proxy};
/// use lock_testkit::server::RedisServer;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tokio::net::TcpStream;
///
/// let server = RedisServer::start();
/// let proxy = Proxy::start(server.port()).await;
/// let counters = Match::command(["INCR", "DECR"]).key("n");
/// let met = proxy.on(counters).nth(2).action(Action::cut_after_forwarding());
///
/// let mut client = TcpStream::connect(proxy.address()).await?;
/// client.write_all(b"INCR n\r\nINCR other\r\nINCR n\r\n").await?;
/// let mut replies = String::new();
/// client.read_to_string(&mut replies).await?;
/// assert_eq!(replies, ":1\r\n:1\r\n", "the third reply was lost");
/// assert_eq!(server.cli(&["GET", "n"]).text(), "2", "and the request was not");
/// assert_eq!(met.count(), 2);
/// # Ok(())
/// # }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    newcomers: watch::Sender<Newcomers>,
    listening: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    settings: Mutex<Settings>,
    epoch: watch::Sender<Epoch>,
    open: AtomicUsize,
    total: AtomicUsize,
}

#[derive(Clone, Copy, Default)]
struct Settings {
    latency: Duration,
    slice: Option<usize>,
    loses_messages: bool,
}

/// How often all connections were frozen, and reset.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Epoch {
    freezes: u64,
    resets: u64,
}

/// What becomes of new connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newcomers {
    Served,
    Refused,
    Ignored,
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to happen to `request`. All rules count it.
    fn decide(&self, request: &[Vec<u8>]) -> Action {
        let wanted: Vec<_> = self
            .rules()
            .iter()
            .filter_map(|rule| rule.apply(request))
            .collect();
        wanted.into_iter().next().unwrap_or_else(Action::pass)
    }
}

impl Proxy {
    /// A proxy of the server at `port` of 127.0.0.1, which need not be there yet.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start(port: u16) -> Self {
        Self::start_to((Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// A proxy of the server at `address`. A client sees the end of its connection if there is none.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    #[allow(
        clippy::unused_async,
        reason = "it needs a runtime, as all that waits for the proxy does"
    )]
    pub async fn start_to(address: SocketAddr) -> Self {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let listener = bound_to(any).and_then(|socket| socket.listen(BACKLOG));
        let listener = listener.expect("a free port on 127.0.0.1");
        let own = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared::default());
        let newcomers = watch::Sender::new(Newcomers::Served);
        let (told, listening) = watch::channel(true);
        let door = Door {
            shared: Arc::clone(&shared),
            own,
            server: address,
            newcomers: newcomers.subscribe(),
            listening: told,
        };
        Self {
            shared,
            address: own,
            newcomers,
            listening,
            accepting: Handle::current().spawn(door.accept(listener)),
        }
    }

    /// Where clients connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port on 127.0.0.1 that clients connect to.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL that clients without a password connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The rule for these requests, from now on.
    pub const fn on(&self, requests: Match) -> On<'_> {
        On {
            proxy: self,
            requests,
            first: 1,
            last: 1,
        }
    }

    /// Forgets all rules. What they have begun goes on: a gate stays closed, a stalled direction stalled.
    pub fn clear(&self) {
        self.shared.rules().clear();
    }

    /// From now on everything takes this long, each way.
    pub fn set_latency(&self, each_way: Duration) {
        self.shared.settings().latency = each_way;
    }

    /// From now on everything is written in pieces of `bytes`, or (0) as it comes.
    pub fn slice(&self, bytes: usize) {
        self.shared.settings().slice = (bytes > 0).then_some(bytes);
    }

    /// Whether messages of subscriptions are lost from now on. Confirmations and all other replies are not.
    pub fn lose_messages(&self, lose: bool) {
        self.shared.settings().loses_messages = lose;
    }

    /// Freezes all connections that there are: they stay open, and nothing passes any more, not even their end.
    pub fn blackhole(&self) {
        self.shared.epoch.send_modify(|epoch| epoch.freezes += 1);
    }

    /// Resets all connections that there are, also the frozen ones.
    pub fn reset_all(&self) {
        self.shared.epoch.send_modify(|epoch| epoch.resets += 1);
    }

    /// Refuses new connections from now on, as a closed port does.
    ///
    /// # Panics
    ///
    /// If the proxy's runtime is gone.
    pub async fn refuse_new(&self) {
        self.admit(Newcomers::Refused).await;
    }

    /// Accepts new connections from now on, and says nothing on them.
    ///
    /// # Panics
    ///
    /// As [`serve_new`](Self::serve_new).
    pub async fn ignore_new(&self) {
        self.admit(Newcomers::Ignored).await;
    }

    /// Serves new connections from now on, as it does from the start.
    ///
    /// # Panics
    ///
    /// As [`refuse_new`](Self::refuse_new), or if the port cannot be listened on again.
    pub async fn serve_new(&self) {
        self.admit(Newcomers::Served).await;
    }

    async fn admit(&self, newcomers: Newcomers) {
        self.newcomers.send_replace(newcomers);
        let listening = newcomers != Newcomers::Refused;
        let done = self
            .listening
            .clone()
            .wait_for(|now| *now == listening)
            .await
            .is_ok();
        assert!(
            done,
            "the port cannot be listened on, or the runtime has ended"
        );
    }

    /// How many connections of clients there are.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many there have been.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.total.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What accepts connections.
struct Door {
    shared: Arc<Shared>,
    own: SocketAddr,
    server: SocketAddr,
    newcomers: watch::Receiver<Newcomers>,
    listening: watch::Sender<bool>,
}

impl Door {
    /// Accepts until it is aborted, which aborts all connections too.
    async fn accept(mut self, listener: TcpListener) {
        let mut entrance = Entrance::Open(listener);
        let mut links = JoinSet::new();
        loop {
            let newcomers = *self.newcomers.borrow_and_update();
            let open = newcomers != Newcomers::Refused;
            let Ok(now) = entrance.turned(open, self.own) else {
                return;
            };
            entrance = now;
            self.listening.send_replace(open);
            tokio::select! {
                biased;
                changed = self.newcomers.changed() => if changed.is_err() { return },
                Some(_) = links.join_next() => {}
                client = entrance.accepted() => {
                    let silent = newcomers == Newcomers::Ignored;
                    let shared = Arc::clone(&self.shared);
                    links.spawn(link::serve(shared, client, self.server, silent));
                }
            }
        }
    }
}

/// The proxy's port.
enum Entrance {
    Open(TcpListener),
    /// Bound, so that the system gives the port to nobody else meanwhile.
    Closed(TcpSocket),
}

impl Entrance {
    /// The same port, open or closed.
    fn turned(self, open: bool, port: SocketAddr) -> io::Result<Self> {
        match self {
            Self::Open(listener) if !open => {
                let socket = bound_to(port)?;
                // A process that is just being started has a copy of the listener, which would go on.
                #[cfg(unix)]
                let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
                drop(listener);
                Ok(Self::Closed(socket))
            }
            Self::Closed(socket) if open => Ok(Self::Open(socket.listen(BACKLOG)?)),
            same => Ok(same),
        }
    }

    async fn accepted(&self) -> TcpStream {
        match self {
            Self::Open(listener) => loop {
                if let Ok((client, _)) = listener.accept().await {
                    return client;
                }
            },
            Self::Closed(_) => std::future::pending().await,
        }
    }
}

/// A socket that may have its port together with others of this process: so there is always one that keeps it.
fn bound_to(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
