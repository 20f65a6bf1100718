//! The names of what stands beside a lock at the server. The lock itself stands at exactly the caller's key.

use lock_core::{BackendError, BackendErrorKind, LockKey};

/// The key that holds the last fencing token given for `key`.
pub(crate) fn fence(key: &LockKey) -> Result<String, BackendError> {
    beside(key, "fence")
}

/// The channel on which a release of `key` is told.
pub(crate) fn wake(key: &LockKey) -> Result<String, BackendError> {
    beside(key, "wake")
}

/// Refuses a key beside which no name lies in the same slot of a cluster. A single server does not mind.
pub(crate) fn shard(key: &LockKey) -> Result<(), BackendError> {
    let full = key.as_str();
    if full.contains('}') && !has_hash_tag(full) {
        return Err(BackendError::new(
            BackendErrorKind::Invalid,
            "a cluster has no place beside a key that has a `}` but no whole hash tag; leave the brace out, or add a tag",
        ));
    }
    Ok(())
}

/// A name that starts with the key's prefix, so that an ACL pattern for the prefix admits it, and lies in the
/// key's cluster slot unless [`shard`] refuses the key.
fn beside(key: &LockKey, what: &str) -> Result<String, BackendError> {
    let (prefix, full) = (key.prefix(), key.as_str());
    if prefix.contains('{') && !has_hash_tag(prefix) {
        return Err(BackendError::new(
            BackendErrorKind::Invalid,
            "the prefix has a `{` but no whole hash tag; close it, or leave the braces to the name",
        ));
    }
    // Not by `format!`, which shows in a profile of the client.
    Ok(if has_hash_tag(full) {
        [full, ":fencelock:tag:", what].concat()
    } else {
        [prefix, "{", full, "}:fencelock:", what].concat()
    })
}

/// Whether a cluster would hash only a part of `key`: what stands between the first `{` and the first `}`
/// behind it, if that is not empty.
fn has_hash_tag(key: &str) -> bool {
    key.split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .is_some_and(|(tag, _)| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use lock_testkit::server::REDIS_KEY_VECTORS;

    use super::*;

    #[test]
    fn names_beside_a_lock_are_those_of_the_vectors() {
        let mut rows = 0;
        for row in REDIS_KEY_VECTORS
            .lines()
            .filter(|row| !row.starts_with('#'))
        {
            let cells: Vec<_> = row.split('\t').collect();
            let key = LockKey::with_prefix(cells[0], cells[1]).unwrap();
            if cells[2] == "error" {
                for refused in [fence(&key), wake(&key)] {
                    assert_eq!(
                        refused.unwrap_err().kind(),
                        BackendErrorKind::Invalid,
                        "{row}"
                    );
                }
            } else {
                assert_eq!(fence(&key).unwrap(), cells[2], "{row}");
                assert_eq!(wake(&key).unwrap(), cells[3], "{row}");
                assert!(
                    cells[2].starts_with(cells[0]) && cells[3].starts_with(cells[0]),
                    "{row}"
                );
                assert_eq!(
                    shard(&key).is_err(),
                    cells.get(4) == Some(&"one server"),
                    "{row}"
                );
                #[cfg(feature = "cluster")]
                for beside in [cells[2], cells[3]] {
                    let together =
                        crate::client::slot_of(beside) == crate::client::slot_of(key.as_str());
                    assert_eq!(together, cells.len() == 4, "{row}");
                }
            }
            rows += 1;
        }
        assert!(rows > 10);
    }
}
