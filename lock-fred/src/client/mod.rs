//! fred: the one folder that speaks to it. Here: a connection, and what the client's errors mean. Where connections lead to is
//! in `target.rs`, `sentinel.rs` and `cluster.rs`, those for subscriptions are in `subscriber.rs`, those made elsewhere in
//! `given.rs`.

mod cluster;
mod given;
mod sentinel;
mod subscriber;
mod target;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fred::clients::{Client, WithOptions};
use fred::error::ErrorKind;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Resp3Frame, Value};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::answer::Reply;
use crate::connection::{Order, Request};
use crate::error::{Cause, Failure};

pub(crate) use given::Given;
pub(crate) use subscriber::{Event, Messages, Subscriber};
pub(crate) use target::{Settings, Target};

/// What the client says when something fails.
pub(crate) type Error = fred::error::Error;

/// Whom to trust, and who we are.
#[cfg(feature = "tls")]
pub(crate) type Certificates = fred::types::config::TlsConnector;

/// Nothing is written twice, in a cluster neither: see `cluster.rs`.
pub(crate) const CLUSTER_RESENDS: bool = false;

/// The keys that one server has: those of a slot of a cluster, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    All,
    Slot(u16),
}

/// The slot of `key` in a cluster.
pub(crate) fn slot_of(key: &str) -> Part {
    Part::Slot(slot(key))
}

fn slot(key: &str) -> u16 {
    fred::util::redis_keyslot(key.as_bytes())
}

/// A connection, for many calls at once. Of no use any more once it is broken.
pub(crate) enum Connection {
    Server(Server),
    Cluster(Arc<cluster::Nodes>),
}

impl Connection {
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        match self {
            Self::Server(server) => server.send(Words::of_script(request)).await,
            Self::Cluster(nodes) => nodes.send(request).await,
        }
    }

    /// Sends commands about keys of the slot of `key`, and answers each. Fails if it is not known what became of any of them.
    pub(crate) async fn send_all(
        &self,
        key: &str,
        commands: &[Vec<&str>],
        order: Order,
    ) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        match self {
            Self::Server(server) => {
                let requests = commands.iter().map(|command| Words::new(command));
                server.send_all(requests.collect()).await
            }
            Self::Cluster(nodes) => nodes.send_all(key, commands, order).await,
        }
    }

    /// What falls silent together with `key`.
    pub(crate) fn part_of(&self, key: Option<&str>) -> Part {
        match self {
            Self::Server(_) => Part::All,
            Self::Cluster(_) => key.map_or(Part::All, slot_of),
        }
    }

    /// Whether it leads to many servers, of which each may fail by itself.
    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// A connection to one server: a client that never connects again. So it never sends anything again either, and what ends
/// the connection ends the client.
pub(crate) struct Server {
    client: WithOptions<Client>,
    requests: Requests,
    /// Shut while requests are handed to the client between which no other may come.
    gate: RwLock<()>,
    /// Its sender is gone when the connection has ended.
    ended: watch::Receiver<()>,
    _driven: Driven,
}

impl Server {
    /// Asks one thing.
    async fn ask(&self, command: &[&str]) -> Result<Reply, Failure> {
        self.send(Words::new(command)).await
    }

    async fn send(&self, request: Words) -> Result<Reply, Failure> {
        let open = || self.gate.read().unwrap_or_else(PoisonError::into_inner);
        handed_over(self.send_through(request), open).await
    }

    /// Sends each directly behind an `ASKING`, in this order: only what directly follows it is allowed by it, and must be ours.
    async fn send_asking(&self, requests: Vec<Words>) -> Vec<Result<Reply, Failure>> {
        let shut = || self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let sent = requests.into_iter().map(|request| async {
            let (_, reply) = tokio::join!(
                self.send_through(Words::new(&["ASKING"])),
                self.send_through(request)
            );
            reply
        });
        handed_over(join_all(sent), shut).await
    }

