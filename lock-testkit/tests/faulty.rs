//! Faults around any backend: here around one that itself takes time, so that calls are under way.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test"
)]

use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, LockBackend, LockKey, Owner, Ownership, Renew,
    RenewRequest,
};
use lock_testkit::{Effect, Faulty, Op, Scripted};
use tokio::runtime::{Builder, Handle};
use tokio::time::{sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(30);

/// A store 5 ms away, and a client of it that may fail.
struct Case {
    store: Scripted,
    client: Faulty<Scripted>,
    key: LockKey,
    owner: Owner,
}

impl Case {
    fn new() -> Self {
        let store = Scripted::honest().with_latency(5 * MS);
        Self {
            client: Faulty::around(store.clone()),
            store,
            key: LockKey::new("k").unwrap(),
            owner: Owner::fresh(Some("me")).unwrap(),
        }
    }

    async fn acquire(&self) -> Result<Attempt, BackendError> {
        self.client
            .try_acquire(AcquireRequest::new(&self.key, &self.owner, TTL))
            .await
    }

    async fn release(&self) -> Result<Ownership, BackendError> {
        self.client.release(&self.key, &self.owner).await
    }

    fn is_held(&self) -> bool {
        self.store.entries().contains_key("k")
    }
}

fn refused() -> BackendError {
    BackendError::transient("refused")
}

#[tokio::test(start_paused = true)]
async fn an_effect_says_what_was_applied_and_what_was_answered() {
    let cut = BackendError::unknown("cut");
    let table = [
        (Effect::Honest, 1, true),
        (Effect::FailBefore(refused()), 0, false),
        (Effect::LoseReply(cut), 1, false),
        (Effect::HangBefore, 0, false),
        (Effect::HangAfter, 1, false),
        (Effect::DelayBefore(SECOND), 1, true),
        (Effect::DelayAfter(SECOND), 1, true),
        (Effect::DelayBoth(SECOND), 1, true),
        (Effect::DelayBeforeDetached(SECOND), 1, true),
        (Effect::Resend, 2, true),
        (Effect::Copy, 1, true),
    ];
    for (effect, applied, is_granted) in table {
        let case = Case::new();
        case.client.on(Op::Acquire).next(effect.clone());
        let answer = timeout(5 * SECOND, case.acquire()).await;
        sleep(5 * SECOND).await;
        let seen = case.store.calls_of(Op::Acquire).len();
        assert_eq!(seen, applied, "{effect:?}");
        assert_eq!(case.is_held(), applied > 0, "{effect:?}");
        let granted = matches!(answer, Ok(Ok(Attempt::Granted(_))));
        assert_eq!(granted, is_granted, "{effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_again_is_answered_like_the_second_time() {
    let case = Case::new();
    case.client.on(Op::Acquire).next(Effect::Resend);
    case.client.on(Op::Release).next(Effect::Resend);
    let granted = case.acquire().await;
    assert!(matches!(granted, Ok(Attempt::Granted(_))));
    assert_eq!(case.release().await.unwrap(), Ownership::Absent);
    assert!(!case.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_copy_arrives_when_the_test_says() {
    let case = Case::new();
    case.client.on(Op::Acquire).next(Effect::Copy);
    let granted = case.acquire().await;
    assert!(matches!(granted, Ok(Attempt::Granted(_))));
    case.release().await.unwrap();
    let copy = case.client.next_call().await;
    assert!(copy.is_abandoned(), "nobody waits for its answer");
    assert!(!case.is_held());
    for _ in 0..2 {
        copy.apply().await;
        assert!(case.is_held(), "the copy came after the release");
        case.release().await.unwrap();
    }
    assert!(case.client.try_next_call().is_none());
}

#[test]
fn a_request_stuck_in_the_network_ends_with_the_runtime_of_its_caller() {
    let case = Case::new();
    let paused = || {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let runtime = paused();
    runtime.block_on(async {
        let stuck = Effect::DelayBeforeDetached(SECOND);
        case.client.on(Op::Acquire).next(stuck);
        assert!(timeout(MS, case.acquire()).await.is_err());
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
    });
    drop(runtime);
    assert!(!case.is_held());
    let granted = paused().block_on(case.acquire());
    assert!(matches!(granted, Ok(Attempt::Granted(_))));
}

#[tokio::test(start_paused = true)]
async fn a_request_can_be_overtaken_by_later_ones() {
    let case = Case::new();
    case.client.on(Op::Acquire).next(Effect::Ask);
    assert!(timeout(SECOND, case.acquire()).await.is_err());
    assert_eq!(case.release().await.unwrap(), Ownership::Absent);
    let zombie = case.client.next_call().await;
    assert!(zombie.is_abandoned());
    zombie.apply().await;
    assert!(case.is_held(), "the call returns when it was applied");

    // The same with a caller that waits.
    case.client.on(Op::Release).next(Effect::Ask);
    let (answer, ()) = tokio::join!(case.release(), async {
        let call = case.client.next_call().await;
        assert!(matches!(case.acquire().await, Ok(Attempt::Granted(_))));
        call.reply_honestly().await;
    });
    assert_eq!(answer.unwrap(), Ownership::Held);
}

#[tokio::test(start_paused = true)]
async fn a_script_of_one_key_goes_before_the_script_of_all() {
    let case = Case::new();
    let inspect = async |name| {
        let key = LockKey::new(name).unwrap();
        let answer = case.client.inspect(&key).await;
        answer.map_or_else(|error| error.to_string(), |_| "answered".to_owned())
    };
    let fails = |text: &str| Effect::FailBefore(BackendError::transient(text));
    case.client.on(Op::Inspect).always(fails("any"));
    let of_k = case.client.on(Op::Inspect).of("k");
    of_k.next(fails("k")).next(Effect::Honest);
    assert_eq!(inspect("other").await, "any");
    assert_eq!(inspect("k").await, "k");
    assert_eq!(inspect("k").await, "answered");
    assert_eq!(inspect("k").await, "any", "nothing is queued for it");
    of_k.always(Effect::Honest);
    case.client.on(Op::Inspect).clear();
    case.client.on(Op::Inspect).next(fails("any"));
    assert_eq!(inspect("k").await, "answered");
    assert_eq!(inspect("other").await, "any");
    assert_eq!(inspect("other").await, "answered");
}

#[tokio::test(start_paused = true)]
async fn a_batch_meets_the_effect_of_its_first_key_that_has_one() {
    let case = Case::new();
    case.acquire().await.unwrap();
    let (a, b) = (LockKey::new("a").unwrap(), LockKey::new("b").unwrap());
    let renewal = |key| RenewRequest::new(key, &case.owner, TTL, Renew::AtLeast);
    let renewals = [renewal(&a), renewal(&case.key), renewal(&b)];
    let fails = |text: &str| Effect::FailBefore(BackendError::transient(text));
    case.client.on(Op::Renew).of("b").next(fails("b"));
    case.client.on(Op::Renew).of("k").next(fails("k"));
    for expected in ["k", "b"] {
        for answer in case.client.renew(&renewals).await {
            assert_eq!(answer.unwrap_err().to_string(), expected);
        }
    }
    let answers = case.client.renew(&renewals).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let absent = Ownership::Absent;
    assert_eq!(answers, [absent, Ownership::Held, absent]);
}

#[tokio::test(start_paused = true)]
async fn wake_ups_of_the_backend_inside_arrive_unless_they_are_lost() {
    let case = Case::new();
    let wakeups = case.client.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&case.key, None).await.unwrap();
    assert_eq!(
        (case.client.subscriptions(), case.store.subscriptions()),
        (1, 1)
    );
    let mut is_woken = async || timeout(SECOND, wakeup.notified()).await.is_ok();
    for lost in [false, true, false] {
        case.client.lose_wakeups(lost);
        case.acquire().await.unwrap();
        case.release().await.unwrap();
        assert_eq!(is_woken().await, !lost);
    }
    case.client.lose_wakeups(true);
    case.client.wake("k");
    assert!(is_woken().await, "woken by the test");
    assert!(!is_woken().await, "once");
    drop(wakeup);
    assert_eq!(
        (case.client.subscriptions(), case.store.subscriptions()),
        (0, 0)
    );
}

#[tokio::test]
async fn it_declares_what_the_backend_inside_does() {
    let store = Scripted::honest();
    let client = Faulty::around(store.clone());
    assert_eq!(client.capabilities(), store.capabilities());
    assert_eq!(client.inner().capabilities(), store.capabilities());
    let client = client.with_resends();
    let capabilities = store.capabilities().with_resends(true);
    assert_eq!(client.capabilities(), capabilities);
    assert!(client.wakeups().is_some());

    let store = Scripted::honest()
        .with_wakeups(false)
        .with_capabilities(store.capabilities().with_resends(true).with_wakeups(false));
    let client = Faulty::around(store);
    assert!(client.capabilities().resends);
    assert!(client.wakeups().is_none());
}

#[tokio::test]
async fn it_prints_no_owner() {
    let case = Case::new();
    case.client.on(Op::Acquire).next(Effect::Ask);
    let (_, ()) = tokio::join!(case.acquire(), async {
        let call = case.client.next_call().await;
        let printed = format!("{call:?} {:?} {:?}", case.client, case.client.wakeups());
        assert!(!printed.contains(case.owner.expose()), "{printed}");
        call.reply_honestly().await;
    });
}
