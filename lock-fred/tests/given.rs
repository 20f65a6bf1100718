//! Clients that the application made itself, with settings that lock-fred would not choose.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic
)]

mod common;

use common::alone::{Alone, Kind};
use common::*;
use lock_core::{BackendErrorKind, LockBackend, LockOptions, Locks, Ownership, Released, Renew};
use lock_fred::fred::clients::Client;
use lock_fred::fred::cmd;
use lock_fred::fred::interfaces::{EventInterface, PubsubInterface};
use lock_fred::fred::prelude::{Builder, ClientLike, Config, ReconnectPolicy};
use lock_fred::fred::types::config::Server;
use lock_testkit::proxy::{Action, Match, Proxy};
use lock_testkit::server::RedisServer;
use tokio::task::JoinSet;

fn builder(url: &str) -> Builder {
    let mut builder = Builder::from_config(Config::from_url(url).unwrap());
    builder.set_policy(ReconnectPolicy::new_constant(0, 10));
    builder.with_performance_config(|performance| {
        performance.default_command_timeout = SECOND;
    });
    builder
}

/// A client that connects again, and sends what was under way up to three times, which is fred's default.
async fn client(url: &str) -> Client {
    let client = builder(url).build().unwrap();
    client.init().await.unwrap();
    client
}

#[tokio::test]
async fn clients_made_elsewhere_serve_too() {
    let server = RedisServer::start();
    let pool = builder(&server.url()).build_pool(3).unwrap();
    pool.init().await.unwrap();
    let client = client(&server.url()).await;
    let connections = server.cli(&["CLIENT", "LIST"]).text().lines().count();
    for backend in [
        Backend::from_client(client).unwrap(),
        Backend::from_pool(&pool).unwrap(),
    ] {
        round_trip(&backend).await;
        assert!(backend.wakeups().is_some() && !backend.capabilities().resends);
    }
    let now = server.cli(&["CLIENT", "LIST"]).text().lines().count();
    assert_eq!(now, connections, "the calls went over other connections");
}

