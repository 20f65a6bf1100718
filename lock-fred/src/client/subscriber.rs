//! A connection for subscriptions, and what comes over it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::Message;
use fred::types::config::Options;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::stream::StreamExt;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::cluster::{Address, Nodes, REDIRECTIONS, redirection};
use super::{Server, Words, answer, ended, failure, slot};
use crate::answer::Reply;
use crate::error::{Cause, Failure};

/// The sending half of a connection for subscriptions.
pub(crate) enum Subscriber {
    Server(Sink),
    Cluster(Shards),
}

/// What comes over a connection for subscriptions.
pub(crate) enum Messages {
    Server(Stream),
    Cluster(Streams),
}

/// One thing that comes.
pub(crate) enum Event {
    /// A message on this channel.
    Message(String),
    /// The server ended the subscription to this channel by itself: its slot has moved.
    Ended(String),
    /// Some messages were lost.
    Missed,
}

impl Subscriber {
    /// How many messages may wait to be read. More is a doubt, on which everybody looks.
    pub(super) const MESSAGES: usize = 128;

    pub(super) fn of_server(server: Server) -> (Self, Messages) {
        let (sink, stream) = Sink::new(server);
        (Self::Server(sink), Messages::Server(stream))
    }

    pub(super) fn of_cluster(nodes: Arc<Nodes>) -> (Self, Messages) {
        let (streams, new) = mpsc::unbounded_channel();
        let (events, own) = mpsc::unbounded_channel();
        let shards = Shards {
            nodes,
            state: Mutex::default(),
            streams,
            events,
        };
        let messages = Streams {
            new,
            own,
            open: FuturesUnordered::new(),
        };
        (Self::Cluster(shards), Messages::Cluster(messages))
    }

    /// Resolves when the subscriptions are in force, or refused, each by itself. Fails if the connection does.
    pub(crate) async fn subscribe(
        &self,
        channels: &[String],
    ) -> Result<Vec<Result<(), Failure>>, Failure> {
        match self {
            Self::Server(sink) => sink.subscribe(channels).await,
            Self::Cluster(shards) => shards.subscribe(channels).await,
        }
    }

    /// What becomes of it matters only if the connection fails.
    pub(crate) async fn unsubscribe(&self, channels: &[String]) -> Result<(), Failure> {
        match self {
            Self::Server(sink) => sink.unsubscribe(channels).await,
            Self::Cluster(shards) => shards.unsubscribe(channels).await,
        }
    }

    /// Subscribes to `channel` and back, and fails also if any of that is refused. Of no use behind that.
    pub(super) async fn try_out(&self, channel: &str) -> Result<(), Failure> {
        let channel = channel.to_owned();
        match self {
            Self::Server(sink) => {
                sink.subscribe_to(std::slice::from_ref(&channel)).await??;
                let sent = sink.server.client.unsubscribe(vec![channel]);
                sink.confirmed(Box::pin(sent)).await??;
                sink.pong().await
            }
            Self::Cluster(shards) => {
                for result in shards.subscribe(std::slice::from_ref(&channel)).await? {
                    result?;
                }
                let sink = {
                    let state = shards.state();
                    let place = state.places.get(&channel);
                    place.and_then(|place| state.sinks.get(place)).cloned()
                };
                let sink = sink.ok_or_else(odd_pong)?;
                let unheard = sink.send(&["SUNSUBSCRIBE", &channel]);
                let mut spare = sink.spare.lock().await;
                sink.settle(&mut spare, unheard).await??;
                drop(spare);
                sink.pong().await
            }
        }
    }

    /// Fails if the connection does.
    pub(crate) async fn ping(&self) -> Result<(), Failure> {
        match self {
            Self::Server(sink) => sink.ping().await,
            Self::Cluster(shards) => shards.ping().await,
        }
    }
}

impl Messages {
    /// The next thing that comes; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Server(stream) => stream.next().await,
            Self::Cluster(streams) => streams.next().await,
        }
    }
}

/// The sending half of a connection to one server.
pub(crate) struct Sink {
    server: Server,
    pings: AtomicU64,
    /// The request that the client takes for unanswered: see [`confirmed`](Self::confirmed).
    spare: tokio::sync::Mutex<Option<Awaited>>,
}

/// A request that has no reply of its own. (Boxed, as all futures of the client.)
type Sent<'a> = BoxFuture<'a, Result<(), super::Error>>;

/// A reply that is to come.
type Awaited = BoxFuture<'static, Result<Reply, Failure>>;

impl Sink {
    fn new(server: Server) -> (Self, Stream) {
        let stream = Stream {
            messages: server.client.message_rx(),
            ended: server.ended.clone(),
        };
        let sink = Self {
            server,
            pings: AtomicU64::new(0),
            spare: tokio::sync::Mutex::default(),
        };
        (sink, stream)
    }

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

