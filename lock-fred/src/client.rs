//! fred: the one file that speaks to it. Where the server is, one connection, and what the client's errors mean.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::error::ErrorKind;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{
    Config, ConnectionConfig, Options, PerformanceConfig, ServerConfig, TcpConfig,
};
use fred::types::{ClusterHash, CustomCommand, Message, Resp3Frame, RespVersion, Value};
use lock_core::BackendError;
use tokio::runtime::Handle;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use url::Url;

use crate::answer::Reply;
use crate::connection::{Request, Unanswered};
use crate::error::{self, Cause, Failure};
use crate::subscription::Disconnected;

/// What the client says when something fails.
pub(crate) type Error = fred::error::Error;

/// How long a client that was made elsewhere may take to connect again, before it is told so once more.
const LONGEST_RECONNECT: Duration = Duration::from_secs(5);

/// How many messages may wait to be read. More is a doubt, on which everybody looks.
const MESSAGES: usize = 128;

/// Where the server is and how long to wait for it. The settings hold the password and are not printed.
pub(crate) struct Target {
    config: Config,
    /// The same in RESP2, where the choice between the protocols is ours.
    fallback: Option<Config>,
    address: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
}

impl Target {
    /// The server that `url` names; RESP3 unless the URL has a `protocol`.
    pub(crate) fn of_url(
        url: &str,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Result<Self, BackendError> {
        let url = Url::parse(url).map_err(|_| error::malformed_url(None))?;
        let (mut config, chosen) = settings(&url)?;
        let fallback = match chosen {
            Some(version) => {
                config.version = version;
                None
            }
            None => {
                let fallback = config.clone();
                config.version = RespVersion::RESP3;
                Some(fallback)
            }
        };
        Ok(Self {
            fallback,
            ..Self::of_config(config, connect_timeout, response_timeout)
        })
    }

    /// The server of a client that was made elsewhere, with all its settings.
    pub(crate) fn of_client(
        client: &Client,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Self {
        Self::of_config(client.client_config(), connect_timeout, response_timeout)
    }

    fn of_config(config: Config, connect_timeout: Duration, response_timeout: Duration) -> Self {
        Self {
            address: address(&config.server),
            config,
            fallback: None,
            connect_timeout,
            response_timeout,
        }
    }

    /// Connects; `on_disconnect` is called when the connection has ended, however it did.
    pub(crate) async fn connect(
        &self,
        on_disconnect: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Connection, BackendError> {
        // Nobody listens to events of this connection.
        self.with_protocol(|config| self.open(config, 1, on_disconnect.clone()))
            .await
    }

    /// A connection of its own for subscriptions, and what comes over it.
    pub(crate) async fn subscribe(&self) -> Result<(Subscriber, Messages), BackendError> {
        let connection = self
            .with_protocol(|config| self.open(config, MESSAGES, || {}))
            .await?;
        let messages = Messages {
            messages: connection.client.message_rx(),
            ended: connection.ended.clone(),
        };
        let subscriber = Subscriber {
            connection,
            pings: 0,
        };
        Ok((subscriber, messages))
    }

    /// Makes a connection within the connect timeout, with the fallback's protocol if need be.
    async fn with_protocol<'a, F: Future<Output = Result<Connection, Failure>>>(
        &'a self,
        open: impl Fn(&'a Config) -> F,
    ) -> Result<Connection, BackendError> {
        let attempts = async {
            match (open(&self.config).await, &self.fallback) {
                (Err(failure), Some(fallback)) if failure.is_about_protocol() => {
                    open(fallback).await
                }
                (result, _) => result,
            }
        };
        match tokio::time::timeout(self.connect_timeout, attempts).await {
            Ok(result) => result.map_err(|failure| error::not_connected(&self.address, failure)),
            Err(_) => Err(BackendError::transient(format!(
                "cannot connect to {}: no answer within {:?}",
                self.address, self.connect_timeout
            ))),
        }
    }

    /// One connection: a client that never connects again. So it never sends anything again either, and whatever
    /// ends the connection ends the client.
    async fn open(
        &self,
        config: &Config,
        messages: usize,
        on_disconnect: impl Fn() + Send + 'static,
    ) -> Result<Connection, Failure> {
        let performance = PerformanceConfig {
            broadcast_channel_capacity: messages,
            ..PerformanceConfig::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: self.connect_timeout,
            internal_command_timeout: self.connect_timeout,
            tcp: TcpConfig {
                nodelay: Some(true),
                ..TcpConfig::default()
            },
            ..ConnectionConfig::default()
        };
        let config = Config {
            fail_fast: true,
            ..config.clone()
        };
        let client = Client::new(config, Some(performance), Some(connection), None);
        let mut connected = client.reconnect_rx();
        let mut driver = client.connect();
        let driven = Driven(driver.abort_handle());
        tokio::select! {
            biased;
            Ok(_) = connected.recv() => {}
            result = &mut driver => {
                return Err(match result {
                    Ok(Err(error)) => not_let_in(&error),
                    _ => Failure::new(Cause::Broken, "the client gave up"),
                });
            }
        }
        let (told, ended) = watch::channel(());
        let end = End {
            on_disconnect,
            _told: told,
        };
        // Does not end before the driver, but with its runtime.
        Handle::current().spawn(async move {
            drop(driver.await);
            drop(end);
        });
        Ok(Connection {
            client: client.with_options(&options(self.response_timeout)),
            under_way: AtomicUsize::new(0),
            ended,
            _driven: driven,
        })
    }
}

/// Host and port, and nothing else.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// What a URL says, and which protocol it asks for.
fn settings(url: &Url) -> Result<(Config, Option<RespVersion>), BackendError> {
    let malformed = || error::malformed_url(None);
    let parameter = |name: &str| {
        let mut pairs = url.query_pairs();
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    let config = match url.scheme() {
        "redis" | "valkey" => Config::from_url_centralized(url.as_str()),
        #[cfg(unix)]
        "unix" | "redis+unix" | "valkey+unix" => {
            let mut config = Config::from_url_unix(url.as_str()).map_err(|_| malformed())?;
            config.username = parameter("user").or(config.username);
            config.password = parameter("pass").or(config.password);
            if let Some(database) = parameter("db") {
                config.database = Some(database.parse().map_err(|_| malformed())?);
            }
            Ok(config)
        }
        "rediss" | "valkeys" => {
            return Err(error::malformed_url(Some(
                "rediss:// needs one of the TLS features of the fred crate",
            )));
        }
        _ => return Err(malformed()),
    };
    let version = match parameter("protocol").as_deref() {
        None => None,
        Some("2" | "resp2") => Some(RespVersion::RESP2),
        Some("3" | "resp3") => Some(RespVersion::RESP3),
        Some(_) => return Err(malformed()),
    };
    Ok((config.map_err(|_| malformed())?, version))
}

fn address(server: &ServerConfig) -> String {
    match server {
        #[cfg(unix)]
        ServerConfig::Unix { path } => path.display().to_string(),
        server => {
            let hosts: Vec<_> = server.hosts().iter().map(ToString::to_string).collect();
            hosts.join(", ")
        }
    }
}

/// Written once at most, whatever becomes of the connection.
fn options(response_timeout: Duration) -> Options {
    Options {
        max_attempts: Some(1),
        timeout: Some(response_timeout),
        ..Options::default()
    }
}

/// The client's task, which lives as long as this.
struct Driven(AbortHandle);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells of the end of a connection by being dropped, also with its runtime.
struct End<F: Fn()> {
    on_disconnect: F,
    _told: watch::Sender<()>,
}

impl<F: Fn()> Drop for End<F> {
    fn drop(&mut self) {
        (self.on_disconnect)();
    }
}

/// A connection, for many calls at once. Of no use any more once it is broken.
pub(crate) struct Connection {
    client: WithOptions<Client>,
    /// How many requests have no reply yet, those without a waiting caller included.
    under_way: AtomicUsize,
    /// Its sender is gone when the connection has ended.
    ended: watch::Receiver<()>,
    _driven: Driven,
}

impl Connection {
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        self.ask(send(&self.client, request)).await
    }

    async fn ask(
        &self,
        request: impl Future<Output = Result<Resp3Frame, Error>>,
    ) -> Result<Reply, Failure> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let frame = self.while_open(request).await.map_err(|error| {
            // The client ends a connection on which this comes, and gives the answer to one request to all.
            let alone = self.under_way.load(Ordering::SeqCst) == 1;
            if alone && error.details().starts_with("CLUSTERDOWN ") {
                Failure::new(Cause::Answer, error.details())
            } else {
                failure(&error)
            }
        })?;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        answer(frame)
    }

    /// A client without a connection keeps what it is asked to send, and answers nothing.
    async fn while_open<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            result = request => result,
            () = ended(&self.ended) => Err(Error::new(ErrorKind::IO, "Connection closed.")),
        }
    }
}

