//! The backend's promises, seen from the server's side.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::time::Duration;

use common::*;
use lock_core::{
    AcquireRequest, BackendErrorKind, LockBackend, LockKey, Owner, Ownership, Renew, RenewRequest,
};
use lock_testkit::server::{RedisOptions, RedisServer, Reply};

#[tokio::test]
async fn a_lock_is_taken_once_and_given_back() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine, other) = (key("order:7"), owner(), owner());
    assert_eq!(backend.inspect(&key).await.unwrap(), None);

    let tokens = take(&backend, &key, &mine).await;
    assert_eq!(server.cli(&["GET", "order:7"]).text(), mine.expose());
    let left = pttl(&server, "order:7");
    assert!(0 < left && left <= 30_000, "{left}");

    let refusal = busy(attempt(&backend, &key, &other).await);
    assert_eq!(refusal.holder.label.as_deref(), Some("tester"));
    assert_eq!(refusal.holder.fencing, Some(tokens.last()));
    assert!(refusal.holder.remaining.unwrap() <= TTL);
    assert_eq!(
        backend.inspect(&key).await.unwrap().unwrap().label,
        refusal.holder.label
    );
    assert!(
        pttl(&server, "order:7") <= left,
        "a refused attempt prolonged the entry"
    );

    assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    assert_eq!(server.cli(&["EXISTS", "order:7"]).integer(), 0);
    assert_eq!(
        backend.release(&key, &mine).await.unwrap(),
        Ownership::Absent
    );
    take(&backend, &key, &other).await;
}

#[tokio::test]
async fn a_lock_ends_with_its_ttl() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine, other) = (key("k"), owner(), owner());
    let ttl = Duration::from_micros(50_500);
    granted(
        backend
            .try_acquire(AcquireRequest::new(&key, &mine, ttl))
            .await,
    );
    assert!(pttl(&server, "k") <= 51);
    eventually("the entry ends", async || {
        backend.inspect(&key).await.unwrap().is_none()
    })
    .await;
    assert_eq!(
        renew(&backend, &key, &mine, TTL, Renew::AtLeast)
            .await
            .unwrap(),
        Ownership::Absent
    );
    assert_eq!(
        server.cli(&["EXISTS", "k"]).integer(),
        0,
        "a renewal made the entry again"
    );
    take(&backend, &key, &other).await;
    assert_eq!(
        backend.release(&key, &mine).await.unwrap(),
        Ownership::Taken
    );
    assert_eq!(server.cli(&["GET", "k"]).text(), other.expose());
}

#[tokio::test]
async fn nobody_but_the_owner_renews_or_releases() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let key = key("k");
    let mine = owner();
    take(&backend, &key, &mine).await;
    // Almost the owner: shorter, longer, empty, another.
    let text = mine.expose();
    for text in [
        &text[..text.len() - 1],
        &format!("{text}x"),
        "",
        owner().expose(),
    ] {
        let thief = Owner::from_exposed(text);
        for how in [Renew::AtLeast, Renew::Exactly] {
            let answer = renew(&backend, &key, &thief, Duration::from_secs(3600), how).await;
            assert_eq!(answer.unwrap(), Ownership::Taken);
        }
        assert_eq!(
            backend.release(&key, &thief).await.unwrap(),
            Ownership::Taken
        );
    }
    assert_eq!(server.cli(&["GET", "k"]).text(), mine.expose());
    assert!(pttl(&server, "k") <= 30_000);
}

#[tokio::test]
async fn a_renewal_prolongs_and_shortens_only_when_told_to() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    let seconds = Duration::from_secs;
    assert_eq!(
        renew(&backend, &key, &mine, seconds(60), Renew::AtLeast)
            .await
            .unwrap(),
        Ownership::Held
    );
    assert!(pttl(&server, "k") > 50_000);
    assert_eq!(
        renew(&backend, &key, &mine, seconds(5), Renew::AtLeast)
            .await
            .unwrap(),
        Ownership::Held
    );
    assert!(pttl(&server, "k") > 50_000, "at least 5 s became 5 s");
    assert_eq!(
        renew(&backend, &key, &mine, seconds(5), Renew::Exactly)
            .await
            .unwrap(),
        Ownership::Held
    );
    assert!(pttl(&server, "k") <= 5_000);
    // Somebody took the end away: it comes back.
    server.cli(&["PERSIST", "k"]);
    assert_eq!(
        renew(&backend, &key, &mine, seconds(20), Renew::AtLeast)
            .await
            .unwrap(),
        Ownership::Held
    );
    let left = pttl(&server, "k");
    assert!(0 < left && left <= 20_000, "{left}");
}

