//! A connection for subscriptions, and what comes over it.

use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use redis::{RedisResult, Value};

#[cfg(feature = "cluster")]
use super::cluster::{Broadcasts, Shards};
use super::failure;
use crate::error::{Cause, Failure};

/// The sending half of a connection for subscriptions.
pub(crate) enum Subscriber {
    Server(Sink),
    #[cfg(feature = "cluster")]
    Cluster(Shards),
}

/// What comes over a connection for subscriptions.
pub(crate) enum Messages {
    Server(PubSubStream),
    #[cfg(feature = "cluster")]
    Cluster(Broadcasts),
}

/// One thing that comes.
pub(crate) enum Event {
    /// A message on this channel.
    Message(String),
    /// The server ended the subscription to this channel by itself: its slot has moved.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(dead_code, reason = "slots move in clusters")
    )]
    Ended(String),
    /// Some messages were lost.
    #[allow(dead_code, reason = "this client loses none while it is connected")]
    Missed,
}

impl Subscriber {
    pub(super) fn of_server(connection: PubSub, response_timeout: Duration) -> (Self, Messages) {
        let (sink, stream) = connection.split();
        let sink = Sink {
            sink,
            response_timeout,
        };
        (Self::Server(sink), Messages::Server(stream))
    }

    /// Resolves when the subscriptions are in force, or refused, each by itself. Fails if the connection does.
    pub(crate) async fn subscribe(
        &self,
        channels: &[String],
    ) -> Result<Vec<Result<(), Failure>>, Failure> {
        match self {
            Self::Server(sink) => sink.subscribe(channels).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(shards) => Ok(shards.subscribe(channels).await),
        }
    }

    /// What becomes of it matters only if the connection fails.
    pub(crate) async fn unsubscribe(&self, channels: &[String]) -> Result<(), Failure> {
        match self {
            Self::Server(sink) => {
                let mut connection = sink.sink.clone();
                sink.answered(connection.unsubscribe(channels)).await?.ok();
                Ok(())
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(shards) => {
                shards.unsubscribe(channels).await;
                Ok(())
            }
        }
    }

    /// Subscribes to `channel` and back, and fails also if any of that is refused.
    pub(super) async fn try_out(&self, channel: &str) -> Result<(), Failure> {
        match self {
            Self::Server(sink) => sink.try_out(channel).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(shards) => shards.try_out(channel).await,
        }
    }

    /// Fails if the connection does.
    pub(crate) async fn ping(&self) -> Result<(), Failure> {
        match self {
            Self::Server(sink) => {
                let mut connection = sink.sink.clone();
                sink.answered(connection.ping::<Value>()).await?.ok();
                Ok(())
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(shards) => shards.ping().await,
        }
    }
}

impl Messages {
    /// The next thing that comes; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Server(stream) => {
                let message = stream.next().await?;
                Some(Event::Message(message.get_channel_name().to_owned()))
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(broadcasts) => broadcasts.next().await,
        }
    }
}

/// The sending half of a connection to one server.
pub(crate) struct Sink {
    sink: PubSubSink,
    response_timeout: Duration,
}

impl Sink {
    async fn subscribe(&self, channels: &[String]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let together = self.subscribe_to(channels).await?;
        if together.is_ok() {
            return Ok(channels.iter().map(|_| Ok(())).collect());
        }
        // One that is refused must not keep the others from being subscribed to.
        let mut results = Vec::with_capacity(channels.len());
        for channel in channels {
            results.push(self.subscribe_to(std::slice::from_ref(channel)).await?);
        }
        Ok(results)
    }

    async fn try_out(&self, channel: &str) -> Result<(), Failure> {
        let mut connection = self.sink.clone();
        self.answered(connection.subscribe(channel)).await??;
        self.answered(connection.unsubscribe(channel)).await??;
        let pong = async { connection.ping::<Value>().await?.extract_error() };
        self.answered(pong).await?
    }

    async fn subscribe_to(&self, channels: &[String]) -> Result<Result<(), Failure>, Failure> {
        let mut sink = self.sink.clone();
        self.answered(sink.subscribe(channels)).await
    }

    /// The server's answer, be it a refusal.
    async fn answered<T>(
        &self,
        request: impl Future<Output = RedisResult<T>>,
    ) -> Result<Result<(), Failure>, Failure> {
        match tokio::time::timeout(self.response_timeout, request).await {
            Ok(Ok(_)) => Ok(Ok(())),
            Ok(Err(error)) => match failure(&error) {
                failure if failure.is_answer() => Ok(Err(failure)),
                failure => Err(failure),
            },
            Err(_) => Err(Failure::new(Cause::Late, "no answer")),
        }
    }
}
