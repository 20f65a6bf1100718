//! Whether the answers to calls that overlapped are those of a lock that does one thing at a time. Not about time: the
//! entries of these histories do not end by themselves.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use lock_core::Ownership;

/// The most calls that one history may have.
pub(crate) const MOST_CALLS: usize = 64;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Acquire,
    Renew,
    Release,
    Inspect,
}

/// A holder whom the store did not name: one that asks for it in a second step may find nobody there any more.
pub(crate) const UNNAMED: usize = usize::MAX;

/// What it was answered. Clients are known by their numbers; `Some` other number is somebody whom no client is, but for
/// [`UNNAMED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    Granted,
    Busy(Option<usize>),
    Found(Ownership),
    Held(Option<usize>),
}

impl Answered {
    /// Whether it says nothing else than `truth`, perhaps less.
    fn agrees_with(self, truth: Self) -> bool {
        match (self, truth) {
            (Self::Busy(Some(UNNAMED)), Self::Busy(Some(_)))
            | (Self::Held(Some(UNNAMED)), Self::Held(Some(_))) => true,
            _ => self == truth,
        }
    }
}

/// The lock as it should be: whose it is, one call at a time.
pub(crate) fn answer(owner: &mut Option<usize>, client: usize, asked: Asked) -> Answered {
    let found = match *owner {
        None => Ownership::Absent,
        Some(other) if other != client => Ownership::Taken,
        Some(_) => Ownership::Held,
    };
    match asked {
        Asked::Acquire if found == Ownership::Taken => Answered::Busy(*owner),
        Asked::Acquire => {
            *owner = Some(client);
            Answered::Granted
        }
        Asked::Renew => Answered::Found(found),
        Asked::Release => {
            if found == Ownership::Held {
                *owner = None;
            }
            Answered::Found(found)
        }
        Asked::Inspect => Answered::Held(*owner),
    }
}

/// One call, from when it was made to when it was answered, in steps of one counter.
#[derive(Debug, Clone, Copy)]
struct Call {
    client: usize,
    asked: Asked,
    answered: Answered,
    from: u64,
    to: u64,
}

/// A small history of calls about one key.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    clock: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

