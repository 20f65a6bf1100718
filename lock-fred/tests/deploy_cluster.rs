//! Locks on a cluster: every promise is kept, wherever a key lies and while its slot moves.
#![cfg(feature = "cluster")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::deploy::{Deployment, KEEP_DATA, On, Pool};
use common::*;
use lock_core::{
    Attempt, BackendError, BackendErrorKind, LockBackend, LockError, LockKey, Locks, Ownership,
    Renew, RenewRequest,
};
use lock_testkit::Gap;
use lock_testkit::proxy::{Action, Match, Proxy};
use lock_testkit::server::{RedisCluster, RedisOptions, RedisServer, Reply};

static CLUSTERS: Pool<RedisCluster> = Pool::new(start);

fn start() -> RedisCluster {
    let options = RedisOptions::new().with_args(KEEP_DATA);
    RedisCluster::with(&options, 3, 0)
}

/// It keeps its data.
struct Cluster;

impl Deployment for Cluster {
    type Servers = RedisCluster;
    const GAPS: &'static [Gap] = if CLUSTER_RESENDS {
        &[Gap::Order, Gap::SendsOnce]
    } else {
        &[Gap::Order]
    };

    fn pool() -> &'static Pool<RedisCluster> {
        &CLUSTERS
    }

    fn urls(cluster: &RedisCluster) -> Vec<String> {
        // One node is enough to find the others.
        vec![cluster.nodes[0].url()]
    }

    async fn client(urls: Vec<String>) -> Backend {
        Backend::cluster(urls)
            .with_connect_timeout(10 * SECOND)
            .with_survives_restart(true)
            .connect()
            .await
            .unwrap()
    }
}

async fn client() -> Backend {
    Cluster::client(Cluster::urls(CLUSTERS.shared())).await
}

fn cli(key: &str, command: &[&str]) -> Reply {
    CLUSTERS.shared().server_of(key).cli(command)
}

mod conformance {
    lock_testkit::conformance!(super::On<super::Cluster>);
}

#[tokio::test]
async fn a_key_that_has_no_place_beside_it_is_refused_before_anything_is_written() {
    let backend = client().await;
    for name in ["a}b", "a{}b", "a{}{b}"] {
        let (key, mine) = (key(name), owner());
        let wakeups = backend.wakeups().unwrap();
        let errors = [
            attempt(&backend, &key, &mine).await.unwrap_err(),
            backend.release(&key, &mine).await.unwrap_err(),
            backend.inspect(&key).await.unwrap_err(),
            wakeups.subscribe(&key, None).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), BackendErrorKind::Invalid, "{error}");
        }
        assert_eq!(cli(name, &["EXISTS", name]).integer(), 0);
    }
    for name in ["a{b", "a{b}c}", "a}{b}"] {
        let (key, mine) = (key(name), owner());
        take(&backend, &key, &mine).await;
        assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    }
}

#[tokio::test]
async fn a_node_says_whether_it_may_evict_locks() {
    let backend = client().await;
    assert_eq!(backend.may_evict().await.unwrap(), Some(false));
}

#[tokio::test]
async fn hundreds_of_locks_are_renewed_in_a_request_a_slot() {
    let backend = client().await;
    let owner = owner();
    let keys: Vec<_> = (0..300).map(|n| key(&format!("many:{n}"))).collect();
    let same: Vec<_> = (0..300).map(|n| key(&format!("{{same}}:{n}"))).collect();
    for key in keys.iter().chain(&same) {
        take(&backend, key, &owner).await;
    }
    let server = CLUSTERS.shared().server_of("{same}");
    let before = calls(server, "evalsha");
    let renewals: Vec<_> = same
        .iter()
        .map(|key| RenewRequest::new(key, &owner, TTL, Renew::AtLeast))
        .collect();
    assert!(
        backend
            .renew(&renewals)
            .await
            .iter()
            .all(|answer| *answer.as_ref().unwrap() == Ownership::Held)
    );
    // Other cases may run at the same time.
    let requests = calls(server, "evalsha") - before;
    assert!(requests >= 2, "{requests}");

    CLUSTERS
        .shared()
        .server_of("many:7")
        .cli(&["DEL", "many:7"]);
    let all: Vec<_> = keys.iter().chain(&same).collect();
    let renewals: Vec<_> = all
        .iter()
        .map(|key| RenewRequest::new(key, &owner, TTL, Renew::AtLeast))
        .collect();
    for (key, answer) in all.iter().zip(backend.renew(&renewals).await) {
        let expected = if key.as_str() == "many:7" {
            Ownership::Absent
        } else {
            Ownership::Held
        };
        assert_eq!(answer.unwrap(), expected, "{key}");
    }
    for key in all {
        backend.release(key, &owner).await.unwrap();
    }
}

