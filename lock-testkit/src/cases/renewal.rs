//! Prolonging what is held, and nothing else. The promises of `renew`.

use lock_core::{LockBackend, LockKey, Moment, Owner, Ownership, Renew, RenewRequest};
use tokio::time::sleep;

use super::{
    HOLD, MILLISECOND, assert_lasts, evict, is_free, key, obstruct, owner, refused, release, renew,
    take, take_and_let_end,
};
use crate::fixture::Fixture;

const BOTH: [Renew; 2] = [Renew::AtLeast, Renew::Exactly];

/// After a renewal the entry lasts the ttl from the renewal on.
pub async fn a_renewal_prolongs<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take(&client, &key, &owner, HOLD).await;
    for how in BOTH {
        sleep(50 * MILLISECOND).await;
        let asked = Moment::now();
        assert_eq!(
            renew(&client, &key, &owner, HOLD, how).await,
            Ownership::Held
        );
        assert_lasts(&client, &key, HOLD, asked).await;
    }
}

/// A renewal is for as long as it says, also where that is longer than the grant.
pub async fn a_renewal_may_be_for_longer_than_the_grant<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take(&client, &key, &owner, HOLD).await;
    for (how, ttl) in [(Renew::AtLeast, 2 * HOLD), (Renew::Exactly, 3 * HOLD)] {
        let asked = Moment::now();
        assert_eq!(
            renew(&client, &key, &owner, ttl, how).await,
            Ownership::Held
        );
        assert_lasts(&client, &key, ttl, asked).await;
    }
}

/// A renewal by somebody else changes nothing.
pub async fn a_stranger_cannot_renew<F: Fixture>(fixture: F) {
    let (client, key, holder) = (fixture.client().await, key(&fixture, "k"), owner());
    take(&client, &key, &holder, HOLD).await;
    sleep(50 * MILLISECOND).await;
    let before = super::remaining(&client, &key).await;
    for how in BOTH {
        assert_eq!(
            renew(&client, &key, &owner(), 2 * HOLD, how).await,
            Ownership::Taken
        );
    }
    assert!(
        super::remaining(&client, &key).await <= before,
        "a stranger prolonged the entry"
    );
    assert_eq!(release(&client, &key, &holder).await, Ownership::Held);
}

/// An entry whose ttl is over stays away.
pub async fn renewing_after_the_end_does_not_resurrect<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take_and_let_end(&fixture, &client, &key, &owner).await;
    assert_stays_away(&client, &key, &owner).await;
}

/// An entry that was released stays away: a renewal may overtake the release.
pub async fn renewing_after_a_release_does_not_resurrect<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take(&client, &key, &owner, HOLD).await;
    assert_eq!(release(&client, &key, &owner).await, Ownership::Held);
    assert_stays_away(&client, &key, &owner).await;
}

/// An entry that was deleted stays away.
pub async fn renewing_after_an_eviction_does_not_resurrect<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take(&client, &key, &owner, HOLD).await;
    evict(&fixture, &key).await;
    assert_stays_away(&client, &key, &owner).await;
}

/// An entry that belongs to the next holder keeps its owner and its end.
pub async fn renewing_after_a_takeover_leaves_the_new_holder_alone<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
    );
    let (late, next) = (owner(), owner());
    take_and_let_end(&fixture, &a, &key, &late).await;
    let asked = Moment::now();
    take(&b, &key, &next, HOLD).await;
    for (how, ttl) in [(Renew::AtLeast, 2 * HOLD), (Renew::Exactly, HOLD / 2)] {
        assert_eq!(renew(&a, &key, &late, ttl, how).await, Ownership::Taken);
        assert_lasts(&b, &key, HOLD, asked).await;
    }
    assert_eq!(release(&b, &key, &next).await, Ownership::Held);
}

/// A renewal that arrives late, or asks for less, leaves an entry that lasts longer.
pub async fn at_least_never_shortens<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    let asked = Moment::now();
    take(&client, &key, &owner, HOLD).await;
    for ttl in [HOLD / 2, 10 * MILLISECOND] {
        assert_eq!(
            renew(&client, &key, &owner, ttl, Renew::AtLeast).await,
            Ownership::Held
        );
        assert_lasts(&client, &key, HOLD, asked).await;
    }
}

/// An exact renewal sets the end, earlier or later.
pub async fn exactly_shortens<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    take(&client, &key, &owner, HOLD).await;
    for ttl in [HOLD / 2, 2 * HOLD] {
        let asked = Moment::now();
        assert_eq!(
            renew(&client, &key, &owner, ttl, Renew::Exactly).await,
            Ownership::Held
        );
        assert_lasts(&client, &key, ttl, asked).await;
    }
}

/// A thousand renewals in one call, of keys that are held, free and taken, are answered one by one; none is none.
pub async fn a_thousand_renewals_are_answered_in_order<F: Fixture>(fixture: F) {
    let (client, me, other) = (fixture.client().await, owner(), owner());
    assert!(client.renew(&[]).await.is_empty());
    let mut keys = Vec::new();
    for n in 0..1000_usize {
        let key = key(&fixture, "k");
        // Not a regular pattern: an answer that slips by a few places must differ.
        let expected = match n * n % 7 {
            0 | 1 => Ownership::Held,
            2 => Ownership::Taken,
            _ => Ownership::Absent,
        };
        let holder = match expected {
            Ownership::Held => Some(&me),
            Ownership::Taken => Some(&other),
            Ownership::Absent => None,
        };
        if let Some(holder) = holder {
            take(&client, &key, holder, HOLD).await;
        }
        keys.push((key, expected));
    }
    sleep(50 * MILLISECOND).await;
    let asked = Moment::now();
    let batch: Vec<_> = keys
        .iter()
        .map(|(key, _)| RenewRequest::new(key, &me, HOLD, Renew::AtLeast))
        .collect();
    let answers = client.renew(&batch).await;
    assert_eq!(answers.len(), keys.len(), "an answer is missing");
    for (n, ((key, expected), answer)) in keys.iter().zip(answers).enumerate() {
        assert_eq!(
            answer.expect("a renewal is answered"),
            *expected,
            "renewal {n} of {key}"
        );
        if *expected == Ownership::Held {
            assert_lasts(&client, key, HOLD, asked).await;
        }
    }
}

/// Something that is no lock in the midst of a batch is an error of its own.
pub async fn one_key_that_fails_does_not_keep_the_others_from_being_renewed<F: Fixture>(
    fixture: F,
) {
    let (client, me) = (fixture.client().await, owner());
    let (first, odd, last) = (key(&fixture, "1"), key(&fixture, "2"), key(&fixture, "3"));
    obstruct(&fixture, &odd).await;
    take(&client, &first, &me, HOLD).await;
    take(&client, &last, &me, HOLD).await;
    let renewal = |key| RenewRequest::new(key, &me, HOLD, Renew::AtLeast);
    let answers = client
        .renew(&[renewal(&first), renewal(&odd), renewal(&last)])
        .await;
    assert!(
        matches!(
            answers[..],
            [Ok(Ownership::Held), Err(_), Ok(Ownership::Held)]
        ),
        "{answers:?}"
    );
    refused(&client, &last, &owner()).await;
}

/// No renewal brings back what is gone.
async fn assert_stays_away(client: &impl LockBackend, key: &LockKey, owner: &Owner) {
    for how in BOTH {
        assert_eq!(
            renew(client, key, owner, HOLD, how).await,
            Ownership::Absent
        );
        assert!(is_free(client, key).await, "a renewal brought {key} back");
    }
}
