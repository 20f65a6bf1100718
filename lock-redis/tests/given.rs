//! Connections that the application made itself.
#![allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::alone::{Alone, Kind};
use common::*;
use lock_core::{LockBackend, Locks, Released};
use lock_redis::redis::aio::ConnectionManagerConfig;
use lock_redis::redis::{AsyncConnectionConfig, Client};
use lock_testkit::Gap;
use lock_testkit::server::RedisServer;
use tokio::task::JoinSet;
use tokio::time::sleep;

#[tokio::test]
async fn connections_made_elsewhere_serve_too() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    let (managed, multiplexed) = (managed(&client).await, multiplexed(&client).await);
    let own = Backend::from_client(client);
    for backend in [&multiplexed, &managed, &own] {
        round_trip(backend).await;
    }
    assert!(multiplexed.wakeups().is_none() && !multiplexed.capabilities().wakeups);
    assert!(managed.wakeups().is_none() && !managed.capabilities().resends);
    assert!(own.wakeups().is_some() && own.capabilities().wakeups);
}

#[tokio::test]
async fn locks_on_a_connection_made_elsewhere_are_held_waited_for_and_released() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    let managed = Locks::new(managed(&client).await);
    let given = Locks::new(multiplexed(&client).await);
    let lock = managed.lock("k").with_ttl(2 * SECOND);
    let guard = lock.with_op_timeout(SECOND).acquire().await.unwrap();
    let waiter = given.lock("k");
    let release = async {
        sleep(3 * SECOND).await;
        assert!(guard.is_held());
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    };
    let (guard, ()) = tokio::join!(soon("the waiter's turn", waiter.acquire()), release);
    let guard = guard.unwrap();
    // This client may send again by itself: a release that finds nothing may be the second copy's.
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert!(!exists(&server, "k"));
}

/// Waiters have no connection of their own there, and take no turn from the release.
#[tokio::test]
async fn a_hundred_who_wait_over_one_connection_do_not_hold_up_its_releases() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    let lock = Locks::new(multiplexed(&client).await)
        .lock("k")
        .with_ttl(LASTING);
    let guard = lock.acquire().await.unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..100 {
        let lock = lock.clone();
        waiters.spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() });
    }
    sleep(500 * MS).await;
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    let served = tokio::time::timeout(LASTING, waiters.join_all()).await;
    assert_eq!(served.unwrap(), [Released::Released; 100]);
    // One, and the oracle's.
    assert_eq!(server.cli(&["CLIENT", "LIST"]).text().lines().count(), 2);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_client_made_elsewhere_brings_its_own_certificates() {
    use lock_testkit::server::{Authority, RedisOptions};

    choose_provider();
    let authority = Authority::new();
    let server = RedisOptions::new().with_tls(authority.localhost()).start();
    let client = Client::build_with_tls(server.url(), trusting(&authority.certificate())).unwrap();
    round_trip(&Backend::from_client(client)).await;
}

/// For which the client's own timeouts do not do: they are for machines that are not loaded.
const PATIENCE: Duration = Duration::from_secs(10);

async fn managed(client: &Client) -> Backend {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let manager = client.get_connection_manager_with_config(config);
    Backend::from_manager(manager.await.unwrap())
}

async fn multiplexed(client: &Client) -> Backend {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    Backend::from_connection(connection.await.unwrap())
}

struct Managed;

impl Kind for Managed {
    const GAPS: &'static [Gap] = &[Gap::Order, Gap::SurvivesRestart, Gap::Wakeups];

    async fn client(url: &str) -> Backend {
        managed(&Client::open(url).unwrap()).await
    }
}

mod a_manager {
    lock_testkit::conformance!(super::Alone<super::Managed>);
}

struct Multiplexed;

impl Kind for Multiplexed {
    // A connection that is gone is gone: whoever made it may make another. And what it sends again is for them to know.
    const GAPS: &'static [Gap] = &[
        Gap::Order,
        Gap::SurvivesRestart,
        Gap::SendsOnce,
        Gap::Wakeups,
        Gap::Restart,
        Gap::CutConnections,
    ];

    async fn client(url: &str) -> Backend {
        multiplexed(&Client::open(url).unwrap()).await
    }
}

mod a_multiplexed_connection {
    lock_testkit::conformance!(super::Alone<super::Multiplexed>);
}
