//! Clusters: one connection of the client that leads to all nodes, and another one for subscriptions.

use futures_util::future::join_all;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::io::tcp::TcpSettings;
use redis::{ConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::mpsc;

use super::target::{Settings, tuned};
use super::{Event, Messages, Subscriber, failure};
use crate::error::{Cause, Failure};

/// How often the client sends a request again by itself: when it is led elsewhere, when a connection broke, or when the
/// cluster is not ready. So a request may be applied more than once; the scripts make that harmless. Requests about a slot
/// on the move are led to and fro a few times where several meet: the client says `ASKING` in a message of its own.
const RETRIES: u32 = 10;

/// The pause before a request is sent again to a cluster that is not ready, in milliseconds: short, since lock-core decides how
/// long to try.
const SHORTEST_PAUSE: u64 = 2;
const LONGEST_PAUSE: u64 = 20;

/// Some nodes of a cluster, by which the others are found.
pub(super) struct Nodes {
    nodes: Vec<ConnectionInfo>,
    settings: Settings,
}

impl Nodes {
    /// In RESP3, unless the protocol was `chosen`.
    pub(super) fn new(
        nodes: &[ConnectionInfo],
        chosen: bool,
        settings: &Settings,
    ) -> RedisResult<Self> {
        let protocol = (!chosen).then_some(ProtocolVersion::RESP3);
        let nodes = Self {
            nodes: nodes.iter().map(|info| tuned(info, protocol)).collect(),
            settings: settings.clone(),
        };
        // Says now whether the settings make sense.
        nodes.client().build()?;
        Ok(nodes)
    }

    /// Messages come over RESP3 only.
    pub(super) fn has_messages(&self) -> bool {
        let is_resp3 =
            |info: &ConnectionInfo| info.redis_settings().protocol() == ProtocolVersion::RESP3;
        self.nodes.first().is_some_and(is_resp3)
    }

    pub(super) async fn connect(&self) -> Result<ClusterConnection, Failure> {
        open(self.client()).await
    }

    /// A connection of its own for subscriptions, and what comes over it.
    pub(super) async fn subscribe(&self) -> Result<(Subscriber, Messages), Failure> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let connection = open(self.client().push_sender(sender)).await?;
        let shards = Shards { connection };
        Ok((
            Subscriber::Cluster(shards),
            Messages::Cluster(Broadcasts(receiver)),
        ))
    }

    fn client(&self) -> ClusterClientBuilder {
        // All nodes at once, but first those that were named and then those that were found: one that is silent must
        // leave time for the others in both.
        let client = ClusterClientBuilder::new(self.nodes.clone())
            .connection_timeout(self.settings.connect_timeout.mul_f64(0.2))
            .response_timeout(self.settings.response_timeout)
            .tcp_settings(TcpSettings::default().set_nodelay(true))
            .retries(RETRIES)
            .min_retry_wait(SHORTEST_PAUSE)
            .max_retry_wait(LONGEST_PAUSE);
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.settings.certificates {
            return client.certs(certificates.clone());
        }
        client
    }
}

/// To the primary that has `key`.
pub(super) fn route(key: &str) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master))
}

async fn open(client: ClusterClientBuilder) -> Result<ClusterConnection, Failure> {
    let connection = async { client.build()?.get_async_connection().await };
    connection.await.map_err(|error| {
        // What a node said is only in the text when none of them let us in.
        let said = error.to_string();
        if ["WRONGPASS", "NOAUTH", "AuthenticationFailed"]
            .iter()
            .any(|code| said.contains(code))
        {
            return Failure::new(Cause::Credentials, "");
        }
        failure(&error)
    })
}

/// The sending half of a cluster's connection for subscriptions.
pub(crate) struct Shards {
    connection: ClusterConnection,
}

impl Shards {
    /// Each channel by itself: they lie in different slots. Whatever fails concerns that slot only.
    pub(super) async fn subscribe(&self, channels: &[String]) -> Vec<Result<(), Failure>> {
        let requests = channels.iter().map(|channel| async move {
            let subscribed = self.connection.clone().ssubscribe(channel).await;
            subscribed.map_err(|error| failure(&error))
        });
        join_all(requests).await
    }

    pub(super) async fn unsubscribe(&self, channels: &[String]) {
        let requests = channels.iter().map(|channel| async move {
            self.connection.clone().sunsubscribe(channel).await.ok();
        });
        join_all(requests).await;
    }

    /// Asks every primary: the connection is made anew if one of them does not answer, and so leads to its successor.
    pub(super) async fn ping(&self) -> Result<(), Failure> {
        let ping = redis::cmd("PING");
        let pong = ping
            .query_async::<Value>(&mut self.connection.clone())
            .await;
        match pong.map_err(|error| failure(&error)) {
            Err(failure) if !failure.is_answer() => Err(failure),
            _ => Ok(()),
        }
    }
}

/// What comes over a cluster's connection for subscriptions.
pub(crate) struct Broadcasts(mpsc::UnboundedReceiver<PushInfo>);

impl Broadcasts {
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            let push = self.0.recv().await?;
            let channel = || match push.data.first() {
                Some(Value::BulkString(channel)) => {
                    Some(String::from_utf8_lossy(channel).into_owned())
                }
                _ => None,
            };
            match push.kind {
                PushKind::SMessage => {
                    if let Some(channel) = channel() {
                        return Some(Event::Message(channel));
                    }
                }
                PushKind::SUnsubscribe => {
                    if let Some(channel) = channel() {
                        return Some(Event::Ended(channel));
                    }
                }
                // Of one node. What it would have told is lost, so all are asked anew.
                PushKind::Disconnection => return None,
                _ => {}
            }
        }
    }
}