    async fn subscribe_to(&self, channels: &[String]) -> Result<Result<(), Failure>, Failure> {
        let sent = self.server.client.subscribe(channels.to_vec());
        self.confirmed(Box::pin(sent)).await
    }

    /// What becomes of it matters only if the connection fails.
    async fn unsubscribe(&self, channels: &[String]) -> Result<(), Failure> {
        let sent = self.server.client.unsubscribe(channels.to_vec());
        self.confirmed(Box::pin(sent)).await?.ok();
        Ok(())
    }

    async fn ping(&self) -> Result<(), Failure> {
        match self.pong().await {
            // It is alive.
            Err(failure) if failure.is_answer() => Ok(()),
            result => result,
        }
    }

    /// The answer to a PING, which comes in place of that to the request before it that has none, if there is one.
    async fn pong(&self) -> Result<(), Failure> {
        let mut spare = self.spare.lock().await;
        let (number, mut pong) = self.numbered_ping();
        if let Some(first) = spare.take() {
            *spare = Some(std::mem::replace(&mut pong, first));
        }
        match self.received(pong).await {
            Ok(pong) if number_of(&pong) == Some(number) => Ok(()),
            Ok(_) => Err(odd_pong()),
            Err(failure) => Err(failure),
        }
    }

    /// Waits until the server has answered what is sent, and gives its refusal if it refused that.
    ///
    /// The client drops all answers that say what is subscribed to. A refusal it takes for the answer to the first request
    /// that has none yet, and drops it where there is no such request. So there always is one: a request whose answer it has
    /// dropped. Behind what is sent goes a numbered PING, and either its number or the refusal comes in that request's place.
    async fn confirmed(&self, sent: Sent<'_>) -> Result<Result<(), Failure>, Failure> {
        let mut spare = self.spare.lock().await;
        if spare.is_none() {
            let unheard = self.send(&["UNSUBSCRIBE", NOBODYS]);
            if let Err(refusal) = self.settle(&mut spare, unheard).await? {
                return Ok(Err(refusal));
            }
        }
        let first = spare.take().ok_or_else(odd_pong)?;
        let sent = self.server.while_open(sent).await;
        sent.map_err(|error| failure(&error))?;
        self.settle(&mut spare, first).await
    }

    /// Sends the PING and waits for what comes in place of the answer to `first`. What is unanswered then is the new spare.
    async fn settle(
        &self,
        spare: &mut Option<Awaited>,
        first: Awaited,
    ) -> Result<Result<(), Failure>, Failure> {
        let (number, second) = self.numbered_ping();
        let refusal = match self.received(first).await {
            Ok(pong) if number_of(&pong) == Some(number) => {
                *spare = Some(second);
                return Ok(Ok(()));
            }
            Err(refusal) if refusal.is_answer() => refusal,
            Ok(_) => return Err(odd_pong()),
            Err(failure) => return Err(failure),
        };
        // What was refused may also be the PING. Then so is the next one, and one more is unanswered.
        let (next, third) = self.numbered_ping();
        match self.received(second).await {
            Ok(pong) if number_of(&pong) == Some(number) => {
                let pong = self.received(third).await?;
                if number_of(&pong) != Some(next) {
                    return Err(odd_pong());
                }
            }
            Err(refusal) if refusal.is_answer() => *spare = Some(third),
            Ok(_) => return Err(odd_pong()),
            Err(failure) => return Err(failure),
        }
        Ok(Err(refusal))
    }

    fn numbered_ping(&self) -> (u64, Awaited) {
        let number = self.pings.fetch_add(1, Ordering::Relaxed);
        (number, self.send(&["PING", &number.to_string()]))
    }

    /// Sends now. The client itself waits for ever.
    fn send(&self, command: &[&str]) -> Awaited {
        let options = Options {
            timeout: None,
            ..self.server.client.options().clone()
        };
        let client = self.server.client.with_options(&options);
        let Words(command, words) = Words::new(command);
        let mut awaited: Awaited = Box::pin(async move {
            let sent = client.custom_raw(command, words).await;
            sent.map_err(|error| failure(&error)).and_then(answer)
        });
        // It is sent when it is first polled.
        match awaited.as_mut().now_or_never() {
            Some(reply) => Box::pin(std::future::ready(reply)),
            None => awaited,
        }
    }

    async fn received(&self, awaited: Awaited) -> Result<Reply, Failure> {
        let received = async {
            tokio::select! {
                biased;
                reply = awaited => reply,
                () = ended(&self.server.ended) => Err(Failure::new(Cause::Broken, "the connection has ended")),
            }
        };
        let patience = self.server.client.options().timeout.unwrap_or_default();
        match tokio::time::timeout(patience, received).await {
            Ok(reply) => reply,
            Err(_) => Err(Failure::new(Cause::Late, "no answer")),
        }
    }
}

