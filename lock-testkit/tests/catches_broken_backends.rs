//! The suite is tested too: for each promise there are backends that break it, and the case that says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod broken;

use std::collections::HashSet;

use broken::Flaw::{self, *};
use broken::{FLAW, Zoo};
use lock_testkit::{CASES, Case, cases, for_each_case, run_case};

/// Each flaw, and the cases that must reject it.
const TABLE: &[(Flaw, &[&str])] = &[
    (
        GrantsWhatIsHeld,
        &[
            "exclusion::a_held_key_is_busy_for_everybody_else",
            "exclusion::two_holds_never_overlap",
        ],
    ),
    (
        ProlongsWhenBusy,
        &["exclusion::a_busy_answer_touches_nothing"],
    ),
    (
        ChecksThenSets,
        &[
            "exclusion::of_many_concurrent_attempts_one_is_granted",
            "exclusion::two_holds_never_overlap",
        ],
    ),
    (
        NeverEnds,
        &[
            "expiry::an_entry_ends_by_itself",
            "expiry::every_entry_has_an_end",
        ],
    ),
    (
        RoundsTheTtlDown,
        &["expiry::an_entry_lasts_at_least_its_ttl"],
    ),
    (HasNoEnd, &["expiry::every_entry_has_an_end"]),
    (
        KeepsTheEntryOnRelease,
        &["ownership::a_release_frees_the_key"],
    ),
    (
        DeletesWithoutComparing,
        &[
            "ownership::a_stranger_cannot_release",
            "ownership::releasing_twice_is_harmless",
            "ownership::a_late_release_leaves_the_next_holder_alone",
            "release::a_guard_that_lost_its_entry_says_so",
        ],
    ),
    (
        ComparesTheTokenOnly,
        &["ownership::the_whole_owner_is_compared"],
    ),
    (SaysHeldTwice, &["ownership::releasing_twice_is_harmless"]),
    (RenewsNothing, &["renewal::a_renewal_prolongs"]),
    (
        RenewsForStrangers,
        &[
            "renewal::a_stranger_cannot_renew",
            "renewal::renewing_after_a_takeover_leaves_the_new_holder_alone",
        ],
    ),
    (
        Resurrects,
        &[
            "renewal::renewing_after_the_end_does_not_resurrect",
            "renewal::renewing_after_a_release_does_not_resurrect",
            "renewal::renewing_after_an_eviction_does_not_resurrect",
        ],
    ),
    (AtLeastShortens, &["renewal::at_least_never_shortens"]),
    (ExactlyIsAtLeast, &["renewal::exactly_shortens"]),
    (
        RenewsForNoMoreThanThirtySeconds,
        &["renewal::a_renewal_may_be_for_longer_than_the_grant"],
    ),
    (
        AnswersInAnyOrder,
        &["renewal::a_thousand_renewals_are_answered_in_order"],
    ),
    (
        OneErrorFailsAll,
        &["renewal::one_key_that_fails_does_not_keep_the_others_from_being_renewed"],
    ),
    (
        GivesOneTokenForEver,
        &["fencing::tokens_rise_over_a_thousand_grants"],
    ),
    (
        CountsInTheEntry,
        &[
            "fencing::tokens_rise_across_expiry",
            "fencing::tokens_rise_across_eviction",
        ],
    ),
    (
        ClaimsTooManyTokens,
        &["fencing::blocks_have_the_size_asked_for_and_are_given_once"],
    ),
    (CountsNanoseconds, &["fencing::tokens_fit_into_53_bits"]),
    (WakesNobody, &["waiting::a_release_wakes_all_who_subscribe"]),
    (
        IsDeafBeforeTheWait,
        &["waiting::a_release_before_the_wait_counts"],
    ),
    (
        LosesTheWakeUpOfADroppedWait,
        &["waiting::an_unfinished_wait_can_be_dropped"],
    ),
    (
        UnsubscribesAll,
        &["waiting::dropping_one_subscription_leaves_the_others"],
    ),
    (
        ListensForTrimmedNames,
        &["names::odd_names_can_be_waited_for"],
    ),
    (
        RefusesControlCharacters,
        &["names::odd_names_are_names_like_any_other"],
    ),
    (
        IgnoresCase,
        &["names::nearly_equal_names_are_different_locks"],
    ),
    (
        CutsAtNul,
        &["names::nearly_equal_names_are_different_locks"],
    ),
    (
        TrimsNames,
        &["names::nearly_equal_names_are_different_locks"],
    ),
    (
        LocksNamesWithoutPrefix,
        &["names::prefix_and_name_together_are_the_key"],
    ),
    (CutsLongKeys, &["names::the_longest_key_works"]),
    (
        HandsOverFromAnybody,
        &[
            "hand_over::a_hand_over_replaces_the_owner_once",
            "hand_over::a_hand_over_from_a_stranger_is_refused",
        ],
    ),
    (
        HandsOverWhatIsFree,
        &["hand_over::a_hand_over_of_a_free_key_is_refused"],
    ),
    (
        RefusesARepeatedHandOver,
        &["hand_over::a_repeated_hand_over_answers_the_same_grant"],
    ),
    (
        RepeatsShorten,
        &["lifecycle::a_repeated_attempt_answers_the_same_grant_and_touches_nothing"],
    ),
    (
        RepeatsAreBusy,
        &["lifecycle::a_repeated_attempt_answers_the_same_grant_and_touches_nothing"],
    ),
    (
        RepeatsGetNewTokens,
        &["lifecycle::a_repeated_attempt_answers_the_same_grant_and_touches_nothing"],
    ),
    (
        HidesTheLabel,
        &["lifecycle::a_busy_answer_names_the_holder"],
    ),
    (
        InspectionDeletes,
        &["lifecycle::an_inspection_tells_and_changes_nothing"],
    ),
    (
        DeclaresWakeUpsInVain,
        &["lifecycle::what_is_declared_stays_and_is_there"],
    ),
    (PrintsOwners, &["lifecycle::no_owner_is_ever_printed"]),
    (
        StaysLockedWhenDropped,
        &["lifecycle::a_dropped_call_leaves_the_store_usable"],
    ),
    (
        CallsAConflictBusy,
        &["lifecycle::what_is_no_lock_is_a_conflict"],
    ),
    (ClaimsOrder, &["lifecycle::a_declared_gap_is_one"]),
    (
        HidesFencing,
        &[
            "lifecycle::a_declared_gap_is_one",
            "lifecycle::what_is_declared_stays_and_is_there",
            "fencing::tokens_fit_into_53_bits",
        ],
    ),
];

