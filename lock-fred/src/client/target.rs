//! Where connections lead to, and making them.

use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{AuthInterface, ClientLike, EventInterface};
use fred::types::RespVersion;
#[cfg(feature = "tls")]
use fred::types::config::TlsHostMapping;
use fred::types::config::{
    Config, ConnectionConfig, Options, PerformanceConfig, Server as Address, ServerConfig,
    TcpConfig,
};
use lock_core::{BackendError, BackendErrorKind};
use tokio::runtime::Handle;
use tokio::sync::watch;
use url::Url;

use super::cluster::Nodes;
use super::sentinel::Sentinels;
use super::{Connection, Driven, Messages, Requests, Server, Subscriber, not_let_in};
use crate::error::{self, Cause, Failure};
use crate::exposure;

/// How many events a connection keeps where nobody listens to them.
pub(super) const NO_MESSAGES: usize = 1;

/// How connections are made.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    /// How many may wait to be woken.
    pub(crate) subscriptions: usize,
    #[cfg(feature = "tls")]
    pub(crate) certificates: Option<super::Certificates>,
}

/// Where the server is, or the servers are, and how long to wait for them.
pub(crate) struct Target {
    place: Place,
    address: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) subscriptions: usize,
    /// To whom a password goes in the clear.
    exposed: Vec<String>,
}

enum Place {
    Server(Login),
    Sentinel(Sentinels),
    Cluster(Arc<Nodes>),
}

impl Target {
    /// The server that `url` names; RESP3 unless the URL has a `protocol`.
    pub(crate) fn of_url(url: &str, settings: &Settings) -> Result<Self, BackendError> {
        Ok(Self::of_server(Login::of_url(url, settings, true)?))
    }

    /// The server of a client that was made elsewhere, with all its settings.
    pub(crate) fn of_client(client: &Client, settings: &Settings) -> Self {
        let config = client.client_config();
        let login = Login {
            fallback: None,
            settings: settings.clone(),
            config: config.clone(),
        };
        let nodes = config.server.hosts();
        let nodes = nodes.iter().map(|node| (node.host.to_string(), node.port));
        match config.server {
            ServerConfig::Clustered { .. } => Self::of_nodes(nodes.collect(), login),
            ServerConfig::Sentinel {
                service_name,
                #[cfg(feature = "sentinel-auth")]
                username,
                #[cfg(feature = "sentinel-auth")]
                password,
                ..
            } => {
                // What the client sends to its sentinels too, unless it was told something else for them.
                let mut sentinel = login.clone();
                #[cfg(feature = "sentinel-auth")]
                {
                    sentinel.config.username = username;
                    sentinel.config.password = password;
                }
                sentinel.config.database = None;
                sentinel.config.version = RespVersion::RESP2;
                let sentinels = nodes.map(|(host, port)| sentinel.at(&host, port)).collect();
                Self::of_primary(Sentinels::new(sentinels, service_name, login))
            }
            _ => Self::of_server(login),
        }
    }

    /// The server that the sentinels call `primary`: a name, or a URL with the name in place of the host.
    pub(crate) fn of_sentinels(
        sentinels: &[String],
        primary: &str,
        settings: &Settings,
    ) -> Result<Self, BackendError> {
        if sentinels.is_empty() {
            return Err(BackendError::new(
                BackendErrorKind::Invalid,
                "name at least one sentinel",
            ));
        }
        let primary = if primary.contains("://") {
            primary.to_owned()
        } else {
            format!("redis://{primary}")
        };
        let template = Login::of_url(&primary, settings, true)?;
        let hosts = template.config.server.hosts();
        let name = hosts.first().map(|server| server.host.to_string());
        let sentinels = sentinels
            .iter()
            .map(|url| Ok(Login::of_url(url, settings, false)?.plain()))
            .collect::<Result<Vec<_>, BackendError>>()?;
        let name = name.ok_or_else(|| error::malformed_url(None))?;
        Ok(Self::of_primary(Sentinels::new(sentinels, name, template)))
    }

