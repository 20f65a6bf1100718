//! What a grant is: whose, for how long, under which number; on which connection; and how it goes to another process.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use lock_core::{LockError, LockGuard, LossReason, Moment, Released, RenewalPolicy, Ticket};
use lock_testkit::server::RedisServer;
use tokio::time::sleep;

#[tokio::test]
async fn who_holds_a_lock_and_for_how_long_is_told() {
    let server = RedisServer::start();
    let lock = locks(&server).await.with_label("web-1 (host: \"é\")");
    let lock = lock.with_prefix("shop:").lock("order:7");
    assert_eq!(lock.status().await.unwrap(), None);
    let guard = lock
        .clone()
        .with_ttl(20 * SECOND)
        .try_acquire()
        .await
        .unwrap();
    let others = locks(&server).await.with_prefix("shop:").lock("order:7");
    let busy = others.try_acquire().await.unwrap_err();
    let timed_out = others.clone().with_wait(50 * MS).acquire().await;
    let timed_out = timed_out.unwrap_err();
    assert!(matches!(busy, LockError::Busy { .. }), "{busy}");
    assert!(
        matches!(timed_out, LockError::TimedOut { .. }),
        "{timed_out}"
    );
    let told = others.status().await.unwrap().unwrap();
    for holder in [busy.holder().unwrap(), timed_out.holder().unwrap(), &told] {
        assert_eq!(holder.label.as_deref(), Some("web-1 (host: \"é\")"));
        let left = holder.remaining.unwrap();
        assert!(10 * SECOND < left && left <= 20 * SECOND, "{left:?}");
        assert!(holder.fencing.unwrap() >= guard.fencing_token().unwrap());
    }
    let text = busy.to_string();
    assert!(
        text.contains("shop:order:7") && text.contains("web-1"),
        "{text}"
    );
    let secret = server.cli(&["GET", "shop:order:7"]).text();
    let printed = format!("{busy:?} {timed_out:?} {told:?} {guard:?} {lock:?} {text}");
    assert!(!printed.contains(&secret[..32]), "{printed}");
    guard.release().await.unwrap();
    assert_eq!(others.status().await.unwrap(), None);
}

#[tokio::test]
async fn fencing_tokens_rise_whatever_ends_a_lock() {
    let mut server = RedisServer::start();
    let clients = [
        locks(&server).await,
        locks(&server).await,
        locks(&server).await,
    ];
    let mut newest = 0;
    for round in 0..30 {
        // Only what is left to expire is to end by itself.
        let ttl = if round % 5 == 1 { 300 * MS } else { TTL };
        let lock = clients[round % 3].lock("k").with_ttl(ttl);
        let guard: LockGuard = lock.acquire().await.unwrap();
        let now = token(&guard);
        assert!(now > newest, "{now} after {newest}, round {round}");
        newest = now;
        match round % 5 {
            0 => assert_eq!(guard.release().await.unwrap(), Released::Released),
            1 => guard.leave_to_expire(),
            2 => assert_eq!(server.cli(&["FLUSHALL"]).text(), "OK"),
            3 => {
                // Extending is no new grant.
                guard.extend(SECOND).await.unwrap();
                assert_eq!(token(&guard), now);
            }
            _ if round == 14 => server.restart_empty(),
            _ => assert_eq!(server.cli(&["DEL", "k"]).integer(), 1),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_handed_over_to_another_process_once() {
    let server = RedisServer::start();
    let ttl = 6 * SECOND;
    let (here, there) = (locks(&server).await, locks(&server).await.with_ttl(ttl));
    let lock = here.with_prefix("p:").lock("k").with_ttl(ttl);
    let guard = lock.with_label("here").acquire().await.unwrap();
    let (before, handle) = (token(&guard), guard.loss());
    sleep(ttl / 2).await;
    let text = guard.into_ticket().await.unwrap().expose();
    assert_eq!(handle.lost().await, LossReason::Released);
    assert!(exists(&server, "p:k"));

    let ticket: Ticket = text.parse().unwrap();
    let resume = there.clone().with_label("there");
    // Two at once: one gets it.
    let (one, other) = tokio::join!(resume.resume(&ticket), there.resume(&ticket));
    let (guard, error) = match (one, other) {
        (Ok(guard), Err(error)) | (Err(error), Ok(guard)) => (guard, error),
        both => panic!("{both:?}"),
    };
    assert_lost(error, LossReason::Taken);
    assert!(token(&guard) > before);
    assert!(guard.remaining() > ttl / 2);
    // It is renewed there, and nothing of here disturbs it.
    sleep(ttl + SECOND).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    let error = there.resume(&ticket).await.unwrap_err();
    assert_lost(error, LossReason::Absent);
    assert!(!exists(&server, "p:k"), "a used ticket made an entry");

    // A ticket that nobody uses ends with the ttl, and a stranger's ticket is none.
    let lock = there.lock("k").with_ttl(SECOND);
    let lost = lock.acquire().await.unwrap().into_ticket().await.unwrap();
    let start = Moment::now();
    let next = there.lock("k").acquire().await.unwrap();
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    let error = there.resume(&lost).await.unwrap_err();
    assert!(matches!(error, LockError::Lost { .. }), "{error}");
    assert_eq!(next.release().await.unwrap(), Released::Released);

    // Somebody has it of whom nothing is known: neither a label nor an end nor a token.
    let lost = there.lock("k").acquire().await.unwrap();
    let lost = lost.into_ticket().await.unwrap();
    server.cli(&["FLUSHALL"]);
    server.cli(&["SET", "k", "somebody's"]);
    let error = there.resume(&lost).await.unwrap_err();
    assert_lost(error, LossReason::Taken);
    server.cli(&["DEL", "k"]);
    let error = there.resume(&lost).await.unwrap_err();
    assert_lost(error, LossReason::Absent);
}

fn assert_lost(error: LockError, why: LossReason) {
    match error {
        LockError::Lost { reason, .. } => assert_eq!(reason, why),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let server = RedisServer::start();
    let client = locks(&server).await;
    server.cli(&["CONFIG", "RESETSTAT"]);
    let hour = 3600 * SECOND;
    let errors = [
        client.lock("").acquire().await.unwrap_err(),
        client
            .lock("x".repeat(513))
            .try_acquire()
            .await
            .unwrap_err(),
        client.lock("k:fencelock:wake").status().await.unwrap_err(),
        client
            .lock("k")
            .with_ttl(9 * MS)
            .acquire()
            .await
            .unwrap_err(),
        client
            .lock("k")
            .with_ttl(25 * hour)
            .acquire()
            .await
            .unwrap_err(),
        client
            .lock("k")
            .with_label("a\nb")
            .acquire()
            .await
            .unwrap_err(),
        client
            .lock("k")
            .with_renewal(RenewalPolicy::per_ttl(1))
            .acquire()
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, LockError::Invalid { .. }), "{error}");
    }
    let scripts = calls(&server, "evalsha") + calls(&server, "eval");
    assert_eq!(scripts, 0);
    assert_eq!(server.cli(&["DBSIZE"]).integer(), 0);
}