/// The kind of what passes: a client that sends again by itself knows of the last copy only that it was not applied.
fn in_passing(backend: &Backend) -> BackendErrorKind {
    if backend.capabilities().resends {
        BackendErrorKind::Unknown
    } else {
        BackendErrorKind::Transient
    }
}

#[tokio::test]
async fn locks_are_renewed_and_released_while_their_slot_moves() {
    let cluster = RedisCluster::start();
    let backend = patient(Backend::cluster(cluster.urls()))
        .connect()
        .await
        .unwrap();
    let other = patient(Backend::cluster(cluster.urls()))
        .connect()
        .await
        .unwrap();
    let keys: Vec<_> = (0..20).map(|n| key(&format!("{{moving}}:{n}"))).collect();
    let (mine, theirs) = (owner(), owner());
    let mut last = 0;
    for key in &keys {
        last = last.max(take(&backend, key, &mine).await.first().get());
    }
    let slot = cluster.slot_of("{moving}");
    let to = (cluster.master_of(slot) + 1) % 3;
    let renewals: Vec<_> = keys
        .iter()
        .map(|key| RenewRequest::new(key, &mine, TTL, Renew::AtLeast))
        .collect();
    let all_held = async || {
        for (key, answer) in keys.iter().zip(backend.renew(&renewals).await) {
            assert_eq!(answer.unwrap(), Ownership::Held, "{key}");
        }
        // Nobody else gets them meanwhile, though the answer may be that nobody knows right now.
        for key in &keys {
            match attempt(&other, key, &theirs).await {
                Ok(Attempt::Busy(_)) => {}
                Ok(Attempt::Granted(_)) => panic!("{key} is held and was granted again"),
                Err(error) => assert_eq!(error.kind(), in_passing(&other), "{error}"),
            }
        }
    };
    all_held().await;
    cluster.begin_move(slot, to);
    all_held().await;
    while cluster.move_keys(slot, to, 7) > 0 {
        all_held().await;
    }
    // One that is free: from another node than the one that has the slot, and without its counter there or here.
    let free = key("{moving}:free");
    match attempt(&backend, &free, &mine).await {
        Ok(attempt) => assert!(matches!(attempt, Attempt::Granted(_))),
        Err(error) => assert_eq!(error.kind(), in_passing(&backend), "{error}"),
    }
    assert_eq!(
        backend.release(&keys[0], &mine).await.unwrap(),
        Ownership::Held
    );
    cluster.end_move(slot, to);
    assert_eq!(
        renew(&backend, &keys[1], &mine, TTL, Renew::AtLeast)
            .await
            .unwrap(),
        Ownership::Held
    );
    for key in &keys[1..] {
        assert_eq!(
            backend.release(key, &mine).await.unwrap(),
            Ownership::Held,
            "{key}"
        );
    }
    let next = take(&other, &keys[1], &theirs).await.first().get();
    assert!(next > last);
}

