//! Names made of parts: no two lists of parts name one lock.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fmt::Display;

use lock_core::{LockError, LockKey, LockName};
use lock_testkit::Scripted;
use proptest::prelude::*;

/// The key of the tuple of these parts; `None` for the only one that is empty.
fn key_of(parts: &[String]) -> Option<LockKey> {
    let key = match parts {
        [a] => LockKey::new((a,)),
        [a, b] => LockKey::new((a, b)),
        [a, b, c] => LockKey::new((a, b, c)),
        [a, b, c, d] => LockKey::new((a, b, c, d)),
        [a, b, c, d, e] => LockKey::new((a, b, c, d, e)),
        [a, b, c, d, e, f] => LockKey::new((a, b, c, d, e, f)),
        other => panic!("no tuple of {}", other.len()),
    };
    match key {
        Ok(key) => Some(key),
        Err(error) => {
            assert!(matches!(error, LockError::Invalid { .. }), "{error:?}");
            assert_eq!(parts, [""]);
            None
        }
    }
}

/// What the name was made of, read back from its bytes.
fn parts_of(key: &LockKey) -> Vec<String> {
    let decode = |part: &str| {
        let part = part.replace("%3A", ":").replace("%7B", "{");
        part.replace("%7D", "}").replace("%25", "%")
    };
    key.as_str().split(':').map(decode).collect()
}

fn parts() -> impl Strategy<Value = Vec<String>> {
    let nasty = "[:%{}3ABD257a]{0,6}";
    let any = prop_oneof![nasty, "\\PC{0,8}", any::<i64>().prop_map(|n| n.to_string())];
    prop::collection::vec(any, 1..=6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_name_of_parts_can_be_read_back(parts in parts()) {
        if let Some(key) = key_of(&parts) {
            prop_assert_eq!(parts_of(&key), parts);
            prop_assert!(!key.as_str().contains(['{', '}']), "a part made a hash tag: {}", key);
        }
    }

    #[test]
    fn different_parts_are_different_names(one in parts(), other in parts(), cut in 0..8_usize) {
        prop_assert_eq!(key_of(&one) == key_of(&other), one == other);
        // The same text, separated elsewhere.
        let text = one.join(":");
        let cut = text.char_indices().nth(cut).map_or(text.len(), |(at, _)| at);
        let (left, right) = text.split_at(cut);
        let again = [left.to_owned(), right.trim_start_matches(':').to_owned()];
        prop_assert_eq!(key_of(&one) == key_of(&again), one == again);
    }

    #[test]
    fn plain_parts_are_joined_as_format_would(a in "[A-Za-z0-9_./ -]{1,9}", b in any::<u64>()) {
        prop_assert_eq!(LockKey::new((&a, b)).unwrap(), LockKey::new(format!("{a}:{b}")).unwrap());
    }
}

/// Whatever names a lock does so everywhere, and its faults are told when the lock is used, with nothing sent.
#[tokio::test(start_paused = true)]
async fn an_invalid_name_is_told_before_anything_is_sent() {
    async fn assert_invalid(name: impl LockName + Copy) {
        let backend = Scripted::honest();
        let locks = lock_core::Locks::new(backend.clone());
        let body = async |_: &lock_core::LockGuard| Ok::<_, LockError>(());
        for error in [
            locks.lock(name).try_acquire().await.unwrap_err(),
            locks.lock(name).acquire().await.unwrap_err(),
            locks.lock(name).status().await.unwrap_err(),
            locks.with(name, body).await.unwrap_err(),
        ] {
            assert!(matches!(error, LockError::Invalid { .. }), "{error:?}");
        }
        assert!(backend.calls().is_empty());
    }
    let long: &dyn Display = &"x".repeat(600);
    assert_invalid("").await;
    assert_invalid(("",)).await;
    assert_invalid(("order", long)).await;
    assert_invalid(("order", "fencelock", "fence")).await;
}
