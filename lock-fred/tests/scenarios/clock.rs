//! What holders believe, what the server keeps, and what if the server's clock jumps.

use lock_core::{LossReason, Moment, RenewalPolicy};
use tokio::runtime::Handle;

use super::*;

#[tokio::test]
async fn an_entry_lasts_as_long_as_its_holder_believes_and_no_longer_than_its_ttl() {
    let server = RedisServer::start();
    let client = locks(&server).await;
    for ttl in [10_500, 11_000, 20_000, 1_000_900] {
        let ttl = Duration::from_micros(ttl);
        let most = i64::try_from(ttl.as_micros().div_ceil(1000)).unwrap();
        let lock = client.lock("k").with_ttl(ttl);
        let lock = lock.with_renewal(RenewalPolicy::never());
        let (mut granted, start) = (0, Moment::now());
        while granted < 50 && start.elapsed() < 5 * SECOND {
            let guard = match lock.acquire().await {
                Ok(guard) => guard,
                // On a busy machine 10 ms are over soon.
                Err(LockError::Late { .. } | LockError::Unknown { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            granted += 1;
            for step in 0..5 {
                is_honest(&server, &guard);
                let left = pttl(&server, "k");
                assert!(
                    (-2..=most).contains(&left) && left != -1,
                    "PTTL {left} of {most}"
                );
                if step == 2 {
                    // Lost meanwhile, or what would be left is too short: all is well.
                    let _ = guard.renew_for(ttl).await;
                }
            }
            let _ = guard.release().await;
        }
        assert!(granted > 0, "not one of {ttl:?} was granted in time");
    }
}

#[tokio::test]
async fn a_server_whose_clock_jumps_ahead_is_noticed_by_the_next_renewal() {
    let server = RedisServer::start();
    let lock = locks(&server).await.lock("k").with_ttl(6 * SECOND);
    let other = locks(&server).await.lock("k").with_ttl(LASTING);
    for taken in [false, true] {
        let guard = lock.try_acquire().await.unwrap();
        let left = guard.remaining();
        let jump = Moment::now();
        // For the server the entry's time is over.
        assert_eq!(server.cli(&["PEXPIREAT", "k", "1000"]).integer(), 1);
        let next = if taken {
            Some(soon("the other's turn", other.acquire()).await.unwrap())
        } else {
            None
        };
        let reason = soon("the loss", guard.lost()).await;
        let expected = if taken {
            LossReason::Taken
        } else {
            LossReason::Absent
        };
        assert_eq!(reason, expected);
        // The two overlap for a third of the ttl and one op at the most: not until the deadline.
        assert!(jump.elapsed() < left, "{:?} of {left:?}", jump.elapsed());
        drop(guard);
        if let Some(next) = next {
            assert!(next.is_held() && exists(&server, "k"));
            assert_eq!(next.release().await.unwrap(), Released::Released);
        }
        assert!(!exists(&server, "k"));
    }
}

#[tokio::test]
async fn a_server_whose_clock_jumps_back_grants_nothing_and_waiters_keep_to_their_wait() {
    let server = RedisServer::start();
    let ttl = 2 * SECOND;
    let lock = locks(&server).await.lock("k").with_ttl(ttl);
    let other = locks(&server).await.lock("k");
    let times_out = async |wait: Duration| {
        let start = Moment::now();
        let error = other.clone().with_wait(wait).acquire().await.unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
        assert!(start.elapsed() >= wait, "{:?}", start.elapsed());
    };
    let jump = || {
        // For the server the entry lasts an hour longer.
        assert_eq!(server.cli(&["PEXPIRE", "k", "3600000"]).integer(), 1);
    };
    let guard = lock.try_acquire().await.unwrap();
    jump();
    times_out(ttl * 3 / 2).await;
    // It is held as before, nobody believes more than that, and the next one need not wait for the hour.
    assert!(guard.is_held() && guard.remaining() <= ttl);
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    works(&other).await;

    // One whose holder is gone stands until an operator looks.
    let dead = lock.with_renewal(RenewalPolicy::never());
    let dead = dead.try_acquire().await.unwrap();
    jump();
    assert_eq!(soon("the loss", dead.lost()).await, LossReason::Unconfirmed);
    times_out(500 * MS).await;
    assert!(pttl(&server, "k") > 3_000_000);
    let waiting = Handle::current().spawn(async move { other.acquire().await });
    server.cli(&["DEL", "k"]);
    let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
    drop(dead);
    assert_eq!(next.release().await.unwrap(), Released::Released);
}
