//! Every key is a lock of its own, byte for byte. SCENARIOS N03 to N05, contract G19.

use lock_core::{LockKey, MAX_KEY_BYTES, Ownership, Released};

use super::waiting::{subscribe, woken};
use super::{HOLD, is_free, key, labelled, locks, owner, refused, release, take, unrenewed};
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
        take(&a, &key, &holder, HOLD).await;
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
        take(&a, &key, &holder, HOLD).await;
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
        "\u{200b}", "%00", "\\0",
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
        take(&client, key, owner, HOLD).await;
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
    take(&client, &whole, &holder, HOLD).await;
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
        take(&client, &key, &owner(), HOLD).await;
        refused(&client, &key, &owner()).await;
    }
}
