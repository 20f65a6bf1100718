//! Implement this: what a store must do to carry locks. Not what applications call, and no policy.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::BackendError;
use crate::fencing::{FencingRange, FencingToken};
use crate::key::LockKey;
use crate::owner::Owner;

/// The most fencing tokens that one grant reserves.
pub const MAX_TOKENS: u16 = 64;

/// Implement this to bring a store; call [`Lock`](crate::Lock) to use one.
///
/// # Contract
///
/// A backend is a translation table from these methods to the store's commands. It does not retry, wait, log,
/// spawn or decide; lock-core does, once for all stores. For each key the store has at most one *entry*: an
/// owner and the instant at which the entry ends.
///
/// 1. Every method is one atomic step at the store. Never read, then write.
///    `exclusion::of_many_concurrent_attempts_one_is_granted`, `exclusion::small_histories_are_linearizable`
/// 2. An entry always has an end, set in the same step as the entry. `expiry::every_entry_has_an_end`,
///    `expiry::a_dropped_attempt_leaves_nothing_without_an_end`
/// 3. An entry lasts at least as long as asked: round a ttl up to the store's resolution, which the fixture of its tests names
///    where that is more than a millisecond. It is its owner's, and not the client's that took it.
///    `expiry::an_entry_lasts_at_least_its_ttl`, `expiry::an_entry_outlives_its_guard`,
///    `expiry::an_entry_outlives_the_client_that_took_it`
/// 4. Nothing but [`try_acquire`](Self::try_acquire) creates an entry.
///    `renewal::renewing_after_the_end_does_not_resurrect`, `renewal::renewing_after_a_release_does_not_resurrect`
/// 5. Only the owner in the request may lose or prolong its entry. The whole owner is compared.
///    `ownership::a_stranger_cannot_release`, `renewal::a_stranger_cannot_renew`, `ownership::the_whole_owner_is_compared`
/// 6. An error says truthfully whether the request may have been applied ([`BackendErrorKind`]). If in doubt, it
///    may have been. `outages::what_is_said_not_to_be_done_is_not_done`,
///    `errors::a_store_that_is_down_is_a_failure_and_never_busy`
/// 7. Dropping a method's future is allowed at any point. The request is then of unknown outcome.
///    `lifecycle::a_dropped_call_leaves_the_store_usable`
/// 8. Something that is no lock at the key (another type) is [`BackendErrorKind::Conflict`], never changed
///    and never "busy". `errors::what_is_no_lock_is_a_conflict`. An entry that others wrote in the store's lock layout
///    is busy, which a store's own tests show, because no case knows the layout.
///
/// `lock-testkit` checks these promises: what stands behind each, here and below, are the cases of its `cases` that do.
///
/// [`BackendErrorKind`]: crate::BackendErrorKind
/// [`BackendErrorKind::Conflict`]: crate::BackendErrorKind::Conflict
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait LockBackend: Debug + Send + Sync + 'static {
    /// One attempt to make `request.owner` the owner of `request.key` for `request.ttl`.
    ///
    /// 1. Grants if there is no entry or the entry has ended, and otherwise answers busy without touching it.
    ///    `exclusion::a_held_key_is_busy_for_everybody_else`, `expiry::an_entry_ends_by_itself`,
    ///    `exclusion::a_busy_answer_touches_nothing`. Busy names the holder: its label, what is left of its entry, and an
    ///    upper bound of its fencing token if the store can tell one. `lifecycle::a_busy_answer_names_the_holder`
    /// 2. Is idempotent for its owner: if the entry is already this owner's, it answers the same grant and
    ///    touches nothing, because a late copy of the request must not shorten what was prolonged since. A copy
    ///    asks for as many tokens as the first.
    ///    `lifecycle::a_repeated_attempt_answers_the_same_grant_and_touches_nothing`, `faults::a_late_copy_shortens_nothing`
    /// 3. With `request.from`: grants only while `from` owns the entry, which the new owner replaces in the same
    ///    step. Otherwise busy: with nothing in it ([`Busy::default`]) if there is no entry, and only then. Of an entry of which
    ///    nothing is known the answer says when to look again.
    ///    `hand_over::a_hand_over_replaces_the_owner_once`, `hand_over::a_hand_over_from_a_stranger_is_refused`,
    ///    `hand_over::a_hand_over_of_a_free_key_is_refused`
    /// 4. Where the store has fencing: the grant reserves `request.tokens` numbers in the same step, all
    ///    greater than any given before for this key, also after release, expiry and loss of data.
    ///    `fencing::blocks_have_the_size_asked_for_and_are_given_once`, `fencing::tokens_rise_over_a_thousand_grants`,
    ///    `fencing::tokens_rise_across_expiry`, `fencing::tokens_rise_across_eviction`, `outages::tokens_rise_across_a_restart`
    /// 5. Never waits for the holder. `waiting::a_wait_of_zero_is_one_attempt`
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError>;

    /// Prolongs entries: one or thousands, in as few commands as the store allows.
    ///
    /// 1. Answers in the order asked; lock-core counts a missing answer as unknown. A key may be there several times, for its
    ///    owner and for who was.
    ///    `renewal::a_thousand_renewals_are_answered_in_order`
    /// 2. [`Renew::AtLeast`] never shortens what is left of the entry; [`Renew::Exactly`] sets it.
    ///    `renewal::at_least_never_shortens`, `renewal::exactly_shortens`
    /// 3. Never recreates an entry that is gone. `renewal::renewing_after_an_eviction_does_not_resurrect`
    /// 4. One key that fails does not keep the others from being renewed, and where keys are at servers of their own, nor
    ///    does a server that is silent: see [`RenewRequest::patience`].
    ///    `renewal::one_key_that_fails_does_not_keep_the_others_from_being_renewed`
    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>>;

    /// Deletes the entry of `key` if `owner` owns it, and wakes waiters.
    ///
    /// 1. [`Ownership::Held`] means: it was this owner's and is gone now. `ownership::a_release_frees_the_key`,
    ///    `ownership::releasing_twice_is_harmless`, `ownership::a_late_release_leaves_the_next_holder_alone`
    /// 2. Where the store wakes, all who subscribe to the key are woken. `waiting::a_release_wakes_all_who_subscribe`
    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError>;

    /// Who holds `key`, or `None` if it is free. Reads only. What is left of an entry that the store granted is always told.
    /// `lifecycle::an_inspection_tells_and_changes_nothing`, `expiry::every_entry_has_an_end`
    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError>;

    /// What this store can do. The same answer every time. `lifecycle::what_is_declared_stays_and_is_there`
    fn capabilities(&self) -> Capabilities;

    /// How waiters are woken, where the store can: `Some` exactly if [`Capabilities::wakeups`] is set.
    ///
    /// Required, because a wrapper that forgets to pass it on would make every waiter poll.
    /// `lifecycle::what_is_declared_stays_and_is_there`
    fn wakeups(&self) -> Option<Arc<dyn Wakeups>>;
}

