//! Every key is a lock of its own, byte for byte. SCENARIOS C11, C12, N01 to N05, contract G19.

use lock_core::{LockError, LockKey, MAX_KEY_BYTES, Ownership, Released};
use tokio::time::timeout;

use super::waiting::{patient, subscribe, woken};
use super::{
    BOUND, HOLD, is_free, key, labelled, locks, owner, refused, release, take, unrenewed,
    watched_locks,
};
use crate::fixture::Fixture;

/// Endings that a careless store reads as something else than bytes.
const ODD: [&str; 20] = [
    "\0",
    "a\0b",
    "\r\n",
    "\r\nDEL k\r\n",
    "\n",
    " ",
    " k ",
    "\t",
    "\"",
    "'",
    "\\",
    "*",
    "?",
    "[a-z]",
    "%s%n",
    "../..",
    "🔒",
    "\u{202e}abc",
    "e\u{301}",
    "{tag}:k",
];

/// A lock of any name can be held, refused, looked at, and released.
pub async fn odd_names_are_names_like_any_other<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    for odd in ODD {
        let (key, holder) = (key(&fixture, odd), labelled("me"));
        take::<F>(&a, &key, &holder, HOLD).await;
        let busy = refused(&b, &key, &owner()).await;
        assert_eq!(busy.holder.label.as_deref(), Some("me"), "{key}");
        assert_eq!(release(&a, &key, &holder).await, Ownership::Held, "{key}");
        assert!(is_free(&b, &key).await, "{key}");
    }
}

/// A lock of any name can be waited for.
pub async fn odd_names_can_be_waited_for<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    for odd in ODD {
        let (key, holder) = (key(&fixture, odd), owner());
        take::<F>(&a, &key, &holder, HOLD).await;
        let mut wakeup = subscribe(&b, &key).await;
        assert_eq!(release(&a, &key, &holder).await, Ownership::Held, "{key}");
        woken(&mut wakeup).await;
    }
}

/// Names that look alike, begin alike, or match each other as patterns do not block each other.
pub async fn nearly_equal_names_are_different_locks<F: Fixture>(fixture: F) {
    let client = fixture.client().await;
    let base = key(&fixture, "k");
    let name = base.name();
    let (upper, braced) = (name.to_uppercase(), format!("{{{name}}}"));
    let mut names = vec![name.to_owned(), upper, braced, format!(" {name}")];
    let endings = [
        "k", "\0", " ", ":", "/", "*", "?", "[k]", "\\", "\n", "\r", "\r\n", "\u{e9}", "e\u{301}",
        "\u{200b}", "%00", "\\0", "%", "_",
    ];
    names.extend(endings.iter().map(|ending| format!("{name}{ending}")));
    let locks: Vec<_> = names
        .iter()
        .map(|name| {
            (
                LockKey::with_prefix(fixture.prefix(), name).expect("a valid key"),
                owner(),
            )
        })
        .collect();
    for (key, owner) in &locks {
        take::<F>(&client, key, owner, HOLD).await;
    }
    // Whoever mixes two up has now released the wrong one.
    for (key, owner) in &locks {
        assert_eq!(release(&client, key, owner).await, Ownership::Held, "{key}");
    }
}

/// Where the prefix ends makes no difference to who is excluded.
pub async fn prefix_and_name_together_are_the_key<F: Fixture>(fixture: F) {
    let (client, holder) = (fixture.client().await, owner());
    let whole = key(&fixture, "k");
    let (head, tail) = whole.as_str().split_at(whole.as_str().len() - 1);
    let split = LockKey::with_prefix(head, tail).expect("a valid key");
    take::<F>(&client, &whole, &holder, HOLD).await;
    refused(&client, &split, &owner()).await;
    assert_eq!(release(&client, &split, &holder).await, Ownership::Held);
    assert!(is_free(&client, &whole).await);
}

/// One name under two prefixes is two locks.
pub async fn the_same_name_under_two_prefixes_is_two_locks<F: Fixture>(fixture: F) {
    let (locks, base) = (locks(&fixture).await, key(&fixture, "k"));
    let prefixes = ["a:", "b:", "ab:", ""].map(|tail| {
        let prefix = format!("{}{tail}", fixture.prefix());
        unrenewed(&locks.clone().with_prefix(prefix), &base)
    });
    let mut guards = Vec::new();
    for lock in &prefixes {
        let guard = lock.try_acquire().await;
        guards.push(guard.unwrap_or_else(|error| panic!("{}: {error}", lock.key())));
    }
    for guard in guards {
        assert_eq!(guard.release().await.ok(), Some(Released::Released));
    }
}