#[tokio::test]
async fn the_clients_of_a_pool_take_turns() {
    let server = RedisServer::start();
    let pool = builder(&server.url()).build_pool(2).unwrap();
    pool.init().await.unwrap();
    let backend = Backend::from_pool(&pool).unwrap();
    for _ in 0..2 {
        round_trip(&backend).await;
    }
    let clients = server.cli(&["CLIENT", "LIST"]).text();
    let used = clients
        .lines()
        .filter(|client| client.contains("cmd=evalsha"));
    assert_eq!(used.count(), 2, "{clients}");
    // One that has lost its connection for good is left out.
    pool.clients()[0].quit().await.unwrap();
    for _ in 0..4 {
        round_trip(&backend).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_who_wait_over_one_connection_do_not_hold_up_its_releases() {
    let server = RedisServer::start();
    let pool = builder(&server.url()).build_pool(1).unwrap();
    pool.init().await.unwrap();
    // Two lines of waiters, so that a hundred wait at the server.
    let [holder, other] = [(); 2].map(|()| Locks::new(Backend::from_pool(&pool).unwrap()));
    let names: Vec<_> = (0..100).map(|n| format!("k{n}")).collect();
    let taken = names.iter().map(|name| {
        let lock = holder.lock(name.as_str()).with_ttl(60 * SECOND);
        async move { lock.acquire().await.unwrap() }
    });
    let guards = futures_util::future::join_all(taken).await;
    let mut waiters = JoinSet::new();
    for name in &names {
        let lock = other.lock(name.as_str()).with_ttl(60 * SECOND);
        let lock = lock.with_wait(60 * SECOND);
        waiters.spawn(async move { lock.acquire().await.unwrap().release().await });
    }
    eventually("all wait", async || {
        server.cli(&["PUBSUB", "CHANNELS"]).array().len() == 100
    })
    .await;
    let looking = server.cli(&["CLIENT", "LIST"]).text();
    let of_the_pool = looking.lines().filter(|one| one.contains("cmd=evalsha"));
    assert_eq!(of_the_pool.count(), 1, "{looking}");
    for guard in guards {
        let released = soon("a release", guard.release()).await;
        assert_eq!(released.unwrap(), Released::Released);
    }
    for released in soon("all are served", waiters.join_all()).await {
        assert_eq!(released.unwrap(), Released::Released);
    }
}

/// What it tells its sentinels apart from what it tells the primary.
#[cfg(feature = "sentinel-auth")]
#[tokio::test]
async fn a_client_made_elsewhere_brings_its_password_for_sentinels() {
    use lock_testkit::server::RedisSentinel;

    let sentinel = RedisSentinel::start_with_password("sentinel-secret");
    for server in &sentinel.servers {
        server.add_user("locks", "pw", "~* &* +@all");
    }
    let ports: Vec<_> = sentinel.sentinels.iter().map(RedisServer::port).collect();
    let url = format!(
        "redis-sentinel://locks:pw@127.0.0.1:{}?node=127.0.0.1:{}&sentinelServiceName={}&sentinelPassword=sentinel-secret",
        ports[0],
        ports[1],
        RedisSentinel::NAME
    );
    let backend = Backend::from_client(client(&url).await).unwrap();
    let (key, mine) = (key("k"), owner());
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
    take(&backend, &key, &mine).await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    soon("a wake-up", wakeup.notified()).await;
}

#[tokio::test]
async fn locks_on_a_client_made_elsewhere_are_held_waited_for_and_released() {
    let server = RedisServer::start();
    let locks = async || Locks::new(Backend::from_client(client(&server.url()).await).unwrap());
    let (holder, other) = (locks().await, locks().await);
    let lock = holder.lock("k").with_ttl(2 * SECOND);
    let guard = lock.with_op_timeout(SECOND).acquire().await.unwrap();
    // Nothing but a wake-up ends the wait.
    let waiter = other.lock("k").with_options(
        LockOptions::default()
            .with_ttl(60 * SECOND)
            .with_wait(60 * SECOND)
            .with_recheck(60 * SECOND),
    );
    let before = calls(&server, "evalsha");
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { waiter.acquire().await });
    eventually("it has looked again after it subscribed", async || {
        calls(&server, "evalsha") >= before + 2
    })
    .await;
    tokio::time::sleep(3 * SECOND).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    let guard = soon("the waiter's turn", waiting.join_next()).await;
    let guard = guard.unwrap().unwrap().unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

/// What the client does by default to commands under way when a connection breaks, it does not do to ours.
#[tokio::test]
async fn nothing_is_sent_twice_over_a_client_that_sends_twice() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let client = client(&proxy.url()).await;
    let backend = Backend::from_client(client.clone()).unwrap();
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    backend.release(&key, &mine).await.unwrap();

    // A command of the application, for comparison.
    proxy
        .on(Match::command(["INCR"]))
        .action(Action::cut_after_forwarding());
    let incr = cmd!("INCR");
    let count: i64 = client.custom(incr, vec!["n"]).await.unwrap();
    assert_eq!(count, 2, "the client does not send twice any more");

    let mine = owner();
    let lose_reply_to = |requests: Match| {
        proxy
            .on(requests)
            .nth(1)
            .action(Action::cut_after_forwarding());
        calls(&server, "evalsha")
    };
    let sent_since = |before| calls(&server, "evalsha") - before;

    let before = lose_reply_to(Match::acquire());
    let error = attempt(&backend, &key, &mine).await.unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    // Our own entry is never busy for us.
    granted(Ok(
        known(async || attempt(&backend, &key, &mine).await).await
    ));
    assert_eq!(sent_since(before), 2, "sent by itself");

    let before = lose_reply_to(Match::renew());
    let renewal = async || renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
    let error = renewal().await.unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    assert_eq!(known(renewal).await, Ownership::Held);
    assert_eq!(sent_since(before), 2, "sent by itself");

    let before = lose_reply_to(Match::release());
    let release = async || backend.release(&key, &mine).await;
    let error = release().await.unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    assert_eq!(known(release).await, Ownership::Absent);
    assert_eq!(sent_since(before), 2, "sent by itself");
}

/// The answer, once one is known. What is known not to have been sent is asked again.
async fn known<T>(mut ask: impl AsyncFnMut() -> Result<T, lock_core::BackendError>) -> T {
    let mut answer = None;
    eventually("an answer", async || match ask().await {
        Ok(known) => {
            answer = Some(known);
            true
        }
        Err(error) => {
            assert!(!error.may_have_been_applied(), "{error}");
            false
        }
    })
    .await;
    answer.unwrap()
}

#[tokio::test]
async fn a_client_that_has_no_connection_is_known_to_have_sent_nothing() {
    let mut server = RedisServer::start();
    let client = client(&server.url()).await;
    let backend = Backend::from_client(client.clone()).unwrap();
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    server.stop();
    eventually("the client knows", async || !client.is_connected()).await;
    let error = backend.release(&key, &mine).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    server.restart_empty();
    eventually("the client is connected again", async || {
        client.is_connected()
    })
    .await;
    take(&backend, &key, &mine).await;
}

#[tokio::test]
async fn a_silent_client_is_made_to_connect_again() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let backend = Backend::from_client(client(&proxy.url()).await).unwrap();
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    proxy.blackhole();
    for _ in 0..2 {
        let call = renew(&backend, &key, &mine, TTL, Renew::AtLeast);
        assert!(tokio::time::timeout(20 * MS, call).await.is_err());
    }
    eventually("an answer", async || {
        let answer = renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
        answer.is_ok()
    })
    .await;
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_told_by_somebody_else_if_nobody_drives_who_was_to_do_it() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let backend = Backend::from_client(client(&proxy.url()).await).unwrap();
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    proxy.blackhole();
    let mut idle = tokio::runtime::Builder::new_current_thread();
    let idle = idle.enable_all().build().unwrap();
    let calls = async {
        for _ in 0..2 {
            let call = renew(&backend, &key, &mine, TTL, Renew::AtLeast);
            assert!(tokio::time::timeout(20 * MS, call).await.is_err());
        }
    };
    tokio::task::block_in_place(|| idle.block_on(calls));
    eventually("an answer", async || {
        let call = renew(&backend, &key, &mine, TTL, Renew::AtLeast);
        let answer = tokio::time::timeout(200 * MS, call).await;
        answer.is_ok_and(|answer| answer.is_ok())
    })
    .await;
    idle.shutdown_background();
}

