//! Where connections lead to, and making them.

use std::fmt;
use std::time::Duration;

use lock_core::BackendError;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult,
};

#[cfg(feature = "cluster")]
use super::cluster::Nodes;
use super::sentinel::Sentinels;
use super::{Connection, Messages, Subscriber, failure};
use crate::error::{self, Cause, Failure};
use crate::exposure;

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

impl Settings {
    /// The client of a server.
    fn open(&self, info: ConnectionInfo) -> RedisResult<Client> {
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.certificates {
            return Client::build_with_tls(info, certificates.clone());
        }
        Client::open(info)
    }
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
    Server(Server),
    Sentinel(Sentinels),
    #[cfg(feature = "cluster")]
    Cluster(Nodes),
}

impl Target {
    /// The server that `url` names; RESP3 unless the URL has a `protocol`.
    pub(crate) fn of_url(url: &str, settings: &Settings) -> Result<Self, BackendError> {
        let info = parse(url)?;
        let address = info.addr().to_string();
        let exposed = exposed([&info]);
        let server = Server::new(&info, has_protocol(url), settings).map_err(malformed)?;
        Ok(Self::new(Place::Server(server), address, exposed, settings))
    }

    /// The server of a client that was made elsewhere, with all its settings.
    pub(crate) fn of_client(client: Client, settings: &Settings) -> Self {
        let info = client.get_connection_info();
        let address = info.addr().to_string();
        let exposed = exposed([info]);
        let client = Client::open(tuned(info, None)).unwrap_or(client);
        let server = Server {
            client,
            fallback: None,
        };
        Self::new(Place::Server(server), address, exposed, settings)
    }

    /// The server that the sentinels call `primary`: a name, or a URL with the name in place of the host.
    pub(crate) fn of_sentinels(
        sentinels: &[String],
        primary: &str,
        settings: &Settings,
    ) -> Result<Self, BackendError> {
        if sentinels.is_empty() {
            return Err(BackendError::new(
                lock_core::BackendErrorKind::Invalid,
                "name at least one sentinel",
            ));
        }
        let primary = if primary.contains("://") {
            primary.to_owned()
        } else {
            format!("redis://{primary}")
        };
        let (template, chosen) = (parse(&primary)?, has_protocol(&primary));
        let clients = sentinels
            .iter()
            .map(|url| {
                let info = tuned(&parse(url)?, None);
                let client = if is_tls(&info) {
                    settings.open(info)
                } else {
                    Client::open(info)
                };
                client.map_err(malformed)
            })
            .collect::<Result<Vec<_>, _>>()?;
        // Says now whether the primary's settings make sense.
        Server::new(&template, chosen, settings).map_err(malformed)?;
        let sentinels = Sentinels::new(clients, template, chosen, settings.clone());
        let (address, exposed) = (sentinels.to_string(), sentinels.exposed());
        Ok(Self::new(
            Place::Sentinel(sentinels),
            address,
            exposed,
            settings,
        ))
    }

    /// The cluster that these nodes belong to.
    #[cfg(feature = "cluster")]
    pub(crate) fn of_cluster(nodes: &[String], settings: &Settings) -> Result<Self, BackendError> {
        let infos = nodes
            .iter()
            .map(|url| parse(url))
            .collect::<Result<Vec<_>, _>>()?;
        let address = infos.iter().map(|info| info.addr().to_string());
        let address = format!("the cluster of {}", address.collect::<Vec<_>>().join(", "));
        let chosen = nodes.iter().any(|url| has_protocol(url));
        let exposed = exposed(&infos);
        let nodes = Nodes::new(&infos, chosen, settings).map_err(malformed)?;
        Ok(Self::new(Place::Cluster(nodes), address, exposed, settings))
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
        match &self.place {
            Place::Server(_) | Place::Sentinel(_) => false,
            #[cfg(feature = "cluster")]
            Place::Cluster(_) => true,
        }
    }

    /// Whether messages can be had: from any server, but from a cluster over RESP3 only.
    pub(crate) fn has_messages(&self) -> bool {
        match &self.place {
            Place::Server(_) | Place::Sentinel(_) => true,
            #[cfg(feature = "cluster")]
            Place::Cluster(nodes) => nodes.has_messages(),
        }
    }

