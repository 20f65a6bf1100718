//! Locks without scripts: every promise is kept that is declared, on Valkey, and with Redis' name for the command.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use common::alone::{Alone, Kind};
use common::deploy::{Deployment, On, Pool};
use common::*;
use lock_core::{
    AcquireRequest, Attempt, BackendErrorKind, ForceRelease, LockBackend, LockError, LockKey,
    Locks, LossReason, Ownership, Renew,
};
use lock_redis::RedisBackend;
use lock_testkit::Gap;
use lock_testkit::proxy::{Action, Gate, Match, Proxy};
use lock_testkit::server::{Program, RedisOptions, RedisServer};

const GAPS: &[Gap] = &[
    Gap::Fencing,
    Gap::AnyTtl,
    Gap::Order,
    Gap::SurvivesRestart,
    Gap::ForceRelease,
];

fn valkey() -> RedisServer {
    RedisOptions::new().with_program(Program::Valkey).start()
}

async fn native(url: &str) -> RedisBackend {
    patient(RedisBackend::builder(url))
        .with_native_commands()
        .connect()
        .await
        .unwrap()
}

struct Native;

impl Kind for Native {
    const GAPS: &'static [Gap] = GAPS;

    fn is_here() -> bool {
        Program::Valkey.is_here()
    }

    fn options() -> RedisOptions {
        RedisOptions::new().with_program(Program::Valkey)
    }

    async fn client(url: &str) -> RedisBackend {
        native(url).await
    }
}

mod delifeq {
    lock_testkit::conformance!(super::Alone<super::Native>);
}

/// What Redis' DELEX does, said by Valkey. It has words of its own for a key of another type.
const DELEX: &str = "
    local kind = redis.call('TYPE', KEYS[1]).ok
    if kind ~= 'string' and kind ~= 'none' then
        return redis.error_reply('ERR Key should be of string type if conditions are specified')
    end
    return redis.call('DELIFEQ', KEYS[1], ARGV[1])";

/// No server with DELEX is to be had for tests: behind this port Valkey has that command in place of its own.
fn renamed(url: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = url.strip_prefix("redis://").unwrap().to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let Ok(server) = TcpStream::connect(&server) else {
                // It was stopped.
                continue;
            };
            let (mut replies, mut back) =
                (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut replies, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || rename(client, server));
        }
    });
    port
}

/// Passes requests on, until one of the two ends is gone.
fn rename(client: TcpStream, mut server: TcpStream) {
    let mut reader = BufReader::new(client);
    while let Some(mut parts) = request(&mut reader) {
        match &*parts[0].to_ascii_uppercase() {
            b"DELEX" => {
                assert_eq!(parts.remove(2).to_ascii_uppercase(), b"IFEQ");
                let begin: [&[u8]; 3] = [b"EVAL", DELEX.as_bytes(), b"1"];
                parts.splice(..1, begin.map(<[u8]>::to_vec));
            }
            b"DELIFEQ" => parts[0] = b"NO-SUCH-COMMAND".to_vec(),
            _ => {}
        }
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            bytes.extend(format!("${}\r\n", part.len()).into_bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        if server.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<Vec<Vec<u8>>> {
    let line = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        let bytes = reader.read_line(&mut line).ok()?;
        (bytes > 0).then_some(line)
    };
    let number = |reader: &mut BufReader<TcpStream>| {
        line(reader)?.get(1..)?.trim_end().parse::<usize>().ok()
    };
    let first = line(reader)?;
    let Some(count) = first.strip_prefix('*') else {
        // As people type it, and as some clients send their first request.
        let words = first.split_whitespace();
        return Some(words.map(|word| word.as_bytes().to_vec()).collect());
    };
    let count = count.trim_end().parse().ok()?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let mut part = vec![0; number(reader)? + 2];
        reader.read_exact(&mut part).ok()?;
        part.truncate(part.len() - 2);
        parts.push(part);
    }
    Some(parts)
}

struct Renamed;

static SERVERS: Pool<RedisServer> = Pool::new(valkey);

impl Deployment for Renamed {
    type Servers = RedisServer;
    const GAPS: &'static [Gap] = GAPS;

    fn is_here() -> bool {
        Program::Valkey.is_here()
    }

    fn pool() -> &'static Pool<RedisServer> {
        &SERVERS
    }

    fn urls(server: &RedisServer) -> Vec<String> {
        vec![server.url()]
    }

    async fn client(urls: Vec<String>) -> RedisBackend {
        native(&format!("redis://127.0.0.1:{}", renamed(&urls[0]))).await
    }
}

