//! Credentials, permissions, and what errors and `Debug` must not show.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::error::Error;

use common::*;
use lock_core::{BackendError, BackendErrorKind, LockBackend, LockKey, Ownership, Renew};
use lock_testkit::server::{RedisOptions, RedisServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const SECRET: &str = "very-secret";

/// Everything that an error can print.
fn printed(error: &BackendError) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn wrong_credentials_are_permanent_and_never_printed() {
    let server = RedisOptions::new().with_password(SECRET).start();
    let host = format!("127.0.0.1:{}", server.port());
    for url in [
        format!("redis://:{SECRET}-not@{host}"),
        format!("redis://{SECRET}:{SECRET}@{host}"),
        format!("redis://:{SECRET}-not@{host}?protocol=resp2"),
        format!("redis://{host}"),
    ] {
        let connecting = patient(Backend::builder(&url)).connect();
        let error = connecting.await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
        assert!(error.to_string().contains("credentials"), "{error}");
        assert!(!printed(&error).contains(SECRET), "{error:?}");
    }
    // Without a password RESP2 need not ask for anything before the first call.
    let error = match Backend::connect(format!("redis://{host}?protocol=resp2")).await {
        Ok(backend) => attempt(&backend, &key("k"), &owner()).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");

    let backend = connected(server.url()).await;
    take(&backend, &key("k"), &owner()).await;
    let shown = format!(
        "{backend:?} {:?} {:?}",
        backend.wakeups(),
        Backend::builder(server.url())
    );
    assert!(shown.contains(&host) && !shown.contains(SECRET), "{shown}");
}

#[tokio::test]
async fn names_and_passwords_of_any_characters_let_us_in() {
    let (user, password) = ("us\u{e9}r", "a b\"c'd\\e%f{g}\u{2603}@:/?#\u{b}\t");
    let server = RedisServer::start();
    server.add_user(user, password, "~* &* +@all");
    let encode = |text: &str| {
        text.bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect::<String>()
    };
    let address = format!("127.0.0.1:{}", server.port());
    for protocol in ["", "?protocol=resp2", "?protocol=resp3"] {
        let url = format!(
            "redis://{}:{}@{address}{protocol}",
            encode(user),
            encode(password)
        );
        let backend = connected(url).await;
        round_trip(&backend).await;
        let wakeups = backend.wakeups().unwrap();
        wakeups.subscribe(&key("k"), None).await.unwrap();
        let expected = if protocol.ends_with('2') { 2 } else { 3 };
        let clients = server.cli(&["CLIENT", "LIST"]).text();
        assert!(clients.contains(&format!("resp={expected}")), "{clients}");
    }
}

#[tokio::test]
async fn urls_of_valkey_and_of_sockets_say_the_same_as_others() {
    let server = RedisOptions::new().with_unix_socket().start();
    server.add_user("us!er", "p&w", "~* &* +@all");
    let address = format!("127.0.0.1:{}", server.port());
    let socket = server.unix_socket().display().to_string();
    let urls = ["redis", "valkey"].map(|scheme| format!("{scheme}://us%21er:p%26w@{address}/3"));
    let sockets = ["unix", "redis+unix", "valkey+unix"];
    let sockets = sockets.map(|scheme| format!("{scheme}://{socket}?db=3&user=us%21er&pass=p%26w"));
    for url in urls.iter().chain(&sockets) {
        let backend = connected(url).await;
        let (key, mine) = (key("k"), owner());
        let mut wakeup = backend
            .wakeups()
            .unwrap()
            .subscribe(&key, None)
            .await
            .unwrap();
        take(&backend, &key, &mine).await;
        let clients = server.cli(&["CLIENT", "LIST"]).text();
        let ours: Vec<_> = clients
            .lines()
            .filter(|client| client.contains("cmd=eval"))
            .collect();
        let ours = ours.concat();
        assert!(
            ours.contains("db=3") && ours.contains("user=us!er"),
            "{url}: {ours}"
        );
        assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
        soon("a wake-up", wakeup.notified()).await;
        drop(backend);
        eventually("its connection is closed", async || {
            let clients = server.cli(&["CLIENT", "LIST"]).text();
            !clients.contains("cmd=eval")
        })
        .await;
    }
    for (query, kind) in [
        (
            format!("user=us%21er&pass={SECRET}"),
            BackendErrorKind::Permanent,
        ),
        (format!("db=99&pass={SECRET}"), BackendErrorKind::Permanent),
        (format!("db=x&pass={SECRET}"), BackendErrorKind::Invalid),
    ] {
        let url = format!("unix://{socket}?{query}");
        let connecting = patient(Backend::builder(&url)).connect();
        let error = connecting.await.unwrap_err();
        assert_eq!(error.kind(), kind, "{query}: {error}");
        assert!(!printed(&error).contains(SECRET), "{error:?}");
    }
}

/// Whatever is wrong with the other end.
#[tokio::test]
async fn no_error_and_no_settings_show_a_password() {
    let server = RedisOptions::new().with_password("pw").start();
    let host = format!("127.0.0.1:{}", server.port());
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = silent.local_addr().unwrap();
    let babbler = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let odd = babbler.local_addr().unwrap();
    let mut babbling = JoinSet::new();
    babbling.spawn(async move {
        while let Ok((mut client, _)) = babbler.accept().await {
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let mut builders = Vec::new();
    for address in ["127.0.0.1:1", &host, &mute.to_string(), &odd.to_string()] {
        for url in [
            format!("redis://:{SECRET}@{address}"),
            format!("redis://user:{SECRET}@{address}/9"),
            format!("valkey://user:{SECRET}@{address}?protocol=resp2"),
            #[cfg(feature = "tls")]
            format!("rediss://user:{SECRET}@{address}"),
        ] {
            builders.push(Backend::builder(&url));
            builders.push(Backend::builder(&url).with_native_commands());
            builders.push(Backend::sentinel(
                [&url],
                format!("redis://:{SECRET}@primary"),
            ));
            builders.push(Backend::sentinel(["redis://127.0.0.1:1"], &url));
            #[cfg(feature = "cluster")]
            builders.push(Backend::cluster([&url]));
        }
    }
    for odd in [
        format!("redis://:{SECRET}@h:x"),
        format!("http://:{SECRET}@h"),
        SECRET.to_owned(),
        format!("redis://h?protocol={SECRET}"),
        format!("unix:///nowhere?pass={SECRET}"),
        format!("unix:///nowhere?pass={SECRET}&db={SECRET}"),
    ] {
        builders.push(Backend::builder(&odd));
        builders.push(Backend::sentinel([&odd], "x"));
        #[cfg(feature = "cluster")]
        builders.push(Backend::cluster([&odd]));
    }
    #[cfg(feature = "tls")]
    choose_provider();
    let attempts = builders.into_iter().map(|builder| async move {
        let builder = builder
            .with_connect_timeout(300 * MS)
            .with_response_timeout(300 * MS);
        let shown = format!("{builder:?} {builder:#?}");
        assert!(!shown.contains(SECRET), "{shown}");
        let used = async {
            let backend = builder.connect().await?;
            let shown = format!("{backend:?} {backend:#?} {:?}", backend.wakeups());
            assert!(!shown.contains(SECRET), "{shown}");
            attempt(&backend, &key("k"), &owner()).await
        };
        let error = soon("a refusal", used).await.unwrap_err();
        assert!(!printed(&error).contains(SECRET), "{error:?}");
    });
    futures_util::future::join_all(attempts).await;
}

/// When the server has gone, or has something else than a lock, or lets nobody in any more.
#[tokio::test]
async fn no_error_of_a_call_shows_a_password_or_an_owner() {
    let mut server = RedisOptions::new().with_password(SECRET).start();
    let builder = patient(Backend::builder(server.url()));
    let backend = builder.connect().await.unwrap();
    let (lock, mine) = (key("k"), owner());
    take(&backend, &lock, &mine).await;
    let failing = async |after: &str| {
        let wakeups = backend.wakeups().unwrap();
        let fresh = key(&format!("fresh {after}"));
        let errors = [
            attempt(&backend, &lock, &mine).await.err(),
            renew(&backend, &lock, &mine, TTL, Renew::AtLeast)
                .await
                .err(),
            backend.inspect(&lock).await.err(),
            backend.release(&lock, &mine).await.err(),
            wakeups.subscribe(&fresh, None).await.err(),
        ];
        for error in errors.iter().flatten() {
            let shown = printed(error);
            assert!(!shown.contains(SECRET), "{after}: {shown}");
            assert!(!shown.contains(&mine.expose()[..32]), "{after}: {shown}");
        }
        assert!(errors.iter().flatten().count() > 0, "{after}");
    };
    server.cli(&["DEL", "k"]);
    server.cli(&["HSET", "k", "a", "b"]);
    failing("another type").await;
    server.stop();
    failing("it has gone").await;
}

#[tokio::test]
async fn a_malformed_url_is_invalid_and_never_printed() {
    for url in [
        "",
        "redis",
        "http://user:very-secret@host",
        "redis://:very-secret@host:port",
        "127.0.0.1:6379",
        "redis://:very-secret@host/not-a-number",
        #[cfg(not(feature = "tls"))]
        "rediss://:very-secret@host",
        "redis://h?protocol=very-secret",
    ] {
        let connecting = patient(Backend::builder(url)).connect();
        let error = connecting.await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Invalid, "{url}: {error}");
        assert!(error.to_string().contains("redis://"), "{error}");
        assert!(!printed(&error).contains(SECRET), "{error:?}");
    }
}

/// Whenever the refusal comes: the client must not take it for something else, or lose it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_refused_is_never_subscribed_to_and_the_others_always_are() {
    let server = RedisServer::start();
    server.add_user("locks", "pw", "~* +@all resetchannels &lock:*");
    let url = server.url_for("locks", "pw");
    for url in [url.clone(), format!("{url}?protocol=resp2")] {
        let backend = connected(url).await;
        let wakeups = backend.wakeups().unwrap();
        for n in 0..300 {
            let name = n.to_string();
            let (ours, theirs) = (prefixed(&name), key(&name));
            let (heard, refused) = tokio::join!(
                wakeups.subscribe(&ours, None),
                wakeups.subscribe(&theirs, None)
            );
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
            let mut heard = heard.unwrap();
            if n % 30 == 0 {
                let mine = owner();
                take(&backend, &ours, &mine).await;
                backend.release(&ours, &mine).await.unwrap();
                soon("a wake-up", heard.notified()).await;
            }
        }
    }
}

/// A server with a user `locks` who may do what `rules` say, and that user's URL.
fn restricted(rules: &[&str]) -> (RedisServer, String) {
    let server = RedisServer::start();
    let mut command = vec![
        "ACL",
        "SETUSER",
        "locks",
        "on",
        ">pw",
        "resetkeys",
        "resetchannels",
        "-@all",
    ];
    command.extend(rules);
    assert_eq!(server.cli(&command).text(), "OK");
    let url = format!("redis://locks:pw@127.0.0.1:{}", server.port());
    (server, url)
}

fn prefixed(name: &str) -> LockKey {
    LockKey::with_prefix("lock:", name).unwrap()
}

const COMMANDS: [&str; 10] = [
    "+evalsha",
    "+eval",
    "+set",
    "+get",
    "+getrange",
    "+type",
    "+del",
    "+pexpire",
    "+pttl",
    "+time",
];
const PATTERNS: [&str; 2] = ["~lock:*", "&lock:*"];
const WAKING: [&str; 4] = ["+publish", "+subscribe", "+unsubscribe", "+ping"];

#[tokio::test]
async fn the_documented_permissions_suffice() {
    let server = RedisServer::start();
    // With the rights to ask what the client does without, nothing at all is refused.
    server.add_user("quiet", "pw", &format!("{LEAST_RIGHTS} {RIGHTS_TO_ASK}"));
    let quiet = server.url_for("quiet", "pw");
    use_everything(&[quiet.clone(), format!("{quiet}?protocol=resp2")]).await;
    assert_eq!(all_refusals(&server), Vec::<String>::new());

    server.add_user("locks", "pw", LEAST_RIGHTS);
    let url = server.url_for("locks", "pw");
    use_everything(&[url.clone(), format!("{url}?protocol=resp2")]).await;
    assert_eq!(refusals(&server), Vec::<String>::new());
}

async fn use_everything(urls: &[String]) {
    for url in urls {
        let backend = connected(url).await;
        for name in ["x", "{tag}x", "a}b"] {
            let (key, mine, heir) = (prefixed(name), owner(), owner());
            let mut wakeup = backend
                .wakeups()
                .unwrap()
                .subscribe(&key, None)
                .await
                .unwrap();
            take(&backend, &key, &mine).await;
            busy(attempt(&backend, &key, &heir).await);
            renew(&backend, &key, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap();
            let request = lock_core::AcquireRequest::new(&key, &heir, TTL).with_from(Some(&mine));
            granted(backend.try_acquire(request).await);
            backend.inspect(&key).await.unwrap();
            assert_eq!(backend.release(&key, &heir).await.unwrap(), Ownership::Held);
            soon("a wake-up", wakeup.notified()).await;
        }
    }
}

#[tokio::test]
async fn each_right_that_is_missing_is_named_at_the_first_use() {
    let server = RedisServer::start();
    for (missing, rights) in each_missing(LEAST_RIGHTS) {
        // EVAL is needed where the script is not known.
        server.cli(&["SCRIPT", "FLUSH"]);
        server.add_user("locks", "pw", &rights);
        let url = server.url_for("locks", "pw");
        for url in [url.clone(), format!("{url}?protocol=resp2")] {
            let connecting = patient(Backend::builder(url)).connect();
            is_missed_at_the_first_use(missing, LEAST_RIGHTS, connecting).await;
            assert_eq!(server.cli(&["DBSIZE"]).integer(), 0, "{missing}");
        }
    }
    // The channels.
    let rights = LEAST_RIGHTS.replace(" &lock:*", "");
    server.add_user("locks", "pw", &rights);
    let backend = connected(server.url_for("locks", "pw")).await;
    let error = attempt(&backend, &prefixed("x"), &owner())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    let channel = "\"lock:{lock:x}:fencelock:wake\"";
    assert!(error.to_string().contains(channel), "{error}");
    assert_eq!(server.cli(&["DBSIZE"]).integer(), 0);
}

/// Nor may a ticket be resumed by who cannot release the lock then.
#[tokio::test]
async fn a_missing_right_is_named_also_where_the_first_use_is_busy_or_a_hand_over() {
    let server = RedisServer::start();
    let holder = connected(server.url()).await;
    let (key, mine, heir) = (prefixed("x"), owner(), owner());
    take(&holder, &key, &mine).await;
    for missing in ["del", "pexpire", "publish", "subscribe"] {
        let rights = LEAST_RIGHTS.replace(&format!("+{missing} "), "");
        server.add_user("locks", "pw", &rights);
        for from in [None, Some(&mine)] {
            let builder = patient(Backend::builder(server.url_for("locks", "pw")));
            let backend = builder.connect();
            let request = lock_core::AcquireRequest::new(&key, &heir, TTL).with_from(from);
            let attempt = backend.await.unwrap().try_acquire(request).await;
            let error = attempt.unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
            let named = format!("refused {}:", missing.to_uppercase());
            assert!(error.to_string().contains(&named), "{error}");
        }
    }
    let ownership = holder.release(&key, &mine).await.unwrap();
    assert_eq!(ownership, Ownership::Held);
}

#[tokio::test]
async fn without_wakeups_waiters_poll_and_releases_work_without_the_channel() {
    let (server, url) = restricted(&[&PATTERNS[..1], &COMMANDS].concat());
    let backend = connected(&url).await.without_wakeups();
    assert!(backend.wakeups().is_none() && !backend.capabilities().wakeups);
    let (key, mine) = (prefixed("x"), owner());
    take(&backend, &key, &mine).await;
    busy(attempt(&backend, &key, &owner()).await);
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    assert_eq!(refusals(&server), Vec::<String>::new());
}

#[tokio::test]
async fn a_channel_that_is_refused_to_who_waits_is_named() {
    let (_server, url) = restricted(&[&PATTERNS[..1], &COMMANDS, &WAKING].concat());
    let backend = connected(url).await;
    let key = prefixed("x");
    let error = soon(
        "a refusal",
        backend.wakeups().unwrap().subscribe(&key, None),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    let channel = "\"lock:{lock:x}:fencelock:wake\"";
    assert!(error.to_string().contains(channel), "{error}");
    // The same without the commands.
    let (_server, url) = restricted(&[&PATTERNS[..], &COMMANDS].concat());
    let backend = connected(url).await;
    soon(
        "a refusal",
        backend.wakeups().unwrap().subscribe(&key, None),
    )
    .await
    .unwrap_err();
}

#[tokio::test]
async fn a_key_that_a_user_may_not_use_is_named_at_the_first_use_and_so_is_a_database() {
    // A key outside the pattern, and one whose counter is: both are named.
    for (pattern, key) in [("~lock:*", key("x")), ("~lock:x", prefixed("x"))] {
        let (server, url) = restricted(&[&[pattern], &PATTERNS[1..], &COMMANDS, &WAKING].concat());
        let backend = connected(url).await;
        let mine = owner();
        let error = attempt(&backend, &key, &mine).await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
        assert!(!printed(&error).contains(mine.expose()), "{error:?}");
        let said = error.to_string();
        assert!(said.contains(&format!("\"{}\"", key.as_str())), "{said}");
        assert!(said.contains(":fencelock:fence\""), "{said}");
        assert_eq!(server.cli(&["DBSIZE"]).integer(), 0);
    }
    // Another database than the first.
    let (_server, url) = restricted(&[&PATTERNS[..], &COMMANDS].concat());
    let builder = patient(Backend::builder(format!("{url}/1")));
    let error = builder.connect().await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    assert!(error.to_string().contains("'select'"), "{error}");
}

#[tokio::test]
async fn a_lock_that_cannot_be_taken_back_is_of_unknown_outcome() {
    let (server, url) = restricted(&[&PATTERNS[..], &COMMANDS, &WAKING].concat());
    let backend = connected(url).await;
    take(&backend, &prefixed("a"), &owner()).await;
    server.cli(&["ACL", "SETUSER", "locks", "-del", "-time"]);
    let error = attempt(&backend, &prefixed("b"), &owner())
        .await
        .unwrap_err();
    assert!(error.may_have_been_applied(), "{error}");
    assert_eq!(server.cli(&["EXISTS", "lock:b"]).integer(), 1);
}

#[tokio::test]
async fn a_server_without_scripts_is_named_and_shows_nothing_of_the_request() {
    let server = RedisOptions::new()
        .with_args(["--rename-command", "EVALSHA", ""])
        .start();
    let backend = connected(server.url()).await;
    let mine = owner();
    let error = attempt(&backend, &key("k"), &mine).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
    assert!(error.to_string().contains("EVALSHA"), "{error}");
    assert!(!printed(&error).contains(&mine.expose()[..32]), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_know_hello_is_served_in_resp2() {
    let server = RedisOptions::new()
        .with_args(["--rename-command", "HELLO", ""])
        .start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    let mut wakeup = backend
        .wakeups()
        .unwrap()
        .subscribe(&key, None)
        .await
        .unwrap();
    take(&backend, &key, &mine).await;
    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    soon("a wake-up", wakeup.notified()).await;
}