    /// Not to be polled for the first time but as the gate wants it.
    async fn send_through(&self, request: Words) -> Result<Reply, Failure> {
        let under_way = self.requests.begin();
        let sent = self.while_open(send(&self.client, request)).await;
        let frame = sent.map_err(|error| {
            // The client ends a connection on which this comes, and gives the answer to one request to all.
            if under_way.is_alone() && error.details().starts_with("CLUSTERDOWN ") {
                Failure::new(Cause::Answer, error.details())
            } else {
                failure(&error)
            }
        })?;
        under_way.answered();
        answer(frame)
    }

    /// In this order. Fails if none of them was answered.
    async fn send_all(&self, requests: Vec<Words>) -> Result<Vec<Result<Reply, Failure>>, Failure> {
        let sent = requests.into_iter().map(|request| self.send(request));
        answers(join_all(sent).await)
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

/// Fails if none has an answer, as the first did: what became of that, the failures of those behind it do not say.
fn answers(replies: Vec<Result<Reply, Failure>>) -> Result<Vec<Result<Reply, Failure>>, Failure> {
    let is_answered =
        |reply: &Result<_, Failure>| reply.as_ref().err().is_none_or(Failure::is_answer);
    match replies.first() {
        Some(Err(failure)) if !replies.iter().any(is_answered) => Err(failure.clone()),
        _ => Ok(replies),
    }
}

/// Holds what `hold` gives while `sent` is polled for the first time, which is when the client is handed its requests.
async fn handed_over<F: Future, H>(sent: F, hold: impl FnOnce() -> H) -> F::Output {
    let (mut sent, mut hold) = (pin!(sent), Some(hold));
    poll_fn(move |context| {
        let _held = hold.take().map(|hold| hold());
        sent.as_mut().poll(context)
    })
    .await
}

/// Which requests have no reply yet. Replies come in order.
#[derive(Default)]
struct Requests {
    waiting: AtomicUsize,
    /// How many were given up without a reply, which may be under way still.
    given_up: AtomicUsize,
    /// How many of those are not under way any more, since the reply to a later one has come.
    settled: AtomicUsize,
}

impl Requests {
    /// To be called before the request is sent.
    fn begin(&self) -> UnderWay<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        UnderWay {
            requests: self,
            before: self.given_up.load(Ordering::SeqCst),
            answered: false,
        }
    }
}

/// A request that has no reply yet.
struct UnderWay<'a> {
    requests: &'a Requests,
    /// How many were given up before it was sent.
    before: usize,
    answered: bool,
}

impl UnderWay<'_> {
    /// Whether no other has no reply yet.
    fn is_alone(&self) -> bool {
        let Requests {
            waiting,
            given_up,
            settled,
        } = self.requests;
        waiting.load(Ordering::SeqCst) == 1
            && given_up.load(Ordering::SeqCst) == settled.load(Ordering::SeqCst)
    }

    fn answered(mut self) {
        self.requests
            .settled
            .fetch_max(self.before, Ordering::SeqCst);
        self.answered = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.requests.given_up.fetch_add(1, Ordering::SeqCst);
        }
        self.requests.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn ended(ended: &watch::Receiver<()>) {
    let mut ended = ended.clone();
    while ended.changed().await.is_ok() {}
}

/// The client's task, which lives as long as this.
struct Driven(AbortHandle);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request as the client takes it. Its own routing is not used.
struct Words(CustomCommand, Vec<Value>);

impl Words {
    fn of_script(request: &Request<'_>) -> Self {
        let count = request.keys.len().to_string();
        let words = [request.script, &count];
        let words = words.iter().chain(request.keys).chain(request.args);
        Self(
            CustomCommand::new_static(request.command, ClusterHash::FirstKey, false),
            words.map(|word| Value::from(*word)).collect(),
        )
    }

    fn new(command: &[&str]) -> Self {
        let (name, words) = command.split_first().unwrap_or((&"", &[]));
        Self(
            CustomCommand::new((*name).to_owned(), ClusterHash::FirstKey, false),
            words.iter().map(|word| Value::from(*word)).collect(),
        )
    }
}