    /// Connects; `on_disconnect` is called when the server closes the connection, if the protocol tells.
    pub(crate) async fn connect(
        &self,
        on_disconnect: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Connection, BackendError> {
        let open = |client: Client| {
            let on_disconnect = on_disconnect.clone();
            async move {
                let mut config = AsyncConnectionConfig::new()
                    .set_connection_timeout(None)
                    .set_response_timeout(Some(self.response_timeout));
                if client.get_connection_info().redis_settings().protocol()
                    == ProtocolVersion::RESP3
                {
                    config = config.set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                        if push.kind == PushKind::Disconnection {
                            on_disconnect();
                        }
                        Ok(())
                    });
                }
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            }
        };
        self.in_time(async {
            match &self.place {
                Place::Server(server) => server.reach(&open).await.map(Connection::Server),
                Place::Sentinel(sentinels) => sentinels
                    .reach(&open)
                    .await
                    .map(|(connection, _)| Connection::Server(connection)),
                #[cfg(feature = "cluster")]
                Place::Cluster(nodes) => nodes.connect().await.map(Connection::Cluster),
            }
        })
        .await
    }

    /// A connection of its own for subscriptions, and what comes over it.
    pub(crate) async fn subscribe(&self) -> Result<(Subscriber, Messages), BackendError> {
        let open = |client: Client| async move { client.get_async_pubsub().await };
        self.in_time(async {
            let connection = match &self.place {
                Place::Server(server) => server.reach(&open).await?,
                Place::Sentinel(sentinels) => {
                    let plain = |client: Client| async move {
                        client.get_multiplexed_async_connection().await
                    };
                    let (_, server) = sentinels.reach(&plain).await?;
                    server.reach(&open).await?
                }
                #[cfg(feature = "cluster")]
                Place::Cluster(nodes) => return nodes.subscribe().await,
            };
            Ok(Subscriber::of_server(connection, self.response_timeout))
        })
        .await
    }

    /// Subscribes to `channel` and back, on a connection of its own, and fails if any of that is refused.
    pub(crate) async fn try_subscribing(&self, channel: &str) -> Result<(), Failure> {
        let reached = self.subscribe().await;
        let (subscriber, _messages) =
            reached.map_err(|_| Failure::new(Cause::NotSent, "no connection"))?;
        subscriber.try_out(channel).await
    }

    /// Makes a connection within the connect timeout.
    async fn in_time<T>(
        &self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, BackendError> {
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(result) => result.map_err(|failure| error::not_connected(&self.address, failure)),
            Err(_) => Err(BackendError::transient(format!(
                "cannot connect to {}: no answer within {:?}",
                self.address, self.connect_timeout
            ))),
        }
    }
}

/// Host and port, and nothing else.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// Those to whom a password goes in the clear.
pub(super) fn exposed<'a>(servers: impl IntoIterator<Item = &'a ConnectionInfo>) -> Vec<String> {
    let servers = servers.into_iter().filter(|info| match info.addr() {
        ConnectionAddr::Tcp(host, _) => {
            let password = info.redis_settings().password();
            password.is_some_and(|password| !password.is_empty()) && !exposure::is_local(host)
        }
        _ => false,
    });
    servers.map(|info| info.addr().to_string()).collect()
}

/// One server.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    /// The same in RESP2, where the choice between the protocols is ours.
    fallback: Option<Client>,
}

impl Server {
    /// The server of `info`; `chosen`: in the protocol that it names.
    pub(super) fn new(
        info: &ConnectionInfo,
        chosen: bool,
        settings: &Settings,
    ) -> RedisResult<Self> {
        let open = |protocol| settings.open(tuned(info, protocol));
        Ok(if chosen {
            Self {
                client: open(None)?,
                fallback: None,
            }
        } else {
            Self {
                client: open(Some(ProtocolVersion::RESP3))?,
                fallback: Some(open(Some(ProtocolVersion::RESP2))?),
            }
        })
    }

    /// Makes a connection, with the fallback's protocol if need be.
    pub(super) async fn reach<T, F: Future<Output = RedisResult<T>>>(
        &self,
        open: &impl Fn(Client) -> F,
    ) -> Result<T, Failure> {
        let failure = match open(self.client.clone()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failure(&error),
        };
        match &self.fallback {
            Some(fallback) if failure.is_about_protocol() => {
                let fallback = open(fallback.clone()).await;
                fallback.map_err(|error| super::failure(&error))
            }
            _ => Err(failure),
        }
    }
}

/// What a lock's connection needs: small packets sent at once, and no commands that an ACL would have to allow.
pub(super) fn tuned(info: &ConnectionInfo, protocol: Option<ProtocolVersion>) -> ConnectionInfo {
    let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(protocol) = protocol {
        settings = settings.set_protocol(protocol);
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    info.clone()
        .set_redis_settings(settings)
        .set_tcp_settings(tcp)
}

fn parse(url: &str) -> Result<ConnectionInfo, BackendError> {
    url.into_connection_info().map_err(malformed)
}

fn has_protocol(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query
        .split('&')
        .any(|pair| pair.split('=').next() == Some("protocol"))
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. })
}

fn malformed(error: RedisError) -> BackendError {
    let about_tls =
        error.kind() == ErrorKind::InvalidClientConfig && error.to_string().contains("TLS");
    error::malformed_url(
        about_tls.then_some(
            "TLS needs rediss:// and the feature `tls`, and certificates are for TLS only",
        ),
    )
}
