//! What cannot be in a history of locks. Not how it was recorded.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::Hold;

/// Two entries of a history that cannot both be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Two held one key at the same time.
    Overlap {
        /// Who held it.
        earlier: Hold,
        /// Who was granted it meanwhile.
        later: Hold,
    },
    /// The later hold of a key has the smaller fencing token: a resource would refuse it, and admit the earlier.
    TokenFell {
        /// Who held it.
        earlier: Hold,
        /// Who held it afterwards.
        later: Hold,
    },
    /// One fencing token of a key was given twice.
    DuplicateToken {
        /// To whom at first.
        earlier: Hold,
        /// To whom again.
        later: Hold,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, earlier, later) = match self {
            Self::Overlap { earlier, later } => ("two holds overlap", earlier, later),
            Self::TokenFell { earlier, later } => ("a fencing token fell", earlier, later),
            Self::DuplicateToken { earlier, later } => {
                ("a fencing token was given twice", earlier, later)
            }
        };
        write!(f, "{what}: {earlier}; {later}")
    }
}

/// At most three violations for each hold, each with the hold before that it contradicts most.
pub(super) fn check(mut holds: Vec<Hold>) -> Vec<Violation> {
    holds.sort_by_key(|hold| hold.granted);
    let mut keys = BTreeMap::<&str, Vec<&Hold>>::new();
    for hold in &holds {
        keys.entry(&hold.key).or_default().push(hold);
    }
    let mut found = Vec::new();
    for holds in keys.values() {
        overlaps(holds, &mut found);
        falling_tokens(holds, &mut found);
        duplicate_tokens(holds, &mut found);
    }
    found
}

fn overlaps(holds: &[&Hold], found: &mut Vec<Violation>) {
    let mut longest: Option<&Hold> = None;
    for later in holds.iter().filter(|hold| hold.is_real()) {
        match longest {
            Some(earlier) if later.granted < earlier.until() => {
                found.push(Violation::Overlap {
                    earlier: earlier.clone(),
                    later: (*later).clone(),
                });
                if earlier.until() < later.until() {
                    longest = Some(later);
                }
            }
            _ => longest = Some(later),
        }
    }
}

/// In the order in which the grants were received, which is the store's for all that were held when they were: the
/// earlier of two had ended when the later began. A grant that came too late may have been overtaken on its way.
fn falling_tokens(holds: &[&Hold], found: &mut Vec<Violation>) {
    let mut greatest: Option<&Hold> = None;
    for later in holds
        .iter()
        .filter(|hold| hold.is_real() && hold.token.is_some())
    {
        match greatest {
            Some(earlier) if later.token < earlier.token => found.push(Violation::TokenFell {
                earlier: earlier.clone(),
                later: (*later).clone(),
            }),
            _ => greatest = Some(later),
        }
    }
}

fn duplicate_tokens(holds: &[&Hold], found: &mut Vec<Violation>) {
    let mut given = HashMap::<u64, &Hold>::new();
    for later in holds {
        let Some(token) = later.token else { continue };
        if let Some(earlier) = given.insert(token, later) {
            found.push(Violation::DuplicateToken {
                earlier: earlier.clone(),
                later: (*later).clone(),
            });
        }
    }
}