async fn ended(ended: &watch::Receiver<()>) {
    let mut ended = ended.clone();
    while ended.changed().await.is_ok() {}
}

/// Clients that the application made. They connect again by themselves, as their reconnect policy says.
#[derive(Clone)]
pub(crate) struct Given(Arc<Clients>);

struct Clients {
    clients: Vec<Shared>,
    turn: AtomicUsize,
}

struct Shared {
    client: WithOptions<Client>,
    /// How many calls in a row it has not answered.
    unanswered: AtomicU32,
    reconnecting: Arc<AtomicBool>,
}

impl Given {
    /// `clients` is not empty.
    pub(crate) fn new(clients: &[Client], response_timeout: Duration) -> Self {
        let options = Options {
            // What cannot be sent now is not to be sent when nobody waits for it any more.
            fail_fast: true,
            ..options(response_timeout)
        };
        let shared = |client: &Client| Shared {
            client: client.with_options(&options),
            unanswered: AtomicU32::new(0),
            reconnecting: Arc::default(),
        };
        Self(Arc::new(Clients {
            clients: clients.iter().map(shared).collect(),
            turn: AtomicUsize::new(0),
        }))
    }

    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let Some(shared) = self.0.next() else {
            return Err(Failure::new(Cause::Settings, "no client was given"));
        };
        let unanswered = Unanswered::new(&shared.unanswered, || shared.reconnect());
        let result = send(&shared.client, request).await;
        let result = result.map_err(|error| failure(&error)).and_then(answer);
        match &result {
            Err(failure) if failure.is_read_only() => shared.reconnect(),
            Err(failure) if !failure.is_answer() => return result,
            Ok(reply) if !reply.is_of_a_script() => shared.reconnect(),
            Ok(reply) if error::answers_read_only(reply) => shared.reconnect(),
            _ => {}
        }
        unanswered.answered();
        result
    }
}