/// A channel that nobody listens to.
const NOBODYS: &str = "fencelock:nobody";

/// Which PING that answers. In RESP2 it is a list where something is subscribed to.
fn number_of(pong: &Reply) -> Option<u64> {
    let text = match pong {
        Reply::Text(text) => text,
        Reply::List(parts) => match parts.last() {
            Some(Reply::Text(text)) => text,
            _ => return None,
        },
        _ => return None,
    };
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn odd_pong() -> Failure {
    Failure::new(Cause::Broken, "an odd answer to PING")
}

/// What comes over a connection to one server.
pub(crate) struct Stream {
    messages: broadcast::Receiver<Message>,
    ended: watch::Receiver<()>,
}

impl Stream {
    async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            message = self.messages.recv() => match message {
                Ok(message) => Some(Event::Message(message.channel.to_string())),
                Err(RecvError::Lagged(_)) => Some(Event::Missed),
                Err(RecvError::Closed) => None,
            },
            () = ended(&self.ended) => None,
        }
    }
}

/// The sending half in a cluster: a connection to each node that has channels of ours.
pub(crate) struct Shards {
    nodes: Arc<Nodes>,
    state: Mutex<Subscriptions>,
    /// To the other half: what comes over new connections.
    streams: UnboundedSender<Source>,
    /// To the other half: what we find out ourselves.
    events: UnboundedSender<Event>,
}

#[derive(Default)]
struct Subscriptions {
    sinks: HashMap<Address, Arc<Sink>>,
    /// Where each channel is subscribed to.
    places: HashMap<String, Address>,
}

impl Shards {
    /// Each channel by itself: they lie in different slots. Whatever fails concerns that slot only.
    async fn subscribe(&self, channels: &[String]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let mut results: Vec<_> = channels.iter().map(|_| None).collect();
        let mut led: HashMap<usize, Address> = HashMap::new();
        for _ in 0..REDIRECTIONS {
            let open = results
                .iter()
                .enumerate()
                .filter(|(_, result)| result.is_none());
            let open = open.filter_map(|(index, _)| Some((index, channels.get(index)?)));
            let mut by_node: HashMap<Address, Vec<(usize, &String)>> = HashMap::new();
            for (index, channel) in open.collect::<Vec<_>>() {
                let owner = match led.remove(&index) {
                    Some(owner) => Ok(owner),
                    None => self.nodes.owner(slot(channel)).await,
                };
                match owner {
                    Ok(owner) => by_node.entry(owner).or_default().push((index, channel)),
                    Err(failure) => set(&mut results, index, Err(failure)),
                }
            }
            if by_node.is_empty() {
                break;
            }
            let asked = by_node
                .iter()
                .map(|(node, channels)| self.subscribe_at(node, channels));
            for (index, result) in join_all(asked).await.into_iter().flatten() {
                match result {
                    Err(Led::To(address)) => drop(led.insert(index, address)),
                    Err(Led::Nowhere(failure)) => set(&mut results, index, Err(failure)),
                    Err(Led::Astray(failure)) => return Err(failure),
                    Ok(()) => set(&mut results, index, Ok(())),
                }
            }
        }
        let unsettled = || Err(Failure::new(Cause::Odd, "led to and fro between nodes"));
        let results = results.into_iter();
        Ok(results
            .map(|result| result.unwrap_or_else(unsettled))
            .collect())
    }

    async fn subscribe_at(
        &self,
        node: &Address,
        channels: &[(usize, &String)],
    ) -> Vec<(usize, Result<(), Led>)> {
        let sink = match self.sink(node).await {
            Ok(sink) => sink,
            Err(_) => {
                let failure = || Failure::new(Cause::NotSent, "a node is out of reach");
                let failed = |(index, _): &(usize, _)| (*index, Err(Led::Nowhere(failure())));
                return channels.iter().map(failed).collect();
            }
        };
        let asked = channels.iter().map(|(index, channel)| {
            let sink = &sink;
            async move {
                let result = match sink.server.ask(&["SSUBSCRIBE", channel]).await {
                    Ok(Reply::List(parts)) if is_about(&parts, channel) => {
                        let mut state = self.state();
                        state.places.insert((*channel).clone(), node.clone());
                        Ok(())
                    }
                    Ok(_) => {
                        let text = "an odd answer to SSUBSCRIBE";
                        Err(Led::Astray(Failure::new(Cause::Broken, text)))
                    }
                    Err(failure) => match redirection(&failure, node) {
                        Some(redirection) => {
                            if !redirection.asking {
                                self.nodes.moved(slot(channel), &redirection.to);
                            }
                            Err(Led::To(redirection.to))
                        }
                        None => Err(Led::Nowhere(failure)),
                    },
                };
                (*index, result)
            }
        });
        join_all(asked).await
    }

