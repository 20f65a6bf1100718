//! What cannot be in what clients believed and in what they wrote. Not what the store says.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::Write;
use crate::history::{History, Hold, Violation};

/// What an [audit](Audit::of) found.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// What must not be, whatever happened.
    pub breaches: Vec<Breach>,
    /// What is possible because the store's data was lost meanwhile, and for no other reason.
    pub explained: Vec<Breach>,
}

/// Something that cannot be, if locks exclude and fencing tokens rise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breach {
    /// Two entries of the history contradict each other.
    History(Violation),
    /// Who asked only after the other had been granted the key has no greater token.
    TokenOrder {
        /// Who was granted it first.
        earlier: Hold,
        /// Who asked later.
        later: Hold,
    },
    /// The register admitted a write of an older holder after one of a newer.
    StaleWrite {
        /// The newer holder's write.
        newer: Write,
        /// The older holder's write, which came after that.
        older: Write,
    },
    /// The register admitted a lower token after a greater.
    TokenFell {
        /// With the greater token.
        earlier: Write,
        /// With the lower token.
        later: Write,
    },
    /// A write with a token that its writer was never granted.
    NobodysToken(Write),
    /// The register refused a write while its writer held the key.
    HolderRefused {
        /// What was refused.
        write: Write,
        /// Who held the key then.
        hold: Hold,
    },
}

impl Audit {
    /// Looks for what cannot be in `history` and in the `writes` of a register, both of one run, during which the store's
    /// data was lost in each of `losses`: from when to when, in nanoseconds of the same clock.
    ///
    /// Two holds may overlap if a loss explains it: one of them was asked for before the loss and held after its
    /// beginning, and the other was granted after that. A fencing token must be above all that were granted before it
    /// was asked for, and no older holder's write may follow a newer's: no loss of data excuses that.
    #[must_use]
    pub fn of(history: &History, writes: &[Write], losses: &[(u64, u64)]) -> Self {
        let holds = history.holds();
        let mut breaches: Vec<_> = history.check().into_iter().map(Breach::History).collect();
        token_order(&holds, &mut breaches);
        register(&holds, writes, &mut breaches);
        let (explained, breaches) = breaches
            .into_iter()
            .partition(|breach| losses.iter().any(|loss| breach.is_explained_by(*loss)));
        Self {
            breaches,
            explained,
        }
    }

    /// How many of the breaches the register alone shows: writes that it admitted and should have refused, or the reverse.
    #[must_use]
    pub fn at_the_register(&self) -> usize {
        let at_the_register = |breach: &&Breach| {
            matches!(
                breach,
                Breach::StaleWrite { .. }
                    | Breach::TokenFell { .. }
                    | Breach::NobodysToken(_)
                    | Breach::HolderRefused { .. }
            )
        };
        self.breaches.iter().filter(at_the_register).count()
    }

    /// How many of the breaches are holds that overlap.
    #[must_use]
    pub fn overlaps(&self) -> usize {
        let overlap =
            |breach: &&Breach| matches!(breach, Breach::History(Violation::Overlap { .. }));
        self.breaches.iter().filter(overlap).count()
    }
}

impl Breach {
    /// Whether it can come of the store's data being lost between `from` and `to`.
    fn is_explained_by(&self, (from, to): (u64, u64)) -> bool {
        let survived = |hold: &Hold| hold.called <= to && from <= hold.until();
        match self {
            Self::History(
                Violation::Overlap { earlier, later } | Violation::TokenFell { earlier, later },
            ) => {
                (survived(earlier) && from <= later.granted)
                    || (survived(later) && from <= earlier.granted)
            }
            Self::HolderRefused { hold, write } => survived(hold) && from <= write.at,
            _ => false,
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::History(violation) => violation.fmt(f),
            Self::TokenOrder { earlier, later } => {
                write!(f, "a later grant has no greater token: {earlier}; {later}")
            }
            Self::StaleWrite { newer, older } => {
                write!(f, "a stale write was admitted: after {newer}, {older}")
            }
            Self::TokenFell { earlier, later } => {
                write!(
                    f,
                    "the register admitted a lower token: after {earlier}, {later}"
                )
            }
            Self::NobodysToken(write) => write!(f, "nobody was granted this token: {write}"),
            Self::HolderRefused { write, hold } => {
                write!(f, "a holder was refused: {write}, and {hold}")
            }
        }
    }
}

