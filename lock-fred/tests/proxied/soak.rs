//! All faults at random that lose no data, for a while: no two are ever in together, and nothing is left of it.

use std::sync::Arc;

use fastrand::Rng;
use lock_core::Moment;
use lock_testkit::proxy::{Action, Gate};
use lock_testkit::{History, LeakCheck, seed};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};

use super::*;

/// How long it takes.
fn soak() -> Duration {
    scaled(5 * SECOND, 600 * SECOND)
}

/// What nobody gives back lasts no longer.
const LONGEST_TTL: Duration = Duration::from_secs(3);

fn up_to(rng: &mut Rng, most: Duration) -> Duration {
    most.mul_f64(rng.f64())
}

/// Takes one lock after the other, holds each for a moment, and lets it go in one way or another.
async fn work(locks: Locks, history: History, who: String, mut rng: Rng) {
    let start = Moment::now();
    while start.elapsed() < soak() {
        // However many choices there were in the rounds before.
        let mut rng = rng.fork();
        let key = format!("k{}", rng.u8(..3));
        let options = LockOptions::default()
            .with_ttl(SECOND + up_to(&mut rng, LONGEST_TTL - SECOND))
            .with_wait(up_to(&mut rng, 2 * SECOND));
        let lock = locks.lock(&key).with_options(options);
        let patience = if rng.u8(..4) == 0 {
            up_to(&mut rng, 30 * MS)
        } else {
            30 * SECOND
        };
        let attempt = history.attempt(&key, &who);
        let guard = match timeout(patience, lock.acquire()).await {
            Ok(Ok(guard)) => guard,
            Ok(Err(error)) => {
                assert!(error.is_retryable(), "{error}");
                continue;
            }
            Err(_) => continue,
        };
        let hold = attempt.granted(&guard);
        sleep(up_to(&mut rng, 20 * MS)).await;
        let prolonged = match rng.u8(..6) {
            0 => guard.extend(up_to(&mut rng, SECOND)).await,
            1 => guard.renew_for(SECOND + up_to(&mut rng, SECOND)).await,
            _ => Ok(()),
        };
        match prolonged {
            Ok(()) => hold.renewed(&guard),
            Err(LockError::Lost { .. }) => {}
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        if guard.is_held() {
            hold.released();
        } else {
            hold.lost();
        }
        match rng.u8(..20) {
            0 => guard.leave_to_expire(),
            1..8 => drop(guard),
            _ => match guard.release().await {
                Ok(_) | Err(LockError::Lost { .. }) => {}
                Err(error) => assert!(error.is_retryable(), "{error}"),
            },
        }
    }
}

/// Something happens to one of the connections or to the server.
async fn strike(server: &RedisServer, proxy: &Proxy, rng: &mut Rng) {
    let gate = Gate::new();
    let actions = [
        Action::stall_replies(),
        Action::cut_after_forwarding(),
        Action::cut_before_forwarding(),
        Action::hold_request(&gate),
        Action::hold_request_and_cut(&gate),
        Action::hold_replies(&gate),
        Action::blackhole(),
        Action::inject("-BUSY Redis is busy running a script.\r\n"),
        Action::inject("-LOADING Redis is loading the dataset in memory\r\n"),
        Action::replace_reply("_\r\n"),
    ];
    let pause = up_to(rng, 100 * MS);
    match rng.u8(..12) {
        0 => proxy.reset_all(),
        1 => proxy.blackhole(),
        2 => proxy.lose_messages(rng.bool()),
        3 => proxy.set_latency(up_to(rng, 10 * MS)),
        4 => proxy.slice(rng.usize(..4)),
        5 => {
            proxy.refuse_new().await;
            sleep(pause).await;
            proxy.serve_new().await;
        }
        6 => drop(block_in_place(|| server.cli(&["SCRIPT", "FLUSH"]))),
        7 => drop(block_in_place(|| {
            server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"])
        })),
        8 => {
            server.pause();
            sleep(pause).await;
            server.resume();
        }
        _ => {
            let action = actions[rng.usize(..actions.len())].clone();
            let scripts = Match::script(|_, _| true);
            let _ = proxy.on(scripts).nth(rng.u64(1..20)).action(action);
            sleep(pause).await;
            proxy.clear();
        }
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_all_weathers_no_two_are_in_together_and_nothing_is_left_of_it() {
    let leaks = LeakCheck::start();
    let server = Arc::new(RedisServer::start());
    let mut rng = Rng::with_seed(seed());
    let history = History::new();
    let mut proxies = Vec::new();
    let mut workers = JoinSet::new();
    for client in 0..4 {
        let proxy = Proxy::start(server.port()).await;
        let locks = through(&proxy).await;
        for task in 0..3 {
            let who = format!("{client}.{task}");
            workers.spawn(work(locks.clone(), history.clone(), who, rng.fork()));
        }
        proxies.push(proxy);
    }
    let start = Moment::now();
    while start.elapsed() < soak() {
        let proxy = &proxies[rng.usize(..proxies.len())];
        strike(&server, proxy, &mut rng.fork()).await;
        sleep(up_to(&mut rng, 150 * MS)).await;
    }
    for proxy in &proxies {
        proxy.clear();
        proxy.set_latency(Duration::ZERO);
        proxy.lose_messages(false);
    }
    let ended = timeout(60 * SECOND, workers.join_all()).await;
    assert!(ended.is_ok(), "not all workers ended");
    history.assert_sound();
    let real = history.holds().iter().filter(|hold| hold.is_real()).count();
    assert!(real > 10, "{real} holds");
    // Zombies and what was left to expire.
    eventually("no lock is left", async || {
        block_in_place(|| entries(&server).is_empty())
    })
    .await;
    drop(proxies);
    leaks.assert_none(30 * SECOND).await;
    assert!(server.cli(&["PUBSUB", "CHANNELS"]).array().is_empty());
    eventually("only the oracle is connected", async || {
        server.cli(&["CLIENT", "LIST"]).text().lines().count() == 1
    })
    .await;
    for key in server.cli(&["KEYS", "*"]).array() {
        let key = key.text();
        assert!(key.ends_with(":fence"), "{key}");
        assert!(pttl(&server, &key) > 0, "{key} has no end");
    }
    works(&locks(&server).await.lock("k0")).await;
}