    /// The cluster that these nodes belong to.
    #[cfg(feature = "cluster")]
    pub(crate) fn of_cluster(nodes: &[String], settings: &Settings) -> Result<Self, BackendError> {
        let logins = nodes
            .iter()
            .map(|url| Login::of_url(url, settings, true))
            .collect::<Result<Vec<_>, _>>()?;
        let mut addresses = Vec::new();
        for login in &logins {
            let ServerConfig::Centralized { server } = &login.config.server else {
                return Err(error::malformed_url(None));
            };
            addresses.push((server.host.to_string(), server.port));
        }
        let mut logins = logins.into_iter();
        let mut login = logins.next().ok_or_else(|| error::malformed_url(None))?;
        if logins.any(|other| other.config.version == RespVersion::RESP2) {
            login.config.version = RespVersion::RESP2;
        }
        // A node that knows of clusters' messages knows RESP3.
        login.fallback = None;
        Ok(Self::of_nodes(addresses, login))
    }

    pub(super) fn of_server(login: Login) -> Self {
        let (address, exposed, settings) =
            (login.address(), login.exposed(), login.settings.clone());
        Self::new(Place::Server(login), address, exposed, &settings)
    }

    fn of_primary(sentinels: Sentinels) -> Self {
        let (address, exposed, settings) = (
            sentinels.to_string(),
            sentinels.exposed(),
            sentinels.settings().clone(),
        );
        Self::new(Place::Sentinel(sentinels), address, exposed, &settings)
    }

    fn of_nodes(nodes: Vec<(String, u16)>, login: Login) -> Self {
        let settings = login.settings.clone();
        let logins = nodes.iter().map(|(host, port)| login.at(host, *port));
        let exposed = logins.flat_map(|login| login.exposed()).collect();
        let nodes = Nodes::new(nodes, login);
        let address = nodes.to_string();
        Self::new(Place::Cluster(Arc::new(nodes)), address, exposed, &settings)
    }

    const fn new(place: Place, address: String, exposed: Vec<String>, settings: &Settings) -> Self {
        Self {
            place,
            address,
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            subscriptions: settings.subscriptions,
            exposed,
        }
    }

    /// Warns if a password goes over a network in the clear.
    pub(crate) fn warn_of_exposure(&self) {
        exposure::warn(&self.exposed);
    }

    /// Whether the keys are spread over many servers.
    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self.place, Place::Cluster(_))
    }

    /// The same, for connections that share nothing with others: to the nodes of a cluster too, which all calls share.
    pub(crate) fn apart(self: &Arc<Self>) -> Arc<Self> {
        let Place::Cluster(nodes) = &self.place else {
            return Arc::clone(self);
        };
        Arc::new(Self {
            place: Place::Cluster(Arc::new(nodes.apart())),
            address: self.address.clone(),
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            subscriptions: self.subscriptions,
            // It is warned of once.
            exposed: Vec::new(),
        })
    }

    /// Whether messages can be had: from any server, but from a cluster over RESP3 only.
    pub(crate) fn has_messages(&self) -> bool {
        match &self.place {
            Place::Server(_) | Place::Sentinel(_) => true,
            Place::Cluster(nodes) => nodes.has_messages(),
        }
    }

    /// Connects; `on_disconnect` is called when the connection has ended, however it did.
    pub(crate) async fn connect(
        &self,
        on_disconnect: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Connection, BackendError> {
        let reached = match &self.place {
            Place::Server(login) => self.in_time(login.reach(NO_MESSAGES, on_disconnect)).await,
            Place::Sentinel(sentinels) => {
                self.in_time(sentinels.reach(NO_MESSAGES, on_disconnect))
                    .await
            }
            Place::Cluster(nodes) => {
                let found = tokio::time::timeout(self.connect_timeout, nodes.connect()).await;
                found.unwrap_or_else(|_| Err(self.no_answer()))?;
                return Ok(Connection::Cluster(Arc::clone(nodes)));
            }
        };
        reached.map(Connection::Server)
    }

    /// A connection of its own for subscriptions, and what comes over it.
    pub(crate) async fn subscribe(&self) -> Result<(Subscriber, Messages), BackendError> {
        let server = match &self.place {
            Place::Server(login) => {
                self.in_time(login.reach(Subscriber::MESSAGES, || {}))
                    .await?
            }
            Place::Sentinel(sentinels) => {
                self.in_time(sentinels.reach(Subscriber::MESSAGES, || {}))
                    .await?
            }
            // Connections to its nodes are made when something is to be subscribed to there.
            Place::Cluster(nodes) => return Ok(Subscriber::of_cluster(Arc::clone(nodes))),
        };
        Ok(Subscriber::of_server(server))
    }

    /// Subscribes to `channel` and back, on a connection of its own, and fails if any of that is refused.
    pub(crate) async fn try_subscribing(&self, channel: &str) -> Result<(), Failure> {
        let reached = self.subscribe().await;
        let (subscriber, _messages) =
            reached.map_err(|_| Failure::new(Cause::NotSent, "no connection"))?;
        subscriber.try_out(channel).await
    }

    /// Makes a connection within the connect timeout.
    async fn in_time(
        &self,
        attempt: impl Future<Output = Result<Server, Failure>>,
    ) -> Result<Server, BackendError> {
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(result) => result.map_err(|failure| error::not_connected(&self.address, failure)),
            Err(_) => Err(self.no_answer()),
        }
    }

    fn no_answer(&self) -> BackendError {
        BackendError::transient(format!(
            "cannot connect to {}: no answer within {:?}",
            self.address, self.connect_timeout
        ))
    }
}