/// Who asks after a grant has the greater token, whatever was lost, and whether or not either was held for any time.
fn token_order(holds: &[Hold], found: &mut Vec<Breach>) {
    let mut keys = BTreeMap::<&str, Vec<&Hold>>::new();
    for hold in holds.iter().filter(|hold| hold.token.is_some()) {
        keys.entry(&hold.key).or_default().push(hold);
    }
    for holds in keys.values_mut() {
        let mut granted = holds.clone();
        granted.sort_by_key(|hold| hold.granted);
        holds.sort_by_key(|hold| hold.called);
        let mut granted = granted.into_iter().peekable();
        let mut greatest: Option<&Hold> = None;
        for later in holds.iter() {
            while let Some(hold) = granted.next_if(|hold| hold.granted < later.called) {
                if greatest.is_none_or(|greatest| greatest.token < hold.token) {
                    greatest = Some(hold);
                }
            }
            if let Some(earlier) = greatest
                && later.token <= earlier.token
            {
                found.push(Breach::TokenOrder {
                    earlier: earlier.clone(),
                    later: (*later).clone(),
                });
            }
        }
    }
}

/// The newest that wrote to a key, by what was admitted.
struct Newest<'a> {
    /// Of the writes admitted, that whose holder was called last.
    hold: &'a Hold,
    write: &'a Write,
    greatest: &'a Write,
}

