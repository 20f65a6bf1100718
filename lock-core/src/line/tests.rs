//! The map of lines: there is a line while it is needed, and who is not its head any more has no say.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::mock::NoStore;
use crate::store::Store;

const SECOND: Duration = Duration::from_secs(1);

fn store() -> Arc<Store> {
    Store::new(Arc::new(NoStore))
}

fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

fn wants() -> Wants {
    Wants {
        ttl: SECOND,
        label: None,
        passing: PassingOn::never(),
    }
}

fn enter(store: &Arc<Store>, key: &LockKey) -> Entered {
    Head::or_stand(store, key, Moment::now(), SECOND, wants)
}

fn head(store: &Arc<Store>, key: &LockKey) -> Head {
    match enter(store, key) {
        Entered::Head(head) => head,
        Entered::Stands(_) => panic!("there is a head already"),
    }
}

fn standing(store: &Arc<Store>, key: &LockKey) -> Standing {
    match enter(store, key) {
        Entered::Stands(standing) => standing,
        Entered::Head(_) => panic!("nobody is the head"),
    }
}

fn turn(standing: &mut Standing) -> Option<Head> {
    let mut turn = std::pin::pin!(standing.turn());
    match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(head) => head,
        Poll::Pending => None,
    }
}

fn lines(store: &Store) -> usize {
    let shards = store.lines.shards.iter();
    shards.map(|shard| shard.lock().unwrap().lines.len()).sum()
}

#[test]
fn there_is_a_line_while_somebody_is_in_it() {
    let (store, key) = (store(), key("k"));
    // Each order in which a head and two waiters may go.
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut head = Some(head(&store, &key));
        let mut waiters = [Some(standing(&store, &key)), Some(standing(&store, &key))];
        for who in order {
            assert_eq!(lines(&store), 1, "{order:?}");
            match who {
                0 => head = None,
                n => waiters[n - 1] = None,
            }
        }
        assert_eq!(lines(&store), 0, "{order:?}");
        assert!(head.is_none());
    }
}

#[test]
fn the_turn_goes_through_the_line_in_order() {
    let (store, key) = (store(), key("k"));
    let first = head(&store, &key);
    let mut waiters: Vec<_> = (0..5).map(|_| standing(&store, &key)).collect();
    assert!(turn(&mut waiters[0]).is_none());
    drop(first);
    for n in 0..5 {
        for later in &mut waiters[n + 1..] {
            assert!(turn(later).is_none());
        }
        drop(turn(&mut waiters[n]).expect("its turn"));
    }
    assert_eq!(lines(&store), 0);
}

#[tokio::test(start_paused = true)]
async fn a_head_whose_turn_was_taken_has_no_say() {
    let (store, key) = (store(), key("k"));
    let slow = head(&store, &key);
    let mut waiter = standing(&store, &key);
    assert!(waiter.look(None).is_err());
    tokio::time::sleep(SECOND + CLAIM).await;
    let next = waiter.look(None).expect("the head did not look again");
    assert!(!slow.promise(Moment::now(), SECOND, false));
    slow.tell(Told::nothing(Moment::now()));
    // It stands before who comes later.
    let mut last = standing(&store, &key);
    let Entered::Stands(mut slow) = slow.stand_again(SECOND, wants()) else {
        panic!("two heads")
    };
    drop(next);
    assert!(turn(&mut last).is_none());
    drop(turn(&mut slow).expect("its turn"));
    drop(turn(&mut last).expect("its turn"));
    assert_eq!(lines(&store), 0);
}

#[tokio::test(start_paused = true)]
async fn a_head_whose_line_has_gone_makes_a_new_one() {
    let (store, key) = (store(), key("k"));
    let slow = head(&store, &key);
    tokio::time::sleep(SECOND + CLAIM).await;
    let Found::Free(next) = Head::at_once(&store, &key, Moment::now(), SECOND) else {
        panic!("the head did not look again")
    };
    drop(next);
    assert_eq!(lines(&store), 0);
    let again = slow.stand_again(SECOND, wants());
    assert!(matches!(again, Entered::Head(_)));
    drop(again);
    assert_eq!(lines(&store), 0);
}

#[test]
fn a_head_may_give_its_turn_on_and_stand_in_line_again() {
    let (store, key) = (store(), key("k"));
    let first = head(&store, &key);
    let mut second = standing(&store, &key);
    let Entered::Stands(mut first) = first.stand_again(SECOND, wants()) else {
        panic!("two heads")
    };
    assert!(turn(&mut second).is_none(), "it came later");
    drop(turn(&mut first).expect("its turn"));
    drop(turn(&mut second).expect("its turn"));
}

#[test]
fn keys_are_spread_over_the_shards() {
    let store = store();
    let heads: Vec<_> = (0..1000)
        .map(|n| head(&store, &key(&format!("order:{n}"))))
        .collect();
    let most = store
        .lines
        .shards
        .iter()
        .map(|shard| shard.lock().unwrap().lines.len());
    assert!(most.max().unwrap() < 3 * 1000 / SHARDS);
    drop(heads);
    assert_eq!(lines(&store), 0);
}
