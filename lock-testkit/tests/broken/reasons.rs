//! What each case says of a flaw at least: that it is this promise which is broken, and not what the case needs on its way.

use super::Flaw;

/// What a case must say of a flaw, where others could say no in its place.
pub(crate) struct Reason {
    pub(crate) case: &'static str,
    /// As it is written.
    pub(crate) flaw: &'static str,
    verdict: &'static str,
}

impl Reason {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        VERDICTS
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| {
                let mut parts = line.splitn(3, " | ");
                let mut part = || parts.next().unwrap_or_else(|| panic!("no reason: {line}"));
                Self {
                    case: part(),
                    flaw: part(),
                    verdict: part(),
                }
            })
    }

    pub(crate) fn is_of(&self, case: &str, flaw: Flaw) -> bool {
        self.case == case && self.flaw == format!("{flaw:?}")
    }

    pub(crate) fn is_said_in(&self, panic: &str) -> bool {
        self.verdict.split(" & ").all(|part| panic.contains(part))
    }
}

/// One a line: the case, the flaw, and what the case says of it, in parts between which an `&` stands.
const VERDICTS: &str = r#"
cancellation::a_cancelled_acquire_of_a_free_lock_leaves_nothing_behind | OwnedByTheTask | is free again
cancellation::a_cancelled_body_lets_go | OwnedByTheTask | is free again
cancellation::a_cancelled_extension_leaves_a_deadline_that_is_safe | RenewsInTwoSteps | and its guard believes in
cancellation::a_cancelled_hand_over_loses_nothing | OwnedByTheTask | is free again
cancellation::a_cancelled_release_is_finished | OwnedByTheTask | is free again
cancellation::a_cancelled_wait_for_a_lock_that_comes_free_leaves_nothing_behind | OwnedByTheTask | is free again
cancellation::a_cancelled_wait_leaves_the_holder_alone | LeavingTakesTheLockAlong | it is held: LockGuard
cancellation::a_storm_of_timeouts_leaves_nothing_behind | LeavesATask | tasks alive
errors::a_store_that_is_down_is_a_failure_and_never_busy | CallsARefusalBusy | is busy: held by somebody
errors::no_guard_and_no_error_prints_an_owner | PrintsOwners | an owner is printed
errors::no_owner_is_ever_printed | PrintsOwners | an owner is printed
errors::what_is_no_lock_is_a_conflict | CallsAConflictBusy | something that is no lock is not granted and not busy: Busy(
errors::what_is_no_lock_is_told_as_a_conflict | CallsAConflictBusy | is busy: held by
exclusion::a_busy_answer_touches_nothing | ProlongsWhenBusy | a refused attempt prolonged the entry
exclusion::a_held_key_is_busy_for_everybody_else | GrantsWhatIsHeld | is held and was granted again
exclusion::a_held_lock_is_busy_and_says_who_holds_it | BusyIsAnError | a held lock is busy, and not
exclusion::a_lock_is_not_reentrant | OneOwnerPerClient | taken twice
exclusion::holds_of_many_tasks_do_not_overlap | ChecksThenSets | two holds overlap
exclusion::holds_of_many_tasks_do_not_overlap | GrantsWhatIsHeld | two holds overlap
exclusion::of_many_concurrent_attempts_one_is_granted | CallsContentionBusy | of 16 concurrent attempts for 16 keys
exclusion::of_many_concurrent_attempts_one_is_granted | ChecksThenSets | of 16 concurrent attempts
exclusion::small_histories_are_linearizable | InspectsAReplica | no lock that does one thing at a time answers like this
exclusion::two_holds_never_overlap | ChecksThenSets | two holds at a time
expiry::a_dropped_attempt_leaves_nothing_without_an_end | SetsThenExpires | not within 10s: what was dropped ends
expiry::a_holder_that_was_frozen_leaves_the_next_one_alone | DeletesWithoutComparing | Ok(Released)
expiry::a_lock_whose_holder_is_gone_comes_free_after_its_ttl | EndsEarly | it came free before the ttl was over
expiry::a_ttl_counts_from_the_attempt_that_was_granted | CountsFromTheFirstAttempt | and its guard believes in
expiry::an_entry_ends_by_itself | NeverEnds | not within 10s: the entry ends
expiry::an_entry_lasts_at_least_its_ttl | RoundsRenewalsDown | an entry for 10.5ms ended after
expiry::an_entry_lasts_at_least_its_ttl | RoundsTheTtlDown | an entry for 10.5ms ended after
expiry::an_entry_outlives_its_guard | CountsFromItsLastAnswer | and its guard believes in
expiry::an_entry_outlives_the_client_that_took_it | EndsWithItsClient | should be held and is free
expiry::every_entry_has_an_end | HasNoEnd | has no end
expiry::the_longest_ttl_is_kept_and_no_other_ttl_is_sent | CapsTheTtlAtAnHour | and should last 86
expiry::the_shortest_ttls_end_and_leave_nothing | CountsWholeSeconds | an entry for 10ms lasts
expiry::what_is_left_to_expire_ends_with_its_ttl | EndsEarly | it ended before its ttl was over
faults::a_grant_that_nobody_heard_of_is_given_back | OwnedByTheTask | is free again
faults::a_hand_over_is_done_once_and_given_back_if_nobody_heard_of_it | RefusesARepeatedHandOver | Resend came to Err(Lost
faults::a_late_copy_leaves_the_next_holder_alone | DeletesWithoutComparing | should be held and is free
faults::a_late_copy_shortens_nothing | AtLeastShortens | and should last
faults::a_late_copy_that_takes_the_lock_ends_with_its_ttl | NeverEnds | is free again
faults::a_lock_that_cannot_be_renewed_is_lost_before_its_entry_ends | EndsEarly | and its guard believes in
faults::a_prolongation_that_arrives_twice_is_done_once | RenewalsAddUp | , asked was 60s
faults::a_release_that_failed_is_done_later | OwnedByTheTask | is free again
faults::a_renewal_that_fails_once_is_made_up_for | RenewsOnce | and its guard believes in
faults::a_wait_ends_in_time_at_a_store_that_stands_still | BlocksTheThread | a wait of 1s took
faults::an_attempt_that_arrives_after_it_was_given_up_does_not_stay | ReleasesOnlyOnce | is free again
faults::an_attempt_that_was_cut_off_is_never_busy | CallsACutBusy | nobody has it, and it is busy
faults::requests_that_arrive_twice_are_done_once | RepeatsAreBusy | the second copy is the same owner's
fencing::a_guard_that_is_extended_keeps_its_token | RenewsAwayTheToken | Some(FencingToken(1)), then Some(FencingToken(1))
fencing::blocks_have_the_size_asked_for_and_are_given_once | ClaimsTooManyTokens | for 1 tokens
fencing::each_guard_carries_a_greater_token | GivesOneTokenForEver | Some(FencingToken(1)), then Some(FencingToken(1))
fencing::tokens_fit_into_53_bits | CountsNanoseconds | FencingRange { first: FencingToken(1152921504606846977)
fencing::tokens_rise_across_eviction | CountsInTheEntry | after FencingRange
fencing::tokens_rise_across_expiry | CountsInTheEntry | ) } after 3
fencing::tokens_rise_across_expiry | ForgetsTokensWhenAClientComes | after
fencing::tokens_rise_over_a_thousand_grants | CountsTimeOnly | came before FencingRange
fencing::tokens_rise_over_a_thousand_grants | GivesOneTokenForEver | came before FencingRange
force::a_free_lock_is_nobodys_to_be_taken_from | ForceFindsSomebody | nobody held it
force::a_holder_hears_that_its_lock_was_taken_by_force | ForceKeepsTheEntry | is not lost within
force::a_lock_that_was_taken_by_force_is_free_and_whose_it_was_is_told | ForceKeepsTheEntry | it is still held
force::force_takes_one_lock_and_no_other | ForceTakesAllAlike | should be held and is free
force::force_wakes_all_who_wait | ForceWakesNobody | not woken within
force::tokens_rise_across_force | ForceReservesNoToken | , then FencingRange
force::what_is_no_lock_is_not_taken_by_force | ForceTakesWhatIsNoLock | something that is no lock was taken by force
guards::a_forgotten_guard_ends_with_the_longest_hold | NeverEnds | is free again
guards::a_guard_is_released_wherever_it_is_dropped | OwnedByTheTask | is free again
guards::a_guard_outlives_the_locks_it_came_from | RenewsUntilAClientEnds | nothing kept it from being renewed
guards::two_hundred_locks_of_one_client_are_all_kept | RenewsTheFirstOfABatch | and its guard believes in
guards::what_is_left_of_a_guard_is_known_without_the_store | EndsEarly | and its guard believes in
guards::with_lets_go_however_its_body_ends | OwnedByTheTask | is free again
guards::with_says_that_the_lock_was_lost | DeletesWithoutComparing | the lock was lost, and `with` returned Ok(())
hand_over::a_hand_over_from_a_stranger_is_refused | HandsOverFromAnybody | a stranger handed the lock over
hand_over::a_hand_over_of_a_free_key_is_refused | HandsOverWhatHasEnded | a lock that had ended was handed over
hand_over::a_hand_over_of_a_free_key_is_refused | HandsOverWhatIsFree | a free lock was handed over
hand_over::a_hand_over_replaces_the_owner_once | HandsOverFromAnybody | handed over twice
hand_over::a_repeated_hand_over_answers_the_same_grant | RefusesARepeatedHandOver | left: Busy(
hand_over::a_ticket_works_once | HandsOverFromAnybody | resumed twice
lifecycle::a_busy_answer_names_the_holder | CutsLongLabels | xxxx
lifecycle::a_busy_answer_names_the_holder | HidesTheLabel | left: None & right: Some("web-1")
lifecycle::a_busy_answer_names_the_holder | TellsTheWholeTtl | busy told 30s
lifecycle::a_declared_gap_is_one | HidesFencing | no fencing tokens here
lifecycle::a_dropped_call_leaves_the_store_usable | StaysLockedWhenDropped | an attempt is answered: BackendError
lifecycle::two_hundred_holds_leave_no_task_behind | LeavesATask | tasks alive
lifecycle::a_repeated_attempt_answers_the_same_grant_and_touches_nothing | RepeatsOutliveTheEntry | should be held and is free
lifecycle::a_repeated_attempt_answers_the_same_grant_and_touches_nothing | RepeatsShorten | and should last
lifecycle::a_runtime_that_is_shut_down_leaves_no_lock_behind | NeverEnds | is free again
lifecycle::a_shutdown_releases_what_is_held_and_refuses_what_is_new | KeepsTheEntryOnRelease | is still held
lifecycle::a_status_tells_who_holds_the_lock | InspectionDeletes | it is held
lifecycle::an_inspection_tells_and_changes_nothing | InspectionDeletes | it is held
lifecycle::losses_leave_no_task_behind | LeavesATask | tasks alive
lifecycle::one_thread_is_enough | BlocksTheThread | the only thread was kept for
lifecycle::what_is_declared_stays_and_is_there | DeclaresWakeUpsInVain | left: false & right: true
loss::a_guard_is_lost_when_the_same_client_took_the_lock_anew | RenewsForStrangers | is not lost within
loss::a_lock_that_ended_early_is_lost | Resurrects | is not lost within
loss::a_lock_that_was_deleted_is_lost_and_not_brought_back | Resurrects | is not lost within
loss::a_lock_that_was_taken_over_is_lost_and_left_alone | RenewsForStrangers | is not lost within
loss::a_lost_lock_can_be_taken_again_beside_the_old_guard | DeletesWithoutComparing | should be held and is free
names::a_name_is_refused_unasked_or_taken_whole | CutsLongKeys | it is free: Busy
names::guards_of_nearly_equal_names_are_held_side_by_side | NormalizesNames | is busy: held by
names::guards_of_odd_names_are_guards_like_any_other | ListensForTrimmedNames | nobody woke the waiter for
names::nearly_equal_names_are_different_locks | IgnoresCase | should be free and is busy
names::odd_names_are_names_like_any_other | RefusesControlCharacters | an attempt is answered: BackendError
names::odd_names_can_be_waited_for | ListensForTrimmedNames | not woken within
names::prefix_and_name_together_are_the_key | LocksNamesWithoutPrefix | is held and was granted again
names::the_longest_key_works | CutsLongKeys | should be free and is busy
names::the_same_name_under_two_prefixes_is_two_locks | LocksNamesWithoutPrefix | is busy: held by
outages::a_held_lock_outlives_cut_connections | NeverReconnects | should be held and is free
outages::a_holder_keeps_its_lock_through_a_restart_or_hears_of_it | ForgetsAndRenews | it is renewed, or lost
outages::a_holder_keeps_its_lock_through_a_restart_or_hears_of_it | NeverReconnects | should be granted
outages::a_lock_outlives_a_restart | ForgetsOnRestart | should be held and is free
outages::a_stalled_store_is_waited_for_no_longer_than_said | CallsAStallBusy | is busy: held by
outages::a_subscription_outlives_cut_connections | LosesSubscriptionsWhenCut | not woken within
outages::a_waiter_outlives_cut_connections | NeverReconnects | assertion failed: next.is_ok_and(|next| next.is_held())
outages::tokens_rise_across_a_restart | ForgetsTokensOnRestart | Some(FencingToken(1)), then Some(FencingToken(1))
outages::what_is_said_not_to_be_done_is_not_done | CallsALostGrantARefusal | it was applied, and was said not to be: connection reset
outages::what_is_said_not_to_be_done_is_not_done | CallsALostReleaseARefusal | is held and was granted again
outages::what_was_cut_off_is_not_sent_again | SendsAgainWhenCut | an attempt was sent again, unsaid
ownership::a_guard_may_go_to_other_tasks_and_threads | OwnedByTheTask | left: Some(TakenOver) & right: Some(Released)
ownership::a_late_release_leaves_the_next_holder_alone | DeletesWithoutComparing | left: Held & right: Taken
ownership::a_late_release_leaves_the_next_holder_alone | RemembersTheEnded | left: Taken & right: Absent
ownership::a_release_frees_the_key | KeepsTheEntryOnRelease | assertion failed: is_free(&a, &key).await
ownership::a_release_frees_the_key | ReleasesAllOfItsOwner | is held and was granted again
ownership::a_stranger_cannot_release | DeletesWithoutComparing | left: Held & right: Taken
ownership::releasing_twice_is_harmless | DeletesWithoutComparing | left: Held & right: Taken
ownership::the_whole_owner_is_compared | ComparesTheTokenOnly | left: Held & right: Taken
release::a_grant_that_comes_too_late_is_given_back | OwnedByTheTask | it is given back
release::a_guard_that_lost_its_entry_says_so | DeletesWithoutComparing | left: Some(Released) & right: Some(TakenOver)
release::a_release_frees_the_lock_and_says_so | KeepsTheEntryOnRelease | a lock that was released is free: Busy
release::a_release_that_is_sent_again_leaves_the_next_holder_alone | DeletesWithoutComparing | should be held and is free
release::a_stale_guard_leaves_the_next_holder_alone | DeletesWithoutComparing | left: Some(Released) & right: Some(TakenOver)
renewal::a_guard_is_prolonged_and_shortened_and_never_free | RenewsByReleasingAndTakingAgain | is held and was granted again
renewal::a_held_lock_is_renewed_for_as_long_as_it_is_held | RenewsNothing | and its guard believes in
renewal::a_renewal_may_be_for_longer_than_the_grant | RenewsForNoMoreThanThirtySeconds | and should last
renewal::a_renewal_prolongs | RenewsNothing | and should last
renewal::a_renewal_whose_answer_is_lost_is_repeated | RenewalsAddUp | the entry lasts 19
renewal::a_stranger_cannot_renew | RenewsForStrangers | left: Held & right: Taken
renewal::a_thousand_renewals_are_answered_in_order | AnswersByKey | left: Taken & right: Held
renewal::a_thousand_renewals_are_answered_in_order | AnswersInAnyOrder | left: Absent & right: Held
renewal::at_least_never_shortens | AtLeastShortens | and should last
renewal::exactly_shortens | ExactlyIsAtLeast | asked was
renewal::extending_beside_renewals_keeps_the_longer_time | ReadsThenRenews | and its guard believes in
renewal::extending_what_was_lost_says_so | RenewsForStrangers | what was lost was prolonged: ()
renewal::one_key_that_fails_does_not_keep_the_others_from_being_renewed | OneErrorFailsAll | [Err(BackendError { kind: Conflict
renewal::renewing_after_a_release_does_not_resurrect | Resurrects | left: Held & right: Absent
renewal::renewing_after_a_takeover_leaves_the_new_holder_alone | RenewsForStrangers | left: Held & right: Taken
renewal::renewing_after_an_eviction_does_not_resurrect | Resurrects | left: Held & right: Absent
renewal::renewing_after_the_end_does_not_resurrect | Resurrects | left: Held & right: Absent
scale::after_a_long_time_nothing_is_left | KeepsAllItWasAsked | memory grows and grows
scale::after_a_long_time_of_cut_connections_nothing_is_left | KeepsAllItWasAsked | memory grows and grows
scale::many_locks_are_held_at_once | ForgetsOneOfMany | one of many is lost
waiting::a_hundred_waiters_are_all_served | UnsubscribesAll | all are served
waiting::a_release_before_the_wait_counts | IsDeafBeforeTheWait | not woken within
waiting::a_release_wakes_all_who_subscribe | NeverConfirmsASubscription | not subscribed within
waiting::a_wait_of_zero_is_one_attempt | TriesForAWhile | an attempt for nothing took 100ms
waiting::a_wait_of_zero_is_one_attempt | WaitsForTheHolder | may or may not have done it
waiting::a_wait_that_is_over_says_who_holds_the_lock | BusyIsAnError | the wait is over, and the error is
waiting::a_waiter_is_served_after_a_release | KeepsTheEntryOnRelease | the waiter is served
waiting::a_waiter_is_served_beside_a_greedy_one | FavoursWhoHadItLast | it is served in the end
waiting::a_waiter_is_served_when_the_holder_has_died | EndsEarly | granted after
waiting::a_waiter_that_nobody_wakes_is_served | AnswersFromACache | the waiter is served
waiting::an_unfinished_wait_can_be_dropped | LosesTheWakeUpOfADroppedWait | not woken within
waiting::dropping_one_subscription_leaves_the_others | UnsubscribesAll | not woken within
waiting::retries_are_made_as_often_as_was_asked | WakesForNoReason |  attempts
waiting::those_who_died_in_line_keep_nobody_waiting | KeepsThePlacesOfTheDead | they wait for the dead
waiting::those_who_died_in_line_keep_nobody_waiting | WaitsForEachOfTheDead | they wait for the dead
waiting::waiters_are_served_in_the_order_they_came | ServesWhoComesFirst | who came last is served first
waiting::waiters_that_go_do_not_keep_the_others_waiting | WakesTheFirstOfAllOnly | who stays is served
"#;