fn register(holds: &[Hold], writes: &[Write], found: &mut Vec<Breach>) {
    let granted: HashMap<(&str, &str, u64), &Hold> = holds
        .iter()
        .filter_map(|hold| Some(((&*hold.key, &*hold.who, hold.token?), hold)))
        .collect();
    let mut keys = HashMap::<&str, Newest<'_>>::new();
    for write in writes {
        let Some(&hold) = granted.get(&(&*write.key, &*write.who, write.token)) else {
            found.push(Breach::NobodysToken(write.clone()));
            continue;
        };
        if !write.admitted {
            if write.at < hold.until() {
                found.push(Breach::HolderRefused {
                    write: write.clone(),
                    hold: hold.clone(),
                });
            }
            continue;
        }
        let Some(newest) = keys.get_mut(&*write.key) else {
            let greatest = write;
            keys.insert(
                &write.key,
                Newest {
                    hold,
                    write,
                    greatest,
                },
            );
            continue;
        };
        if hold.granted < newest.hold.called {
            found.push(Breach::StaleWrite {
                newer: newest.write.clone(),
                older: write.clone(),
            });
        }
        if newest.hold.called <= hold.called {
            (newest.hold, newest.write) = (hold, write);
        }
        if write.token < newest.greatest.token {
            found.push(Breach::TokenFell {
                earlier: newest.greatest.clone(),
                later: write.clone(),
            });
        } else {
            newest.greatest = write;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::End;

    fn hold(who: &str, called: u64, granted: u64, until: u64, token: u64) -> Hold {
        Hold {
            key: "k".to_owned(),
            who: who.to_owned(),
            called,
            granted,
            valid_until: until,
            ended: None,
            end: End::Open,
            token: Some(token),
        }
    }

    fn write(who: &str, token: u64, at: u64, admitted: bool) -> Write {
        Write {
            key: "k".to_owned(),
            who: who.to_owned(),
            token,
            at,
            admitted,
        }
    }

    fn audit(holds: &[Hold], writes: &[Write], losses: &[(u64, u64)]) -> Audit {
        let history = History::new();
        holds.iter().cloned().for_each(|hold| history.add(hold));
        Audit::of(&history, writes, losses)
    }

    #[test]
    fn a_sound_run_is_accepted_and_a_late_write_refused() {
        let holds = [hold("a", 10, 20, 50, 1), hold("b", 30, 60, 90, 2)];
        let writes = [
            write("a", 1, 25, true),
            // Too late, but nobody was there before.
            write("a", 1, 55, true),
            write("b", 2, 65, true),
            write("a", 1, 70, false),
        ];
        let found = audit(&holds, &writes, &[]);
        assert_eq!(found.breaches, []);
        assert_eq!(found.explained, []);
    }

    #[test]
    fn an_overlap_is_explained_by_a_loss_between_the_grants_and_by_no_other() {
        let (old, new) = (hold("a", 10, 20, 50, 1), hold("b", 30, 40, 90, 2));
        let overlaps = |losses: &[(u64, u64)]| {
            let found = audit(&[old.clone(), new.clone()], &[], losses);
            assert_eq!(found.breaches.len() + found.explained.len(), 1);
            assert_eq!(found.overlaps(), found.breaches.len());
            found.breaches.len()
        };
        assert_eq!(overlaps(&[]), 1);
        assert_eq!(overlaps(&[(25, 28)]), 0);
        assert_eq!(overlaps(&[(5, 30)]), 0, "while the first was on its way");
        assert_eq!(overlaps(&[(1, 9)]), 1, "before");
        assert_eq!(overlaps(&[(41, 44)]), 1, "after the second grant");
        assert_eq!(overlaps(&[(1, 9), (60, 70)]), 1, "before, and after");
        // The first grant's answer was the later to arrive.
        let found = audit(
            &[hold("a", 10, 45, 50, 1), hold("b", 30, 40, 90, 2)],
            &[],
            &[(25, 28)],
        );
        assert_eq!(found.breaches, []);
        assert_eq!(found.explained.len(), 2, "an overlap and a token that fell");
    }

    #[test]
    fn no_loss_explains_a_token_that_is_not_above_those_granted_before() {
        let (old, new) = (hold("a", 10, 20, 25, 7), hold("b", 30, 40, 90, 6));
        let everything = [(0, 100)];
        let found = audit(&[old.clone(), new.clone()], &[], &everything);
        let order = Breach::TokenOrder {
            earlier: old,
            later: new,
        };
        assert_eq!(found.breaches, [order]);
        // Granted too late to be held counts too.
        let found = audit(
            &[hold("a", 10, 20, 15, 7), hold("b", 30, 40, 35, 7)],
            &[],
            &everything,
        );
        assert!(matches!(found.breaches[..], [_, Breach::TokenOrder { .. }]));
        // Asked for before the other was granted: either order is possible.
        let found = audit(
            &[hold("a", 10, 20, 15, 7), hold("b", 19, 40, 35, 6)],
            &[],
            &[],
        );
        assert_eq!(found.breaches, []);
    }

    #[test]
    fn a_stale_write_that_was_admitted_is_found_whatever_was_lost() {
        let (old, new) = (hold("a", 10, 20, 25, 7), hold("b", 30, 40, 90, 6));
        let writes = [write("b", 6, 50, true), write("a", 7, 60, true)];
        let found = audit(&[old, new], &writes, &[(0, 100)]);
        let [newer, older] = writes;
        let stale = Breach::StaleWrite { newer, older };
        assert!(found.breaches.contains(&stale), "{:?}", found.breaches);
        // A third in between does not hide it.
        let holds = [
            hold("a", 10, 20, 25, 1),
            hold("b", 30, 40, 50, 2),
            hold("c", 26, 60, 70, 3),
        ];
        let writes = [
            write("b", 2, 45, true),
            write("c", 3, 65, true),
            write("a", 1, 66, true),
        ];
        let found = audit(&holds, &writes, &[]);
        let kinds: Vec<_> = found.breaches.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 2, "{:?}", found.breaches);
        assert!(matches!(
            found.breaches[..],
            [Breach::StaleWrite { .. }, Breach::TokenFell { .. }]
        ));
    }

    #[test]
    fn a_token_is_its_holders_own() {
        let holds = [hold("a", 10, 20, 25, 7)];
        for thief in [write("b", 7, 22, true), write("a", 8, 22, false)] {
            let found = audit(&holds, std::slice::from_ref(&thief), &[]);
            assert_eq!(found.breaches, [Breach::NobodysToken(thief)]);
        }
    }

    #[test]
    fn a_holder_is_not_refused_unless_data_was_lost() {
        let holds = [hold("a", 10, 20, 50, 7)];
        let writes = [write("a", 7, 30, false)];
        let found = audit(&holds, &writes, &[]);
        assert_eq!((found.breaches.len(), found.at_the_register()), (1, 1));
        assert_eq!(audit(&holds, &writes, &[(40, 45)]).breaches.len(), 1);
        let found = audit(&holds, &writes, &[(22, 25)]);
        assert_eq!((found.breaches.len(), found.explained.len()), (0, 1));
        // When the hold was over it may be.
        assert_eq!(audit(&holds, &[write("a", 7, 50, false)], &[]).breaches, []);
    }
}
