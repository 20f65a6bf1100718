//! Who connects to a server that may throw locks away, or sends it a password in the clear, is warned, if anybody listens.
//! Nothing secret is logged.
#![cfg(feature = "tracing")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::log::Log;
use common::*;
use lock_core::{LockOptions, Locks};
use lock_testkit::proxy::{Action, Gate, Match, Proxy};
use lock_testkit::server::{RedisOptions, RedisSentinel, RedisServer};
use tracing::Level;
use tracing::subscriber::set_default;

/// Whether an event is wanted at all, `tracing` keeps for the whole process, and asks whichever thread comes first.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn server(policy: &str) -> RedisServer {
    let args = ["--maxmemory", "100mb", "--maxmemory-policy", policy];
    RedisOptions::new().with_args(args).start()
}

/// Connects to `url` and answers what was logged meanwhile, as a subscriber of warnings hears it.
async fn log_of_connecting(url: &str) -> String {
    let (log, listening) = Log::start(Level::WARN);
    let builder = Backend::builder(url).with_connect_timeout(10 * SECOND);
    builder.connect().await.unwrap();
    drop(listening);
    log.text()
}

#[tokio::test]
async fn who_connects_to_a_server_that_evicts_locks_is_warned() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let server = server("allkeys-lru");
    server.add_user("least", "very-secret", &format!("{LEAST_RIGHTS} +info"));
    let log = log_of_connecting(&server.url_for("least", "very-secret")).await;
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("WARN fencelock"), "{log}");
    assert!(log.contains("allkeys-lru"), "{log}");
    assert!(log.contains(&server.port().to_string()), "{log}");
    assert!(!log.contains("very-secret"), "{log}");
}

#[tokio::test]
async fn who_must_not_ask_or_has_nothing_to_fear_is_not_warned() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let evicts = server("allkeys-lru");
    evicts.add_user("least", "pw", LEAST_RIGHTS);
    assert_eq!(log_of_connecting(&evicts.url_for("least", "pw")).await, "");
    assert_eq!(refusals(&evicts), Vec::<String>::new());
    let keeps = server("noeviction");
    assert_eq!(log_of_connecting(&keeps.url()).await, "");
}

/// Nobody listens here, or to nothing as mild as a warning.
#[tokio::test]
async fn a_server_is_not_asked_for_nobody() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let server = server("allkeys-lru");
    connected(server.url()).await;
    let subscriber = tracing_subscriber::fmt().with_max_level(Level::ERROR);
    let listening = set_default(subscriber.finish());
    connected(server.url()).await;
    drop(listening);
    assert_eq!(calls(&server, "evalsha"), 0);
}

#[tokio::test]
async fn a_server_that_does_not_answer_this_does_not_keep_anybody_from_connecting() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let server = server("allkeys-lru");
    let proxy = Proxy::start(server.port()).await;
    let gate = Gate::new();
    let asked = proxy
        .on(Match::command(["EVALSHA"]))
        .action(Action::hold_request(&gate));
    let listening = set_default(tracing_subscriber::fmt().finish());
    let builder = Backend::builder(proxy.url()).with_connect_timeout(3 * SECOND);
    soon("a connection", builder.connect()).await.unwrap();
    drop(listening);
    assert_eq!(asked.count(), 1);
    // It may be that of a user who may not even run scripts.
    server.add_user("none", "pw", "-@all +ping");
    assert_eq!(log_of_connecting(&server.url_for("none", "pw")).await, "");
}

/// The system has no way there, and says so at once.
const FAR: &str = "255.255.255.255:6379";
const SECRET: &str = "very-secret";

/// What is warned of while `connecting`, which fails.
async fn warnings<T>(connecting: impl Future<Output = T>) -> String {
    let (log, listening) = Log::start(Level::WARN);
    connecting.await;
    drop(listening);
    log.text()
}