/// The first connection that it lost would be its last.
#[tokio::test]
async fn a_client_without_a_reconnect_policy_is_refused_and_so_is_a_pool_of_none() {
    let config = Config::from_url("redis://:very-secret@127.0.0.1:1").unwrap();
    let builder = Builder::from_config(config);
    for refused in [
        Backend::from_client(builder.build().unwrap()),
        Backend::from_pool(&builder.build_pool(2).unwrap()),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("reconnect policy"), "{error}");
        assert!(!format!("{error:?}").contains("very-secret"), "{error:?}");
    }
    // Of this one nothing but the settings is used.
    let config = Config::from_url("redis-cluster://127.0.0.1:1").unwrap();
    Backend::from_client(Builder::from_config(config).build().unwrap()).unwrap();
}

#[tokio::test]
async fn a_client_that_leads_to_a_replica_is_made_to_connect_again() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let backend = Backend::from_client(client(&proxy.url()).await).unwrap();
    take(&backend, &key("a"), &owner()).await;
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = attempt(&backend, &key("b"), &owner()).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    eventually("another connection", async || proxy.connections() == 2).await;
    let mine = owner();
    let answer = known(async || attempt(&backend, &key("b"), &mine).await);
    granted(Ok(answer.await));
}

/// So often was a connection made since whoever listens began to. What the client was told before is done when this ends.
async fn made(client: &Client, connections: &mut Connections) -> usize {
    client
        .custom::<String, _>(cmd!("PING"), Vec::<String>::new())
        .await
        .unwrap();
    std::iter::from_fn(|| connections.try_recv().ok()).count()
}

type Connections = tokio::sync::broadcast::Receiver<Server>;

#[tokio::test]
async fn after_an_outage_a_client_connects_once_whatever_was_called_meanwhile() {
    let mut server = RedisServer::start();
    let client = client(&server.url()).await;
    let backend = Backend::from_client(client.clone()).unwrap();
    round_trip(&backend).await;
    let mut connections = client.reconnect_rx();
    server.stop();
    eventually("the client knows", async || !client.is_connected()).await;
    for _ in 0..20 {
        let error = attempt(&backend, &key("k"), &owner()).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    }
    server.restart_empty();
    eventually("the client is connected again", async || {
        client.is_connected()
    })
    .await;
    assert_eq!(made(&client, &mut connections).await, 1);
    take(&backend, &key("k"), &owner()).await;
    assert_eq!(made(&client, &mut connections).await, 0);
}

#[tokio::test]
async fn a_silent_client_is_told_once_to_connect_again_however_long_that_takes_and_whoever_has_it()
{
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let client = client(&proxy.url()).await;
    let backends = [(); 3].map(|()| Backend::from_client(client.clone()).unwrap());
    let [backend, ..] = &backends;
    let (key, mine) = (key("k"), owner());
    take(backend, &key, &mine).await;
    let mut connections = client.reconnect_rx();
    proxy.refuse_new().await;
    proxy.blackhole();
    let calls = async {
        for backend in backends.iter().cycle() {
            let call = renew(backend, &key, &mine, TTL, Renew::AtLeast);
            let _ = tokio::time::timeout(20 * MS, call).await;
            tokio::time::sleep(20 * MS).await;
        }
    };
    assert!(tokio::time::timeout(6 * SECOND, calls).await.is_err());
    proxy.serve_new().await;
    let renewal = async || renew(backend, &key, &mine, TTL, Renew::AtLeast).await;
    assert_eq!(known(renewal).await, Ownership::Held);
    assert_eq!(made(&client, &mut connections).await, 1);
}

