//! redis-rs: the one file that speaks to it. Where the server is, one connection, and what the client's errors mean.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use lock_core::BackendError;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult, Value,
};

use crate::answer::Reply;
use crate::connection::Request;
use crate::error::{self, Cause, Failure};

/// What the client says when something fails.
pub(crate) type Error = RedisError;

/// Where the server is and how long to wait for it.
pub(crate) struct Target {
    client: Client,
    /// The same in RESP2, where the choice between the protocols is ours.
    fallback: Option<Client>,
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
        let info = url
            .into_connection_info()
            .map_err(|error| malformed_url(&error))?;
        let chosen = url.split_once('?').is_some_and(|(_, query)| {
            query
                .split('&')
                .any(|pair| pair.split('=').next() == Some("protocol"))
        });
        let open = |protocol: Option<ProtocolVersion>| {
            Client::open(tuned(&info, protocol)).map_err(|error| malformed_url(&error))
        };
        let (client, fallback) = if chosen {
            (open(None)?, None)
        } else {
            (
                open(Some(ProtocolVersion::RESP3))?,
                Some(open(Some(ProtocolVersion::RESP2))?),
            )
        };
        Ok(Self {
            address: info.addr().to_string(),
            client,
            fallback,
            connect_timeout,
            response_timeout,
        })
    }

    /// The server of a client that was made elsewhere, with all its settings.
    pub(crate) fn of_client(
        client: Client,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Self {
        let info = client.get_connection_info();
        let address = info.addr().to_string();
        let client = Client::open(tuned(info, None)).unwrap_or(client);
        Self {
            client,
            fallback: None,
            address,
            connect_timeout,
            response_timeout,
        }
    }

    /// Connects; `on_disconnect` is called when the server closes the connection, if the protocol tells.
    pub(crate) async fn connect(
        &self,
        on_disconnect: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Connection, BackendError> {
        self.with_protocol(|client| {
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
                    .map(Connection)
            }
        })
        .await
    }

    /// A connection of its own for subscriptions, and what comes over it.
    pub(crate) async fn subscribe(&self) -> Result<(Subscriber, Messages), BackendError> {
        let (sink, stream) = self
            .with_protocol(|client| async move { client.get_async_pubsub().await })
            .await?
            .split();
        let subscriber = Subscriber {
            sink,
            response_timeout: self.response_timeout,
        };
        Ok((subscriber, Messages(stream)))
    }

    /// Makes a connection within the connect timeout, with the fallback's protocol if need be.
    async fn with_protocol<'a, T, F: Future<Output = Result<T, RedisError>>>(
        &'a self,
        open: impl Fn(&'a Client) -> F,
    ) -> Result<T, BackendError> {
        let attempts = async {
            let failure = match open(&self.client).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure(&error),
            };
            match &self.fallback {
                Some(fallback) if failure.is_about_protocol() => {
                    open(fallback).await.map_err(|error| self::failure(&error))
                }
                _ => Err(failure),
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
}

/// Host and port, and nothing else.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// What a lock's connection needs: small packets sent at once, and no commands that an ACL would have to allow.
fn tuned(info: &ConnectionInfo, protocol: Option<ProtocolVersion>) -> ConnectionInfo {
    let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(protocol) = protocol {
        settings = settings.set_protocol(protocol);
    }
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    info.clone()
        .set_redis_settings(settings)
        .set_tcp_settings(tcp)
}

/// A connection, for many calls at once. Of no use any more once it is broken.
pub(crate) struct Connection(MultiplexedConnection);

impl Connection {
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let result = command(request).query_async(&mut self.0.clone()).await;
        result.map(reply).map_err(|error| failure(&error))
    }
}

/// A connection that was made elsewhere, of whatever type.
#[derive(Clone)]
pub(crate) struct Given(Arc<Sender>);

type Sender = dyn Fn(Cmd) -> BoxFuture<'static, RedisResult<Value>> + Send + Sync;

impl Given {
    pub(crate) fn new(connection: impl ConnectionLike + Clone + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |command: Cmd| {
            let mut connection = connection.clone();
            Box::pin(async move { command.query_async(&mut connection).await })
        }))
    }

    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let result = (self.0)(command(request)).await;
        result.map(reply).map_err(|error| failure(&error))
    }
}

