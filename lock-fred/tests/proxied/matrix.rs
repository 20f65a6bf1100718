//! Every command that is sent, with everything that can become of it: the outcome is an honest one, no two hold the lock
//! at once, and no entry outlasts its ttl.

use std::sync::Arc;

use futures_util::future::join_all;
use lock_testkit::proxy::{Action, Gate, Matched};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::*;

/// What becomes of one request, and what whoever sent it may be told.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Applied; the connection ends instead of the reply.
    LostReply,
    /// Never sent; the connection ends.
    LostRequest,
    /// Applied; the connection goes silent.
    Stalled,
    /// Neither the request nor anything after it arrives anywhere.
    Swallowed,
    /// The connection ends, and the request arrives when the next one holds the lock.
    Zombie,
    /// Applied; the reply comes late, but in time.
    Slow,
    /// Applied; the reply comes when it has been given up.
    TooLate,
    /// Not applied: the server says this instead.
    Refused(&'static str, Told),
    /// Applied, and the server says this.
    Garbled(&'static str),
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Done,
    Unknown,
    Transient,
    Permanent,
}

const FAULTS: [Fault; 12] = [
    Fault::LostReply,
    Fault::LostRequest,
    Fault::Stalled,
    Fault::Swallowed,
    Fault::Zombie,
    Fault::Slow,
    Fault::TooLate,
    Fault::Refused("-BUSY Redis is busy running a script.", Told::Transient),
    Fault::Refused("-NOPERM this user has no permissions", Told::Permanent),
    Fault::Refused("-ERR of next year", Told::Unknown),
    Fault::Garbled("_"),
    Fault::Garbled("*1\r\n$4\r\nwhat"),
];

impl Fault {
    fn action(self, gate: &Gate) -> Action {
        match self {
            Self::LostReply => Action::cut_after_forwarding(),
            Self::LostRequest => Action::cut_before_forwarding(),
            Self::Stalled => Action::stall_replies(),
            Self::Swallowed => Action::blackhole(),
            Self::Zombie => Action::hold_request_and_cut(gate),
            Self::Slow | Self::TooLate => Action::hold_replies(gate),
            Self::Refused(text, _) => Action::inject(format!("{text}\r\n")),
            Self::Garbled(text) => Action::replace_reply(format!("{text}\r\n")),
        }
    }

    /// What the one request comes to, if it is not tried again.
    fn told(self) -> Told {
        match self {
            Self::Slow => Told::Done,
            Self::Refused(_, told) => told,
            _ => Told::Unknown,
        }
    }

    /// How long an answer is waited for: not for long where none comes.
    fn options(self) -> LockOptions {
        match self {
            Self::Stalled | Self::Swallowed | Self::TooLate => impatient(),
            _ => lasting(),
        }
    }
}

fn told<T>(result: &Result<T, LockError>) -> Told {
    match result {
        Ok(_) => Told::Done,
        Err(LockError::Unknown { .. }) => Told::Unknown,
        Err(LockError::Backend {
            transient: true, ..
        }) => Told::Transient,
        Err(LockError::Backend { .. }) => Told::Permanent,
        Err(error) => panic!("{error}"),
    }
}

/// One field of the matrix: a lock of its own, a client of its own on each side, and the proxy before one of them.
struct Field {
    server: Arc<RedisServer>,
    proxy: Proxy,
    fault: Fault,
    gate: Gate,
    key: String,
    locks: Locks,
    here: DistributedLock,
    there: DistributedLock,
}

impl Field {
    /// The first request that matches meets with the fault.
    fn strike(&self, requests: Match) -> Matched {
        let met = self
            .proxy
            .on(requests)
            .action(self.fault.action(&self.gate));
        if self.fault == Fault::Slow {
            let (met, gate) = (met.clone(), self.gate.clone());
            Handle::current().spawn(async move {
                met.reach(1).await;
                sleep(200 * MS).await;
                gate.open();
            });
        }
        met
    }

    /// The lock, taken through the proxy.
    async fn taken(&self) -> LockGuard {
        soon(&self.key, self.here.acquire()).await.unwrap()
    }

    fn kind(&self, kind: Match) -> Match {
        kind.key(&self.key)
    }

    fn says<T>(&self, result: &Result<T, LockError>, honest: &[Told]) {
        let told = told(result);
        assert!(honest.contains(&told), "{}: {told:?}", self.key);
        if self.fault == Fault::TooLate {
            self.gate.open();
        }
    }

    /// Who holds it holds it alone, and its entry has an end.
    async fn is_held_alone(&self, guard: &LockGuard) {
        let other = self.there.try_acquire().await;
        if guard.is_held() {
            let error = other.map(drop).unwrap_err();
            assert!(error.is_busy(), "{}: {error}", self.key);
        }
        is_honest(&self.server, guard);
        let left = pttl(&self.server, &self.key);
        let longest = i64::try_from((LASTING + SECOND).as_millis()).unwrap();
        assert!(left <= longest && left != -1, "{}: PTTL {left}", self.key);
    }

    /// Whatever was said: the lock can be had long before an entry that was left would end, nothing that comes late
    /// disturbs who has it, and nothing is left in the end.
    async fn goes_on(&self) {
        let next = soon(&self.key, self.there.acquire()).await.unwrap();
        let value = self.server.cli(&["GET", &self.key]);
        self.gate.open();
        sleep(200 * MS).await;
        assert_eq!(self.server.cli(&["GET", &self.key]), value, "{}", self.key);
        assert!(next.is_held(), "{}", self.key);
        is_honest(&self.server, &next);
        assert_eq!(next.release().await.unwrap(), Released::Released);
        // The client that met with the fault is as good as before.
        let_go(&self.server, self.taken().await).await;
    }

    async fn acquire(&self) -> Matched {
        let met = self.strike(self.kind(Match::acquire()));
        let result = self.here.try_acquire().await;
        if let Ok(guard) = &result {
            self.is_held_alone(guard).await;
        }
        let result = match result {
            Ok(guard) => guard.release().await.map(drop),
            Err(error) => Err(error),
        };
        self.says(&result, &[self.fault.told()]);
        met
    }

    async fn resume(&self) -> Matched {
        let guard = self.taken().await;
        let before = token(&guard);
        let ticket = guard.into_ticket().await.unwrap();
        let met = self.strike(self.kind(Match::acquire()));
        let mut result = self.locks.resume(&ticket).await;
        self.says(&result, &[self.fault.told()]);
        // Either the ticket is as good as before, or it was used and the lock given back.
        let retries = async {
            while result.as_ref().is_err_and(LockError::is_retryable) {
                sleep(20 * MS).await;
                result = self.locks.resume(&ticket).await;
            }
        };
        soon(&self.key, retries).await;
        if self.fault.told() == Told::Permanent {
            result = self.locks.resume(&ticket).await;
        }
        match result {
            Ok(guard) => {
                assert!(token(&guard) > before, "{}", self.key);
                self.is_held_alone(&guard).await;
                let released = guard.release().await.map(drop);
                self.says(&released, &[Told::Done, Told::Unknown]);
            }
            Err(error) => assert!(matches!(error, LockError::Lost { .. }), "{error}"),
        }
        met
    }

    async fn renew(&self) -> Matched {
        let guard = self.taken().await;
        let met = self.strike(self.kind(Match::renew()));
        let result = guard.extend(SECOND).await;
        self.is_held_alone(&guard).await;
        // What can be tried again in time is.
        self.says(&result, &[Told::Done, self.fault.told()]);
        assert!(guard.is_held(), "{}: {:?}", self.key, guard.check());
        let result = guard.release().await.map(drop);
        self.says(&result, &[Told::Done, Told::Unknown]);
        met
    }

    async fn release(&self) -> Matched {
        let guard = self.taken().await;
        let met = self.strike(self.kind(Match::release()));
        let result = guard.release().await.map(drop);
        self.says(&result, &[self.fault.told()]);
        met
    }

    async fn inspect(&self) -> Matched {
        let guard = self.there.try_acquire().await.unwrap();
        let met = self.strike(self.kind(Match::inspect()));
        let result = self.here.status().await;
        if let Ok(holder) = &result {
            assert!(holder.is_some(), "{}", self.key);
        }
        self.says(&result.map(drop), &[self.fault.told()]);
        self.is_held_alone(&guard).await;
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        met
    }

    async fn subscribe(&self) -> Matched {
        let guard = self.there.try_acquire().await.unwrap();
        let met = self.strike(Match::command(["SUBSCRIBE"]));
        let lock = self.here.clone();
        let waiting = Handle::current().spawn(async move { lock.acquire().await });
        met.reach(1).await;
        self.is_held_alone(&guard).await;
        assert!(!waiting.is_finished(), "{}", self.key);
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let next = soon(&self.key, waiting).await.unwrap().unwrap();
        self.is_held_alone(&next).await;
        assert_eq!(next.release().await.unwrap(), Released::Released);
        met
    }
}

/// Runs one command's row: its fields side by side, in both protocols.
async fn row(command: &str, act: impl AsyncFn(&Field) -> Matched) {
    let server = Arc::new(RedisServer::start());
    teach(&server).await;
    let there = locks(&server).await;
    let field = async |protocol: &str, fault: Fault| {
        let proxy = Proxy::start(server.port()).await;
        let url = format!("{}?protocol={protocol}", proxy.url());
        let locks = Locks::new(backend(&url).await).with_options(fault.options());
        let key = format!("{command} {protocol} {fault:?}");
        let field = Field {
            here: locks.lock(&key),
            locks,
            there: there.lock(&key).with_options(lasting()),
            gate: Gate::new(),
            server: Arc::clone(&server),
            proxy,
            fault,
            key,
        };
        let met = act(&field).await;
        // So that none of it passes because nothing was sent.
        met.reach(1).await;
        field.goes_on().await;
    };
    tokio::join!(
        join_all(FAULTS.map(|fault| field("resp2", fault))),
        join_all(FAULTS.map(|fault| field("resp3", fault)))
    );
    eventually("nothing is left", async || entries(&server).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_an_acquire_the_outcome_is_honest() {
    row("acquire", Field::acquire).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_resume_the_outcome_is_honest() {
    row("resume", Field::resume).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_renewal_the_outcome_is_honest() {
    row("renew", Field::renew).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_release_the_outcome_is_honest() {
    row("release", Field::release).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_look_the_outcome_is_honest() {
    row("inspect", Field::inspect).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_subscription_waiters_are_served() {
    row("subscribe", Field::subscribe).await;
}
