//! The promises of [`LockBackend`], each as a case that a backend which breaks it fails. One file a promise.
//!
//! A case works against a real server in real time, on a loaded machine: it never asserts that something
//! happened soon, only that it happened within seconds, and it compares what is left of an entry with time
//! measured from before the request. Run them with [`conformance!`](crate::conformance); call one by hand
//! with [`run_case`](crate::run_case).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, Busy, Grant, LockBackend, LockKey, Moment, Owner, Ownership, Renew,
    RenewRequest,
};
use tokio::time::sleep;

use crate::fixture::Fixture;

pub mod exclusion;
pub mod expiry;
pub mod fencing;
pub mod hand_over;
pub mod lifecycle;
pub mod names;
pub mod ownership;
pub mod renewal;
pub mod waiting;

/// Hands the list of all cases to a macro: `for_each_case!([path::to::callback] arguments)` expands to
/// `path::to::callback! { [arguments] promise { case case .. } promise { .. } .. }`.
///
/// This is the only list of cases.
#[macro_export]
macro_rules! for_each_case {
    ([$($callback:tt)+] $($arguments:tt)*) => {
        $($callback)+! {
            [$($arguments)*]
            exclusion {
                a_held_key_is_busy_for_everybody_else
                a_busy_answer_touches_nothing
                of_many_concurrent_attempts_one_is_granted
                two_holds_never_overlap
            }
            expiry {
                an_entry_ends_by_itself
                an_entry_lasts_at_least_its_ttl
                every_entry_has_an_end
            }
            ownership {
                a_release_frees_the_key
                releasing_twice_is_harmless
                a_stranger_cannot_release
                the_whole_owner_is_compared
                a_late_release_leaves_the_next_holder_alone
            }
            renewal {
                a_renewal_prolongs
                a_stranger_cannot_renew
                renewing_after_the_end_does_not_resurrect
                renewing_after_an_eviction_does_not_resurrect
                renewing_after_a_takeover_leaves_the_new_holder_alone
                at_least_never_shortens
                exactly_shortens
                a_thousand_renewals_are_answered_in_order
                one_key_that_fails_does_not_keep_the_others_from_being_renewed
            }
            fencing {
                tokens_rise_over_a_thousand_grants
                blocks_have_the_size_asked_for_and_are_given_once
                tokens_rise_across_expiry_and_eviction
                tokens_fit_into_53_bits
            }
            waiting {
                a_release_wakes_all_who_subscribe
                a_release_before_the_wait_counts
                an_unfinished_wait_can_be_dropped
                dropping_one_subscription_leaves_the_others
            }
            names {
                odd_names_are_names_like_any_other
                nearly_equal_names_are_different_locks
                prefix_and_name_together_are_the_key
                the_longest_key_works
            }
            hand_over {
                a_hand_over_replaces_the_owner_once
                a_hand_over_from_a_stranger_is_refused
                a_hand_over_of_a_free_key_is_refused
                a_repeated_hand_over_answers_the_same_grant
            }
            lifecycle {
                a_repeated_attempt_answers_the_same_grant_and_touches_nothing
                a_busy_answer_names_the_holder
                an_inspection_tells_and_changes_nothing
                what_is_declared_stays_and_is_there
                no_owner_is_ever_printed
                a_dropped_call_leaves_the_store_usable
                what_is_no_lock_is_a_conflict
            }
        }
    };
}