/// How a store wakes those who wait for a key.
#[async_trait]
pub trait Wakeups: Debug + Send + Sync {
    /// Subscribes to wake-ups of `key`, and with `place` to those of this place in the store's line. Resolves
    /// when the subscription is in force: a release after that is notified. `waiting::a_release_wakes_all_who_subscribe`
    async fn subscribe(
        &self,
        key: &LockKey,
        place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError>;

    /// Gives up `place` in the line of `key`: its waiter has gone.
    async fn leave(&self, key: &LockKey, place: &Place) -> Result<(), BackendError>;
}

/// One subscription. Dropping it unsubscribes. `waiting::dropping_one_subscription_leaves_the_others`
#[async_trait]
pub trait Wakeup: Debug + Send {
    /// Resolves when the key may have become free: it is a hint, and its receiver looks at the store.
    ///
    /// 1. What came before the call counts. `waiting::a_release_before_the_wait_counts`
    /// 2. Resolves also on every doubt (reconnected, messages missed).
    ///    `outages::a_subscription_outlives_cut_connections`
    /// 3. Cancel safe: a call that is dropped takes nothing along. `waiting::an_unfinished_wait_can_be_dropped`
    async fn notified(&mut self);
}

/// One attempt to take a lock.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AcquireRequest<'a> {
    /// What to lock.
    pub key: &'a LockKey,
    /// Who asks: fresh for each attempt.
    pub owner: &'a Owner,
    /// How long the entry shall last, from when the store applies the request.
    pub ttl: Duration,
    /// How many fencing tokens to reserve: a hint, 1 to [`MAX_TOKENS`].
    pub tokens: u16,
    /// The asker's place in the store's line, as the store gave it with [`Busy`].
    pub place: Option<&'a Place>,
    /// Hand-over: the owner to take the entry over from.
    pub from: Option<&'a Owner>,
}

