//! Clusters: one connection of the client that leads to all nodes, and another one for subscriptions.

use std::time::Duration;

use futures_util::future::join_all;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::io::tcp::TcpSettings;
use redis::{Cmd, ConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::mpsc;

use super::target::{Settings, tuned};
use super::{Event, Messages, Subscriber, answer, failure, pipeline};
use crate::answer::Reply;
use crate::connection::Order;
use crate::error::{Cause, Failure};

/// How often the client sends a request again by itself: when it is led elsewhere, when a connection broke, or when the
/// cluster is not ready. So a request may be applied more than once; the scripts make that harmless. Requests about a slot
/// on the move are led to and fro a few times where several meet: the client says `ASKING` in a message of its own.
const RETRIES: u32 = 10;

/// The pause before a request is sent again to a cluster that is not ready, in milliseconds: short, since lock-core decides how
/// long to try.
const SHORTEST_PAUSE: u64 = 2;
const LONGEST_PAUSE: u64 = 20;

/// How many times longer than we the client waits for an answer. When its own patience is over it looks for the node anew, and
/// while it does so for one that is silent nobody is served; whom we have given up on it forgets.
const CLIENTS_PATIENCE: f64 = 1.1;

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

    pub(super) async fn connect(&self) -> Result<Cluster, Failure> {
        Ok(Cluster {
            connection: open(self.client()).await?,
            patience: self.settings.response_timeout,
        })
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
            .response_timeout(self.settings.response_timeout.mul_f64(CLIENTS_PATIENCE))
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

/// A connection to all nodes.
pub(crate) struct Cluster {
    connection: ClusterConnection,
    patience: Duration,
}

impl Cluster {
    pub(super) async fn run(&self, command: Cmd) -> Result<Value, Failure> {
        let mut connection = self.connection.clone();
        self.answered(command.query_async(&mut connection)).await
    }

    /// Sends commands about keys of the slot of `key`, and answers each. Fails if it is not known what became of any of them.
    ///
    /// What the client sends as one, it sends again as one when any of it is led elsewhere, and says `ASKING` for the first command
    /// only. So that is done with what must stay together, and commands that may be led to different places go by themselves.
    pub(super) async fn send_all(
        &self,
        key: &str,
        commands: &[Vec<&str>],
        order: Order,
    ) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        let mut replies = match order {
            Order::Together => return self.send_together(key, commands).await,
            Order::Kept => {
                let mut replies: Vec<Result<_, Failure>> = Vec::with_capacity(commands.len());
                for command in commands {
                    // Behind one of unknown outcome nothing is in order.
                    let lost = replies.last().and_then(|reply| reply.as_ref().err());
                    let reply = match lost.filter(|failure| !failure.is_answer()) {
                        Some(failure) => Err(failure.clone()),
                        None => self.send(key, command).await,
                    };
                    replies.push(reply);
                }
                replies
            }
            Order::Any => join_all(commands.iter().map(|command| self.send(key, command))).await,
        };
        let is_answered =
            |reply: &Result<_, Failure>| reply.as_ref().err().is_none_or(Failure::is_answer);
        if !replies.iter().any(is_answered)
            && let Some(Err(failure)) = replies.first()
        {
            return Err(failure.clone());
        }
        if order == Order::Any {
            // While a slot moves they lead each other astray, since the client says `ASKING` in a message of its own.
            for (command, reply) in commands.iter().zip(&mut replies) {
                if reply.as_ref().is_err_and(Failure::leads_elsewhere) {
                    *reply = self.send(key, command).await;
                }
            }
        }
        Ok(replies)
    }

    async fn send(&self, key: &str, words: &[&str]) -> Result<Reply, Failure> {
        let mut command = Cmd::new();
        command.arg(words);
        let mut connection = self.connection.clone();
        let sent = connection.route_command(command, RoutingInfo::SingleNode(route(key)));
        let value = self.answered(sent).await?;
        answer(value).map_err(|error| failure(&error).resent())
    }

    async fn send_together(
        &self,
        key: &str,
        commands: &[Vec<&str>],
    ) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        let mut connection = self.connection.clone();
        let sent = connection.route_pipeline(pipeline(commands), 0, commands.len(), route(key));
        let values = self.answered(sent).await?.into_iter();
        Ok(values
            .map(|value| answer(value).map_err(|error| failure(&error).resent()))
            .collect())
    }

    async fn answered<T>(&self, sent: impl Future<Output = RedisResult<T>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.patience, sent).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failure(&error).resent()),
            Err(_) => Err(Failure::new(Cause::Late, "no answer").resent()),
        }
    }
}

/// To the primary that has `key`.
fn route(key: &str) -> SingleNodeRoutingInfo {
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

    pub(super) async fn try_out(&self, channel: &str) -> Result<(), Failure> {
        let mut connection = self.connection.clone();
        let ping = redis::cmd("PING");
        let tried = async {
            connection.ssubscribe(channel).await?;
            connection.sunsubscribe(channel).await?;
            ping.query_async::<Value>(&mut connection)
                .await?
                .extract_error()
        };
        tried.await.map(drop).map_err(|error| failure(&error))
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