#[tokio::test]
async fn calls_that_are_given_up_at_once_do_not_cut_a_client_that_answers() {
    let server = RedisServer::start();
    let client = client(&server.url()).await;
    let backend = Backend::from_client(client.clone()).unwrap();
    round_trip(&backend).await;
    let mut connections = client.reconnect_rx();
    for _ in 0..20 {
        let (key, mine) = (key("k"), owner());
        let call = attempt(&backend, &key, &mine);
        let _ = tokio::time::timeout(MS / 1000, call).await;
    }
    tokio::time::sleep(300 * MS).await;
    assert_eq!(made(&client, &mut connections).await, 0);
}

#[tokio::test]
async fn a_client_that_used_its_policy_up_is_left_out_until_it_is_initialised_again() {
    let mut server = RedisServer::start();
    let mut builder = builder(&server.url());
    builder.set_policy(ReconnectPolicy::new_constant(1, 10));
    let pool = builder.build_pool(2).unwrap();
    let connected = pool.init().await.unwrap();
    let backend = Backend::from_pool(&pool).unwrap();
    round_trip(&backend).await;
    server.stop();
    // One attempt of each, after 10 ms.
    let ended = soon("the end of both clients", connected).await.unwrap();
    assert!(ended.is_err());
    server.restart_empty();
    for _ in 0..4 {
        let error = attempt(&backend, &key("a"), &owner()).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Transient);
        assert!(error.to_string().contains("policy"), "{error}");
    }

    pool.clients()[0].init().await.unwrap();
    for n in 0..4 {
        take(&backend, &key(&format!("again {n}")), &owner()).await;
    }
}

#[tokio::test]
async fn a_client_in_the_pause_before_it_connects_again_is_not_given_anything() {
    let server = RedisServer::start();
    let client = slow_to_connect_again(&server.url()).await;
    let backend = Backend::from_client(client.clone()).unwrap();
    round_trip(&backend).await;
    let mut errors = client.error_rx();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    soon("the end of the connection", errors.recv())
        .await
        .unwrap();
    assert!(client.is_connected(), "it does not say that it is not");
    let error = attempt(&backend, &key("k"), &owner()).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    let mine = owner();
    let answer = known(async || attempt(&backend, &key("k"), &mine).await);
    granted(Ok(answer.await));
}

/// It is busy for longer than an answer may take, and says nothing of it.
#[tokio::test]
async fn what_its_caller_gave_up_is_not_sent_when_the_client_gets_to_it_late() {
    let server = RedisServer::start();
    let client = slow_to_connect_again(&server.url()).await;
    let backend = Backend::from_client(client.clone()).unwrap();
    round_trip(&backend).await;
    let mut connections = client.reconnect_rx();
    let mut busy = JoinSet::new();
    let told = client.clone();
    busy.spawn(async move { told.force_reconnection().await });
    tokio::time::sleep(100 * MS).await;
    assert!(client.is_connected(), "it does not say that it is not");
    let (key, mine) = (key("late"), owner());
    let call = attempt(&backend, &key, &mine);
    assert!(tokio::time::timeout(50 * MS, call).await.is_err());
    assert!(connections.try_recv().is_err(), "it was not busy");
    let busy = soon("the connection", busy.join_next()).await;
    busy.unwrap().unwrap().unwrap();
    made(&client, &mut connections).await;
    assert!(!exists(&server, "late"));
}

async fn slow_to_connect_again(url: &str) -> Client {
    let mut builder = builder(url);
    builder.set_policy(ReconnectPolicy::new_constant(0, 3000));
    builder.with_performance_config(|performance| {
        performance.default_command_timeout = 10 * SECOND;
    });
    let client = builder.build().unwrap();
    client.init().await.unwrap();
    client
}

#[tokio::test]
async fn a_client_that_subscribed_over_resp2_is_refused_with_advice() {
    let server = RedisServer::start();
    let client = client(&server.url()).await;
    let backend = Backend::from_client(client.clone()).unwrap();
    round_trip(&backend).await;
    client.subscribe("news").await.unwrap();
    let (key, mine) = (key("k"), owner());
    for error in [
        attempt(&backend, &key, &mine).await.unwrap_err(),
        renew(&backend, &key, &mine, TTL, Renew::AtLeast)
            .await
            .unwrap_err(),
        backend.release(&key, &mine).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
        assert!(error.to_string().contains("RESP3"), "{error}");
    }
}