#[tokio::test]
async fn a_copy_of_an_attempt_gets_the_same_grant_and_touches_nothing() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    for tokens in [1, 7, 64] {
        let request = AcquireRequest::new(&key, &mine, TTL).with_tokens(tokens);
        let first = granted(backend.try_acquire(request).await);
        assert_eq!(
            first.last().get() - first.first().get() + 1,
            u64::from(tokens)
        );
        renew(
            &backend,
            &key,
            &mine,
            Duration::from_secs(600),
            Renew::Exactly,
        )
        .await
        .unwrap();
        let before = server.cli(&["GET", "{k}:fencelock:fence"]);
        assert_eq!(granted(backend.try_acquire(request).await), first);
        assert!(
            pttl(&server, "k") > 500_000,
            "the copy shortened what was prolonged since"
        );
        assert_eq!(server.cli(&["GET", "{k}:fencelock:fence"]), before);
        backend.release(&key, &mine).await.unwrap();
    }
    // Without the counter the same grant cannot be answered, and nothing else would be true.
    take(&backend, &key, &mine).await;
    server.cli(&["DEL", "{k}:fencelock:fence"]);
    assert!(
        attempt(&backend, &key, &mine)
            .await
            .unwrap_err()
            .may_have_been_applied()
    );
}

#[tokio::test]
async fn one_attempt_is_one_command_and_so_is_a_release() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    backend.release(&key, &mine).await.unwrap();
    backend.inspect(&key).await.unwrap();
    assert_eq!(
        (calls(&server, "evalsha"), calls(&server, "eval")),
        (3, 3),
        "cold"
    );
    server.cli(&["CONFIG", "RESETSTAT"]);
    for _ in 0..10 {
        take(&backend, &key, &mine).await;
        busy(attempt(&backend, &key, &owner()).await);
        backend.release(&key, &mine).await.unwrap();
    }
    assert_eq!(
        (calls(&server, "evalsha"), calls(&server, "eval")),
        (30, 0),
        "warm"
    );
    assert_eq!(calls(&server, "script|load"), 0);
}

#[tokio::test]
async fn a_thousand_renewals_are_a_few_commands() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let keys: Vec<LockKey> = (0..1000).map(|n| key(&format!("k{n}"))).collect();
    let owners: Vec<Owner> = keys.iter().map(|_| owner()).collect();
    for (key, owner) in keys.iter().zip(&owners) {
        take(&backend, key, owner).await;
    }
    // Some that fail among them.
    server.cli(&["DEL", "k3"]);
    server.cli(&["SET", "k500", "another"]);
    server.cli(&["DEL", "k999"]);
    server.cli(&["HSET", "k999", "a", "b"]);
    let longer = Duration::from_secs(100);
    let renewals: Vec<_> = keys
        .iter()
        .zip(&owners)
        .map(|(key, owner)| RenewRequest::new(key, owner, longer, Renew::AtLeast))
        .collect();
    backend.renew(&renewals[..1]).await;
    server.cli(&["CONFIG", "RESETSTAT"]);
    let answers = backend.renew(&renewals).await;
    assert_eq!(calls(&server, "evalsha"), 5);
    assert_eq!(answers.len(), 1000);
    for (n, answer) in answers.iter().enumerate() {
        match n {
            3 => assert_eq!(*answer.as_ref().unwrap(), Ownership::Absent),
            500 => assert_eq!(*answer.as_ref().unwrap(), Ownership::Taken),
            999 => assert_eq!(
                answer.as_ref().unwrap_err().kind(),
                BackendErrorKind::Conflict
            ),
            _ => {
                assert_eq!(*answer.as_ref().unwrap(), Ownership::Held, "{n}");
                assert!(pttl(&server, &format!("k{n}")) > 60_000);
            }
        }
    }
    assert!(backend.renew(&[]).await.is_empty());
}

#[tokio::test]
async fn a_lost_script_cache_is_not_noticed() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    let flush = || assert_eq!(server.cli(&["SCRIPT", "FLUSH"]).text(), "OK");
    for _ in 0..3 {
        flush();
        take(&backend, &key, &mine).await;
        flush();
        assert_eq!(
            renew(&backend, &key, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap(),
            Ownership::Held
        );
        flush();
        assert!(backend.inspect(&key).await.unwrap().is_some());
        flush();
        assert_eq!(backend.release(&key, &mine).await.unwrap(), Ownership::Held);
    }
}

#[tokio::test]
async fn a_hand_over_works_once() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, old, new, late) = (key("k"), owner(), owner(), owner());
    let ttl = Duration::from_secs(100);
    let from_old = |to| {
        AcquireRequest::new(&key, to, ttl)
            .with_from(Some(&old))
            .with_tokens(3)
    };

    let nothing = busy(backend.try_acquire(from_old(&new)).await);
    assert_eq!(nothing.holder, lock_core::Holder::new());
    let before = take(&backend, &key, &old).await;
    let after = granted(backend.try_acquire(from_old(&new)).await);
    assert!(after.first() > before.last());
    assert_eq!(server.cli(&["GET", "k"]).text(), new.expose());
    assert!(pttl(&server, "k") > 60_000, "the new ttl");
    assert_eq!(
        granted(backend.try_acquire(from_old(&new)).await),
        after,
        "a copy of the request"
    );
    busy(backend.try_acquire(from_old(&late)).await);
    assert_eq!(backend.release(&key, &old).await.unwrap(), Ownership::Taken);
    assert_eq!(backend.release(&key, &new).await.unwrap(), Ownership::Held);
    busy(backend.try_acquire(from_old(&late)).await);
    assert_eq!(server.cli(&["EXISTS", "k"]).integer(), 0);
}