impl<'a> AcquireRequest<'a> {
    /// A request for `ttl` with one fencing token, no place and no hand-over.
    #[must_use]
    pub const fn new(key: &'a LockKey, owner: &'a Owner, ttl: Duration) -> Self {
        Self {
            key,
            owner,
            ttl,
            tokens: 1,
            place: None,
            from: None,
        }
    }

    /// Asks for `tokens` fencing tokens; brought into 1 to [`MAX_TOKENS`].
    #[must_use]
    pub fn with_tokens(mut self, tokens: u16) -> Self {
        self.tokens = tokens.clamp(1, MAX_TOKENS);
        self
    }

    /// Asks from this place in the store's line.
    #[must_use]
    pub const fn with_place(mut self, place: Option<&'a Place>) -> Self {
        self.place = place;
        self
    }

    /// Asks to take the entry over from this owner.
    #[must_use]
    pub const fn with_from(mut self, from: Option<&'a Owner>) -> Self {
        self.from = from;
        self
    }
}

/// The answer to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The asker owns the entry.
    Granted(Grant),
    /// Somebody else does.
    Busy(Busy),
}

/// What comes with a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing tokens that this grant reserved; `None` where the store has none.
    pub fencing: Option<FencingRange>,
}

impl Grant {
    /// A grant with these fencing tokens.
    #[must_use]
    pub const fn new(fencing: Option<FencingRange>) -> Self {
        Self { fencing }
    }
}

/// What comes with a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Busy {
    /// Who holds the lock.
    pub holder: Holder,
    /// The asker's place in the store's line, where the store keeps one.
    pub place: Option<Place>,
    /// When the store advises to look again at the latest, counted from now.
    pub recheck: Option<Duration>,
}

impl Busy {
    /// A refusal in favour of `holder`.
    #[must_use]
    pub const fn new(holder: Holder) -> Self {
        Self {
            holder,
            place: None,
            recheck: None,
        }
    }

    /// The same with the asker's place in the store's line.
    #[must_use]
    pub fn with_place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The same with the advice to look again after `recheck`.
    #[must_use]
    pub const fn with_recheck(mut self, recheck: Duration) -> Self {
        self.recheck = Some(recheck);
        self
    }
}

/// A place in the store's line of waiters. Opaque to everybody but the store; kept between attempts.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Place(Arc<str>);

impl Place {
    /// A place that the store spells `text`.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The store's spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

/// Who holds a lock, as far as others may know: never the owner's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Holder {
    /// The holder's label, if it has one.
    pub label: Option<String>,
    /// How long the entry lasts yet if it is not renewed. A store tells it of each entry that it granted: waiters look
    /// again by then. `None` for an entry without an end, which others wrote, and in a busy answer that no entry stands
    /// behind.
    pub remaining: Option<Duration>,
    /// An upper bound of the holder's fencing token, where the store has one and answers it.
    pub fencing: Option<FencingToken>,
}

impl Holder {
    /// A holder of whom nothing is known yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            label: None,
            remaining: None,
            fencing: None,
        }
    }

    /// The same with a label.
    #[must_use]
    pub fn with_label(mut self, label: Option<String>) -> Self {
        self.label = label;
        self
    }

    /// The same with the time that its entry lasts yet.
    #[must_use]
    pub const fn with_remaining(mut self, remaining: Option<Duration>) -> Self {
        self.remaining = remaining;
        self
    }

    /// The same with a fencing token.
    #[must_use]
    pub const fn with_fencing(mut self, fencing: Option<FencingToken>) -> Self {
        self.fencing = fencing;
        self
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "held by {label:?}")?,
            None => f.write_str("held by somebody without a label")?,
        }
        match self.remaining {
            Some(remaining) => write!(f, ", for {remaining:.1?} unless renewed"),
            None => Ok(()),
        }
    }
}

