//! What scripts answer, in this crate's own words. Not what an error means: that is `error.rs`.

use std::time::Duration;

use lock_core::{
    BackendError, BackendErrorKind, FencingRange, FencingToken, Holder, Owner, Ownership,
};

use crate::error;

/// No text in an answer of a script of ours is longer, in bytes.
const LONGEST_TEXT: usize = 1024;

/// A server's reply, as far as we make use of it.
#[derive(Debug)]
pub(crate) enum Reply {
    Number(i64),
    Text(Vec<u8>),
    List(Vec<Reply>),
    /// Nothing there. (No script of ours answers that.)
    Nil,
    /// Nothing that anybody answers us.
    Other,
}

impl Reply {
    /// Whether a script of ours may have answered this. If not, somebody between us and the server mixes replies up.
    pub(crate) fn is_of_a_script(&self) -> bool {
        let Self::List(parts) = self else {
            return false;
        };
        let is_fine = |part: &Self| match part {
            Self::Text(text) => text.len() <= LONGEST_TEXT,
            Self::List(_) => part.is_of_a_script(),
            _ => true,
        };
        matches!(parts.first(), Some(Self::Text(_))) && parts.iter().all(is_fine)
    }
}

/// A script's answer, as `lua/prelude.lua` lists them; the unfortunate ones are errors.
pub(crate) enum Answer {
    Granted(FencingRange),
    Busy(Holder),
    Owner(Ownership),
}