/// Makes one `#[test]` of every case, in one module a promise, for a [`Fixture`].
///
/// `mod conformance { lock_testkit::conformance!(super::MyFixture); }`, and `cargo test conformance::renewal`
/// runs those of one promise. Once in a module. [`Fixture`] has a whole example.
#[macro_export]
macro_rules! conformance {
    ($fixture:ty) => {
        $crate::for_each_case! { [$crate::__tests] $fixture }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ([$fixture:ty] $($promise:ident { $($case:ident)* })*) => {
        // The fixture's name is resolved here, not in the modules.
        type FixtureUnderTest = $fixture;
        $(
            mod $promise {
                $(
                    #[test]
                    fn $case() {
                        $crate::run_case(
                            concat!(stringify!($promise), "::", stringify!($case)),
                            $crate::cases::$promise::$case::<super::FixtureUnderTest>,
                        );
                    }
                )*
            }
        )*
    };
}

macro_rules! list {
    ([] $($promise:ident { $($case:ident)* })*) => {
        /// All cases: promise and name.
        pub const CASES: &[(&str, &str)] =
            &[$($((stringify!($promise), stringify!($case))),*),*];
    };
}
for_each_case! { [list] }

/// A ttl that does not end during a case.
pub(crate) const HOLD: Duration = Duration::from_secs(30);

/// A ttl that a case can wait for.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// How long to wait for what is certain to come.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// What a store may lose or add by counting in whole milliseconds.
pub(crate) const RESOLUTION: Duration = Duration::from_millis(1);

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

/// A key that no other case uses, ending in `name`.
pub(crate) fn key<F: Fixture>(fixture: &F, name: &str) -> LockKey {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let owner = owner();
    let random = &owner.expose()[..8];
    let name = format!("case-{process}-{random}-{number}:{name}");
    LockKey::with_prefix(fixture.prefix(), name).expect("a valid key")
}

pub(crate) fn owner() -> Owner {
    Owner::fresh(None).expect("the system has randomness")
}

pub(crate) fn labelled(label: &str) -> Owner {
    Owner::fresh(Some(label)).expect("a valid label")
}

pub(crate) async fn attempt(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    ttl: Duration,
) -> Attempt {
    backend
        .try_acquire(AcquireRequest::new(key, owner, ttl))
        .await
        .expect("an attempt is answered")
}

/// An attempt that must be granted.
pub(crate) async fn take(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    ttl: Duration,
) -> Grant {
    match attempt(backend, key, owner, ttl).await {
        Attempt::Granted(grant) => grant,
        Attempt::Busy(busy) => panic!("{key} should be free and is busy: {busy:?}"),
    }
}

/// An attempt that must be refused.
pub(crate) async fn refused(backend: &impl LockBackend, key: &LockKey, owner: &Owner) -> Busy {
    match attempt(backend, key, owner, HOLD).await {
        Attempt::Busy(busy) => busy,
        Attempt::Granted(grant) => panic!("{key} is held and was granted again: {grant:?}"),
    }
}

/// One renewal, in a batch of its own.
pub(crate) async fn renew(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    ttl: Duration,
    how: Renew,
) -> Ownership {
    let mut answers = backend
        .renew(&[RenewRequest::new(key, owner, ttl, how)])
        .await;
    assert_eq!(answers.len(), 1, "one renewal, one answer");
    answers.remove(0).expect("a renewal is answered")
}

pub(crate) async fn release(backend: &impl LockBackend, key: &LockKey, owner: &Owner) -> Ownership {
    backend
        .release(key, owner)
        .await
        .expect("a release is answered")
}

pub(crate) async fn is_free(backend: &impl LockBackend, key: &LockKey) -> bool {
    backend
        .inspect(key)
        .await
        .expect("an inspection is answered")
        .is_none()
}

/// What is left of the entry of `key`, which must be there and have an end.
pub(crate) async fn remaining(backend: &impl LockBackend, key: &LockKey) -> Duration {
    let holder = backend
        .inspect(key)
        .await
        .expect("an inspection is answered");
    let holder = holder.unwrap_or_else(|| panic!("{key} should be held and is free"));
    holder
        .remaining
        .unwrap_or_else(|| panic!("the entry of {key} has no end"))
}

/// The entry of `key` must last at least `ttl` from `asked`, the moment before it was asked for, and no longer than
/// `ttl` from now.
pub(crate) async fn assert_lasts(
    backend: &impl LockBackend,
    key: &LockKey,
    ttl: Duration,
    asked: Moment,
) {
    let left = remaining(backend, key).await;
    let least = ttl.saturating_sub(asked.elapsed() + RESOLUTION);
    assert!(
        left >= least,
        "the entry of {key} lasts {left:?} and should last {least:?}"
    );
    assert!(
        left <= ttl + RESOLUTION,
        "the entry of {key} lasts {left:?}, asked was {ttl:?}"
    );
}

/// Takes `key` for `owner` and lets the ttl end, by the fixture's hook or by waiting.
pub(crate) async fn take_and_let_end<F: Fixture>(
    fixture: &F,
    backend: &F::Backend,
    key: &LockKey,
    owner: &Owner,
) -> Grant {
    let grant = take(backend, key, owner, SHORT).await;
    if !fixture.expire(key).await {
        sleep(SHORT).await;
    }
    eventually("the entry ends", async || is_free(backend, key).await).await;
    grant
}

/// Asks until the answer is yes.
pub(crate) async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let start = Moment::now();
    while !ask().await {
        assert!(start.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        sleep(5 * MILLISECOND).await;
    }
}

#[cfg(test)]
mod tests {
    use super::CASES;

    #[test]
    fn no_case_is_forgotten() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases");
        let mut written = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let promise = path.file_stem().unwrap().to_str().unwrap().to_owned();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let name = line
                    .strip_prefix("pub async fn ")
                    .and_then(|rest| rest.split('<').next());
                written.extend(name.map(|name| (promise.clone(), name.to_owned())));
            }
        }
        let mut listed: Vec<_> = CASES
            .iter()
            .map(|(promise, name)| ((*promise).to_owned(), (*name).to_owned()))
            .collect();
        written.sort();
        listed.sort();
        assert_eq!(listed, written);
    }
}
