//! Clusters: a connection to each node, and a map that tells whose a slot is.
//!
//! Not the client's own way with clusters, for three reasons. While a slot moves it says `ASKING` and takes the next reply for
//! the answer, also when replies to others are still to come: each of those then gets another's answer, and with it perhaps
//! another's lock. It makes no connection at all while one node is silent. And it sends again what was under way.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use lock_core::{BackendError, BackendErrorKind, Moment};

use super::target::{Login, Target};
use super::{Connection, Words, answers, slot};
use crate::answer::Reply;
use crate::connection::{Live, Order, Own, Request};
use crate::error::{Cause, Failure};

/// How often a request is led elsewhere. It was not applied before.
pub(super) const REDIRECTIONS: usize = 16;

/// How long the map is good at least, however many nodes fail.
const MAP_KEPT: Duration = Duration::from_millis(100);

/// How long at least is waited for the answers to what is sent once more.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(20);

/// Host and port of a node.
pub(super) type Address = (String, u16);

/// A command, its reply if there is one, and the round in which it was sent last.
type Sent<'a> = (&'a Vec<&'a str>, Option<Result<Reply, Failure>>, usize);

/// First and last slot, and whose they are.
type Range = (u16, u16, Address);

/// A cluster, by the nodes that are known.
pub(crate) struct Nodes {
    /// By which the others are found.
    seeds: Vec<Address>,
    /// How to be let in, by every node.
    login: Login,
    map: Mutex<Map>,
}

#[derive(Default)]
struct Map {
    /// In order.
    ranges: Vec<Range>,
    /// Slots that have gone elsewhere since.
    moved: HashMap<u16, Address>,
    nodes: HashMap<Address, Arc<Node>>,
    drawn: Option<Moment>,
}

struct Node {
    address: Address,
    own: Arc<Own>,
    /// Whether it has been connected to, and was not lost since.
    near: AtomicBool,
    /// Whether its last request has no answer, so that its slots may be others' by now.
    lost: AtomicBool,
}

/// Where else a request is to be sent.
pub(super) struct Redirection {
    pub(super) to: Address,
    /// Only this once, behind `ASKING`.
    pub(super) asking: bool,
}

impl Nodes {
    pub(super) fn new(seeds: Vec<Address>, login: Login) -> Self {
        Self {
            seeds,
            login,
            map: Mutex::default(),
        }
    }

    /// The same, over connections of its own.
    pub(super) fn apart(&self) -> Self {
        Self::new(self.seeds.clone(), self.login.clone())
    }

    /// Messages come over RESP3 only.
    pub(super) fn has_messages(&self) -> bool {
        self.login.speaks_resp3()
    }

    /// How to be let in by the node at `address`.
    pub(super) fn login(&self, (host, port): &Address) -> Login {
        self.login.at(host, *port)
    }

