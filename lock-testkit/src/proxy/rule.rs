//! Which requests are meant, and what is to happen to them. Not how it is done: that is `link.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Proxy;

/// How long [`Matched::reach`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

type Test = Arc<dyn Fn(&[Vec<u8>]) -> bool + Send + Sync>;

/// Which requests are meant. Everything that is asked for must be so.
#[derive(Clone, Default)]
pub struct Match {
    tests: Vec<Test>,
}

impl Match {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with one of these commands, in whatever case they are sent.
    #[must_use]
    pub fn command<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<String> = names.into_iter().map(str::to_ascii_uppercase).collect();
        Self::request(move |arguments| {
            let name = arguments.first().map(|name| name.to_ascii_uppercase());
            name.is_some_and(|name| names.iter().any(|known| known.as_bytes() == name))
        })
    }

    /// Requests for whose arguments, the command's name first, `test` is true.
    #[must_use]
    pub fn request(test: impl Fn(&[Vec<u8>]) -> bool + Send + Sync + 'static) -> Self {
        Self::any().and(test)
    }

    /// The script by which the Redis backends of fencelock take a lock: its keys are the lock and its fencing counter,
    /// and its arguments are the owner, the ttl and more.
    #[must_use]
    pub fn acquire() -> Self {
        Self::script(|keys, arguments| {
            has_counter(keys)
                && arguments
                    .get(1)
                    .is_some_and(|ttl| !ttl.is_empty() && ttl.iter().all(u8::is_ascii_digit))
        })
    }

    /// The script by which they renew locks: three arguments for each key, none of which is a fencing counter, and the
    /// last of which is `1` or empty.
    #[must_use]
    pub fn renew() -> Self {
        Self::script(|keys, arguments| {
            !has_counter(keys)
                && arguments.len() == 3 * keys.len()
                && arguments
                    .last()
                    .is_some_and(|last| last.is_empty() || last == b"1")
        })
    }

    /// The script by which they release a lock: one key, and the last argument is the command that wakes waiters.
    #[must_use]
    pub fn release() -> Self {
        Self::script(|keys, arguments| {
            keys.len() == 1
                && arguments
                    .last()
                    .is_some_and(|last| last.ends_with(b"PUBLISH"))
        })
    }

    /// The script by which they look at a lock: its keys are the lock and its fencing counter, and it has no arguments.
    #[must_use]
    pub fn inspect() -> Self {
        Self::script(|keys, arguments| has_counter(keys) && arguments.is_empty())
    }

    /// Scripts, sent whole or by their digest, for whose keys and arguments `test` is true.
    #[must_use]
    pub fn script(test: impl Fn(&[Vec<u8>], &[Vec<u8>]) -> bool + Send + Sync + 'static) -> Self {
        Self::request(move |request| {
            script(request).is_some_and(|[keys, arguments]| test(keys, arguments))
        })
    }

    /// Of these, those that name `key` among their keys: the first argument, or those that a script declares.
    #[must_use]
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref().to_vec();
        self.and(move |request| match script(request) {
            Some([keys, _]) => keys.contains(&key),
            None => request.get(1) == Some(&key),
        })
    }

    /// Of these, those for whose arguments `test` is true.
    #[must_use]
    pub fn and(mut self, test: impl Fn(&[Vec<u8>]) -> bool + Send + Sync + 'static) -> Self {
        self.tests.push(Arc::new(test));
        self
    }

    fn fits(&self, request: &[Vec<u8>]) -> bool {
        self.tests.iter().all(|test| test(request))
    }
}

impl fmt::Debug for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Match({} tests)", self.tests.len())
    }
}

/// The keys and the other arguments of a request that runs a script.
fn script(request: &[Vec<u8>]) -> Option<[&[Vec<u8>]; 2]> {
    let [name, _, count, rest @ ..] = request else {
        return None;
    };
    let name = name.to_ascii_uppercase();
    let count = std::str::from_utf8(count).ok()?.parse().ok()?;
    [
        &b"EVAL"[..],
        b"EVALSHA",
        b"EVAL_RO",
        b"EVALSHA_RO",
        b"FCALL",
        b"FCALL_RO",
    ]
    .contains(&&*name)
    .then(|| rest.split_at_checked(count))?
    .map(|(keys, arguments)| [keys, arguments])
}

/// Whether these are the keys of one lock and of its fencing counter: no lock's own key ends like that.
fn has_counter(keys: &[Vec<u8>]) -> bool {
    matches!(keys, [_, counter] if counter.ends_with(b":fencelock:fence") || counter.ends_with(b":fencelock:tag:fence"))
}

/// What is to happen to some of the requests that match. Made by [`Proxy::on`].
#[derive(Debug)]
#[must_use = "say what is to happen: action, or count"]
pub struct On<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) requests: Match,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl On<'_> {
    /// The `n`-th request from now on that matches, counted from 1, on whichever connection. The default is the first.
    pub const fn nth(mut self, n: u64) -> Self {
        (self.first, self.last) = (n, n);
        self
    }

    /// The `n`-th request that matches and all after it.
    pub const fn from(mut self, n: u64) -> Self {
        (self.first, self.last) = (n, u64::MAX);
        self
    }

    /// Every request that matches.
    pub const fn always(self) -> Self {
        self.from(1)
    }

    /// This is what happens. Where several rules want a request, the one that was made first has it.
    pub fn action(self, action: Action) -> Matched {
        let seen = watch::Sender::new(0);
        let matched = Matched(seen.subscribe());
        let rule = Rule {
            requests: self.requests,
            turns: (self.first, self.last),
            action: Some(action),
            seen,
        };
        self.proxy.shared.rules().push(rule);
        matched
    }

    /// Nothing happens; the requests that match are counted.
    #[must_use]
    pub fn count(self) -> Matched {
        self.from(u64::MAX).action(Action::pass())
    }
}

