//! Waiters whose subscriptions and wake-ups are lost.

use futures_util::future::join_all;
use lock_core::Moment;
use lock_testkit::proxy::Action;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::*;

fn wait(lock: DistributedLock) -> JoinHandle<Result<LockGuard, LockError>> {
    Handle::current().spawn(async move { lock.acquire().await })
}

async fn somebody_subscribed(server: &RedisServer) {
    eventually("somebody has subscribed", async || {
        let channels = server.cli(&["PUBSUB", "CHANNELS", "*"]);
        !channels.array().is_empty()
    })
    .await;
}

#[tokio::test]
async fn waiters_whose_wakeups_are_lost_find_the_lock_by_looking() {
    let (server, proxy, client) = set_up().await;
    let holder = locks(&server).await.lock("k").with_options(lasting());
    for lose in [false, true] {
        proxy.lose_messages(lose);
        let guard = holder.try_acquire().await.unwrap();
        let waiting = wait(client.lock("k"));
        somebody_subscribed(&server).await;
        // The look after subscribing.
        sleep(200 * MS).await;
        assert!(!waiting.is_finished());
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        // A look each second, by default, and no other for as long as the holder's entry would have lasted.
        let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
        assert_eq!(next.release().await.unwrap(), Released::Released);
    }
}

#[tokio::test]
async fn a_subscription_that_is_not_answered_keeps_nobody_from_looking() {
    let cases = [
        Action::blackhole(),
        Action::stall_replies(),
        Action::cut_before_forwarding(),
        Action::cut_after_forwarding(),
        Action::inject("-NOPERM no channel for you\r\n"),
        Action::inject(":1\r\n"),
        Action::inject("$10000000\r\nabc").and_stall(),
    ];
    join_all(cases.map(async |action| {
        let (server, proxy, client) = set_up().await;
        let subscribes = proxy
            .on(Match::command(["SUBSCRIBE"]))
            .always()
            .action(action);
        let holder = locks(&server).await.lock("k").with_options(lasting());
        let guard = holder.try_acquire().await.unwrap();
        let waiting = wait(client.lock("k"));
        subscribes.reach(1).await;
        sleep(200 * MS).await;
        assert!(!waiting.is_finished());
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
        assert_eq!(next.release().await.unwrap(), Released::Released);
    }))
    .await;
}

#[tokio::test]
async fn messages_of_other_names_and_garbage_wake_nobody_for_nothing() {
    let (server, proxy, client) = set_up().await;
    let name = "k*[a]?\\";
    let acquires = proxy.on(Match::acquire().key(name)).count();
    let holder = locks(&server).await.lock(name).with_options(lasting());
    let guard = holder.try_acquire().await.unwrap();
    let options = lasting().with_recheck(LASTING).with_wait(LASTING);
    let waiting = wait(client.lock(name).with_options(options));
    acquires.reach(2).await;
    let channel = format!("{{{name}}}:fencelock:wake");
    let listeners = server.cli(&["PUBSUB", "NUMSUB", &channel]);
    assert_eq!(listeners.array()[1].integer(), 1);
    assert_eq!(server.cli(&["PUBSUB", "NUMPAT"]).integer(), 0);
    // Names that the channel's name would match, were it a pattern, and others.
    for other in ["kX", "kXaY\\", "k*[a]?", "k", "{k*[a]?\\}:fencelock:wak"] {
        for channel in [other.to_owned(), format!("{{{other}}}:fencelock:wake")] {
            server.cli(&["PUBLISH", &channel, ""]);
        }
    }
    sleep(200 * MS).await;
    assert_eq!(acquires.count(), 2);
    // Whatever is said on its own channel is a reason to look, and no more.
    let garbage: [&[u8]; 3] = [b"", b"\xff\0\r\n", &[b'x'; 100_000]];
    for (n, payload) in garbage.into_iter().enumerate() {
        server.cli_bytes(&[b"PUBLISH", channel.as_bytes(), payload]);
        acquires.reach(n as u64 + 3).await;
    }
    assert!(!waiting.is_finished());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
    assert_eq!(next.release().await.unwrap(), Released::Released);
}

/// What the policy allows each of them, whatever the others do.
#[tokio::test]
async fn a_hundred_waiters_outlast_a_server_that_is_down_without_hammering_it() {
    let (mut server, proxy, client) = set_up().await;
    let before = proxy.connections();
    server.stop();
    let (start, spent) = (Moment::now(), spent());
    let mut waiting = JoinSet::new();
    for n in 0..100 {
        let lock = client.lock(format!("k{}", n % 10)).with_options(lasting());
        waiting.spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() });
    }
    sleep(scaled(3, 10) * SECOND).await;
    assert!(waiting.try_join_next().is_none());
    // Of this thread, on which all of it runs, also the proxy.
    let share = (self::spent() - spent).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.25, "{share:.2} of a processor");
    // Connections are made for all together: one for each round of attempts, which are 10 ms to 1 s apart, at random.
    let most = 100 * (10 + 2 * start.elapsed().as_secs());
    let tried = (proxy.connections() - before) as u64;
    assert!(2 <= tried && tried <= most, "{tried} connections of {most}");
    server.restart_empty();
    let served = soon("all are served", waiting.join_all()).await;
    assert_eq!(served, [Released::Released; 100]);
    assert_eq!(entries(&server), Vec::<String>::new());
}

/// How much processor time this thread has used; nothing where nobody says.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // Behind the program's name, which may have anything in it: user and system time, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(|ticks| ticks.parse::<u32>().unwrap());
    10 * MS * ticks.sum::<u32>()
}
