//! redis-rs: the one folder that speaks to it. Here: a connection, and what the client's errors mean. Where connections lead
//! to is in `target.rs`, `sentinel.rs` and `cluster.rs`, those for subscriptions are in `subscriber.rs`, those made elsewhere in
//! `given.rs`.

#[cfg(feature = "cluster")]
mod cluster;
mod given;
mod sentinel;
mod subscriber;
mod target;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, Value};

use crate::answer::Reply;
use crate::connection::{Order, Request};
use crate::error::{Cause, Failure};

pub(crate) use given::Given;
pub(crate) use subscriber::{Event, Messages, Subscriber};
pub(crate) use target::{Settings, Target};

/// What the client says when something fails.
pub(crate) type Error = RedisError;

/// Whom to trust, and who we are.
#[cfg(feature = "tls")]
pub(crate) type Certificates = redis::TlsCertificates;

/// A cluster's client follows redirections and broken connections by itself.
pub(crate) const CLUSTER_RESENDS: bool = true;

/// The keys that one server has: those of a slot of a cluster, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    All,
    #[cfg(feature = "cluster")]
    Slot(redis::cluster_routing::Slot),
}

/// The slot of `key` in a cluster.
#[cfg_attr(
    not(feature = "cluster"),
    allow(unused_variables, reason = "there is no cluster")
)]
pub(crate) fn slot_of(key: &str) -> Part {
    #[cfg(feature = "cluster")]
    return Part::Slot(redis::cluster_routing::Slot::for_key(key));
    #[cfg(not(feature = "cluster"))]
    Part::All
}

/// A connection, for many calls at once. Of no use any more once it is broken.
pub(crate) enum Connection {
    Server(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(cluster::Cluster),
}

impl Connection {
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let command = command(request);
        match self {
            Self::Server(connection) => {
                let sent = command.query_async(&mut connection.clone()).await;
                sent.map(reply).map_err(|error| failure(&error))
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.run(command).await.map(reply),
        }
    }

    /// Sends commands about keys of the slot of `key`, and answers each. Fails if it is not known what became of any of them.
    pub(crate) async fn send_all(
        &self,
        #[cfg_attr(
            not(feature = "cluster"),
            allow(unused_variables, reason = "for clusters")
        )]
        key: &str,
        commands: &[Vec<&str>],
        #[cfg_attr(
            not(feature = "cluster"),
            allow(unused_variables, reason = "for clusters")
        )]
        order: Order,
    ) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        match self {
            Self::Server(connection) => {
                let (mut connection, pipeline) = (connection.clone(), pipeline(commands));
                let sent = connection.send_packed_commands(&pipeline, 0, commands.len());
                let answers = sent.await.map_err(|error| failure(&error))?;
                Ok(answers
                    .into_iter()
                    .map(|value| answer(value).map_err(|error| failure(&error)))
                    .collect())
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.send_all(key, commands, order).await,
        }
    }

    /// What falls silent together with `key`.
    #[cfg_attr(
        not(feature = "cluster"),
        allow(unused_variables, reason = "all of it")
    )]
    pub(crate) fn part_of(&self, key: Option<&str>) -> Part {
        match self {
            Self::Server(_) => Part::All,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => key.map_or(Part::All, slot_of),
        }
    }

    /// Whether it leads to many servers, of which each may fail by itself. The client then looks after each.
    pub(crate) const fn is_cluster(&self) -> bool {
        match self {
            Self::Server(_) => false,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => true,
        }
    }
}

fn pipeline(commands: &[Vec<&str>]) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    for words in commands {
        let mut command = Cmd::new();
        command.arg(words);
        pipeline.add_command(command);
    }
    pipeline
}

fn answer(value: Value) -> Result<Reply, Error> {
    value.extract_error().map(reply)
}

/// Room for the number of keys.
const COUNT_BYTES: usize = 8;

fn command(request: &Request<'_>) -> Cmd {
    // Room for all of it at once: a command that grows with each argument shows in a profile of the client.
    let texts = || {
        let rest = request.keys.iter().chain(request.args).copied();
        [request.command, request.script].into_iter().chain(rest)
    };
    let bytes = texts().map(str::len).sum::<usize>();
    let mut command = Cmd::with_capacity(
        texts().count().saturating_add(1),
        bytes.saturating_add(COUNT_BYTES),
    );
    command
        .arg(request.command)
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
        Value::Okay => Reply::Text(b"OK".to_vec()),
        Value::Nil => Reply::Nil,
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
            } else if is_about_certificates(error) {
                Cause::Settings
            } else if error.is_timeout() {
                Cause::Late
            } else if error.to_string().starts_with("redis_cluster: Unable to") {
                Cause::Gone
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

/// Whether the other end did not show that it is who it should be. The client tells that in rustls' words only.
fn is_about_certificates(error: &RedisError) -> bool {
    error.to_string().starts_with("invalid peer certificate")
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