/// How many requests have matched.
#[derive(Debug, Clone)]
pub struct Matched(watch::Receiver<u64>);

impl Matched {
    /// How many requests have matched until now, also those that nothing happened to.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until `n` requests have matched.
    ///
    /// # Panics
    ///
    /// If there are not as many within ten seconds, or the rules were [cleared](Proxy::clear) before.
    pub async fn reach(&self, n: u64) {
        let mut counter = self.0.clone();
        let reached = timeout(PATIENCE, counter.wait_for(|seen| *seen >= n)).await;
        let reached = matches!(reached, Ok(Ok(_)));
        assert!(reached, "{} requests have matched, not {n}", self.count());
    }
}

pub(super) struct Rule {
    requests: Match,
    turns: (u64, u64),
    action: Option<Action>,
    seen: watch::Sender<u64>,
}

impl Rule {
    /// What this rule wants to happen to `request`, which it counts if it matches.
    pub(super) fn apply(&self, request: &[Vec<u8>]) -> Option<Action> {
        if !self.requests.fits(request) {
            return None;
        }
        let mut turn = 0;
        self.seen.send_modify(|seen| {
            *seen += 1;
            turn = *seen;
        });
        let (first, last) = self.turns;
        (first <= turn && turn <= last)
            .then(|| self.action.clone())
            .flatten()
    }
}

/// What happens to a request and its reply. All of it is what a network can do, [injecting](Self::inject) aside:
/// whatever is lost, all after it in that direction of the connection is lost or late too.
#[derive(Debug, Clone)]
pub struct Action {
    pub(super) request: Way,
    pub(super) reply: Fate,
    /// Whether `reply` is done without waiting for the server's reply.
    pub(super) at_once: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Forward,
    Hold(Gate),
    /// This one is left out.
    Skip,
    /// This one and all that follow are left out, and the server sees the end of the connection.
    Cut,
    /// This one and all that follow are left out, and nobody notices.
    Freeze,
}

/// What becomes of a reply, when its turn comes: all before it have been delivered.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    Pass,
    Hold(Gate),
    Stall,
    Cut,
    Instead(Vec<u8>, Box<Fate>),
}

impl Action {
    const fn new(request: Way, reply: Fate, at_once: bool) -> Self {
        Self {
            request,
            reply,
            at_once,
        }
    }

    /// Nothing special.
    #[must_use]
    pub const fn pass() -> Self {
        Self::new(Way::Forward, Fate::Pass, false)
    }

    /// The server gets the request and what follows; the client gets no more replies on this connection.
    #[must_use]
    pub const fn stall_replies() -> Self {
        Self::new(Way::Forward, Fate::Stall, false)
    }

    /// The server has answered the request when the client sees the end of the connection instead of the reply.
    #[must_use]
    pub const fn cut_after_forwarding() -> Self {
        Self::new(Way::Forward, Fate::Cut, false)
    }

    /// The client sees the end of the connection, and the server never gets the request.
    #[must_use]
    pub const fn cut_before_forwarding() -> Self {
        Self::new(Way::Cut, Fate::Cut, true)
    }

    /// The request, and what follows on this connection, waits until `gate` is opened. It reaches the server then also
    /// if the client has closed the connection meanwhile.
    #[must_use]
    pub fn hold_request(gate: &Gate) -> Self {
        Self::new(Way::Hold(gate.clone()), Fate::Pass, false)
    }

    /// The same, and the client sees the end of the connection at once: the request becomes a zombie.
    #[must_use]
    pub fn hold_request_and_cut(gate: &Gate) -> Self {
        Self::new(Way::Hold(gate.clone()), Fate::Cut, true)
    }

    /// The server gets the request and what follows; their replies wait until `gate` is opened.
    #[must_use]
    pub fn hold_replies(gate: &Gate) -> Self {
        Self::new(Way::Forward, Fate::Hold(gate.clone()), false)
    }

    /// From this request on the connection is silent in both directions, and stays open.
    #[must_use]
    pub const fn blackhole() -> Self {
        Self::new(Way::Freeze, Fate::Stall, true)
    }

    /// The client gets `reply`, and the server never gets the request. Not what a network does: it is what a strange
    /// server does.
    #[must_use]
    pub fn inject(reply: impl Into<Vec<u8>>) -> Self {
        let reply = Fate::Instead(reply.into(), Box::new(Fate::Pass));
        Self::new(Way::Skip, reply, true)
    }

    /// The server gets the request, and the client gets `reply` instead of the server's. As strange as
    /// [`inject`](Self::inject).
    #[must_use]
    pub fn replace_reply(reply: impl Into<Vec<u8>>) -> Self {
        let reply = Fate::Instead(reply.into(), Box::new(Fate::Pass));
        Self::new(Way::Forward, reply, false)
    }

    /// After an injected or replaced reply, the client gets no more on this connection.
    #[must_use]
    pub fn and_stall(self) -> Self {
        self.and(Fate::Stall)
    }

    /// After an injected or replaced reply, the client sees the end of the connection.
    #[must_use]
    pub fn and_cut(self) -> Self {
        self.and(Fate::Cut)
    }

    fn and(mut self, then: Fate) -> Self {
        if let Fate::Instead(_, next) = &mut self.reply {
            **next = then;
        } else {
            self.reply = then;
        }
        self
    }
}

/// Holds something back until the test opens it. Clones are the same gate; it does not close again.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets through what waits and what comes.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn opened(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