#[tokio::test]
async fn a_key_of_another_type_is_a_conflict_and_left_alone() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine, other) = (key("k"), owner(), owner());
    for (command, what) in [
        (["HSET", "k", "a", "b"].as_slice(), "a hash"),
        (&["RPUSH", "k", "a"], "a list"),
        (&["SADD", "k", "a"], "a set"),
        (&["XADD", "k", "*", "a", "b"], "a stream"),
    ] {
        server.cli(&["DEL", "k"]);
        server.cli(command);
        let before = server.cli(&["DUMP", "k"]);
        let errors = [
            attempt(&backend, &key, &mine).await.unwrap_err(),
            backend
                .try_acquire(AcquireRequest::new(&key, &mine, TTL).with_from(Some(&other)))
                .await
                .unwrap_err(),
            renew(&backend, &key, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap_err(),
            backend.release(&key, &mine).await.unwrap_err(),
            backend.inspect(&key).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (BackendErrorKind::Conflict, what)
            );
        }
        assert_eq!(server.cli(&["DUMP", "k"]), before);
        assert_eq!(server.cli(&["TTL", "k"]).integer(), -1);
    }
}

#[tokio::test]
async fn a_value_of_others_is_busy_whatever_it_is() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let (key, mine) = (key("k"), owner());
    let huge = vec![b'x'; 10 << 20];
    let long_label = format!("{}:{}", "0".repeat(32), "x".repeat(129));
    for value in [
        b"a token of redis-py".as_slice(),
        b"",
        b"\xff\xfe\0\x80",
        &huge,
        long_label.as_bytes(),
    ] {
        server.cli_bytes(&[b"SET", b"k", value]);
        server.cli(&["CONFIG", "RESETSTAT"]);
        let holder = busy(attempt(&backend, &key, &mine).await).holder;
        assert_eq!((holder.label.as_deref(), holder.remaining), (None, None));
        assert_eq!(backend.inspect(&key).await.unwrap(), Some(holder));
        assert_eq!(
            renew(&backend, &key, &mine, TTL, Renew::AtLeast)
                .await
                .unwrap(),
            Ownership::Taken
        );
        assert_eq!(
            backend.release(&key, &mine).await.unwrap(),
            Ownership::Taken
        );
        let stats = server.cli(&["INFO", "stats"]).text();
        let sent = stats
            .lines()
            .find_map(|row| row.strip_prefix("total_net_output_bytes:"))
            .unwrap();
        assert!(
            sent.parse::<u64>().unwrap() < 20_000,
            "the value was shipped"
        );
        assert_eq!(server.cli(&["GET", "k"]), Reply::Bulk(value.to_vec()));
        assert_eq!(pttl(&server, "k"), -1);
    }
}

#[tokio::test]
async fn odd_keys_are_independent_locks() {
    let server = RedisServer::start();
    let backend = connected(server.url()).await;
    let names = [
        "a",
        "ab",
        "A",
        "a:b",
        "a}b",
        "a{b",
        "a{}b",
        "{a}b",
        "a b\r\n\0",
        "*?[a]",
        "\u{e9}",
        "e\u{301}",
    ];
    let owners: Vec<_> = names.iter().map(|_| owner()).collect();
    for (name, owner) in names.iter().zip(&owners) {
        take(&backend, &key(name), owner).await;
        assert_eq!(server.cli(&["GET", name]).text(), owner.expose());
    }
    for (name, owner) in names.iter().zip(&owners) {
        assert_eq!(
            backend.release(&key(name), owner).await.unwrap(),
            Ownership::Held
        );
    }
    let split = LockKey::with_prefix("p{", "x").unwrap();
    assert_eq!(
        attempt(&backend, &split, &owner())
            .await
            .unwrap_err()
            .kind(),
        BackendErrorKind::Invalid
    );
}

#[tokio::test]
async fn databases_of_one_server_are_independent() {
    let server = RedisServer::start();
    let (key, mine, theirs) = (key("k"), owner(), owner());
    let zero = connected(server.url()).await;
    let three = format!("{}/3", server.url());
    for url in [three.clone(), format!("{three}?protocol=resp2")] {
        let three = connected(url).await;
        take(&zero, &key, &mine).await;
        let wakeups = three.wakeups().unwrap();
        let mut wakeup = wakeups.subscribe(&key, None).await.unwrap();
        take(&three, &key, &theirs).await;
        assert_eq!(three.release(&key, &mine).await.unwrap(), Ownership::Taken);
        assert_eq!(zero.release(&key, &mine).await.unwrap(), Ownership::Held);
        assert_eq!(three.release(&key, &theirs).await.unwrap(), Ownership::Held);
        soon("a wake-up", wakeup.notified()).await;
    }
}

#[tokio::test]
async fn an_older_protocol_and_a_unix_socket_serve_too() {
    let server = RedisOptions::new().with_unix_socket().start();
    let resp2 = format!("{}?protocol=resp2", server.url());
    let unix = format!("redis+unix://{}", server.unix_socket().display());
    for url in [resp2, unix] {
        round_trip(&connected(url).await).await;
    }
}
