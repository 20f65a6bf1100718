//! Fencing tokens grow with every grant of a key. Promise 4 of `try_acquire`; contract G12; SCENARIOS C20.

use std::sync::{Arc, Mutex, PoisonError};

use lock_core::{
    AcquireRequest, Attempt, FencingRange, Grant, LockBackend, LockKey, MAX_TOKENS, Moment, Owner,
    Ownership, Released, Renew,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{
    HOLD, MILLISECOND, eager, evict, hold, is_enough, key, locks, owner, release, renew, take,
    take_and_let_end, unrenewed,
};
use crate::fixture::Fixture;

/// A thousand grants to ten clients, with renewals in between, get blocks that grow and never overlap. (As many as there are in
/// forty seconds, where a store takes its time.)
pub async fn tokens_rise_over_a_thousand_grants<F: Fixture>(fixture: F) {
    // Written while holding, so in the order of the grants.
    let (key, blocks) = (key(&fixture, "k"), Arc::new(Mutex::new(Vec::new())));
    let start = Moment::now();
    let mut tasks = JoinSet::new();
    for task in 0..10_u16 {
        let (client, key, blocks) = (fixture.client().await, key.clone(), Arc::clone(&blocks));
        tasks.spawn(async move {
            let mut grants = 0;
            while grants < 100 && !is_enough(start) {
                let owner = owner();
                let request =
                    AcquireRequest::new(&key, &owner, HOLD).with_tokens(1 + grants % MAX_TOKENS);
                match client
                    .try_acquire(request)
                    .await
                    .expect("an attempt is answered")
                {
                    Attempt::Busy(_) => sleep(MILLISECOND * u32::from(1 + task % 3)).await,
                    Attempt::Granted(grant) => {
                        let block = block(grant);
                        blocks
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(block);
                        if grants % 10 == 0 {
                            renew::<F>(&client, &key, &owner, HOLD, Renew::AtLeast).await;
                        }
                        assert_eq!(release(&client, &key, &owner).await, Ownership::Held);
                        grants += 1;
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    let blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
    let granted = blocks.len();
    assert!(
        granted == 1000 || is_enough(start) && granted > 20,
        "{granted} grants"
    );
    for pair in blocks.windows(2) {
        assert!(
            pair[0].last() < pair[1].first(),
            "{:?} came before {:?}",
            pair[0],
            pair[1]
        );
    }
}

/// A grant has at least one token and no more than were asked for.
pub async fn blocks_have_the_size_asked_for_and_are_given_once<F: Fixture>(fixture: F) {
    let client = fixture.client().await;
    let key = key(&fixture, "k");
    let mut newest = 0;
    for tokens in [1, 2, 5, MAX_TOKENS, 1] {
        let block = take_block(&client, &key, &owner(), tokens).await;
        let (first, last) = (block.first().get(), block.last().get());
        assert!(first > newest, "{block:?} after {newest}");
        assert!(
            last - first < u64::from(tokens),
            "{block:?} for {tokens} tokens"
        );
        newest = last;
    }
}

/// The next token is greater although the entry before ended, also at a client that came since.
pub async fn tokens_rise_across_expiry<F: Fixture>(fixture: F) {
    let (client, key) = (fixture.client().await, key(&fixture, "k"));
    let mut newest = take_block(&client, &key, &owner(), 3).await.last();
    for _ in 0..2 {
        let next = block(take_and_let_end(&fixture, &client, &key, &owner()).await);
        assert!(next.first() > newest, "{next:?} after {newest}");
        newest = next.last();
    }
    let next = take_block(&fixture.client().await, &key, &owner(), 1).await;
    assert!(next.first() > newest, "{next:?} after {newest}");
}

/// The next token is greater although the entry before was deleted.
pub async fn tokens_rise_across_eviction<F: Fixture>(fixture: F) {
    let (client, key) = (fixture.client().await, key(&fixture, "k"));
    let before = block(take::<F>(&client, &key, &owner(), HOLD).await);
    evict(&fixture, &key).await;
    let after = take_block(&client, &key, &owner(), 1).await;
    assert!(after.first() > before.last(), "{after:?} after {before:?}");
}

/// Tokens stay below 2^53, so that every store and every JSON reader carries them.
pub async fn tokens_fit_into_53_bits<F: Fixture>(fixture: F) {
    let client = fixture.client().await;
    let block = take_block(&client, &key(&fixture, "k"), &owner(), MAX_TOKENS).await;
    assert!(
        block.first().get() > 0 && block.last().get() < 1 << 53,
        "{block:?}"
    );
}

fn block(grant: Grant) -> FencingRange {
    grant
        .fencing
        .expect("a store that declares fencing gives tokens")
}

/// Takes `key`, which is free, with a block of tokens, and releases it.
async fn take_block(
    client: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    tokens: u16,
) -> FencingRange {
    let request = AcquireRequest::new(key, owner, HOLD).with_tokens(tokens);
    let answer = client
        .try_acquire(request)
        .await
        .expect("an attempt is answered");
    let Attempt::Granted(grant) = answer else {
        panic!("{key} is free and was refused")
    };
    assert_eq!(release(client, key, owner).await, Ownership::Held);
    block(grant)
}

/// Each guard carries a greater token than the one before, whichever of ten clients has it.
pub async fn each_guard_carries_a_greater_token<F: Fixture>(fixture: F) {
    let grants = if F::PAUSED { 100 } else { 20 };
    // Written while holding, so in the order of the grants.
    let (key, newest) = (key(&fixture, "k"), Arc::new(Mutex::new(None)));
    let (start, mut tasks) = (Moment::now(), JoinSet::new());
    for _ in 0..10 {
        let lock = locks(&fixture).await.lock(key.name()).with_retry(eager());
        let newest = Arc::clone(&newest);
        tasks.spawn(async move {
            for round in (0..grants).take_while(|_| !is_enough(start)) {
                let guard = lock.acquire().await.expect("it is free again and again");
                let token = guard.fencing_token();
                assert!(token.is_some(), "a guard without a token");
                let before = {
                    let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
                    std::mem::replace(&mut *newest, token)
                };
                assert!(before < token, "{before:?}, then {token:?}");
                if round % 2 == 0 {
                    guard.release().await.expect("a release is answered");
                }
            }
        });
    }
    tasks.join_all().await;
}

/// A guard that is extended and prolonged keeps its token, nobody is told of a smaller one meanwhile, and the next one's is
/// greater.
pub async fn a_guard_that_is_extended_keeps_its_token<F: Fixture>(fixture: F) {
    let (locks, key) = (locks(&fixture).await, key(&fixture, "k"));
    let (lock, mut newest) = (unrenewed(&locks, &key), None);
    for _ in 0..3 {
        let guard = hold(&lock).await;
        let token = guard.fencing_token();
        assert!(newest < token, "{newest:?}, then {token:?}");
        guard.extend(HOLD).await.expect("it is held");
        guard.renew_for(3 * HOLD).await.expect("it is held");
        assert_eq!(guard.fencing_token(), token, "extended");
        let holder = lock.status().await.expect("a status is answered");
        let told = holder.expect("it is held").fencing;
        assert!(told.is_none() || told >= token, "{token:?}, told: {told:?}");
        newest = token;
        assert_eq!(guard.release().await.ok(), Some(Released::Released));
    }
}