impl Clients {
    /// The next one in turn that is connected, if any is.
    fn next(&self) -> Option<&Shared> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let turn = turn.checked_rem(self.clients.len())?;
        let (later, first) = self.clients.split_at(turn);
        let mut in_turn = first.iter().chain(later);
        in_turn
            .find(|shared| shared.client.is_connected())
            .or_else(|| first.first())
    }
}

impl Shared {
    /// Makes the client connect again, if it would do so by itself too: one without a policy would end for good.
    fn reconnect(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.client.has_reconnect_policy() || self.reconnecting.swap(true, Ordering::SeqCst) {
            return;
        }
        self.unanswered.store(0, Ordering::Relaxed);
        let (client, reconnecting) = (self.client.clone(), Arc::clone(&self.reconnecting));
        runtime.spawn(async move {
            // Without an answer where the client is stuck on the old connection.
            let _ = tokio::time::timeout(LONGEST_RECONNECT, client.force_reconnection()).await;
            reconnecting.store(false, Ordering::SeqCst);
        });
    }
}

/// The sending half of a connection for subscriptions.
pub(crate) struct Subscriber {
    connection: Connection,
    pings: u64,
}

impl Subscriber {
    /// Resolves when the subscriptions are in force.
    pub(crate) async fn subscribe(&mut self, channels: Vec<String>) -> Result<(), Failure> {
        let sent = self.connection.client.subscribe(channels);
        let sent = self.connection.while_open(sent).await;
        sent.map_err(|error| failure(&error))?;
        self.ping().await
    }