    async fn unsubscribe(&self, channels: &[String]) -> Result<(), Failure> {
        let mut by_node: HashMap<Address, Vec<String>> = HashMap::new();
        {
            let mut state = self.state();
            for channel in channels {
                if let Some(node) = state.places.remove(channel) {
                    by_node.entry(node).or_default().push(channel.clone());
                }
            }
        }
        for (node, channels) in by_node {
            let Some(sink) = self.state().sinks.get(&node).cloned() else {
                continue;
            };
            for channel in channels {
                // One by one: they lie in different slots. A refusal may come in place of the answer to the PING; where that
                // is left nobody knows.
                let sent = sink.server.client.sunsubscribe(channel);
                let sent = sink.server.while_open(Box::pin(sent)).await;
                sent.map_err(|error| failure(&error))?;
                let (number, pong) = sink.numbered_ping();
                if number_of(&sink.received(pong).await?) != Some(number) {
                    return Err(odd_pong());
                }
            }
        }
        Ok(())
    }

    /// Asks every node that we are connected to. And the client does not tell when a server ends a subscription by itself, so
    /// the map is drawn anew too.
    async fn ping(&self) -> Result<(), Failure> {
        let sinks: Vec<_> = {
            let mut state = self.state();
            let Subscriptions { sinks, places } = &mut *state;
            // Those that nobody needs any more are closed.
            sinks.retain(|node, _| places.values().any(|place| place == node));
            sinks.values().cloned().collect()
        };
        let pings = join_all(sinks.iter().map(|sink| sink.ping())).await;
        pings.into_iter().collect::<Result<(), _>>()?;
        if self.nodes.refresh().await.is_err() {
            return Ok(());
        }
        let places: Vec<_> = {
            let state = self.state();
            let places = state.places.iter();
            places
                .map(|(channel, node)| (channel.clone(), node.clone()))
                .collect()
        };
        for (channel, node) in places {
            let owner = self.nodes.owner(slot(&channel)).await;
            if owner.is_ok_and(|owner| owner != node) {
                self.state().places.remove(&channel);
                let _ = self.events.send(Event::Ended(channel));
            }
        }
        Ok(())
    }

    /// The connection to a node; a new one if there is none. (Two tasks do not ask at once: there is one that subscribes.)
    async fn sink(&self, node: &Address) -> Result<Arc<Sink>, Failure> {
        if let Some(sink) = self.state().sinks.get(node) {
            return Ok(Arc::clone(sink));
        }
        let login = self.nodes.login(node);
        let reached = login.reach(Subscriber::MESSAGES, || {});
        let patience = login.settings().connect_timeout;
        let server = match tokio::time::timeout(patience, reached).await {
            Ok(server) => server?,
            Err(_) => return Err(Failure::new(Cause::Late, "no answer")),
        };
        let (sink, stream) = Sink::new(server);
        let sink = Arc::new(sink);
        self.state().sinks.insert(node.clone(), Arc::clone(&sink));
        let _ = self.streams.send((stream, Arc::downgrade(&sink)));
        Ok(sink)
    }

    fn state(&self) -> MutexGuard<'_, Subscriptions> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a channel is not subscribed to yet.
enum Led {
    To(Address),
    Nowhere(Failure),
    /// Answers come in place of others.
    Astray(Failure),
}

/// Whether this is what a server says of `channel`.
fn is_about(parts: &[Reply], channel: &str) -> bool {
    matches!(parts, [_, Reply::Text(named), _] if named == channel.as_bytes())
}

fn set(results: &mut [Option<Result<(), Failure>>], index: usize, result: Result<(), Failure>) {
    if let Some(place) = results.get_mut(index) {
        *place = Some(result);
    }
}

/// What comes over a connection to a node, and its other half.
type Source = (Stream, Weak<Sink>);

/// What comes over the connections to a cluster's nodes.
pub(crate) struct Streams {
    new: UnboundedReceiver<Source>,
    own: UnboundedReceiver<Event>,
    open: FuturesUnordered<BoxFuture<'static, (Option<Event>, Source)>>,
}

impl Streams {
    async fn next(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                Some(source) = self.new.recv() => self.open.push(next_of(source)),
                Some(event) = self.own.recv() => return Some(event),
                Some((event, source)) = self.open.next() => match event {
                    Some(event) => {
                        self.open.push(next_of(source));
                        return Some(event);
                    }
                    // What it would have told is lost, so all are asked anew.
                    None if source.1.strong_count() > 0 => return None,
                    // We closed it.
                    None => {}
                },
                else => return None,
            }
        }
    }
}

fn next_of(mut source: Source) -> BoxFuture<'static, (Option<Event>, Source)> {
    Box::pin(async move { (source.0.next().await, source) })
}