/// The sending half of a connection for subscriptions.
pub(crate) struct Subscriber {
    sink: PubSubSink,
    response_timeout: Duration,
}

impl Subscriber {
    /// Resolves when the subscriptions are in force.
    pub(crate) async fn subscribe(&self, channels: Vec<String>) -> Result<(), Failure> {
        let mut sink = self.sink.clone();
        self.answered(sink.subscribe(channels)).await
    }

    pub(crate) async fn unsubscribe(&self, channels: Vec<String>) -> Result<(), Failure> {
        let mut sink = self.sink.clone();
        self.answered(sink.unsubscribe(channels)).await
    }

    pub(crate) async fn ping(&self) -> Result<(), Failure> {
        let mut sink = self.sink.clone();
        self.answered(sink.ping::<Value>()).await
    }

    async fn answered<T>(
        &self,
        request: impl Future<Output = RedisResult<T>>,
    ) -> Result<(), Failure> {
        match tokio::time::timeout(self.response_timeout, request).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::new(Cause::Late, "no answer")),
        }
    }
}

/// What comes over a connection for subscriptions.
pub(crate) struct Messages(PubSubStream);

impl Messages {
    /// The channel of the next message; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let message = self.0.next().await?;
        Some(message.get_channel_name().to_owned())
    }
}

fn command(request: &Request<'_>) -> Cmd {
    let mut command = redis::cmd(request.command);
    command
        .arg(request.script)
        .arg(request.keys.len())
        .arg(request.keys)
        .arg(request.args);
    command
}

fn reply(value: Value) -> Reply {
    match value {
        Value::Int(number) => Reply::Number(number),
        Value::BulkString(bytes) => Reply::Text(bytes),
        Value::SimpleString(text) => Reply::Text(text.into_bytes()),
        Value::Array(items) => Reply::List(items.into_iter().map(reply).collect()),
        _ => Reply::Other,
    }
}

/// What an error of the client says about the connection and the request.
fn failure(error: &RedisError) -> Failure {
    let (cause, text) = match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let code = error.code().unwrap_or("ERR");
            let detail = error.detail().unwrap_or_default();
            return Failure::new(Cause::Answer, format!("{code} {detail}"));
        }
        ErrorKind::RESP3NotSupported => return Failure::new(Cause::Answer, "NOPROTO"),
        ErrorKind::AuthenticationFailed => (Cause::Credentials, String::new()),
        ErrorKind::InvalidClientConfig => (Cause::Settings, error.category().to_owned()),
        // An error of the connection itself. Others may repeat what was received.
        ErrorKind::Io => {
            let cause = if error.is_connection_refusal() {
                Cause::NotSent
            } else if error.is_timeout() {
                Cause::Late
            } else if error.is_unrecoverable_error() {
                Cause::Broken
            } else {
                Cause::Odd
            };
            return Failure::new(cause, error.to_string()).with_source(error.clone());
        }
        _ if error.is_unrecoverable_error() => (Cause::Broken, error.category().to_owned()),
        _ => (Cause::Odd, error.category().to_owned()),
    };
    Failure::new(cause, text)
}

fn malformed_url(error: &RedisError) -> BackendError {
    let about_tls =
        error.kind() == ErrorKind::InvalidClientConfig && error.to_string().contains("TLS");
    error::malformed_url(
        about_tls.then_some("rediss:// needs one of the TLS features of the redis crate"),
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::make_extension_error;

    use super::*;

    #[test]
    fn an_error_of_the_connection_says_whether_the_request_was_sent() {
        let cause = |error: RedisError| failure(&error).cause();
        let io = |kind| cause(RedisError::from(io::Error::from(kind)));
        assert_eq!(io(io::ErrorKind::ConnectionRefused), Cause::NotSent);
        assert_eq!(io(io::ErrorKind::TimedOut), Cause::Late);
        for kind in [
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(io(kind), Cause::Broken, "{kind:?}");
        }
        assert_eq!(cause((ErrorKind::Parse, "odd").into()), Cause::Broken);
        let text = Some("some text".to_owned());
        let error = make_extension_error("OOM".to_owned(), text);
        assert_eq!(cause(error), Cause::Answer);
    }
}