/// Host and port, and nothing else.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// One server, and how to be let in. The password is in it: it is not printed.
#[derive(Clone)]
pub(super) struct Login {
    config: Config,
    /// The same in RESP2, where the choice between the protocols is ours.
    fallback: Option<Config>,
    settings: Settings,
}

impl Login {
    /// `strict`: certificates are for this server.
    fn of_url(url: &str, settings: &Settings, strict: bool) -> Result<Self, BackendError> {
        let url = Url::parse(url).map_err(|_| error::malformed_url(None))?;
        let (mut config, chosen) = parse(&url)?;
        secure(&mut config, &url, settings, strict)?;
        let mut login = Self {
            config,
            fallback: None,
            settings: settings.clone(),
        };
        match chosen {
            Some(version) => login.config.version = version,
            None => {
                login.fallback = Some(login.config.clone());
                login.config.version = RespVersion::RESP3;
            }
        }
        Ok(login)
    }

    /// The same in the protocol that every server speaks.
    fn plain(mut self) -> Self {
        if let Some(fallback) = self.fallback.take() {
            self.config = fallback;
        }
        self
    }

    /// The same for another server.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        let mut login = self.clone();
        for config in [&mut login.config].into_iter().chain(&mut login.fallback) {
            #[cfg_attr(
                not(feature = "tls"),
                allow(unused_mut, reason = "there are no certificates")
            )]
            let mut server = Address::new(host, port);
            #[cfg(feature = "tls")]
            {
                let name = name_in_certificate(config, host, port);
                server.tls_server_name = name.map(Into::into);
            }
            config.server = ServerConfig::Centralized { server };
        }
        login
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn speaks_resp3(&self) -> bool {
        self.config.version == RespVersion::RESP3
    }

    pub(super) fn address(&self) -> String {
        match &self.config.server {
            #[cfg(unix)]
            ServerConfig::Unix { path } => path.display().to_string(),
            server => {
                let hosts: Vec<_> = server.hosts().iter().map(ToString::to_string).collect();
                hosts.join(", ")
            }
        }
    }

    /// Those of its servers to whom a password goes in the clear.
    pub(super) fn exposed(&self) -> Vec<String> {
        let Config {
            password, server, ..
        } = &self.config;
        #[cfg(feature = "tls")]
        let in_the_clear = self.config.tls.is_none();
        #[cfg(not(feature = "tls"))]
        let in_the_clear = true;
        let has_password = password
            .as_ref()
            .is_some_and(|password| !password.is_empty());
        #[cfg(unix)]
        let leaves = !matches!(server, ServerConfig::Unix { .. });
        #[cfg(not(unix))]
        let leaves = true;
        let servers = if has_password && in_the_clear && leaves {
            server.hosts()
        } else {
            Vec::new()
        };
        let servers = servers.iter();
        servers
            .filter(|server| !exposure::is_local(&server.host))
            .map(ToString::to_string)
            .collect()
    }

    /// Makes a connection, with the fallback's protocol if need be. It keeps so many events for those who listen.
    pub(super) async fn reach(
        &self,
        messages: usize,
        on_disconnect: impl Fn() + Clone + Send + 'static,
    ) -> Result<Server, Failure> {
        let open = |config| open(config, &self.settings, messages, on_disconnect.clone());
        match (open(&self.config).await, &self.fallback) {
            (Err(failure), Some(fallback)) if failure.is_about_protocol() => open(fallback).await,
            (result, _) => result,
        }
    }
}

