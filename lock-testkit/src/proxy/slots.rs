//! Which reply answers which request of a connection. Not what is done to either: that is `link.rs`.

use std::collections::VecDeque;

use super::resp;
use super::rule::Fate;

/// The requests that are not answered yet, in their order; `D` says when the stand-in for a reply is due.
#[derive(Default)]
pub(super) struct Slots<D> {
    queue: VecDeque<Slot<D>>,
    resp3: bool,
    subscribes: bool,
}

struct Slot<D> {
    /// How many replies the request gets: a subscription one for each channel.
    replies: usize,
    /// What the confirmations of a subscription begin with.
    confirmed_by: Option<Vec<u8>>,
    fate: Fate,
    /// The fate does not wait for the server's reply: it is met when all before it have been.
    at_once: Option<D>,
}

/// What something that the server said belongs to.
#[derive(Debug)]
pub(super) enum Said {
    /// To the request with this fate.
    Reply(Fate),
    /// To a subscription.
    Message,
    /// To nothing that was asked for.
    Unasked,
}

impl<D> Slots<D> {
    /// Expects a reply to this request.
    pub(super) fn expect(&mut self, arguments: &[Vec<u8>], fate: Fate, at_once: Option<D>) {
        let name = arguments[0].to_ascii_lowercase();
        self.resp3 |= name == b"hello" && arguments.get(1).is_some_and(|version| version == b"3");
        let subscribes = name.ends_with(b"subscribe");
        self.subscribes |= subscribes;
        self.queue.push_back(Slot {
            replies: if subscribes {
                arguments.len().saturating_sub(1).max(1)
            } else {
                1
            },
            confirmed_by: subscribes.then_some(name),
            fate,
            at_once,
        });
    }

    /// The next fate, if it waits for no reply of the server.
    pub(super) fn next_at_once(&mut self) -> Option<(D, Fate)> {
        self.queue.front()?.at_once.as_ref()?;
        let slot = self.queue.pop_front()?;
        Some((slot.at_once?, slot.fate))
    }

    /// What `said` belongs to. All fates that wait for no reply must have been taken out before: what comes from the
    /// server answers a request that was sent after them.
    pub(super) fn belongs(&mut self, said: &[u8]) -> Said {
        if let Some(word) = self.push_word(said) {
            let front = self.queue.front();
            if front.is_none_or(|slot| slot.confirmed_by.as_deref() != Some(word)) {
                return if word.ends_with(b"message") {
                    Said::Message
                } else {
                    Said::Unasked
                };
            }
        }
        match self.queue.front_mut() {
            Some(slot) if slot.replies > 1 && !resp::is_error(said) => {
                slot.replies -= 1;
                Said::Reply(std::mem::replace(&mut slot.fate, Fate::Pass))
            }
            _ => match self.queue.pop_front() {
                Some(slot) => Said::Reply(slot.fate),
                None => Said::Unasked,
            },
        }
    }

    /// What a push begins with. In RESP2 it looks like a list, and beside subscriptions there are no others but pongs.
    fn push_word<'a>(&self, said: &'a [u8]) -> Option<&'a [u8]> {
        match said.first() {
            Some(b'>') => Some(resp::first_word(said)),
            Some(b'*') if self.subscribes && !self.resp3 => {
                Some(resp::first_word(said)).filter(|word| *word != b"pong")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::Gate;
    use super::*;

    fn expect(slots: &mut Slots<()>, request: &str, fate: Fate, at_once: bool) {
        let arguments: Vec<_> = request.split(' ').map(|word| word.into()).collect();
        slots.expect(&arguments, fate, at_once.then_some(()));
    }

    /// What became of the server's words, each with what stood before it in its place.
    fn all(slots: &mut Slots<()>, said: &[&str]) -> String {
        let mut all = Vec::new();
        for word in said {
            while let Some(((), fate)) = slots.next_at_once() {
                all.push(format!("{fate:?}"));
            }
            all.push(format!("{:?}", slots.belongs(word.as_bytes())));
        }
        all.join(" ").replace("Reply(", "(")
    }

    #[test]
    fn a_stand_in_takes_no_other_requests_place() {
        let mut slots = Slots::default();
        expect(&mut slots, "INCR a", Fate::Pass, false);
        expect(&mut slots, "INCR strange", Fate::Cut, true);
        expect(&mut slots, "INCR strange", Fate::Stall, true);
        expect(&mut slots, "INCR b", Fate::Hold(Gate::new()), false);
        let met = all(&mut slots, &[":1\r\n", ":2\r\n", ":3\r\n"]);
        assert!(met.starts_with("(Pass) Cut Stall (Hold("), "{met}");
        assert!(met.ends_with(" Unasked"), "{met}");
    }

    #[test]
    fn what_nobody_asked_for_takes_no_place() {
        for hello in ["HELLO 2", "HELLO 3 AUTH u p"] {
            let push = if hello == "HELLO 2" { "*" } else { ">" };
            let mut slots = Slots::default();
            expect(&mut slots, hello, Fate::Pass, false);
            expect(&mut slots, "subscribe a b", Fate::Cut, false);
            expect(&mut slots, "UNSUBSCRIBE", Fate::Stall, false);
            expect(&mut slots, "PING", Fate::Cut, false);
            let confirm =
                |word: &str| format!("{push}3\r\n${}\r\n{word}\r\n$1\r\nc\r\n:1\r\n", word.len());
            let said = [
                "%0\r\n",
                &confirm("subscribe"),
                &confirm("smessage"),
                &confirm("subscribe"),
                &confirm("sunsubscribe"),
                // Without channels as many as there are, of which the first is the answer.
                &confirm("unsubscribe"),
                &confirm("unsubscribe"),
                "*2\r\n$4\r\npong\r\n$0\r\n\r\n",
            ];
            assert_eq!(
                all(&mut slots, &said),
                "(Pass) (Cut) Message (Pass) Unasked (Stall) Unasked (Cut)",
                "{hello}"
            );
        }
    }

    #[test]
    fn lists_that_look_like_messages_are_replies() {
        let mut slots = Slots::default();
        expect(&mut slots, "LRANGE l 0 -1", Fate::Cut, false);
        let list = "*2\r\n$7\r\nmessage\r\n$1\r\nx\r\n";
        assert_eq!(all(&mut slots, &[list]), "(Cut)");
        // Also beside subscriptions, where there are pushes.
        expect(&mut slots, "HELLO 3", Fate::Pass, false);
        expect(&mut slots, "SUBSCRIBE c", Fate::Pass, false);
        expect(&mut slots, "LRANGE l 0 -1", Fate::Cut, false);
        let said = ["%0\r\n", ">3\r\n+subscribe\r\n+c\r\n:1\r\n", list];
        assert_eq!(all(&mut slots, &said), "(Pass) (Pass) (Cut)");
    }

    #[test]
    fn a_subscription_that_is_refused_gets_one_reply() {
        let mut slots = Slots::default();
        expect(&mut slots, "SUBSCRIBE a b c", Fate::Pass, false);
        expect(&mut slots, "PING", Fate::Cut, false);
        assert_eq!(
            all(&mut slots, &["-NOPERM no\r\n", "+PONG\r\n"]),
            "(Pass) (Cut)"
        );
    }
}
