//! The scripted backend does what the script says, also to callers that go away.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, Busy, Capabilities, Holder, LockBackend, LockKey, Owner,
    Ownership, Renew, RenewRequest,
};
use lock_testkit::{Effect, Op, Scripted};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(30);

fn cut() -> BackendError {
    BackendError::unknown("cut")
}

struct Case {
    backend: Scripted,
    key: LockKey,
    owner: Owner,
}

impl Case {
    fn new(backend: Scripted) -> Self {
        Self {
            backend,
            key: LockKey::new("k").unwrap(),
            owner: Owner::fresh(Some("me")).unwrap(),
        }
    }

    async fn acquire(&self) -> Result<Attempt, BackendError> {
        self.backend
            .try_acquire(AcquireRequest::new(&self.key, &self.owner, TTL))
            .await
    }

    async fn release(&self) -> Result<Ownership, BackendError> {
        self.backend.release(&self.key, &self.owner).await
    }

    fn is_held(&self) -> bool {
        self.backend.entries().contains_key("k")
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_of_a_new_one_waits_for_the_test() {
    let case = Case::new(Scripted::new());
    let (answer, ()) = tokio::join!(case.acquire(), async {
        let call = case.backend.next_call().await;
        assert_eq!(
            (call.op(), call.key(), call.owner()),
            (Op::Acquire, &case.key, &case.owner)
        );
        assert_eq!(call.ttl(), TTL);
        call.reply_granted(5..=7);
    });
    let Ok(Attempt::Granted(grant)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(grant.fencing.unwrap().last().get(), 7);

    let (answer, ()) = tokio::join!(case.acquire(), async {
        let holder = Holder::new().with_label(Some("other".into()));
        case.backend.next_call().await.reply_busy(Busy::new(holder));
    });
    assert!(matches!(answer, Ok(Attempt::Busy(_))));

    let renewal = RenewRequest::new(&case.key, &case.owner, TTL, Renew::AtLeast);
    let batch = [renewal, renewal];
    let (answers, ()) = tokio::join!(case.backend.renew(&batch), async {
        let call = case.backend.next_call().await;
        assert_eq!(call.renewals().len(), 2);
        call.reply_ownership([Ownership::Held, Ownership::Taken]);
    });
    assert!(matches!(
        answers[..],
        [Ok(Ownership::Held), Ok(Ownership::Taken)]
    ));

    let (answer, ()) = tokio::join!(case.release(), async {
        case.backend.next_call().await.fail(cut());
    });
    assert!(answer.unwrap_err().may_have_been_applied());
    assert!(case.backend.try_next_call().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_call_tells_whether_its_caller_has_gone() {
    let case = Case::new(Scripted::new());
    let mut call = {
        let mut future = Box::pin(case.acquire());
        assert!(timeout(SECOND, &mut future).await.is_err());
        let call = case.backend.next_call().await;
        assert!(!call.is_abandoned());
        call
    };
    assert!(call.is_abandoned());
    call.abandoned().await;
    call.apply().await;
    assert!(case.is_held(), "it reached the store all the same");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "cannot be answered")]
async fn an_answer_must_fit_its_call() {
    let case = Case::new(Scripted::new());
    let _ = tokio::join!(case.release(), async {
        case.backend.next_call().await.reply_granted(1..=1);
    });
}

#[tokio::test(start_paused = true)]
async fn an_effect_says_what_was_applied_and_what_was_answered() {
    let table = [
        (Effect::Honest, true, true),
        (Effect::FailBefore(cut()), false, false),
        (Effect::LoseReply(cut()), true, false),
        (Effect::HangBefore, false, false),
        (Effect::HangAfter, true, false),
        (Effect::DelayBefore(SECOND), true, true),
        (Effect::DelayAfter(SECOND), true, true),
        (Effect::DelayBoth(SECOND), true, true),
        (Effect::DelayBeforeDetached(SECOND), true, true),
    ];
    for (effect, is_applied, is_granted) in table {
        let case = Case::new(Scripted::honest());
        case.backend.on(Op::Acquire).next(effect.clone());
        let answer = timeout(10 * SECOND, case.acquire()).await;
        assert_eq!(case.is_held(), is_applied, "{effect:?}");
        assert_eq!(
            matches!(answer, Ok(Ok(Attempt::Granted(_)))),
            is_granted,
            "{effect:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_not_applied_later_unless_it_is_stuck_in_the_network() {
    let table = [
        (Effect::DelayBefore(2 * SECOND), false),
        (Effect::DelayBeforeDetached(2 * SECOND), true),
        (Effect::DelayAfter(2 * SECOND), true),
    ];
    for (effect, is_applied) in table {
        let case = Case::new(Scripted::honest());
        case.backend.on(Op::Acquire).next(effect.clone());
        assert!(timeout(SECOND, case.acquire()).await.is_err());
        sleep(2 * SECOND).await;
        assert_eq!(case.is_held(), is_applied, "{effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn effects_are_queued_then_repeated_then_cleared() {
    let case = Case::new(Scripted::honest());
    let script = case.backend.on(Op::Release);
    script
        .next(Effect::Honest)
        .next(Effect::FailBefore(cut()))
        .always(Effect::HangBefore);
    assert_eq!(case.release().await.unwrap(), Ownership::Absent);
    assert!(case.release().await.is_err());
    for _ in 0..2 {
        assert!(timeout(SECOND, case.release()).await.is_err());
    }
    script.clear();
    assert_eq!(case.release().await.unwrap(), Ownership::Absent);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "scripted panic in Inspect")]
async fn a_call_can_panic() {
    let case = Case::new(Scripted::honest());
    case.backend.on(Op::Inspect).always(Effect::Panic);
    let _ = case.backend.inspect(&case.key).await;
}

#[tokio::test(start_paused = true)]
async fn every_call_is_logged_with_its_time() {
    let case = Case::new(Scripted::honest().with_latency(SECOND));
    case.acquire().await.unwrap();
    let renewal = RenewRequest::new(&case.key, &case.owner, 2 * TTL, Renew::Exactly);
    case.backend.renew(&[renewal, renewal]).await;
    let calls = case.backend.calls();
    assert_eq!(
        calls.iter().map(|record| record.call).collect::<Vec<_>>(),
        [0, 1, 1]
    );
    assert_eq!(calls[1].at - calls[0].at, 2 * SECOND);
    assert_eq!(calls[2].how, Some(Renew::Exactly));
    assert_eq!(
        (calls[2].ttl, calls[2].owner.as_ref()),
        (Some(2 * TTL), Some(&case.owner))
    );
    assert_eq!(case.backend.calls_of(Op::Acquire).len(), 1);
    assert!(
        !format!("{calls:?}").contains(case.owner.expose()),
        "an owner in a log"
    );
}

#[tokio::test(start_paused = true)]
async fn the_oracle_acts_behind_everybodys_back() {
    let case = Case::new(Scripted::honest());
    case.acquire().await.unwrap();
    let thief = case.backend.steal("k", SECOND);
    assert_eq!(case.backend.entries()["k"].owner, thief);
    assert_eq!(case.release().await.unwrap(), Ownership::Taken);
    sleep(SECOND).await;
    assert!(!case.is_held());
    case.acquire().await.unwrap();
    assert!(case.backend.expire("k"));
    assert_eq!(case.release().await.unwrap(), Ownership::Absent);
    case.acquire().await.unwrap();
    assert!(case.backend.evict("k") && !case.backend.evict("k"));
}

#[tokio::test(start_paused = true)]
async fn wakeups_can_be_lost_or_given_for_no_reason_or_missing() {
    let case = Case::new(Scripted::honest());
    let wakeups = case.backend.wakeups().unwrap();
    let mut wakeup = wakeups.subscribe(&case.key, None).await.unwrap();
    assert_eq!(case.backend.subscriptions(), 1);

    case.acquire().await.unwrap();
    case.release().await.unwrap();
    timeout(SECOND, wakeup.notified())
        .await
        .expect("woken by the release");

    case.backend.lose_wakeups(true);
    case.acquire().await.unwrap();
    case.release().await.unwrap();
    assert!(timeout(SECOND, wakeup.notified()).await.is_err());

    case.backend.wake("k");
    timeout(SECOND, wakeup.notified())
        .await
        .expect("woken for no reason");
    drop(wakeup);
    assert_eq!(case.backend.subscriptions(), 0);

    assert!(Scripted::honest().with_wakeups(false).wakeups().is_none());
}

#[tokio::test]
async fn what_is_not_declared_is_not_there() {
    let case = Case::new(Scripted::honest().with_capabilities(Capabilities::new()));
    let Ok(Attempt::Granted(grant)) = case.acquire().await else {
        panic!("not granted")
    };
    assert_eq!(grant.fencing, None);
    let other = Owner::fresh(None).unwrap();
    let request = AcquireRequest::new(&case.key, &other, TTL).with_from(Some(&case.owner));
    assert!(case.backend.try_acquire(request).await.is_err());
}