    pub(crate) async fn unsubscribe(&mut self, channels: Vec<String>) -> Result<(), Failure> {
        let sent = self.connection.client.unsubscribe(channels);
        let sent = self.connection.while_open(sent).await;
        sent.map_err(|error| failure(&error))?;
        self.ping().await
    }

    /// Resolves when the server has answered all that was sent before, with its refusal if it refused that.
    ///
    /// The client does not wait for the answers to subscriptions, and takes a refusal for the answer to what was sent
    /// next. So that is a numbered PING: an older number is one that a refusal has pushed back.
    pub(crate) async fn ping(&mut self) -> Result<(), Failure> {
        let wanted = self.pings.wrapping_add(1);
        loop {
            self.pings = self.pings.wrapping_add(1);
            let ping = CustomCommand::new_static("PING", ClusterHash::FirstKey, false);
            let client = &self.connection.client;
            let pong = client.custom_raw(ping, vec![self.pings.to_string()]);
            let number = match self.connection.ask(pong).await? {
                Reply::Text(number) => number,
                // Among subscriptions in RESP2.
                Reply::List(mut parts) => match parts.pop() {
                    Some(Reply::Text(number)) => number,
                    _ => return Err(Failure::new(Cause::Broken, "an odd answer to PING")),
                },
                _ => return Err(Failure::new(Cause::Broken, "an odd answer to PING")),
            };
            let number = String::from_utf8_lossy(&number).parse::<u64>();
            if number.is_ok_and(|number| number >= wanted) {
                return Ok(());
            }
        }
    }
}

/// What comes over a connection for subscriptions.
pub(crate) struct Messages {
    messages: broadcast::Receiver<Message>,
    ended: watch::Receiver<()>,
}

impl Messages {
    /// The channel of the next message, or none if messages were missed.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Disconnected> {
        tokio::select! {
            biased;
            message = self.messages.recv() => match message {
                Ok(message) => Ok(Some(message.channel.to_string())),
                Err(RecvError::Lagged(_)) => Ok(None),
                Err(RecvError::Closed) => Err(Disconnected),
            },
            () = ended(&self.ended) => Err(Disconnected),
        }
    }
}

async fn send(client: &WithOptions<Client>, request: &Request<'_>) -> Result<Resp3Frame, Error> {
    // Script, number of keys, keys.
    const FIRST_KEY: usize = 2;
    let command = CustomCommand::new_static(request.command, ClusterHash::Offset(FIRST_KEY), false);
    let count = request.keys.len().to_string();
    let words = [request.script, &count];
    let words = words.iter().chain(request.keys).chain(request.args);
    let words: Vec<_> = words.map(|word| Value::from(*word)).collect();
    client.custom_raw(command, words).await
}

fn answer(frame: Resp3Frame) -> Result<Reply, Failure> {
    match frame {
        Resp3Frame::SimpleError { data, .. } => Err(Failure::new(Cause::Answer, &*data)),
        Resp3Frame::BlobError { data, .. } => {
            let text = String::from_utf8_lossy(&data);
            Err(Failure::new(Cause::Answer, text))
        }
        frame => Ok(reply(frame)),
    }
}

fn reply(frame: Resp3Frame) -> Reply {
    match frame {
        Resp3Frame::Number { data, .. } => Reply::Number(data),
        Resp3Frame::BlobString { data, .. } | Resp3Frame::SimpleString { data, .. } => {
            Reply::Text(data.into())
        }
        Resp3Frame::Array { data, .. } => Reply::List(data.into_iter().map(reply).collect()),
        _ => Reply::Other,
    }
}