    /// (Boxed, because a node's connection is one of those that this is one of.)
    pub(super) fn send<'a>(
        self: &'a Arc<Self>,
        request: &'a Request<'_>,
    ) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async move {
            let slot = request.keys.first().map_or(0, |key| slot(key));
            let mut redirection = None;
            for _ in 0..REDIRECTIONS {
                let (node, asking) = self.follow(slot, redirection.take()).await?;
                let watched = Watched(&node);
                let live = node.live().await?;
                let result = if asking {
                    let Connection::Server(server) = &live.connection else {
                        return Err(nowhere(slot));
                    };
                    let replies = server.send_asking(vec![Words::of_script(request)]).await;
                    replies
                        .into_iter()
                        .next()
                        .unwrap_or_else(|| Err(nowhere(slot)))
                } else {
                    node.own.send(&live, request).await
                };
                watched.answered(&result);
                redirection = result
                    .as_ref()
                    .err()
                    .and_then(|failure| self.read(failure, &node));
                if redirection.is_none() {
                    return result;
                }
            }
            Err(nowhere(slot))
        })
    }

    /// Sends commands about keys of the slot of `key`, and answers each. Fails if it is not known what became of any of them.
    pub(super) fn send_all<'a>(
        self: &'a Arc<Self>,
        key: &'a str,
        commands: &'a [Vec<&str>],
        order: Order,
    ) -> BoxFuture<'a, Result<Vec<Result<Reply, Failure>>, Failure>> {
        Box::pin(async move {
            let (slot, began) = (slot(key), Moment::now());
            // With the round in which each was sent last: those that have no answer yet, or are led elsewhere, are sent again.
            let mut left: Vec<_> = commands.iter().map(|command| (command, None, 0)).collect();
            let mut redirection = None;
            for round in 0..REDIRECTIONS {
                let led: Vec<_> = left
                    .iter_mut()
                    .filter(|(_, reply, _)| order == Order::Together || is_led_elsewhere(reply))
                    .collect();
                let sent: Vec<_> = led.iter().map(|(command, ..)| *command).collect();
                match self.send_once(slot, &sent, redirection.take()).await {
                    Ok((node, replies)) => {
                        let mut first = true;
                        for ((_, kept, sent_in), reply) in led.into_iter().zip(replies) {
                            *sent_in = round;
                            let failure = reply.as_ref().err();
                            // If the first of those that stay together went nowhere, so did the others.
                            if first || order != Order::Together {
                                let read = failure.and_then(|failure| self.read(failure, &node));
                                redirection = redirection.or(read);
                            }
                            first = false;
                            *kept = Some(reply);
                        }
                    }
                    Err(failure) if round == 0 || order == Order::Together => return Err(failure),
                    Err(failure) => {
                        for (_, kept, _) in led {
                            *kept = Some(Err(failure.clone()));
                        }
                    }
                }
                if redirection.is_none() {
                    break;
                }
            }
            if order == Order::Kept {
                // What is known already does not wait for it longer than it took to come.
                let patience = began.elapsed().max(SHORTEST_PATIENCE);
                let again = self.send_early_ones_again(slot, &mut left);
                let _ = tokio::time::timeout(patience, again).await;
            }
            let replies = left.into_iter().map(|(_, reply, _)| reply);
            Ok(replies
                .map(|reply| reply.unwrap_or_else(|| Err(nowhere(slot))))
                .collect())
        })
    }

    /// What was answered before something in front of it had got to where it was led (a wake-up that was sent before the release
    /// was done, say): once more. It is for whoever has the slot.
    async fn send_early_ones_again(self: &Arc<Self>, slot: u16, commands: &mut [Sent<'_>]) {
        let mut latest = 0;
        let early: Vec<_> = commands
            .iter_mut()
            .filter(|(.., round)| {
                latest = latest.max(*round);
                *round < latest
            })
            .collect();
        let again: Vec<_> = early.iter().map(|(command, ..)| *command).collect();
        if again.is_empty() {
            return;
        }
        if let Ok((_, replies)) = self.send_once(slot, &again, None).await {
            for ((_, kept, _), reply) in early.into_iter().zip(replies) {
                // The first answer stands where there is no better one.
                if reply.is_ok() {
                    *kept = Some(reply);
                }
            }
        }
    }

    /// Sends commands to where `redirection` leads, one directly behind the other. Who answered, and what.
    async fn send_once(
        self: &Arc<Self>,
        slot: u16,
        commands: &[&Vec<&str>],
        redirection: Option<Redirection>,
    ) -> Result<(Arc<Node>, Vec<Result<Reply, Failure>>), Failure> {
        let (node, asking) = self.follow(slot, redirection).await?;
        let watched = Watched(&node);
        let live = node.live().await?;
        let Connection::Server(server) = &live.connection else {
            return Err(nowhere(slot));
        };
        let sent = commands.iter().map(|command| Words::new(command));
        let result = if asking {
            answers(server.send_asking(sent.collect()).await)
        } else {
            server.send_all(sent.collect()).await
        };
        watched.answered(&result);
        let replies = result?;
        drop(live);
        Ok((Arc::clone(&node), replies))
    }

    /// The node to send to, and whether behind `ASKING`.
    async fn follow(
        self: &Arc<Self>,
        slot: u16,
        redirection: Option<Redirection>,
    ) -> Result<(Arc<Node>, bool), Failure> {
        Ok(match redirection {
            Some(Redirection { to, asking }) => (self.node(&to), asking),
            None => (self.node(&self.owner(slot).await?), false),
        })
    }

    /// Whose `slot` is. Asks again if that node is lost.
    pub(super) async fn owner(&self, slot: u16) -> Result<Address, Failure> {
        let known = |nodes: &Self| {
            let map = nodes.map();
            let owner = map.owner(slot)?;
            let node = map.nodes.get(owner);
            let lost = node.is_some_and(|node| node.lost.load(Ordering::Relaxed));
            Some((owner.clone(), lost))
        };
        let before = known(self);
        if let Some((owner, false)) = before {
            return Ok(owner);
        }
        if self.is_map_old() {
            // If that fails what was known before may do.
            let _ = self.discover().await;
        }
        let owner = known(self).map(|(owner, _)| owner);
        owner.ok_or_else(|| nowhere(slot))
    }

    /// Where the server that `failure` comes from wants the request to be sent, if it does. Remembers it if it is for good.
    fn read(&self, failure: &Failure, from: &Node) -> Option<Redirection> {
        let redirection = redirection(failure, &from.address)?;
        if !redirection.asking
            && let Some(slot) = failure.answer().and_then(|text| text.split(' ').nth(1))
            && let Ok(slot) = slot.parse()
        {
            self.moved(slot, &redirection.to);
        }
        Some(redirection)
    }

    /// From now on `slot` is another's.
    pub(super) fn moved(&self, slot: u16, to: &Address) {
        self.map().moved.insert(slot, to.clone());
    }

    /// Draws the map and connects to all whose slots are on it, so that nobody has to wait for that later. One that is silent
    /// keeps nobody from the others.
    pub(super) async fn connect(&self) -> Result<(), BackendError> {
        self.discover().await?;
        let nodes: Vec<_> = self.map().nodes_of_slots();
        let connections = nodes.iter().map(|address| {
            let node = self.node(address);
            async move { drop(node.live().await) }
        });
        let patience = self.login.settings().connect_timeout.mul_f64(0.3);
        let _ = tokio::time::timeout(patience, join_all(connections)).await;
        Ok(())
    }

    /// Draws the map anew. Makes connections if it must.
    pub(super) async fn discover(&self) -> Result<(), BackendError> {
        // Silent ones must leave time for the others.
        let patience = self.login.settings().connect_timeout.mul_f64(0.3);
        if let Ok(Ok(())) = tokio::time::timeout(patience, self.refresh()).await {
            return Ok(());
        }
        let all: Vec<_> = {
            let map = self.map();
            let others = map.nodes.keys().filter(|node| !self.seeds.contains(node));
            self.seeds.iter().chain(others).cloned().collect()
        };
        self.redraw(self.ask_any(&all).await?);
        Ok(())
    }

    /// The same, by the nodes that we are connected to.
    pub(super) async fn refresh(&self) -> Result<(), BackendError> {
        let near: Vec<_> = {
            let mut map = self.map();
            map.drawn = Some(Moment::now());
            let near = map
                .nodes
                .values()
                .filter(|node| node.near.load(Ordering::Relaxed));
            near.map(|node| node.address.clone()).collect()
        };
        self.redraw(self.ask_any(&near).await?);
        Ok(())
    }

    fn redraw(&self, ranges: Vec<Range>) {
        self.map().redraw(ranges, &self.seeds);
    }

    /// Whose the slots are, as the first of these nodes tells it.
    async fn ask_any(&self, nodes: &[Address]) -> Result<Vec<Range>, BackendError> {
        let asked = nodes.iter().map(|address| self.ask(address));
        let mut answers: FuturesUnordered<_> = asked.collect();
        let mut last = BackendError::transient("no node is known");
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(ranges) => return Ok(ranges),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whose the slots are, as one node tells it.
    async fn ask(&self, address: &Address) -> Result<Vec<Range>, BackendError> {
        let node = self.node(address);
        let live = node.own.live().await?;
        node.near.store(true, Ordering::Relaxed);
        let odd = || BackendError::transient("an odd answer to CLUSTER SLOTS");
        let Connection::Server(server) = &live.connection else {
            return Err(odd());
        };
        let answer = server.ask(&["CLUSTER", "SLOTS"]).await;
        // Nothing was to be applied.
        let reply = answer.map_err(|failure| {
            crate::error::not_connected(&node.own.target.to_string(), failure)
        })?;
        let Reply::List(ranges) = reply else {
            return Err(odd());
        };
        let ranges: Option<Vec<_>> = ranges.iter().map(|part| range(part, address)).collect();
        match ranges {
            Some(ranges) if !ranges.is_empty() => Ok(ranges),
            Some(_) => Err(BackendError::transient("the cluster has no slots yet")),
            None => Err(odd()),
        }
    }

    fn node(&self, address: &Address) -> Arc<Node> {
        let mut map = self.map();
        let node = map.nodes.entry(address.clone()).or_insert_with(|| {
            let target = Target::of_server(self.login(address));
            Arc::new(Node {
                address: address.clone(),
                own: Own::new(Arc::new(target)),
                near: AtomicBool::new(false),
                lost: AtomicBool::new(false),
            })
        });
        Arc::clone(node)
    }

    fn is_map_old(&self) -> bool {
        let drawn = self.map().drawn;
        drawn.is_none_or(|drawn| drawn.elapsed() > MAP_KEPT)
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Address> {
        self.moved.get(&slot).or_else(|| {
            let behind = self.ranges.partition_point(|(_, last, _)| *last < slot);
            let (first, _, owner) = self.ranges.get(behind)?;
            (*first <= slot).then_some(owner)
        })
    }

    fn nodes_of_slots(&self) -> Vec<Address> {
        let mut nodes: Vec<_> = self
            .ranges
            .iter()
            .map(|(_, _, owner)| owner.clone())
            .collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    fn redraw(&mut self, mut ranges: Vec<Range>, seeds: &[Address]) {
        ranges.sort();
        self.nodes.retain(|address, _| {
            seeds.contains(address) || ranges.iter().any(|(_, _, owner)| owner == address)
        });
        for node in self.nodes.values() {
            node.lost.store(false, Ordering::Relaxed);
        }
        self.ranges = ranges;
        self.moved.clear();
    }
}

impl Node {
    async fn live(&self) -> Result<Arc<Live>, Failure> {
        let live = self.own.live().await;
        self.near.store(live.is_ok(), Ordering::Relaxed);
        live.map_err(|error| {
            let text = error.to_string();
            let text = text.strip_prefix("cannot connect to ").unwrap_or(&text);
            let cause = match error.kind() {
                BackendErrorKind::Permanent => Cause::NotLetIn,
                _ => Cause::NotSent,
            };
            Failure::new(cause, text)
        })
    }
}

/// A request to a node. Without an answer, the node is lost.
struct Watched<'a>(&'a Node);

impl Watched<'_> {
    fn answered<T>(self, result: &Result<T, Failure>) {
        if let Err(failure) = result {
            let down = |text: &str| text.starts_with("CLUSTERDOWN");
            if failure.answer().is_none_or(down) {
                return;
            }
        }
        std::mem::forget(self);
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.lost.store(true, Ordering::Relaxed);
        self.0.near.store(false, Ordering::Relaxed);
    }
}

/// Whether a request has not got where it is to go: it has no reply yet, or one that leads on.
fn is_led_elsewhere(reply: &Option<Result<Reply, Failure>>) -> bool {
    match reply {
        None => true,
        Some(reply) => reply.as_ref().is_err_and(Failure::leads_elsewhere),
    }
}

/// What `MOVED slot host:port` and `ASK slot host:port` of the node at `from` say.
pub(super) fn redirection(failure: &Failure, from: &Address) -> Option<Redirection> {
    let mut words = failure.answer()?.split(' ');
    let asking = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    let (host, port) = words.nth(1)?.rsplit_once(':')?;
    // None: on the same host.
    let host = if host.is_empty() { &from.0 } else { host };
    Some(Redirection {
        to: (host.to_owned(), port.parse().ok()?),
        asking,
    })
}

/// One row of `CLUSTER SLOTS`, asked of the node at `from`.
fn range(reply: &Reply, from: &Address) -> Option<Range> {
    let Reply::List(parts) = reply else {
        return None;
    };
    let [
        Reply::Number(first),
        Reply::Number(last),
        Reply::List(owner),
        ..,
    ] = parts.as_slice()
    else {
        return None;
    };
    let (host, port) = match owner.as_slice() {
        [Reply::Text(host), Reply::Number(port), ..] => {
            (String::from_utf8(host.clone()).ok()?, port)
        }
        [Reply::Nil, Reply::Number(port), ..] => (String::new(), port),
        _ => return None,
    };
    // Not known to itself: it is where it was asked.
    let host = match &*host {
        "" | "?" => from.0.clone(),
        _ => host,
    };
    Some((
        u16::try_from(*first).ok()?,
        u16::try_from(*last).ok()?,
        (host, u16::try_from(*port).ok()?),
    ))
}

fn nowhere(slot: u16) -> Failure {
    Failure::new(
        Cause::NotSent,
        format!("no node of the cluster has slot {slot} right now"),
    )
}

/// Where the nodes are by which the others are found.
impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cluster of ")?;
        for (index, (host, port)) in self.seeds.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{host}:{port}")?;
        }
        Ok(())
    }
}
