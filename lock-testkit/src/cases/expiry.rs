//! Every entry ends, and none too early. Promises 2 and 3 of the contract.

use std::time::Duration;

use lock_core::{Attempt, Moment, Ownership, Renew};
use tokio::time::sleep;

use super::{
    HOLD, MILLISECOND, SHORT, assert_lasts, attempt, eventually, is_free, key, owner, release,
    renew, take,
};
use crate::fixture::Fixture;

/// A holder that does nothing more loses the key, and the next one gets it.
pub async fn an_entry_ends_by_itself<F: Fixture>(fixture: F) {
    let (a, b, key, holder) = (
        fixture.client().await,
        fixture.client().await,
        key(&fixture, "k"),
        owner(),
    );
    take(&a, &key, &holder, SHORT).await;
    sleep(SHORT).await;
    eventually("the entry ends", async || is_free(&b, &key).await).await;
    take(&b, &key, &owner(), HOLD).await;
}

/// No entry ends before its ttl, also where that is no whole number of the store's units of time.
pub async fn an_entry_lasts_at_least_its_ttl<F: Fixture>(fixture: F) {
    let (a, b) = (fixture.client().await, fixture.client().await);
    let ttls = [
        (Duration::from_micros(10_500), 8),
        (Duration::from_micros(20_900), 4),
        (SHORT, 1),
    ];
    for (ttl, times) in ttls {
        for _ in 0..times {
            let (key, next) = (key(&fixture, "k"), owner());
            let asked = Moment::now();
            take(&a, &key, &owner(), ttl).await;
            while let Attempt::Busy(_) = attempt(&b, &key, &next, HOLD).await {
                if F::PAUSED {
                    sleep(MILLISECOND).await
                } else {
                    tokio::task::yield_now().await
                }
            }
            let lasted = asked.elapsed();
            assert!(lasted >= ttl, "an entry for {ttl:?} ended after {lasted:?}");
            release(&b, &key, &next).await;
        }
    }
}

/// A grant and each kind of renewal leave an entry that ends, when it was asked to.
pub async fn every_entry_has_an_end<F: Fixture>(fixture: F) {
    let (client, key, owner) = (fixture.client().await, key(&fixture, "k"), owner());
    let asked = Moment::now();
    take(&client, &key, &owner, HOLD).await;
    assert_lasts(&client, &key, HOLD, asked).await;
    for how in [Renew::AtLeast, Renew::Exactly] {
        let asked = Moment::now();
        assert_eq!(
            renew(&client, &key, &owner, HOLD, how).await,
            Ownership::Held
        );
        assert_lasts(&client, &key, HOLD, asked).await;
    }
}