impl Calls {
    /// Makes a call and notes what it was answered.
    pub(crate) async fn note(
        &self,
        client: usize,
        asked: Asked,
        call: impl Future<Output = Answered>,
    ) {
        let from = self.tick();
        let answered = call.await;
        let call = Call {
            client,
            asked,
            answered,
            from,
            to: self.tick(),
        };
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call);
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Whether the calls can be put into an order, each at some instant between its beginning and its end, in which the
    /// answers are those of the lock as it should be, free at first.
    ///
    /// The search of Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with Lowe's remembering of where it
    /// has been.
    pub(crate) fn are_linearizable(&self) -> bool {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(calls.len() <= MOST_CALLS, "too many calls for one history");
        let all = calls.len();
        // Which calls were put in order so far, as bits, and whose the lock is then.
        let mut reached = vec![(0_u64, None)];
        let mut seen = HashSet::new();
        while let Some((done, owner)) = reached.pop() {
            if done.count_ones() as usize == all {
                return true;
            }
            let left = || (0..all).filter(|index| done & (1 << index) == 0);
            // Whichever is next was made before any of the others had been answered.
            let first_end = left().map(|index| calls[index].to).min().unwrap_or(0);
            for index in left().filter(|index| calls[*index].from < first_end) {
                let (call, mut owner) = (&calls[index], owner);
                let next = done | (1 << index);
                let truth = answer(&mut owner, call.client, call.asked);
                if call.answered.agrees_with(truth) && seen.insert((next, owner)) {
                    reached.push((next, owner));
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

    use super::*;

    /// The same lock for stateright's tester, for the second opinion.
    #[derive(Debug, Clone, Default)]
    struct Spec(Option<usize>);

    impl SequentialSpec for Spec {
        type Op = (usize, Asked);
        type Ret = Answered;

        fn invoke(&mut self, (client, asked): &(usize, Asked)) -> Answered {
            answer(&mut self.0, *client, *asked)
        }
    }

    fn second_opinion(calls: &[Call]) -> bool {
        let mut tester = LinearizabilityTester::new(Spec::default());
        let mut events: Vec<_> = calls
            .iter()
            .flat_map(|call| [(call.from, call, true), (call.to, call, false)])
            .collect();
        events.sort_by_key(|(at, ..)| *at);
        for (_, call, is_start) in events {
            if is_start {
                let op = (call.client, call.asked);
                tester.on_invoke(call.client, op).unwrap();
            } else {
                tester.on_return(call.client, call.answered).unwrap();
            }
        }
        tester.is_consistent()
    }

    fn history(calls: Vec<Call>) -> Calls {
        Calls {
            clock: AtomicU64::new(0),
            calls: Mutex::new(calls),
        }
    }

    /// One step of a history: a client makes its next call, or the one under way is applied, or answered.
    type Step = (usize, u8, u8);

    /// Plays `steps` with `clients` clients. With `lies`, some answers are wrong.
    fn play(clients: usize, steps: &[Step], lies: bool) -> Vec<Call> {
        enum Under {
            Way,
            Applied(Answered),
        }
        let mut under_way: Vec<Option<(Asked, u64, Under)>> = (0..clients).map(|_| None).collect();
        let (mut owner, mut calls, mut now) = (None, Vec::new(), 0);
        let last = (0..2 * clients).map(|client| (client, 0, 0));
        for (client, asks, lie) in steps.iter().copied().chain(last) {
            let client = client % clients;
            now += 1;
            under_way[client] = match under_way[client].take() {
                None => {
                    let asked = match asks % 4 {
                        0 => Asked::Acquire,
                        1 => Asked::Renew,
                        2 => Asked::Release,
                        _ => Asked::Inspect,
                    };
                    Some((asked, now, Under::Way))
                }
                Some((asked, from, Under::Way)) => {
                    let mut answered = answer(&mut owner, client, asked);
                    if lies && lie == 0 {
                        answered = match answered {
                            Answered::Granted => Answered::Busy(Some((client + 1) % clients)),
                            Answered::Busy(_) => Answered::Granted,
                            Answered::Found(Ownership::Held) => Answered::Found(Ownership::Absent),
                            Answered::Found(_) => Answered::Found(Ownership::Held),
                            Answered::Held(None) => Answered::Held(Some(client)),
                            Answered::Held(_) => Answered::Held(None),
                        };
                    }
                    Some((asked, from, Under::Applied(answered)))
                }
                Some((asked, from, Under::Applied(answered))) => {
                    calls.push(Call {
                        client,
                        asked,
                        answered,
                        from,
                        to: now,
                    });
                    None
                }
            };
        }
        calls
    }

    fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec((0..5_usize, 0..4_u8, 0..8_u8), 0..most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_holder_may_be_left_unnamed_but_not_made_up(clients in 2..4_usize, steps in steps(30)) {
            let mut calls = play(clients, &steps, false);
            for call in &mut calls {
                match &mut call.answered {
                    Answered::Busy(who) => *who = Some(UNNAMED),
                    Answered::Held(Some(who)) => *who = UNNAMED,
                    _ => {}
                }
            }
            prop_assert!(history(calls.clone()).are_linearizable());
            if let Some(call) = calls.iter_mut().find(|call| call.answered == Answered::Held(None)) {
                call.answered = Answered::Held(Some(UNNAMED - 1));
                prop_assert!(!history(calls).are_linearizable());
            }
        }

        #[test]
        fn it_agrees_with_stateright(clients in 1..4_usize, steps in steps(30)) {
            let calls = play(clients, &steps, true);
            let opinion = second_opinion(&calls);
            prop_assert_eq!(history(calls.clone()).are_linearizable(), opinion, "{:?}", calls);
        }

        #[test]
        fn whatever_a_lock_answers_is_accepted(clients in 1..6_usize, steps in steps(150)) {
            let calls = play(clients, &steps, false);
            prop_assert!(calls.len() <= MOST_CALLS);
            prop_assert!(history(calls).are_linearizable());
        }
    }

    #[test]
    fn two_grants_without_a_release_between_them_are_refused() {
        let call = |client, asked, answered, from, to| Call {
            client,
            asked,
            answered,
            from,
            to,
        };
        let first = call(0, Asked::Acquire, Answered::Granted, 0, 1);
        let second = call(1, Asked::Acquire, Answered::Granted, 2, 4);
        assert!(!history(vec![first, second]).are_linearizable());
        // With a release that overlaps the second, it could be.
        let released = Answered::Found(Ownership::Held);
        let release = call(0, Asked::Release, released, 3, 5);
        assert!(history(vec![first, second, release]).are_linearizable());
        // One that was made only after it was answered comes too late.
        let release = call(0, Asked::Release, released, 5, 6);
        assert!(!history(vec![first, second, release]).are_linearizable());
    }
}