#[tokio::test]
async fn a_client_is_printed_without_its_settings() {
    let server = lock_testkit::server::RedisOptions::new()
        .with_password("very-secret")
        .start();
    let backend = Backend::from_client(client(&server.url()).await).unwrap();
    round_trip(&backend).await;
    let shown = format!("{backend:?} {:?}", backend.wakeups());
    assert!(!shown.contains("very-secret"), "{shown}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_client_made_elsewhere_brings_its_own_certificates() {
    use lock_testkit::server::{Authority, RedisOptions};

    choose_provider();
    let authority = Authority::new();
    let server = RedisOptions::new().with_tls(authority.localhost()).start();
    let port = server.port();
    let mut config = Config::from_url(&format!("redis://localhost:{port}")).unwrap();
    config.tls = Some(trusting(&authority.certificate()).into());
    let mut builder = Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 10));
    let client = builder.build().unwrap();
    client.init().await.unwrap();
    let backend = Backend::from_client(client).unwrap();
    round_trip(&backend).await;
    let wakeups = backend.wakeups().unwrap();
    soon("a subscription", wakeups.subscribe(&key("k"), None))
        .await
        .unwrap();
}

/// The nodes' certificates name another host than they are reached at.
#[cfg(feature = "tls")]
#[tokio::test]
async fn a_clusters_client_lends_the_names_in_certificates_too() {
    use lock_fred::fred::prelude::ServerConfig;
    use lock_fred::fred::types::config::{HostMapping, TlsConfig, TlsHostMapping};
    use lock_testkit::server::{Authority, RedisCluster, RedisOptions};

    #[derive(Debug)]
    struct Elsewhere;
    impl HostMapping for Elsewhere {
        fn map(&self, _: &std::net::IpAddr, _: &str) -> Option<String> {
            Some("elsewhere.invalid".to_owned())
        }
    }

    choose_provider();
    let authority = Authority::new();
    let options = RedisOptions::new().with_tls(authority.elsewhere());
    let cluster = RedisCluster::with(&options, 3, 0);
    // By its first node: the others are known by how the client maps addresses.
    let mut first = Server::new("127.0.0.1", cluster.nodes[0].port());
    first.tls_server_name = Some("elsewhere.invalid".into());
    let mut server = ServerConfig::new_clustered(Vec::<(String, u16)>::new());
    if let ServerConfig::Clustered { hosts, .. } = &mut server {
        hosts.push(first);
    }
    let config = Config {
        server,
        tls: Some(TlsConfig {
            connector: trusting(&authority.certificate()),
            hostnames: TlsHostMapping::Custom(std::sync::Arc::new(Elsewhere)),
        }),
        ..Config::default()
    };
    let client = Builder::from_config(config).build().unwrap();
    client.init().await.unwrap();
    let backend = Backend::from_client(client).unwrap();
    for name in ["a", "b", "c", "d", "e", "f"] {
        take(&backend, &key(name), &owner()).await;
    }
}

#[tokio::test]
async fn a_clusters_client_lends_its_settings() {
    let cluster = lock_testkit::server::RedisCluster::start();
    let url = cluster.nodes[0]
        .url()
        .replace("redis://", "redis-cluster://");
    let client = client(&url).await;
    let connections = cluster.nodes[0]
        .cli(&["CLIENT", "LIST"])
        .text()
        .lines()
        .count();
    let backend = Backend::from_client(client).unwrap();
    assert!(!backend.capabilities().resends);
    for name in ["a", "b", "c", "d"] {
        let (key, mine) = (key(name), owner());
        let wakeups = backend.wakeups();
        take(&backend, &key, &mine).await;
        if let Some(wakeups) = wakeups {
            let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
            backend.release(&key, &mine).await.unwrap();
            soon("a wake-up", wakeup.notified()).await;
        }
    }
    let now = cluster.nodes[0]
        .cli(&["CLIENT", "LIST"])
        .text()
        .lines()
        .count();
    assert!(now > connections, "the calls went over the client");
}

struct OneClient;

impl Kind for OneClient {
    async fn client(url: &str) -> Backend {
        Backend::from_client(client(url).await).unwrap()
    }
}

mod one_client {
    lock_testkit::conformance!(super::Alone<super::OneClient>);
}

struct PoolOfOne;

impl Kind for PoolOfOne {
    async fn client(url: &str) -> Backend {
        let pool = builder(url).build_pool(1).unwrap();
        pool.init().await.unwrap();
        Backend::from_pool(&pool).unwrap()
    }
}

mod pool_of_one {
    lock_testkit::conformance!(super::Alone<super::PoolOfOne>);
}
