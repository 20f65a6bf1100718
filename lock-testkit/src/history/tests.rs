//! The checker is tested too: it finds each kind of violation, and nothing else.

use super::*;
use crate::Scripted;
use lock_core::Locks;
use std::io::BufReader;

/// A hold of `key` from `granted` to `until`, with `token`.
fn hold(key: &str, granted: u64, until: u64, token: u64) -> Hold {
    Hold {
        key: key.to_owned(),
        who: format!("w{token}"),
        called: granted - 1,
        granted,
        valid_until: until,
        ended: None,
        end: End::Open,
        token: Some(token),
    }
}

fn check(holds: &[Hold]) -> Vec<Violation> {
    let history = History::new();
    holds.iter().cloned().for_each(|hold| history.add(hold));
    history.check()
}

#[test]
fn two_holds_that_overlap_are_named() {
    let (earlier, later) = (hold("k", 10, 20, 1), hold("k", 19, 30, 2));
    let found = check(&[later.clone(), earlier.clone()]);
    assert_eq!(found, [Violation::Overlap { earlier, later }]);
    let said = found[0].to_string();
    assert!(
        said.contains("w1 held \"k\" with token 1 from 10 to 20 ns"),
        "{said}"
    );
    assert!(said.contains("w2 held"), "{said}");
}

#[test]
fn a_hold_within_another_does_not_hide_the_next() {
    let (long, within, after) = (
        hold("k", 10, 90, 1),
        hold("k", 20, 30, 2),
        hold("k", 40, 50, 3),
    );
    let found = check(&[long.clone(), within.clone(), after.clone()]);
    let overlap = |later: &Hold| Violation::Overlap {
        earlier: long.clone(),
        later: later.clone(),
    };
    assert_eq!(found, [overlap(&within), overlap(&after)]);
}

#[test]
fn tokens_must_rise_in_the_order_of_the_grants() {
    let (earlier, later) = (hold("k", 10, 20, 7), hold("k", 20, 30, 6));
    let last = hold("k", 30, 40, 8);
    let found = check(&[earlier.clone(), later.clone(), last]);
    assert_eq!(found, [Violation::TokenFell { earlier, later }]);
}

#[test]
fn a_token_may_be_given_once_only() {
    let (earlier, later) = (hold("k", 10, 20, 7), hold("k", 20, 30, 7));
    let found = check(&[earlier.clone(), later.clone()]);
    assert_eq!(found, [Violation::DuplicateToken { earlier, later }]);
    // Also to one that came too late to be held.
    assert_eq!(
        check(&[hold("k", 10, 20, 7), hold("k", 30, 30, 7)]).len(),
        1
    );
}

#[test]
fn a_hold_lasts_until_the_first_of_its_ends() {
    let mut early = hold("k", 10, 50, 1);
    (early.ended, early.end) = (Some(20), End::Released);
    assert_eq!(check(&[early.clone(), hold("k", 20, 30, 2)]), []);
    assert_eq!(check(&[early.clone(), hold("k", 19, 30, 2)]).len(), 1);
    // Noticed only after its validity was over.
    (early.ended, early.end) = (Some(70), End::Lost);
    assert_eq!(check(&[early.clone(), hold("k", 50, 60, 2)]), []);
    assert_eq!(check(&[early, hold("k", 49, 60, 2)]).len(), 1);
}

#[test]
fn a_clean_history_is_accepted() {
    let clean: Vec<_> = (0..100)
        .map(|n| hold("k", 10 * n + 5, 10 * n + 15, n))
        .collect();
    assert_eq!(check(&clean), []);
    assert_eq!(check(&[]), []);
    // Other keys are other locks, with other tokens.
    assert_eq!(
        check(&[
            hold("a", 10, 20, 7),
            hold("b", 10, 20, 7),
            hold("c", 15, 25, 1)
        ]),
        []
    );
    // Without tokens there is nothing to compare.
    let bare = |granted| Hold {
        token: None,
        ..hold("k", granted, granted + 10, 1)
    };
    assert_eq!(check(&[bare(10), bare(20)]), []);
    // Granted first, but its answer came too late, after the next.
    assert_eq!(check(&[hold("k", 30, 20, 1), hold("k", 25, 35, 2)]), []);
}

#[test]
fn no_two_stamps_are_equal_and_they_rise() {
    for history in [History::new(), History::in_paused_time()] {
        let stamps: Vec<_> = (0..10_000).map(|_| history.stamp()).collect();
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

#[test]
fn histories_of_several_processes_are_merged_from_their_logs() {
    let folder = std::env::temp_dir().join(format!("history-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let odd = "a\"b\\c\n\u{1}\u{e9}\"who\":\"x\",}";
    let second = Duration::from_secs(1);
    let merged = History::new();
    for process in ["one", "two"] {
        let path = folder.join(process);
        let file = std::fs::File::create(&path).unwrap();
        let history = History::new().with_log(file);
        let token = FencingToken::new(7);
        history
            .attempt(odd, process)
            .granted_for(second, Some(token))
            .released();
        history
            .attempt(odd, process)
            .granted_for(second, None)
            .lost();
        let _killed = history.attempt(odd, process).granted_for(second, None);
        // Torn in the middle of a line.
        let text = std::fs::read_to_string(&path).unwrap() + "{\"key\":\"k";
        let before = merged.holds().len();
        merged.read(BufReader::new(text.as_bytes())).unwrap();
        assert_eq!(merged.holds()[before..], history.holds());
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let found = merged.check();
    assert!(
        found.iter().any(
            |one| matches!(one, Violation::DuplicateToken { earlier, later }
            if earlier.who == "one" && later.who == "two")
        ),
        "{found:?}"
    );
    assert!(merged.read(&b"no hold\n"[..]).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_renewed_hold_counts_for_as_long_as_it_was_renewed() {
    let (backend, history) = (Scripted::honest(), History::in_paused_time());
    let guard = Locks::new(backend.clone())
        .lock("k")
        .acquire()
        .await
        .unwrap();
    let hold = history.attempt("k", "me").granted(&guard);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let granted_at_first = history.holds()[0].until();
    hold.renewed(&guard);
    hold.released();
    assert!(history.holds()[0].until() > granted_at_first);
    assert!(history.holds()[0].ended.is_some());
    // Lost, and noted only then: what was known before stays.
    let hold = history.attempt("k", "me").granted(&guard);
    backend.evict("k");
    guard.lost().await;
    let known = history.holds()[1].valid_until;
    hold.renewed(&guard);
    hold.lost();
    assert_eq!(history.holds()[1].valid_until, known);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_shortened_ends_sooner_from_when_that_is_asked_for() {
    let (backend, history) = (Scripted::honest(), History::in_paused_time());
    let guard = Locks::new(backend).lock("k").acquire().await.unwrap();
    let hold = history.attempt("k", "me").granted(&guard);
    let granted_at_first = history.holds()[0].valid_until;
    hold.shortening(Duration::from_secs(5));
    let short = history.holds()[0].clone();
    assert!(short.valid_until < granted_at_first);
    hold.shortening(Duration::from_secs(300));
    assert_eq!(history.holds()[0].valid_until, short.valid_until);
    guard.renew_for(Duration::from_secs(300)).await.unwrap();
    hold.renewed(&guard);
    assert!(history.holds()[0].valid_until > granted_at_first);
}