#[tokio::test]
async fn waiters_are_woken_also_after_their_slot_has_moved() {
    let cluster = RedisCluster::start();
    let backend = patient(Backend::cluster(cluster.urls()))
        .connect()
        .await
        .unwrap();
    let (key, mine) = (key("wait"), owner());
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = soon("a subscription", wakeups.subscribe(&key, None))
        .await
        .unwrap();
    take(&backend, &key, &mine).await;
    backend.release(&key, &mine).await.unwrap();
    soon("a wake-up", wakeup.notified()).await;

    let slot = cluster.slot_of("wait");
    let to = (cluster.master_of(slot) + 1) % 3;
    cluster.begin_move(slot, to);
    while cluster.move_keys(slot, to, 100) > 0 {}
    cluster.end_move(slot, to);
    // In doubt it is woken.
    soon("a wake-up when the subscription moves", wakeup.notified()).await;
    eventually("the new server has the subscription", async || {
        let channel = "{wait}:fencelock:wake";
        cluster.nodes[to]
            .cli(&["PUBSUB", "SHARDNUMSUB", channel])
            .array()[1]
            .integer()
            == 1
    })
    .await;
    take(&backend, &key, &mine).await;
    backend.release(&key, &mine).await.unwrap();
    soon("a wake-up from the new server", wakeup.notified()).await;
}