/// Whether the entry is the asker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// It is (or, answered to a release, was until now).
    Held,
    /// There is no entry.
    Absent,
    /// It belongs to somebody else.
    Taken,
}

/// One entry to prolong.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RenewRequest<'a> {
    /// The key.
    pub key: &'a LockKey,
    /// Who must own its entry.
    pub owner: &'a Owner,
    /// How long the entry shall last from when the store applies the request.
    pub ttl: Duration,
    /// Whether more may be left than `ttl`.
    pub how: Renew,
    /// How long the answer is waited for, if that is known: none of those asked together is heard later. A store of parts
    /// that fall silent one by one gives up on such a part before, and answers for the others.
    pub patience: Option<Duration>,
}

impl<'a> RenewRequest<'a> {
    /// A request to prolong `owner`'s entry of `key`.
    #[must_use]
    pub const fn new(key: &'a LockKey, owner: &'a Owner, ttl: Duration, how: Renew) -> Self {
        Self {
            key,
            owner,
            ttl,
            how,
            patience: None,
        }
    }

    /// The same, whose answer is waited for so long.
    #[must_use]
    pub const fn with_patience(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }
}

/// What a renewal does to an entry that lasts longer than asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Renew {
    /// Leaves it: a renewal that arrives late does no harm.
    AtLeast,
    /// Shortens it.
    Exactly,
}

/// What a store can do, as plain data. A capability that is not declared is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Grants carry fencing tokens.
    pub fencing: bool,
    /// Waiters are woken by a release: [`LockBackend::wakeups`] is `Some`.
    pub wakeups: bool,
    /// The store serves waiters in the order of their first attempt, and passes over those that neither try again nor
    /// leave: they keep the others waiting for a minute in all, however many they are. By [`Busy::recheck`] it tells how
    /// soon to try again.
    /// `waiting::waiters_are_served_in_the_order_they_came`, `waiting::those_who_died_in_line_keep_nobody_waiting`
    pub order: bool,
    /// [`AcquireRequest::from`] works.
    pub hand_over: bool,
    /// [`LockBackend::renew`] works with any ttl, longer or shorter than the grant's.
    pub any_ttl: bool,
    /// Entries outlive a restart of the store.
    pub survives_restart: bool,
    /// The client may send a request again by itself, so that an old copy may arrive late.
    pub resends: bool,
}

impl Capabilities {
    /// A store that can do nothing but exclude.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            fencing: false,
            wakeups: false,
            order: false,
            hand_over: false,
            any_ttl: false,
            survives_restart: false,
            resends: false,
        }
    }

    /// Declares whether grants carry fencing tokens.
    #[must_use]
    pub const fn with_fencing(mut self, fencing: bool) -> Self {
        self.fencing = fencing;
        self
    }

    /// Declares whether waiters are woken.
    #[must_use]
    pub const fn with_wakeups(mut self, wakeups: bool) -> Self {
        self.wakeups = wakeups;
        self
    }

    /// Declares whether waiters are served in order.
    #[must_use]
    pub const fn with_order(mut self, order: bool) -> Self {
        self.order = order;
        self
    }

    /// Declares whether an entry can be handed over to a new owner.
    #[must_use]
    pub const fn with_hand_over(mut self, hand_over: bool) -> Self {
        self.hand_over = hand_over;
        self
    }

    /// Declares whether an entry can be renewed with any ttl.
    #[must_use]
    pub const fn with_any_ttl(mut self, any_ttl: bool) -> Self {
        self.any_ttl = any_ttl;
        self
    }

    /// Declares whether entries outlive a restart of the store.
    #[must_use]
    pub const fn with_survives_restart(mut self, survives_restart: bool) -> Self {
        self.survives_restart = survives_restart;
        self
    }

    /// Declares whether the client may send a request again by itself.
    #[must_use]
    pub const fn with_resends(mut self, resends: bool) -> Self {
        self.resends = resends;
        self
    }
}