async fn open(
    config: &Config,
    settings: &Settings,
    messages: usize,
    on_disconnect: impl Fn() + Send + 'static,
) -> Result<Server, Failure> {
    let performance = PerformanceConfig {
        broadcast_channel_capacity: messages,
        ..PerformanceConfig::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: settings.connect_timeout,
        internal_command_timeout: settings.connect_timeout,
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    // The client writes what it greets a server with in RESP3 as people type it: with a name or a password that has spaces or
    // quotes in it, it must be let in before.
    let greeting = config.version == RespVersion::RESP3 && !can_be_typed(config);
    let config = Config {
        fail_fast: true,
        version: if greeting {
            RespVersion::RESP2
        } else {
            config.version.clone()
        },
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
                Ok(Ok(())) => Failure::new(Cause::Broken, "the client gave up"),
                // It panicked, or was dropped.
                Err(_) => Failure::new(
                    Cause::Broken,
                    "connecting was cut off: the runtime has ended, or has no timers or no I/O (`enable_all`)",
                ),
            });
        }
    }
    if greeting {
        let greeted = client.hello(RespVersion::RESP3, None, None);
        let greeted = tokio::time::timeout(settings.connect_timeout, Box::pin(greeted)).await;
        greeted
            .map_err(|_| Failure::new(Cause::Late, "no answer"))?
            .map_err(|error| not_let_in(&error))?;
    }
    let (told, ended) = watch::channel(());
    let end = End {
        on_disconnect,
        _told: told,
    };
    // Ends with the driver, or with the runtime.
    Handle::current().spawn(async move {
        drop(driver.await);
        drop(end);
    });
    Ok(Server {
        client: client.with_options(&options(settings.response_timeout)),
        requests: Requests::default(),
        gate: RwLock::default(),
        ended,
        _driven: driven,
    })
}

/// The name that the certificate of this server must have, where that is not its host: what a client that was made elsewhere
/// says of it, or how that client maps addresses to names.
#[cfg(feature = "tls")]
fn name_in_certificate(config: &Config, host: &str, port: u16) -> Option<String> {
    let tls = config.tls.as_ref()?;
    let known = config.server.hosts();
    let itself = known
        .iter()
        .find(|server| *server.host == *host && server.port == port);
    if let Some(name) = itself.and_then(|server| server.tls_server_name.as_ref()) {
        return Some(name.to_string());
    }
    let address = host.parse().ok()?;
    // Of which node it was learned is not kept. They all are of one cluster.
    let first = known.first()?.host.to_string();
    match &tls.hostnames {
        TlsHostMapping::None => None,
        TlsHostMapping::DefaultHost => Some(first),
        TlsHostMapping::Custom(names) => names.map(&address, &first),
    }
}

fn can_be_typed(config: &Config) -> bool {
    let words = config.username.iter().chain(&config.password);
    let special = |byte: u8| {
        // \x0b: white space to C and to the server, and not to Rust.
        byte.is_ascii_whitespace() || matches!(byte, 0 | b'\x0b' | b'"' | b'\'')
    };
    words
        .into_iter()
        .all(|word| !word.is_empty() && !word.bytes().any(special))
}