#[tokio::test]
async fn a_node_that_is_silent_keeps_nobody_from_the_others_and_is_found_again() {
    let cluster = RedisCluster::start();
    // For others the calls to the silent node are to take longer than their ttl; here and there a busy machine is silent too.
    let backend = patient(Backend::cluster(cluster.urls()))
        .with_response_timeout(2 * SECOND)
        .connect()
        .await
        .unwrap();
    let named = |node: usize| {
        let names = (0..).map(|n| format!("n{n}"));
        let mut on_node = names.filter(|name| cluster.master_of(cluster.slot_of(name)) == node);
        key(&on_node.next().unwrap())
    };
    let (silent, loud, mine) = (named(0), named(1), owner());
    take(&backend, &silent, &mine).await;
    take(&backend, &loud, &mine).await;
    // Renewed together, wherever they are.
    let another = patient(Backend::cluster(cluster.urls())).connect().await;
    let locks = Locks::new(another.unwrap()).with_ttl(4 * SECOND);
    let mut held = Vec::new();
    for n in 0..120 {
        let guard = locks.lock(format!("held:{n}")).try_acquire().await.unwrap();
        held.push((
            cluster.master_of(cluster.slot_of(guard.key().as_str())),
            guard,
        ));
    }
    cluster.nodes[0].pause();
    let talking = AtomicBool::new(true);
    let others = async {
        let mut count = 0;
        while talking.load(Ordering::SeqCst) {
            renew(&backend, &loud, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap();
            count += 1;
        }
        count
    };
    let calls = async {
        // Two calls without an answer, and those that follow go over another connection; that node is silent there too.
        for _ in 0..3 {
            let error = renew(&backend, &silent, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap_err();
            assert!(
                error.may_have_been_applied() || error.kind() == BackendErrorKind::Transient,
                "{error}"
            );
        }
        for (node, guard) in &held {
            assert!(*node == 0 || guard.is_held(), "{:?}", guard.loss());
        }
        cluster.nodes[0].resume();
        eventually("the node answers again", async || {
            renew(&backend, &silent, &mine, TTL, Renew::AtLeast)
                .await
                .is_ok_and(|answer| answer == Ownership::Held)
        })
        .await;
        talking.store(false, Ordering::SeqCst);
    };
    let (count, ()) = tokio::join!(others, calls);
    assert!(count > 10, "{count} renewals on another node");
}

#[tokio::test]
async fn a_cluster_over_resp2_serves_waiters_without_wakeups() {
    let url = format!("{}?protocol=resp2", CLUSTERS.shared().nodes[1].url());
    let connecting = patient(Backend::cluster([url])).connect();
    let backend = connecting.await.unwrap();
    assert!(backend.wakeups().is_none() && !backend.capabilities().wakeups);
    let (key, mine) = (LockKey::with_prefix("resp2:", "k").unwrap(), owner());
    take(&backend, &key, &mine).await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
}

#[tokio::test]
async fn the_minimal_user_of_a_cluster_is_the_documented_one() {
    let cluster = RedisCluster::start();
    for node in &cluster.nodes {
        let rights = format!("{LEAST_RIGHTS_OF_A_CLUSTER} {RIGHTS_TO_ASK}");
        node.add_user("locks", "pw", &rights);
    }
    let urls = cluster.nodes.iter().map(|node| node.url_for("locks", "pw"));
    let backend = patient(Backend::cluster(urls)).connect().await.unwrap();
    for name in ["a", "b", "c", "d"] {
        let (key, mine) = (LockKey::with_prefix("lock:", name).unwrap(), owner());
        let wakeups = backend.wakeups().unwrap();
        let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
        take(&backend, &key, &mine).await;
        busy(attempt(&backend, &key, &owner()).await);
        renew(&backend, &key, &mine, TTL, Renew::Exactly)
            .await
            .unwrap();
        assert!(backend.inspect(&key).await.unwrap().is_some());
        assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
        soon("a wake-up", wakeup.notified()).await;
    }
    for node in &cluster.nodes {
        assert_eq!(all_refusals(node), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_a_user_of_a_cluster_lacks_is_named_at_the_first_use() {
    let cluster = RedisCluster::start();
    for (missing, rights) in each_missing(LEAST_RIGHTS_OF_A_CLUSTER) {
        for node in &cluster.nodes {
            // EVAL is needed where the script is not known.
            node.cli(&["SCRIPT", "FLUSH"]);
            node.add_user("locks", "pw", &rights);
        }
        let urls = cluster.nodes.iter().map(|node| node.url_for("locks", "pw"));
        let connecting = patient(Backend::cluster(urls)).connect();
        is_missed_at_the_first_use(missing, LEAST_RIGHTS_OF_A_CLUSTER, connecting).await;
        let standing = cluster.nodes.iter().map(|node| node.cli(&["DBSIZE"]));
        let standing: i64 = standing.map(|size| size.integer()).sum();
        assert_eq!(standing, 0, "{missing}");
    }
}

#[tokio::test]
async fn who_connects_to_one_node_alone_is_told_to_connect_to_the_cluster() {
    let node = &CLUSTERS.shared().nodes[0];
    let mine = owner();
    // Some keys are here, and no others.
    let here = (0..).map(|n| format!("alone:{n}"));
    let (here, elsewhere): (Vec<_>, Vec<_>) = here
        .take(50)
        .partition(|name| CLUSTERS.shared().master_of(CLUSTERS.shared().slot_of(name)) == 0);
    for url in [node.url(), format!("{}?protocol=resp2", node.url())] {
        let backend = connected(url).await;
        let (here, elsewhere) = (key(&here[0]), key(&elsewhere[0]));
        take(&backend, &here, &mine).await;
        let both =
            [&here, &elsewhere].map(|key| RenewRequest::new(key, &mine, TTL, Renew::AtLeast));
        let mut errors = vec![
            attempt(&backend, &elsewhere, &mine).await.unwrap_err(),
            backend.release(&elsewhere, &mine).await.unwrap_err(),
            backend.inspect(&elsewhere).await.unwrap_err(),
        ];
        let renewed = backend.renew(&both).await;
        errors.extend(renewed.into_iter().map(Result::unwrap_err));
        for error in errors {
            assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
            let said = error.to_string();
            assert!(
                said.contains("Backend::cluster` (feature `cluster`)"),
                "{said}"
            );
        }
        backend.release(&here, &mine).await.unwrap();
        // Nobody waits for what cannot be had.
        let lock = Locks::new(backend).lock(elsewhere.as_str());
        let error = soon("an answer", lock.acquire()).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn wrong_credentials_and_senseless_seeds_are_told_and_not_printed() {
    let url = CLUSTERS.shared().nodes[0].url_for("nobody", "very-secret");
    let connecting = patient(Backend::cluster([url])).connect();
    let error = connecting.await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    assert!(
        !format!("{error} {error:?}").contains("very-secret"),
        "{error:?}"
    );
    for seeds in [vec![], vec!["nonsense"], vec!["redis+unix:///socket"]] {
        let error = Backend::cluster(seeds).connect().await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Invalid, "{error}");
    }
    let error = Backend::cluster(["redis://127.0.0.1:1"])
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_changes_is_told_at_once() {
    let cluster = RedisCluster::start();
    for node in &cluster.nodes {
        node.add_user("locks", "pw", "~* &* +@all");
    }
    let urls = cluster.nodes.iter().map(|node| node.url_for("locks", "pw"));
    let backend = patient(Backend::cluster(urls)).connect().await.unwrap();
    let locks = Locks::new(backend);
    let lock = locks.lock("k").with_wait(120 * SECOND);
    lock.acquire().await.unwrap().release().await.unwrap();
    for node in &cluster.nodes {
        node.cli(&["ACL", "SETUSER", "locks", "resetpass", ">other"]);
        node.cli(&["CLIENT", "KILL", "USER", "locks"]);
    }
    let error = soon("a refusal", lock.acquire()).await.unwrap_err();
    assert!(
        matches!(
            &error,
            LockError::Backend {
                transient: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("credentials"), "{error}");
}

/// The first copy of each request is applied and its answer lost, and the next copies are refused: that changed nothing, and the
/// first did.
#[tokio::test]
async fn what_was_applied_before_it_was_refused_is_not_told_as_not_applied() {
    let (cluster, proxies) = proxied().await;
    let backend = patient(Backend::cluster([proxies[0].url()]))
        .connect()
        .await
        .unwrap();
    let (key, mine) = (key("{k}:1"), owner());
    let server = cluster.server_of("{k}");
    let proxy = &proxies[cluster.master_of(cluster.slot_of("{k}"))];
    let applied_then_refused = || {
        proxy.clear();
        // Whatever is sent again.
        proxy
            .on(Match::command(["EVALSHA"]).key(key.as_str()))
            .from(2)
            .action(Action::inject("-CLUSTERDOWN The cluster is down\r\n"));
        proxy
            .on(Match::command(["EVALSHA"]).key(key.as_str()))
            .nth(1)
            .action(Action::cut_after_forwarding());
    };
    // So that the scripts are known.
    take(&backend, &key, &mine).await;
    backend.release(&key, &mine).await.unwrap();

    applied_then_refused();
    let error = attempt(&backend, &key, &mine).await.unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    proxy.clear();
    assert!(exists(server, key.as_str()));

    applied_then_refused();
    let error = backend.release(&key, &mine).await.unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    proxy.clear();
    assert!(!exists(server, key.as_str()));
}

/// A cluster whose nodes all think that they are reached through proxies, and say so.
async fn proxied() -> (RedisCluster, Vec<Proxy>) {
    let cluster = RedisCluster::start();
    let mut proxies = Vec::new();
    for node in &cluster.nodes {
        let proxy = Proxy::start(node.port()).await;
        let port = proxy.port().to_string();
        node.cli(&["CONFIG", "SET", "cluster-announce-port", &port]);
        proxies.push(proxy);
    }
    eventually(
        "all nodes know where the others say that they are",
        async || {
            let knows = |node: &RedisServer| {
                let nodes = node.cli(&["CLUSTER", "NODES"]).text();
                proxies
                    .iter()
                    .all(|proxy| nodes.contains(&format!(":{}@", proxy.port())))
            };
            cluster.nodes.iter().all(knows)
        },
    )
    .await;
    (cluster, proxies)
}

/// The answer to a call whose first reply is lost: the client sends again by itself, or says that nobody knows, and its caller
/// sends again.
async fn sent_again<T>(
    backend: &Backend,
    mut ask: impl AsyncFnMut() -> Result<T, BackendError>,
) -> T {
    let mut answer = ask().await;
    if !backend.capabilities().resends {
        let Err(error) = answer else {
            panic!("it was sent again");
        };
        assert!(error.may_have_been_applied(), "{error}");
        answer = ask().await;
    }
    answer.unwrap()
}

#[tokio::test]
async fn what_is_sent_again_after_a_cut_is_granted_once_and_never_busy() {
    let (cluster, proxies) = proxied().await;
    let backend = patient(Backend::cluster([proxies[0].url()]))
        .connect()
        .await
        .unwrap();
    let mine = owner();
    // So that the scripts are known, and what is cut is EVALSHA.
    let warm = key("{k}:first");
    take(&backend, &warm, &mine).await;
    renew(&backend, &warm, &mine, TTL, Renew::AtLeast)
        .await
        .unwrap();
    backend.release(&warm, &mine).await.unwrap();
    let proxy = &proxies[cluster.master_of(cluster.slot_of("{k}"))];
    let cut = |key: &LockKey| {
        proxy.clear();
        proxy
            .on(Match::command(["EVALSHA"]).key(key.as_str()))
            .nth(1)
            .action(Action::cut_after_forwarding())
    };
    for n in 0..10 {
        let key = key(&format!("{{k}}:{n}"));
        let met = cut(&key);
        let acquired = sent_again(&backend, async || attempt(&backend, &key, &mine).await).await;
        let first = granted(Ok(acquired));
        assert!(met.count() >= 2, "it was not sent again");
        // The one grant that stands at the server is the one that was answered.
        let server = cluster.server_of("{k}");
        let counter = server.cli(&["GET", &format!("{}:fencelock:tag:fence", key.as_str())]);
        assert_eq!(counter.text(), first.last().get().to_string());
        assert_eq!(server.cli(&["GET", key.as_str()]).text(), mine.expose());
        busy(attempt(&backend, &key, &owner()).await);

        let met = cut(&key);
        let renewal = async || renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
        assert_eq!(sent_again(&backend, renewal).await, Ownership::Held);
        assert!(met.count() >= 2, "it was not sent again");

        let met = cut(&key);
        // The first copy freed it, and the second finds nothing.
        let release = async || backend.release(&key, &mine).await;
        assert_eq!(sent_again(&backend, release).await, Ownership::Absent);
        assert!(met.count() >= 2, "it was not sent again");
        assert_eq!(server.cli(&["EXISTS", key.as_str()]).integer(), 0);
    }
}

#[test]
fn a_backend_outlives_the_runtime_that_it_connected_on() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (first, key, mine) = (runtime(), key("outlives"), owner());
    let backend = first.block_on(async {
        let backend = client().await;
        take(&backend, &key, &mine).await;
        let wakeups = backend.wakeups().unwrap();
        drop(wakeups.subscribe(&key, None).await.unwrap());
        backend
    });
    drop(first);
    runtime().block_on(async {
        // One call finds the connection gone.
        let renewed = renew(&backend, &key, &mine, TTL, Renew::AtLeast).await;
        assert!(renewed.is_ok() || renewed.unwrap_err().may_have_been_applied());
        assert_eq!(
            renew(&backend, &key, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap(),
            Ownership::Held
        );
        let wakeups = backend.wakeups().unwrap();
        let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
        assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
        soon("a wake-up", wakeup.notified()).await;
    });
}

#[tokio::test]
async fn a_master_that_falls_silent_is_left_for_its_successor() {
    let cluster = RedisCluster::start_with_replicas();
    // To the silent one too it connects anew.
    let builder = Backend::cluster(cluster.urls()).with_connect_timeout(3 * SECOND);
    let backend = builder.connect().await.unwrap();
    let (key, mine) = (key("k"), owner());
    let slot = cluster.slot_of("k");
    let before = cluster.master_of(slot);
    take(&backend, &key, &mine).await;
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
    eventually("the replica has the lock", async || {
        cluster.nodes[before + 3].cli(&["DBSIZE"]).integer() == 2
    })
    .await;
    cluster.nodes[before].pause();
    // Meanwhile the answer is that nobody knows, or that nothing was done.
    eventually("renewed at the successor", async || {
        match renew(&backend, &key, &mine, TTL, Renew::AtLeast).await {
            Ok(answer) => answer == Ownership::Held,
            Err(error) => {
                assert_ne!(error.kind(), BackendErrorKind::Permanent, "{error}");
                false
            }
        }
    })
    .await;
    soon("a wake-up, in doubt", wakeup.notified()).await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    cluster.nodes[before].resume();
}