impl Answer {
    pub(crate) fn of(reply: &Reply, fence: &str) -> Result<Self, BackendError> {
        let Reply::List(parts) = reply else {
            return Err(error::senseless());
        };
        if !reply.is_of_a_script() {
            return Err(error::senseless());
        }
        let text = |index: usize| match parts.get(index) {
            Some(Reply::Text(bytes)) => String::from_utf8_lossy(bytes),
            _ => "".into(),
        };
        let number = |index: usize| match parts.get(index) {
            Some(Reply::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        match &*text(0) {
            "granted" => {
                let (Some(first), Some(last)) = (number(1), number(2)) else {
                    return Err(error::senseless());
                };
                Ok(Self::Granted(FencingRange::new(
                    FencingToken::new(first),
                    FencingToken::new(last),
                )))
            }
            "busy" => {
                let last = number(3).filter(|last| *last > 0);
                Ok(Self::Busy(
                    Holder::new()
                        .with_label(Owner::label_in(&text(1)).map(str::to_owned))
                        .with_remaining(number(2).map(Duration::from_millis))
                        .with_fencing(last.map(FencingToken::new)),
                ))
            }
            "held" => Ok(Self::Owner(Ownership::Held)),
            "absent" => Ok(Self::Owner(Ownership::Absent)),
            "taken" => Ok(Self::Owner(Ownership::Taken)),
            "conflict" => Err(BackendError::new(
                BackendErrorKind::Conflict,
                format!("a {}", text(1)),
            )),
            "counter" => Err(BackendError::permanent(format!(
                "the fencing counter {fence:?} holds {}; remove it",
                text(1)
            ))),
            "unnumbered" => Err(BackendError::unknown(format!(
                "granted before, but the fencing counter {fence:?} is gone"
            ))),
            "failed" => Err(error::refused_in_script(&text(1), &text(2))),
            "left" => Err(BackendError::unknown(format!(
                "the lock may stand without an owner until its ttl ends: {}",
                error::refused_in_script(&text(1), &text(2))
            ))),
            _ => Err(error::senseless()),
        }
    }

    /// The answers to so many renewals.
    pub(crate) fn of_renewals(reply: &Reply, count: usize) -> Vec<Result<Ownership, BackendError>> {
        let letters = match reply {
            Reply::List(parts) if reply.is_of_a_script() => match parts.as_slice() {
                [Reply::Text(word), Reply::Text(letters), others @ ..]
                    if word == b"renewed"
                        && letters.len() == count
                        && letters.iter().filter(|letter| **letter == b'?').count()
                            == others.len() =>
                {
                    Some((letters, others))
                }
                _ => None,
            },
            _ => None,
        };
        let Some((letters, others)) = letters else {
            return (0..count).map(|_| Err(error::senseless())).collect();
        };
        let mut others = others.iter();
        let mut answer = |letter: &u8| match letter {
            b'h' => Ok(Ownership::Held),
            b'a' => Ok(Ownership::Absent),
            b't' => Ok(Ownership::Taken),
            b'?' => Self::of(others.next().unwrap_or(&Reply::Nil), "")?.ownership(),
            _ => Err(error::senseless()),
        };
        letters.iter().map(&mut answer).collect()
    }

    pub(crate) fn ownership(self) -> Result<Ownership, BackendError> {
        match self {
            Self::Owner(ownership) => Ok(ownership),
            Self::Granted(_) | Self::Busy(_) => Err(error::senseless()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_answer_is_of_unknown_outcome() {
        let word = |word: &str| Reply::Text(word.as_bytes().to_vec());
        for odd in [
            Reply::Other,
            Reply::Number(1),
            word("OK"),
            Reply::List(vec![]),
            Reply::List(vec![word("granted")]),
            Reply::List(vec![word("granted"), Reply::Number(-1), Reply::Number(2)]),
            Reply::List(vec![word("what")]),
            Reply::List(vec![Reply::Text(vec![0xff; 1 << 20])]),
            Reply::List(vec![
                word("busy"),
                Reply::Text(vec![b'x'; LONGEST_TEXT + 1]),
            ]),
            Reply::List(vec![Reply::List(vec![word("held")])]),
        ] {
            let Err(error) = Answer::of(&odd, "") else {
                panic!("{odd:?} is accepted")
            };
            assert!(error.may_have_been_applied());
        }
    }

    #[test]
    fn what_no_script_answers_is_told_from_what_one_does() {
        let word = |word: &str| Reply::Text(word.as_bytes().to_vec());
        let longest = Reply::Text(vec![b'x'; LONGEST_TEXT]);
        for answer in [
            Reply::List(vec![word("held")]),
            Reply::List(vec![word("failed"), word("SET"), longest]),
            Reply::List(vec![
                word("renewed"),
                word("h?"),
                Reply::List(vec![word("conflict"), word("list")]),
            ]),
        ] {
            assert!(answer.is_of_a_script(), "{answer:?}");
        }
        for odd in [
            Reply::Other,
            Reply::Number(1),
            word("held"),
            Reply::List(vec![]),
            Reply::List(vec![Reply::Number(1), word("held")]),
            Reply::List(vec![Reply::List(vec![word("held")]), Reply::Number(1)]),
            Reply::List(vec![Reply::List(vec![])]),
            Reply::List(vec![Reply::List(vec![word("held")])]),
            Reply::List(vec![word("renewed"), word("?"), Reply::List(vec![])]),
        ] {
            assert!(!odd.is_of_a_script(), "{odd:?}");
        }
    }

    #[test]
    fn renewals_are_answered_one_by_one_and_no_other_number_of_them() {
        let word = |word: &str| Reply::Text(word.as_bytes().to_vec());
        let found = || Reply::List(vec![word("conflict"), word("list")]);
        let reply = Reply::List(vec![word("renewed"), word("h?atx"), found()]);
        let answers = Answer::of_renewals(&reply, 5);
        let kind = |error: &BackendError| error.kind();
        let seen: Vec<_> = answers
            .iter()
            .map(|one| one.as_ref().map_err(kind))
            .collect();
        assert_eq!(
            seen,
            [
                Ok(&Ownership::Held),
                Err(BackendErrorKind::Conflict),
                Ok(&Ownership::Absent),
                Ok(&Ownership::Taken),
                // No such letter.
                Err(BackendErrorKind::Unknown),
            ]
        );
        for (odd, count) in [
            (reply, 4),
            // What the second was is missing.
            (Reply::List(vec![word("renewed"), word("??"), found()]), 2),
            (Reply::List(vec![word("renewed"), word("h"), found()]), 1),
            (Reply::List(vec![word("held")]), 1),
            (Reply::List(vec![word("renewed")]), 0),
            (Reply::List(vec![word("renewed"), Reply::Number(1)]), 1),
            (word("renewed"), 1),
        ] {
            let answers = Answer::of_renewals(&odd, count);
            assert_eq!(answers.len(), count);
            assert!(answers.iter().all(Result::is_err), "{odd:?}");
        }
    }
}