/// A key of the greatest length is taken and released, and differs from one that differs in the last byte.
pub async fn the_longest_key_works<F: Fixture>(fixture: F) {
    let client = fixture.client().await;
    let start = key(&fixture, "");
    let fill = MAX_KEY_BYTES - start.as_str().len() - 1;
    for last in ["a", "b"] {
        let name = format!("{}{}{last}", start.name(), "x".repeat(fill));
        let key = LockKey::with_prefix(fixture.prefix(), name).expect("a valid key");
        assert_eq!(key.as_str().len(), MAX_KEY_BYTES);
        take::<F>(&client, &key, &owner(), HOLD).await;
        refused(&client, &key, &owner()).await;
    }
}

/// A name that is empty or too long is invalid before the store is asked, and one of the greatest length is taken whole.
pub async fn a_name_is_refused_unasked_or_taken_whole<F: Fixture>(fixture: F) {
    let ((client, locks), start) = (watched_locks(&fixture).await, key(&fixture, ""));
    let most = MAX_KEY_BYTES - fixture.prefix().len();
    let of_length = |bytes: usize, last: &str| {
        let fill = bytes - start.name().len() - last.len();
        format!("{}{}{last}", start.name(), "x".repeat(fill))
    };
    let too_long = [most + 1, 2 * MAX_KEY_BYTES, 64 << 20];
    let too_long = too_long.map(|bytes| of_length(bytes, ""));
    for name in [""].into_iter().chain(too_long.iter().map(String::as_str)) {
        let lock = locks.lock(name);
        let errors = [
            lock.try_acquire().await.err(),
            lock.acquire().await.err(),
            lock.status().await.err(),
            lock.with(async |_| Ok::<_, LockError>(())).await.err(),
        ];
        for error in errors {
            let error = error.expect("such a name is refused");
            assert!(matches!(error, LockError::Invalid { .. }), "{error}");
            assert!(!error.is_retryable());
        }
    }
    assert!(
        client.calls().is_empty(),
        "the store was asked: {:?}",
        client.calls()
    );
    let first = locks.lock(of_length(most, "a")).try_acquire().await;
    let second = locks.lock(of_length(most, "b")).try_acquire().await;
    for guard in [first, second] {
        let released = guard.expect("it is free").release().await;
        released.expect("a release is answered");
    }
}

/// A lock of any name can be taken, waited for and released by guards; no name forges a line in a message.
pub async fn guards_of_odd_names_are_guards_like_any_other<F: Fixture>(fixture: F) {
    let (a, b) = (
        locks(&fixture).await.with_label("me"),
        locks(&fixture).await,
    );
    for odd in ODD {
        let key = key(&fixture, odd);
        let (here, there) = (a.lock(key.name()), b.lock(key.name()));
        let guard = here.acquire().await.expect("it is free");
        let error = there.try_acquire().await.expect_err("it is held");
        let holder = error.holder().and_then(|holder| holder.label.as_deref());
        assert_eq!(holder, Some("me"), "{error}");
        assert!(!error.to_string().contains(['\n', '\r', '\0']), "{error}");
        let found = there.status().await.expect("it is answered");
        assert!(found.is_some(), "{key} is held");
        let waiter = there.with_options(patient());
        let next = async { timeout(BOUND, waiter.acquire()).await };
        let (next, released) = tokio::join!(next, guard.release());
        released.expect("a release is answered");
        let next = next.unwrap_or_else(|_| panic!("nobody woke the waiter for {key}"));
        next.expect("it is free")
            .release()
            .await
            .expect("it is answered");
        let found = b.lock(key.name()).status().await.expect("it is answered");
        assert_eq!(found, None, "{key} is free");
    }
}

/// Guards of names that are nearly equal are held side by side.
pub async fn guards_of_nearly_equal_names_are_held_side_by_side<F: Fixture>(fixture: F) {
    let (all, base) = (locks(&fixture).await, key(&fixture, ""));
    let mut guards = Vec::new();
    let endings = [
        "a", "ab", "a:b", "A", "a ", "a\0", "a\r\n", "*", "\u{e9}", "e\u{301}",
    ];
    for ending in endings {
        let lock = all.lock(format!("{}{ending}", base.name()));
        guards.push(
            lock.try_acquire()
                .await
                .unwrap_or_else(|error| panic!("{error}")),
        );
    }
    for guard in guards {
        let key = guard.key().clone();
        let released = guard.release().await.expect("a release is answered");
        assert_eq!(released, Released::Released, "{key}");
    }
}