mod delex {
    lock_testkit::conformance!(super::On<super::Renamed>);
}

#[cfg(feature = "cluster")]
mod on_a_cluster {

    use lock_core::{Released, RenewRequest};
    use lock_testkit::server::RedisCluster;

    use super::*;

    static CLUSTERS: Pool<RedisCluster> = Pool::new(start);

    fn start() -> RedisCluster {
        RedisCluster::with(&RedisOptions::new().with_program(Program::Valkey), 3, 0)
    }

    struct Cluster;

    impl Deployment for Cluster {
        type Servers = RedisCluster;
        const GAPS: &'static [Gap] = if CLUSTER_RESENDS {
            &[
                Gap::Fencing,
                Gap::AnyTtl,
                Gap::Order,
                Gap::SurvivesRestart,
                Gap::ForceRelease,
                Gap::SendsOnce,
            ]
        } else {
            GAPS
        };

        fn is_here() -> bool {
            Program::Valkey.is_here()
        }

        fn pool() -> &'static Pool<RedisCluster> {
            &CLUSTERS
        }

        fn urls(cluster: &RedisCluster) -> Vec<String> {
            cluster.urls()
        }

        async fn client(urls: Vec<String>) -> RedisBackend {
            let builder = patient(RedisBackend::cluster(urls)).with_native_commands();
            builder.connect().await.unwrap()
        }
    }

    mod conformance {
        lock_testkit::conformance!(super::On<super::Cluster>);
    }

    #[tokio::test]
    async fn a_missing_permission_is_named_at_the_first_use() {
        if !Program::Valkey.is_here() {
            return;
        }
        let rights = LEAST_RIGHTS_OF_A_CLUSTER_WITHOUT_SCRIPTS;
        let nodes = &CLUSTERS.shared().nodes;
        let urls = || nodes.iter().map(|node| node.url_for("locks", "pw"));
        for (missing, others) in each_missing(rights) {
            for node in nodes {
                node.add_user("locks", "pw", &others);
            }
            let builder = patient(RedisBackend::cluster(urls())).with_native_commands();
            is_missed_at_the_first_use(missing, rights, builder.connect()).await;
            assert!(!exists(CLUSTERS.shared().server_of("lock:k"), "lock:k"));
        }
        for node in nodes {
            let asks = format!("{RIGHTS_TO_ASK} +client|setinfo");
            node.add_user("locks", "pw", &format!("{rights} {asks}"));
            node.cli(&["ACL", "LOG", "RESET"]);
        }
        let backend = patient(RedisBackend::cluster(urls())).with_native_commands();
        let (backend, mine) = (backend.connect().await.unwrap(), owner());
        let lock = LockKey::with_prefix("lock:", "k").unwrap();
        let wakeups = backend.wakeups().unwrap();
        let mut wakeup = wakeups.subscribe(&lock, None).await.unwrap();
        taken(&backend, &lock, &mine).await;
        assert_eq!(
            backend.release(&lock, &mine).await.unwrap(),
            Ownership::Held
        );
        soon("a wake-up", wakeup.notified()).await;
        for node in nodes {
            assert_eq!(all_refusals(node), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn locks_are_renewed_and_released_while_their_slot_moves() {
        if !Program::Valkey.is_here() {
            return;
        }
        let options = RedisOptions::new().with_program(Program::Valkey);
        let cluster = RedisCluster::with(&options, 3, 0);
        let builder = patient(RedisBackend::cluster(cluster.urls())).with_native_commands();
        let backend = builder.connect().await.unwrap();
        let keys: Vec<_> = (0..20).map(|n| key(&format!("{{m}}:{n}"))).collect();
        let (mine, theirs) = (owner(), owner());
        for key in &keys {
            taken(&backend, key, &mine).await;
        }
        let slot = cluster.slot_of("{m}");
        let to = (cluster.master_of(slot) + 1) % 3;
        let renewals: Vec<_> = keys
            .iter()
            .map(|key| RenewRequest::new(key, &mine, TTL, Renew::AtLeast))
            .collect();
        let all_held = async || {
            for (key, answer) in keys.iter().zip(backend.renew(&renewals).await) {
                assert_eq!(answer.unwrap(), Ownership::Held, "{key}");
            }
            for key in &keys {
                busy(attempt(&backend, key, &theirs).await);
                assert!(backend.inspect(key).await.unwrap().is_some());
            }
        };
        cluster.begin_move(slot, to);
        all_held().await;
        while cluster.move_keys(slot, to, 7) > 0 {
            all_held().await;
        }
        all_held().await;
        // What is said of a release is what became of it.
        for key in &keys[..10] {
            assert_eq!(backend.release(key, &mine).await.unwrap(), Ownership::Held);
            let left = entries(&cluster.nodes[to]);
            assert!(!left.iter().any(|left| left == key.as_str()), "{left:?}");
            let again = backend.release(key, &mine).await;
            assert_eq!(again.unwrap(), Ownership::Absent, "{key}");
        }
        taken(&backend, &keys[0], &theirs).await;
        let others = backend.release(&keys[0], &mine).await;
        assert_eq!(others.unwrap(), Ownership::Taken);
        cluster.end_move(slot, to);
        for key in &keys[10..] {
            assert_eq!(backend.release(key, &mine).await.unwrap(), Ownership::Held);
        }
    }

    /// Who has the slot yet, and the subscriptions, is not who has the key already.
    #[tokio::test]
    async fn waiters_are_woken_behind_a_release_that_is_led_elsewhere() {
        if !Program::Valkey.is_here() {
            return;
        }
        let cluster = start();
        let builder = patient(RedisBackend::cluster(cluster.urls())).with_native_commands();
        let backend = builder.connect().await.unwrap();
        let (key, mine) = (key("k"), owner());
        taken(&backend, &key, &mine).await;
        let wakeups = backend.wakeups().unwrap();
        let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
        let slot = cluster.slot_of("k");
        let to = (cluster.master_of(slot) + 1) % 3;
        cluster.begin_move(slot, to);
        assert_eq!(cluster.move_keys(slot, to, 100), 1);
        // Whoever wakes before that is over wakes in vain.
        cluster.nodes[to].cli(&["CLIENT", "PAUSE", "1000", "ALL"]);
        let release = backend.release(&key, &mine);
        let early = tokio::time::timeout(SECOND / 2, wakeup.notified());
        let (released, _) = tokio::join!(release, early);
        assert_eq!(released.unwrap(), Ownership::Held);
        soon("a wake-up behind the release", wakeup.notified()).await;
        cluster.end_move(slot, to);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn guards_are_held_for_as_long_as_their_slot_moves() {
        if !Program::Valkey.is_here() {
            return;
        }
        let options = RedisOptions::new().with_program(Program::Valkey);
        let cluster = RedisCluster::with(&options, 3, 0);
        let builder = patient(RedisBackend::cluster(cluster.urls())).with_native_commands();
        let locks = Locks::new(builder.connect().await.unwrap());
        let mut guards = Vec::new();
        for n in 0..6 {
            let lock = locks.lock(format!("{{m}}:{n}")).with_ttl(5 * SECOND);
            guards.push(lock.acquire().await.unwrap());
        }
        let slot = cluster.slot_of("{m}");
        let to = (cluster.master_of(slot) + 1) % 3;
        cluster.begin_move(slot, to);
        cluster.move_keys(slot, to, 3);
        // Longer than the ttl.
        tokio::time::sleep(7 * SECOND).await;
        let held: Vec<_> = guards.iter().map(|guard| guard.is_held()).collect();
        assert_eq!(held, [true; 6]);
        for guard in guards {
            assert_eq!(guard.release().await.unwrap(), Released::Released);
        }
        for node in &cluster.nodes {
            assert_eq!(entries(node), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn no_script_is_ever_sent() {
    if !Program::Valkey.is_here() {
        return;
    }
    let server = valkey();
    let backend = native(&server.url()).await;
    let locks = Locks::new(backend.clone());
    let guard = locks.lock("k").acquire().await.unwrap();
    assert!(guard.fencing_token().is_none());
    let (other, mine) = (key("other"), owner());
    taken(&backend, &other, &mine).await;
    assert_eq!(
        renew(&backend, &other, &mine, TTL, Renew::AtLeast)
            .await
            .unwrap(),
        Ownership::Held
    );
    assert!(locks.lock("k").try_acquire().await.unwrap_err().is_busy());
    assert!(locks.lock("k").status().await.unwrap().is_some());
    for refused in [guard.extend(SECOND).await, guard.renew_for(SECOND).await] {
        assert!(
            matches!(refused, Err(LockError::Unsupported { .. })),
            "{refused:?}"
        );
    }
    guard.release().await.unwrap();
    // Whether somebody else has it is told, also if nothing else is known of that.
    let guard = locks.lock("k").acquire().await.unwrap();
    let ticket = guard.into_ticket().await.unwrap();
    for (command, why) in [
        (&["SET", "k", "somebody's"][..], LossReason::Taken),
        (&["DEL", "k"], LossReason::Absent),
    ] {
        server.cli(command);
        match locks.resume(&ticket).await {
            Err(LockError::Lost { reason, .. }) => assert_eq!(reason, why),
            other => panic!("{other:?}"),
        }
    }
    let error = backend.force_release(&key("k")).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Unsupported, "{error}");
    let sent: Vec<_> = ["set", "delifeq"]
        .map(|command| calls(&server, command))
        .into();
    assert!(sent.iter().all(|count| *count >= 2), "{sent:?}");
    for command in ["eval", "evalsha", "script|load", "fcall"] {
        assert_eq!(calls(&server, command), 0, "{command}");
    }
}

#[tokio::test]
async fn a_server_without_the_commands_is_told_at_the_first_attempt() {
    let server = RedisServer::start();
    let backend = native(&server.url()).await;
    let error = attempt(&backend, &key("k"), &owner()).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    assert!(
        error.to_string().contains("neither DELIFEQ nor DELEX"),
        "{error}"
    );
    assert_eq!(server.cli(&["DBSIZE"]).integer(), 0);
    let both = RedisBackend::builder(server.url())
        .with_native_commands()
        .with_replicas(1);
    let error = both.connect().await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn a_missing_permission_is_named_at_the_first_use() {
    if !Program::Valkey.is_here() {
        return;
    }
    let server = valkey();
    let lock = LockKey::with_prefix("lock:", "k").unwrap();
    let url = server.url_for("locks", "pw");
    let rights = LEAST_RIGHTS_WITHOUT_SCRIPTS;
    for (missing, others) in each_missing(rights) {
        server.add_user("locks", "pw", &others);
        for url in [url.clone(), format!("{url}?protocol=resp2")] {
            let builder = patient(RedisBackend::builder(url)).with_native_commands();
            is_missed_at_the_first_use(missing, rights, builder.connect()).await;
            assert_eq!(server.cli(&["DBSIZE"]).integer(), 0, "{missing}");
        }
    }
    server.add_user("locks", "pw", &rights.replace(" &lock:*", ""));
    let error = attempt(&native(&url).await, &lock, &owner())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    let channel = "\"lock:{lock:k}:fencelock:wake\"";
    assert!(error.to_string().contains(channel), "{error}");
    let mine = owner();
    taken(&native(&url).await.without_wakeups(), &lock, &mine).await;
    let backend = native(&url).await.without_wakeups();
    assert_eq!(
        backend.release(&lock, &mine).await.unwrap(),
        Ownership::Held
    );

    server.add_user("locks", "pw", &format!("{rights} {RIGHTS_TO_ASK}"));
    server.cli(&["ACL", "LOG", "RESET"]);
    let backend = native(&url).await;
    let wakeups = backend.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&lock, None).await.unwrap();
    taken(&backend, &lock, &mine).await;
    assert_eq!(
        renew(&backend, &lock, &mine, TTL, Renew::AtLeast)
            .await
            .unwrap(),
        Ownership::Held
    );
    assert!(backend.inspect(&lock).await.unwrap().is_some());
    assert_eq!(
        backend.release(&lock, &mine).await.unwrap(),
        Ownership::Held
    );
    soon("a wake-up", wakeup.notified()).await;
    assert_eq!(all_refusals(&server), Vec::<String>::new());
}

/// What takes long to find out keeps nobody waiting, and is told to whoever comes then.
#[tokio::test]
async fn a_missing_permission_is_named_later_where_the_first_use_could_not_wait_for_it() {
    if !Program::Valkey.is_here() {
        return;
    }
    let server = valkey();
    let others = LEAST_RIGHTS_WITHOUT_SCRIPTS.replace(" +subscribe", "");
    server.add_user("locks", "pw", &others);
    let (proxy, gate) = (Proxy::start(server.port()).await, Gate::new());
    let asked = proxy
        .on(Match::command(["SUBSCRIBE"]))
        .action(Action::hold_request(&gate));
    let url = proxy.url().replace("redis://", "redis://locks:pw@");
    let backend = patient(RedisBackend::builder(url))
        .with_response_timeout(20 * SECOND)
        .with_native_commands();
    let backend = backend.connect().await.unwrap();
    for n in 0..20 {
        let lock = LockKey::with_prefix("lock:", n.to_string()).unwrap();
        taken(&backend, &lock, &owner()).await;
    }
    assert_eq!(asked.count(), 1);
    gate.open();
    let lock = LockKey::with_prefix("lock:", "k").unwrap();
    let mut told = None;
    eventually("it is named", async || {
        told = attempt(&backend, &lock, &owner()).await.err();
        told.is_some()
    })
    .await;
    let error = told.unwrap();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    assert!(error.to_string().contains("subscribe"), "{error}");
}

#[tokio::test]
async fn out_of_memory_is_told_as_not_applied_and_releases_go_on() {
    if !Program::Valkey.is_here() {
        return;
    }
    let server = valkey();
    let backend = native(&server.url()).await;
    let (held, mine) = (key("held"), owner());
    taken(&backend, &held, &mine).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for error in [
        attempt(&backend, &key("other"), &owner())
            .await
            .unwrap_err(),
        renew(&backend, &held, &mine, TTL, Renew::AtLeast)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    }
    // A copy of the first attempt still learns that it was granted.
    taken(&backend, &held, &mine).await;
    assert_eq!(
        backend.release(&held, &mine).await.unwrap(),
        Ownership::Held
    );
}

#[tokio::test]
async fn another_kind_of_server_behind_the_address_is_asked_anew() {
    if !Program::Valkey.is_here() {
        return;
    }
    // One backend, whose connections lead to a server with one name of the command, and then to one with the other.
    let server = valkey();
    let (port, other) = (renamed(&server.url()), server.port());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (cut, cuts) = std::sync::mpsc::channel::<()>();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        for to in [port, other] {
            let (client, _) = listener.accept().unwrap();
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server.try_clone().unwrap(), client.try_clone().unwrap()),
            ] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
            let _ = cuts.recv();
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
            let _ = done.send(());
        }
    });
    let backend = native(&url).await.without_wakeups();
    let (lock, mine) = (key("moves"), owner());
    taken(&backend, &lock, &mine).await;
    cut.send(()).unwrap();
    is_done.recv().unwrap();
    eventually("released over the other", async || {
        matches!(backend.release(&lock, &mine).await, Ok(Ownership::Held))
    })
    .await;
}

/// Takes the lock or panics. (There is no token.)
async fn taken(backend: &RedisBackend, key: &LockKey, owner: &lock_core::Owner) {
    let request = AcquireRequest::new(key, owner, TTL);
    match backend.try_acquire(request).await.unwrap() {
        Attempt::Granted(grant) => assert!(grant.fencing.is_none()),
        Attempt::Busy(busy) => panic!("busy: {}", busy.holder),
    }
}
