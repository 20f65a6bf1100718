//! Names of all kinds, and others who lock the same keys.

use lock_core::{LockKey, MAX_KEY_BYTES};
use lock_testkit::server::Reply;

use super::*;

#[tokio::test]
async fn a_name_that_is_empty_or_too_long_is_refused_without_a_request() {
    let server = RedisServer::start();
    let client = locks(&server).await;
    let longest = "x".repeat(MAX_KEY_BYTES);
    works(&client.lock(&longest)).await;
    works(&client.with_prefix("xx").lock(&longest[2..])).await;
    let client = locks(&server).await;
    let before = server.cli(&["INFO", "commandstats"]).text();
    let scripts = |stats: &str| {
        let rows = stats.lines().filter(|row| row.starts_with("cmdstat_eval"));
        rows.map(|row| row.split(',').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for name in [
        String::new(),
        "x".repeat(MAX_KEY_BYTES + 1),
        "x".repeat(64 << 20),
    ] {
        let lock = client.lock(&name);
        let errors = [
            lock.try_acquire().await.map(drop).unwrap_err(),
            lock.acquire().await.map(drop).unwrap_err(),
            lock.status().await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, LockError::Invalid { .. }), "{error}");
            assert!(error.to_string().len() < 300);
        }
    }
    let after = server.cli(&["INFO", "commandstats"]).text();
    assert_eq!(scripts(&after), scripts(&before));
}

#[tokio::test]
async fn odd_names_are_held_side_by_side_byte_for_byte() {
    let server = RedisServer::start();
    let client = locks(&server).await.with_ttl(LASTING);
    let names = [
        "\u{1f512}",
        "\u{e9}",
        "e\u{301}",
        "\u{202e}left",
        "\u{5e2}\u{5d1}\u{5e8}\u{5d9}\u{5ea}",
        "a\0b",
        "a\r\nDEL x\r\n",
        "a\rb",
        "\"quoted\" 'twice'",
        " ",
        "  ",
        "*",
        "?",
        "[a]",
        "a",
        "\\",
        "\\*",
        "%s%n",
        "$(true)",
    ];
    let mut held = Vec::new();
    for name in names {
        let guard = client.lock(name).try_acquire().await.unwrap();
        let printed = format!("{guard:?} {} {:?}", guard.key(), guard.key());
        assert!(!printed.contains(['\r', '\n', '\0']), "{printed:?}");
        held.push(guard);
    }
    let mut keys = entries(&server);
    keys.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(keys, expected);
    for (name, guard) in names.iter().zip(held) {
        let error = client.lock(name).try_acquire().await.unwrap_err();
        assert!(error.is_busy(), "{error}");
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        assert!(!exists(&server, name), "{name:?}");
    }
}

/// Everybody who takes the key by `SET NX PX` and gives it up by compare-and-delete, whatever the client.
#[tokio::test]
async fn who_locks_by_set_nx_excludes_us_and_is_excluded() {
    let server = RedisServer::start();
    let client = locks(&server).await.with_ttl(LASTING).with_label("ours");
    let key = LockKey::with_prefix("shop:", "order:7").unwrap();
    let lock = client.with_prefix("shop:").lock("order:7");
    let set = |value: &str| server.cli(&["SET", key.as_str(), value, "NX", "PX", "60000"]);
    let delete = |value: &str| {
        let script = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
        server
            .cli(&["EVAL", script, "1", key.as_str(), value])
            .integer()
    };
    let guard = lock.try_acquire().await.unwrap();
    assert_eq!(set("theirs"), Reply::Nil);
    assert_eq!(delete("theirs"), 0);
    // What stands there is the owner: 32 hex digits, and the label behind a colon.
    let value = server.cli(&["GET", key.as_str()]).text();
    let (owner, label) = value.split_once(':').unwrap();
    assert_eq!((owner.len(), label), (32, "ours"));
    assert!(
        owner
            .bytes()
            .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
    );
    assert_eq!(guard.release().await.unwrap(), Released::Released);

    assert_eq!(set("theirs").text(), "OK");
    let error = lock.try_acquire().await.unwrap_err();
    let holder = error.holder().unwrap();
    assert_eq!(holder.label, None);
    assert!(!error.to_string().contains("theirs"), "{error}");
    assert!(holder.remaining.unwrap() > 50 * SECOND);
    assert_eq!(delete("theirs"), 1);
    works(&lock).await;
}