/// What an error of the client says about the connection and the request. A server's errors are not among them: they
/// come as frames.
fn failure(error: &Error) -> Failure {
    let cause = match error.kind() {
        ErrorKind::Timeout => Cause::Late,
        // Refused at once, or found waiting to be written when the client ended.
        ErrorKind::Canceled | ErrorKind::Backpressure => Cause::NotSent,
        ErrorKind::Unknown if NEVER_SENT.contains(&error.details()) => Cause::NotSent,
        // All that was under way when a connection broke. Where the server's answer to one request ends a connection
        // (CLUSTERDOWN, and NOAUTH if so configured), all others get it too.
        ErrorKind::IO | ErrorKind::Protocol | ErrorKind::Cluster | ErrorKind::Auth => Cause::Broken,
        ErrorKind::Unknown => Cause::Broken,
        _ => Cause::Odd,
    };
    described(cause, error)
}

/// What the client says of requests that it could not queue or route.
const NEVER_SENT: [&str; 3] = [
    "Client is not initialized.",
    "Failed to send command to router.",
    "Failed to route command.",
];

/// Why there is no connection. Here the client gives a server's error as its own, code first.
fn not_let_in(error: &Error) -> Failure {
    let code = error.details().split(' ').next().unwrap_or_default();
    let cause = match error.kind() {
        _ if code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase()) => Cause::Answer,
        ErrorKind::Auth => Cause::Credentials,
        ErrorKind::Config | ErrorKind::Url => Cause::Settings,
        _ => Cause::Broken,
    };
    described(cause, error)
}

/// In the client's words, and with its error behind it if that is one of the system.
fn described(cause: Cause, error: &Error) -> Failure {
    let failure = Failure::new(cause, text(error));
    if *error.kind() == ErrorKind::IO {
        failure.with_source(error.clone())
    } else {
        failure
    }
}

/// The client prints errors of the system as Rust writes them down.
fn text(error: &Error) -> &str {
    let details = error.details();
    let message = details.split_once("message: \"");
    message
        .and_then(|(_, message)| message.split_once('"'))
        .map_or(details, |(message, _)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_client_says_whether_the_request_was_sent() {
        use ErrorKind::{Auth, Backpressure, Canceled, Cluster, IO, Protocol, Timeout, Unknown};
        for (kind, details, cause) in [
            (Timeout, "Request timed out.", Cause::Late),
            (Canceled, "Canceled.", Cause::NotSent),
            (Canceled, "Connection closed unexpectedly.", Cause::NotSent),
            (
                Backpressure,
                "Max in-flight commands reached.",
                Cause::NotSent,
            ),
            (Unknown, "Client is not initialized.", Cause::NotSent),
            (Unknown, "Failed to route command.", Cause::NotSent),
            (Unknown, "channel closed", Cause::Broken),
            (Unknown, "Too many failed write attempts.", Cause::Broken),
            (IO, "Connection closed.", Cause::Broken),
            (Protocol, "Could not parse", Cause::Broken),
            (Cluster, "CLUSTERDOWN The cluster is down", Cause::Broken),
            (Auth, "NOAUTH Authentication required.", Cause::Broken),
        ] {
            let failure = failure(&Error::new(kind, details));
            assert_eq!(failure.cause(), cause, "{details}");
        }
    }

    #[test]
    fn what_keeps_a_connection_from_being_made_is_told_from_the_servers_words() {
        use ErrorKind::{Auth, IO, Unknown};
        for (kind, details, cause) in [
            (
                Auth,
                "WRONGPASS invalid username-password pair",
                Cause::Answer,
            ),
            (
                Unknown,
                "NOPROTO unsupported protocol version",
                Cause::Answer,
            ),
            (Unknown, "ERR max number of clients reached", Cause::Answer),
            (IO, "Connection closed.", Cause::Broken),
            (Unknown, "Client is not initialized.", Cause::Broken),
        ] {
            let failure = not_let_in(&Error::new(kind, details));
            assert_eq!(failure.cause(), cause, "{details}");
        }
    }

    #[test]
    fn an_error_of_the_system_is_told_in_its_own_words() {
        let refused = std::io::Error::from_raw_os_error(111);
        let said = text(&Error::from(refused)).to_owned();
        assert!(!said.contains("Os {"), "{said}");
    }
}
