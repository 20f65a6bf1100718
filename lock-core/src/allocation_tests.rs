//! What is allocated on the way from a free lock to a released one: nothing that is not counted here.

use std::sync::Arc;

use allocation_counter::measure;

use crate::locks::Locks;
use crate::mock::NoStore;

/// The key, the lease, what makes each call to the store outlive its caller, and each call's own future.
const A_PAIR: u64 = 1 + 1 + 2 + 2;

/// What `metrics` makes of the labels of a counter or a histogram, whether somebody records them or not.
const A_METRIC: u64 = 1;

/// Acquisitions and waits, how long it was held, and releases.
const METRICS: u64 = 4;

const PAIRS: u64 = 100;

async fn pairs(locks: &Locks) {
    for _ in 0..PAIRS {
        let guard = locks.lock("order:7").acquire().await.unwrap();
        guard.release().await.unwrap();
    }
}

#[test]
fn a_lock_that_nobody_else_wants_costs_six_allocations() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let locks = Locks::from_arc(Arc::new(NoStore));
    // Maps, lists and buffers grow once.
    runtime.block_on(pairs(&locks));
    let counted = measure(|| runtime.block_on(pairs(&locks)));
    let told = if cfg!(feature = "metrics") {
        METRICS * A_METRIC
    } else {
        0
    };
    let most = (A_PAIR + told) * PAIRS;
    // The renewer's task looks at its list now and then.
    assert!(
        counted.count_total <= most + 5,
        "{} for {PAIRS} pairs",
        counted.count_total
    );
    assert_eq!(counted.count_current, 0, "nothing is left");
}