/// As a frame, in which the server's errors are told from the client's. (Boxed: the client's future has room for making a
/// connection in it, some 20 kB.)
fn send(client: &WithOptions<Client>, request: Words) -> BoxFuture<'_, Result<Resp3Frame, Error>> {
    Box::pin(client.custom_raw(request.0, request.1))
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
        Resp3Frame::Array { data, .. } | Resp3Frame::Push { data, .. } => {
            Reply::List(data.into_iter().map(reply).collect())
        }
        Resp3Frame::Null => Reply::Nil,
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
        _ if error.details().contains(BAD_CERTIFICATE) => Cause::Settings,
        _ => Cause::Broken,
    };
    described(cause, error)
}

/// How the client says that the other end did not show that it is who it should be: by what rustls derives for `Debug`.
const BAD_CERTIFICATE: &str = "InvalidCertificate(";

/// In the client's words, and with its error behind it if that is one of the system.
fn described(cause: Cause, error: &Error) -> Failure {
    let failure = Failure::new(cause, text(error.details()));
    if *error.kind() == ErrorKind::IO {
        failure.with_source(error.clone())
    } else {
        failure
    }
}

/// The client prints errors of the system as Rust writes them down. In words.
fn text(details: &str) -> String {
    if let Some((_, variant)) = details.split_once(BAD_CERTIFICATE) {
        let name = variant.split(|c: char| !c.is_alphabetic()).next();
        let name = name.unwrap_or_default();
        let name = name.strip_suffix("Context").unwrap_or(name);
        let mut words = String::from("invalid peer certificate:");
        for letter in name.chars() {
            if letter.is_uppercase() {
                words.push(' ');
            }
            words.extend(letter.to_lowercase());
        }
        return words;
    }
    let message = details.split_once("message: \"");
    let message = message.and_then(|(_, message)| message.split_once('"'));
    message.map_or(details, |(message, _)| message).to_owned()
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
    fn what_was_answered_is_known_whatever_became_of_what_was_behind_it() {
        let failed = |cause| Err(Failure::new(cause, ""));
        let done = || Ok(Reply::Number(1));
        let replies = answers(vec![done(), failed(Cause::NotSent)]).unwrap();
        assert!(matches!(replies[..], [Ok(Reply::Number(1)), Err(_)]));
        let unknown = answers(vec![failed(Cause::Broken), failed(Cause::NotSent)]);
        assert_eq!(unknown.unwrap_err().cause(), Cause::Broken);
        assert!(answers(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn a_request_is_alone_again_when_a_later_one_than_those_given_up_was_answered() {
        let requests = Requests::default();
        let first = requests.begin();
        assert!(first.is_alone());
        let second = requests.begin();
        assert!(!first.is_alone() && !second.is_alone());
        drop(first);
        // Sent before the first was given up: its reply may be the earlier one.
        second.answered();
        let third = requests.begin();
        assert!(!third.is_alone());
        third.answered();
        assert!(requests.begin().is_alone());
        // That one was given up too.
        assert!(!requests.begin().is_alone());
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
            (
                IO,
                "Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }",
                Cause::Settings,
            ),
        ] {
            let failure = not_let_in(&Error::new(kind, details));
            assert_eq!(failure.cause(), cause, "{details}");
        }
    }

    #[test]
    fn errors_of_the_system_and_of_certificates_are_told_in_words() {
        for (details, words) in [
            (
                "Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }",
                "Connection refused",
            ),
            (
                "Custom { kind: InvalidData, error: InvalidCertificate(NotValidForNameContext { expected: \"x\" }) }",
                "invalid peer certificate: not valid for name",
            ),
            (
                "Custom { kind: InvalidData, error: InvalidCertificate(Expired) }",
                "invalid peer certificate: expired",
            ),
            ("Connection closed.", "Connection closed."),
        ] {
            assert_eq!(text(details), words);
        }
    }
}