fn is_about(log: &str, servers: &str) {
    assert_eq!(log.lines().count(), 1, "{servers}: {log}");
    assert!(log.contains("WARN fencelock"), "{log}");
    assert!(log.contains("in the clear"), "{log}");
    assert!(log.contains(servers), "{servers}: {log}");
    assert!(!log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn a_password_that_leaves_the_machine_in_the_clear_is_a_warning() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for user in ["", "user"] {
        for scheme in ["redis", "valkey"] {
            let url = format!("{scheme}://{user}:{SECRET}@{FAR}");
            is_about(&warnings(Backend::connect(&url)).await, FAR);
        }
    }
    let url = format!("redis://:{SECRET}@{FAR}");
    for url in configured(&format!(":{SECRET}@{FAR}")) {
        is_about(&warnings(async { given(&url) }).await, FAR);
    }
    #[cfg(feature = "cluster")]
    {
        let other = "224.0.0.1:6379";
        let nodes = [url.clone(), format!("redis://:{SECRET}@{other}")];
        let connecting = Backend::cluster(nodes).with_connect_timeout(SECOND);
        let log = warnings(connecting.connect()).await;
        is_about(&log, &format!("{FAR}, {other}"));
    }
    let connecting = Backend::sentinel([&url, "redis://127.0.0.1:1"], "x");
    let connecting = connecting.with_connect_timeout(SECOND).connect();
    is_about(&warnings(connecting).await, FAR);
}

#[tokio::test]
async fn where_sentinels_are_near_and_the_primary_is_far_its_password_is_a_warning_once() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let sentinel = RedisSentinel::start();
    let (host, port) = FAR.split_once(':').unwrap();
    let watcher = &sentinel.sentinels[0];
    watcher.cli(&["SENTINEL", "MONITOR", "far", host, port, "1"]);
    let connecting = |primary: String| {
        let builder = Backend::sentinel([watcher.url()], primary);
        builder.with_connect_timeout(SECOND).connect()
    };
    let log = warnings(connecting(format!("redis://:{SECRET}@far"))).await;
    is_about(&log, FAR);
    assert_eq!(warnings(connecting("redis://far".to_owned())).await, "");
    let near = RedisSentinel::NAME;
    sentinel.primary().add_user("user", SECRET, "~* &* +@all");
    let log = warnings(connecting(format!("redis://user:{SECRET}@{near}"))).await;
    assert_eq!(log, "");
}

#[tokio::test]
async fn a_password_that_is_encrypted_or_stays_here_is_no_warning() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for url in [
        format!("redis://{FAR}"),
        format!("redis://user@{FAR}"),
        format!("redis://:{SECRET}@127.0.0.1:1"),
        format!("redis://:{SECRET}@localhost:1"),
        format!("redis://:{SECRET}@[::1]:1"),
        format!("redis+unix:///nowhere?pass={SECRET}"),
        #[cfg(feature = "tls")]
        format!("rediss://:{SECRET}@{FAR}"),
        #[cfg(feature = "tls")]
        format!("valkeys://:{SECRET}@{FAR}"),
    ] {
        #[cfg(feature = "tls")]
        choose_provider();
        assert_eq!(warnings(Backend::connect(&url)).await, "", "{url}");
        #[cfg(feature = "cluster")]
        if !url.contains("unix") {
            let connecting = Backend::cluster([&url]).with_connect_timeout(SECOND);
            assert_eq!(warnings(connecting.connect()).await, "", "{url}");
        }
    }
}

/// Of ours, with every target and at every level.
#[tokio::test]
async fn nothing_secret_is_logged_at_any_level() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut server = RedisOptions::new().with_password(SECRET).start();
    let (log, listening) = Log::start(Level::TRACE);
    let wrong = format!("redis://:{SECRET}-not@127.0.0.1:{}", server.port());
    patient(Backend::builder(wrong))
        .connect()
        .await
        .unwrap_err();
    let clients = [
        Locks::new(connected(server.url()).await),
        Locks::new(connected(server.url()).await),
    ];
    let options = LockOptions::default().with_ttl(3 * SECOND);
    let options = options.with_op_timeout(SECOND);
    let [lock, other] = clients.map(|locks| locks.lock("k").with_options(options.clone()));
    let guard = lock.acquire().await.unwrap();
    let entry = server.cli(&["GET", "k"]).text();
    let owner = &entry[..32];
    other.try_acquire().await.unwrap_err();
    guard.extend(SECOND).await.unwrap();
    server.cli(&["SET", "k", "others", "PX", "1"]);
    soon("the loss", guard.loss().lost()).await;
    drop(guard);
    let guard = soon("a grant", other.acquire()).await.unwrap();
    let next = server.cli(&["GET", "k"]).text();
    server.stop();
    let wait = lock.with_wait(300 * MS);
    soon("an end", wait.acquire()).await.unwrap_err();
    soon("the loss", guard.loss().lost()).await;
    drop(listening);
    let log = log.text();
    assert!(log.lines().count() > 5, "{log}");
    for secret in [SECRET, owner, &next[..32]] {
        assert!(!log.contains(secret), "{log}");
    }
}