macro_rules! run_by_name {
    ([] $($promise:ident { $($case:ident $([$($need:ident)+])?)* })*) => {
        fn run(case: Case) {
            match (case.promise, case.name) {
                $($((stringify!($promise), stringify!($case)) =>
                    run_case::<Zoo, _>(case, cases::$promise::$case),)*)*
                _ => panic!("there is no case {case}"),
            }
        }
    };
}
for_each_case! { [run_by_name] }

fn rejects(name: &str, flaw: Flaw) -> bool {
    let case = CASES.iter().find(|case| case.to_string() == name);
    let case = *case.unwrap_or_else(|| panic!("there is no case {name}"));
    assert!(case.lacks::<Zoo>().is_empty(), "{case} is skipped");
    FLAW.set(flaw);
    let rejected = std::panic::catch_unwind(|| run(case)).is_err();
    FLAW.set(Nothing);
    rejected
}

#[test]
fn every_flaw_is_caught_by_the_cases_of_its_promise() {
    let missed: Vec<_> = TABLE
        .iter()
        .flat_map(|(flaw, cases)| cases.iter().map(move |case| (flaw, case)))
        .filter(|(flaw, case)| !rejects(case, **flaw))
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn every_case_catches_something() {
    let tested: HashSet<_> = TABLE
        .iter()
        .flat_map(|(_, cases)| cases.iter().copied())
        .collect();
    let idle: Vec<_> = CASES
        .iter()
        .map(ToString::to_string)
        .filter(|case| !tested.contains(case.as_str()))
        .collect();
    assert!(idle.is_empty(), "no flaw in the table for {idle:#?}");
}

mod no_flaw {
    lock_testkit::conformance!(super::Zoo);
}