/// Written once at most, whatever becomes of the connection.
pub(super) fn options(response_timeout: Duration) -> Options {
    Options {
        max_attempts: Some(1),
        timeout: Some(response_timeout),
        ..Options::default()
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

/// What a URL says, and which protocol it asks for. TLS is not in it yet.
fn parse(url: &Url) -> Result<(Config, Option<RespVersion>), BackendError> {
    let malformed = || error::malformed_url(None);
    let parameter = |name: &str| {
        let mut pairs = url.query_pairs();
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    let config = match url.scheme() {
        "redis" | "valkey" => {
            Config::from_url_centralized(url.as_str()).map_err(|_| malformed())?
        }
        "rediss" | "valkeys" => {
            // Without its `s`: the client would fetch certificates of its own, or without that feature send in the clear.
            let plain = format!("redis{}", url.as_str().trim_start_matches(url.scheme()));
            Config::from_url_centralized(&plain).map_err(|_| malformed())?
        }
        #[cfg(unix)]
        "unix" | "redis+unix" | "valkey+unix" => {
            let mut config = Config::from_url_unix(url.as_str()).map_err(|_| malformed())?;
            config.username = parameter("user").or(config.username);
            config.password = parameter("pass").or(config.password);
            if let Some(database) = parameter("db") {
                config.database = Some(database.parse().map_err(|_| malformed())?);
            }
            config
        }
        _ => return Err(malformed()),
    };
    let version = match parameter("protocol").as_deref() {
        None => None,
        Some("2" | "resp2") => Some(RespVersion::RESP2),
        Some("3" | "resp3") => Some(RespVersion::RESP3),
        Some(_) => return Err(malformed()),
    };
    Ok((config, version))
}

/// Adds TLS where the URL asks for it. `strict`: certificates without it are a mistake.
fn secure(
    config: &mut Config,
    url: &Url,
    settings: &Settings,
    strict: bool,
) -> Result<(), BackendError> {
    const ADVICE: &str =
        "TLS needs rediss:// and the feature `tls`, and certificates are for TLS only";
    let wanted = matches!(url.scheme(), "rediss" | "valkeys");
    #[cfg(feature = "tls")]
    match (wanted, &settings.certificates) {
        (true, certificates) => {
            let connector = match certificates {
                Some(connector) => connector.clone(),
                None => authorities_of_the_system()?,
            };
            config.tls = Some(connector.into());
        }
        (false, Some(_)) if strict => return Err(error::malformed_url(Some(ADVICE))),
        (false, _) => {}
    }
    #[cfg(not(feature = "tls"))]
    {
        let _ = (config, settings, strict);
        if wanted {
            return Err(error::malformed_url(Some(ADVICE)));
        }
    }
    Ok(())
}

/// With the provider that the program chose, or else the one that comes with the feature.
#[cfg(feature = "tls")]
fn authorities_of_the_system() -> Result<super::Certificates, BackendError> {
    use fred::rustls::crypto::{CryptoProvider, ring};
    use fred::rustls::{ClientConfig, RootCertStore};

    let mut authorities = RootCertStore::empty();
    let found = fred::rustls_native_certs::load_native_certs();
    authorities.add_parsable_certificates(found.certs);
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BackendError::permanent("TLS cannot be used").with_source(error))?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    Ok(config.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_typed_is_not_sent_as_if_it_were() {
        let with = |username: Option<&str>, password: Option<&str>| Config {
            username: username.map(str::to_owned),
            password: password.map(str::to_owned),
            ..Config::default()
        };
        for (username, password) in [
            (None, None),
            (None, Some("pw")),
            (Some("user"), Some("p\u{e9}w#$%&()\\")),
        ] {
            assert!(can_be_typed(&with(username, password)), "{password:?}");
        }
        for odd in [
            "", " ", "a b", "a\tb", "a\nb", "a\x0bb", "a\x0cb", "a\rb", "a\0b", "\"", "'",
        ] {
            assert!(!can_be_typed(&with(None, Some(odd))), "{odd:?}");
            assert!(!can_be_typed(&with(Some(odd), Some("pw"))), "{odd:?}");
        }
    }
}
