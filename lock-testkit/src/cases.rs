//! The promises of a backend, each as a case that a backend which breaks it fails. One file a promise.
//!
//! A case works against a real server in real time, on a loaded machine: it never asserts that something
//! happened soon, only that it happened within seconds, and it compares what is left of an entry with time
//! measured from before the request.
//!
//! Run them with [`conformance!`](crate::conformance). A case is a plain async function of a [`Fixture`]: it can be awaited
//! on any runtime (a paused one if [`Fixture::PAUSED`]), or run by [`run_case`](crate::run_case), which skips it where the
//! fixture declares a gap. It panics if the promise is broken, or the store has not what [`Case::needs`] lists.
//!
//! With the environment variable `FENCELOCK_LONG`, what is of many rounds, clients or locks is as much, and what lasts is as long,
//! as SCENARIOS says, which takes half an hour. Without it that is so where it is cheap, of some in virtual time alone, and there is
//! a little of the rest: [`exclusion::holds_of_many_tasks_do_not_overlap`], [`processes::holds_of_several_processes_do_not_overlap`],
//! [`expiry::the_shortest_ttls_end_and_leave_nothing`], [`waiting::a_hundred_waiters_are_all_served`],
//! [`waiting::those_who_died_in_line_keep_nobody_waiting`] and [`scale`] say how much, and no CI of ours runs more. The soaks of [`scale`] print the seed of all
//! that they try at random, which a test that fails shows; with `FENCELOCK_SEED` set to it they try the same again.
//!
//! # What is no case
//!
//! SCENARIOS marks some rows for any backend that no test of a backend alone can bring about, or no backend can break. They are
//! shown elsewhere, by the tests that are named after each file:
//!
//! | Row | Why it is no case | Where it is shown |
//! |---|---|---|
//! | T14, a machine that is suspended | no test suspends the machine | `lock-core/src/clock.rs`: the further of two clocks counts, `elapsed_time_is_the_larger_of_both_clocks`; never on a machine that was |
//! | T03, optimized | how the tests are built is for who builds them: `cargo test --release conformance::expiry` | nowhere |
//! | C09, owners are distinct | lock-core makes them, not the backend | `lock-core/src/owner.rs`: `a_hundred_thousand_owners_of_eight_threads_are_all_distinct`; `lock-core/src/acquire/entropy_tests.rs`: `without_randomness_nothing_is_sent_and_the_error_says_so` |
//! | C12, databases | not every store has them; [`names`] has the prefixes | `lock-redis/tests/contract.rs`: `databases_of_one_server_are_independent` |
//! | C25, an error that lasts, and its source | what lasts is the store's to say, which no hook can make it say, and lock-core to pass on; [`errors`] has the others | `lock-testkit/tests/core_acquire.rs`: `every_failure_has_a_variant_of_its_own`, `what_no_retry_mends_comes_at_once`; `lock-redis/tests/security.rs`: `wrong_credentials_are_permanent_and_never_printed` |
//! | R14, a hook that panics | lock-core contains it, and no backend can break that | `lock-testkit/tests/core_renewal.rs`: `a_waker_that_panics_does_not_stop_the_renewal_of_other_locks`; `tests/observability.rs`: `a_subscriber_that_panics_costs_no_lock` |
//! | W02, memory, connections and keys | a budget is one store's; [`scale`] has the tasks | `lock-redis/tests/scenarios/scale.rs`: `thousands_of_locks_are_held_for_three_ttls_within_a_budget`, two, and ten with `FENCELOCK_LONG` |
//! | W12, what a server has in the end | only who knows the server can look; [`scale`] has the soak | `lock-redis/tests/proxied/soak.rs`: `in_all_weathers_no_two_are_in_together_and_nothing_is_left_of_it` |
//! | X12, a `fork()` that ends | a program in Rust forks into two that go on only with `unsafe`; other processes are [`processes`] | nowhere |

#[cfg(doc)]
use crate::fixture::Fixture;
#[cfg(doc)]
use crate::report::Case;
pub(crate) use steps::scaled;
use steps::*;

pub mod cancellation;
mod cut_off;
pub mod errors;
pub mod exclusion;
pub mod expiry;
pub mod faults;
pub mod fencing;
pub mod force;
pub mod guards;
pub mod hand_over;
pub mod lifecycle;
pub mod loss;
pub mod names;
pub mod outages;
pub mod ownership;
pub mod processes;
pub mod release;
pub mod renewal;
pub mod scale;
mod steps;
pub mod waiting;

/// Hands the list of all cases to a macro: `for_each_case!([path::to::callback] arguments)` expands to
/// `path::to::callback! { [arguments] promise { case case [Need Need] .. } promise { .. } .. }`, where a need is a
/// [`Gap`](crate::Gap) that the case cannot do with.
///
/// This is the only list of cases.
#[macro_export]
macro_rules! for_each_case {
    ([$($callback:tt)+] $($arguments:tt)*) => {
        $($callback)+! {
            [$($arguments)*]
            exclusion {
                a_held_key_is_busy_for_everybody_else
                a_busy_answer_touches_nothing
                of_many_concurrent_attempts_one_is_granted
                two_holds_never_overlap
                a_held_lock_is_busy_and_says_who_holds_it
                a_lock_is_not_reentrant
                holds_of_many_tasks_do_not_overlap
                small_histories_are_linearizable
            }
            processes {
                holds_of_several_processes_do_not_overlap [Processes]
                the_lock_of_a_process_that_was_killed_comes_free_after_its_ttl [Processes]
                a_process_that_was_stopped_leaves_the_next_holder_alone [Processes Signals]
            }
            expiry {
                an_entry_ends_by_itself
                an_entry_lasts_at_least_its_ttl
                every_entry_has_an_end
                a_dropped_attempt_leaves_nothing_without_an_end
                an_entry_outlives_its_guard
                an_entry_outlives_the_client_that_took_it
                a_ttl_counts_from_the_attempt_that_was_granted
                a_lock_whose_holder_is_gone_comes_free_after_its_ttl
                what_is_left_to_expire_ends_with_its_ttl
                the_longest_ttl_is_kept_and_no_other_ttl_is_sent
                the_shortest_ttls_end_and_leave_nothing
                a_holder_that_was_frozen_leaves_the_next_one_alone
            }
            ownership {
                a_release_frees_the_key
                releasing_twice_is_harmless
                a_stranger_cannot_release
                the_whole_owner_is_compared
                a_late_release_leaves_the_next_holder_alone
                a_guard_may_go_to_other_tasks_and_threads
            }
            renewal {
                a_renewal_prolongs
                a_stranger_cannot_renew
                renewing_after_the_end_does_not_resurrect
                renewing_after_a_release_does_not_resurrect
                renewing_after_an_eviction_does_not_resurrect [Evict]
                renewing_after_a_takeover_leaves_the_new_holder_alone
                a_renewal_may_be_for_longer_than_the_grant [AnyTtl]
                at_least_never_shortens [AnyTtl]
                exactly_shortens [AnyTtl]
                a_thousand_renewals_are_answered_in_order
                one_key_that_fails_does_not_keep_the_others_from_being_renewed [Obstruct]
                a_held_lock_is_renewed_for_as_long_as_it_is_held
                a_renewal_whose_answer_is_lost_is_repeated
                a_guard_is_prolonged_and_shortened_and_never_free [AnyTtl]
                extending_beside_renewals_keeps_the_longer_time [AnyTtl]
                extending_what_was_lost_says_so [AnyTtl Evict]
            }
            loss {
                a_lock_that_was_taken_over_is_lost_and_left_alone [Evict]
                a_lock_that_was_deleted_is_lost_and_not_brought_back [Evict]
                a_lock_that_ended_early_is_lost [Expire]
                a_guard_is_lost_when_the_same_client_took_the_lock_anew [Evict]
                a_lost_lock_can_be_taken_again_beside_the_old_guard [Evict]
            }
            release {
                a_release_frees_the_lock_and_says_so
                a_guard_that_lost_its_entry_says_so [Evict]
                a_stale_guard_leaves_the_next_holder_alone
                a_release_that_is_sent_again_leaves_the_next_holder_alone
                a_grant_that_comes_too_late_is_given_back
            }
            fencing {
                tokens_rise_over_a_thousand_grants [Fencing]
                blocks_have_the_size_asked_for_and_are_given_once [Fencing]
                tokens_rise_across_expiry [Fencing]
                tokens_rise_across_eviction [Fencing Evict]
                tokens_fit_into_53_bits [Fencing]
                each_guard_carries_a_greater_token [Fencing]
                a_guard_that_is_extended_keeps_its_token [Fencing AnyTtl]
            }
            waiting {
                a_release_wakes_all_who_subscribe [Wakeups]
                a_release_before_the_wait_counts [Wakeups]
                an_unfinished_wait_can_be_dropped [Wakeups]
                dropping_one_subscription_leaves_the_others [Wakeups]
                a_waiter_is_served_after_a_release
                a_hundred_waiters_are_all_served
                waiters_that_go_do_not_keep_the_others_waiting
                a_wait_that_is_over_says_who_holds_the_lock
                a_wait_of_zero_is_one_attempt
                retries_are_made_as_often_as_was_asked
                a_waiter_is_served_when_the_holder_has_died
                a_waiter_that_nobody_wakes_is_served
                a_waiter_is_served_beside_a_greedy_one
                waiters_are_served_in_the_order_they_came [Order]
                those_who_died_in_line_keep_nobody_waiting [Order]
            }
            cancellation {
                a_cancelled_acquire_of_a_free_lock_leaves_nothing_behind
                a_cancelled_wait_leaves_the_holder_alone
                a_cancelled_wait_for_a_lock_that_comes_free_leaves_nothing_behind
                a_cancelled_extension_leaves_a_deadline_that_is_safe [AnyTtl]
                a_cancelled_release_is_finished
                a_cancelled_body_lets_go
                a_cancelled_hand_over_loses_nothing [HandOver]
                a_storm_of_timeouts_leaves_nothing_behind
            }
            faults {
                a_grant_that_nobody_heard_of_is_given_back
                a_wait_ends_in_time_at_a_store_that_stands_still [Stall]
                an_attempt_that_arrives_after_it_was_given_up_does_not_stay
                an_attempt_that_was_cut_off_is_never_busy [CutConnections]
                requests_that_arrive_twice_are_done_once
                a_prolongation_that_arrives_twice_is_done_once [AnyTtl]
                a_late_copy_shortens_nothing [AnyTtl]
                a_late_copy_leaves_the_next_holder_alone
                a_late_copy_that_takes_the_lock_ends_with_its_ttl
                a_hand_over_is_done_once_and_given_back_if_nobody_heard_of_it [HandOver]
                a_renewal_that_fails_once_is_made_up_for
                a_lock_that_cannot_be_renewed_is_lost_before_its_entry_ends
                a_release_that_failed_is_done_later
            }
            guards {
                a_guard_is_released_wherever_it_is_dropped
                a_forgotten_guard_ends_with_the_longest_hold
                a_guard_outlives_the_locks_it_came_from
                what_is_left_of_a_guard_is_known_without_the_store
                two_hundred_locks_of_one_client_are_all_kept
                with_lets_go_however_its_body_ends
                with_says_that_the_lock_was_lost [Evict]
            }
            scale {
                many_locks_are_held_at_once
                after_a_long_time_nothing_is_left
                after_a_long_time_of_cut_connections_nothing_is_left [CutConnections]
            }
            names {
                odd_names_are_names_like_any_other
                odd_names_can_be_waited_for [Wakeups]
                nearly_equal_names_are_different_locks
                prefix_and_name_together_are_the_key
                the_longest_key_works
                the_same_name_under_two_prefixes_is_two_locks
                a_name_is_refused_unasked_or_taken_whole
                guards_of_odd_names_are_guards_like_any_other
                guards_of_nearly_equal_names_are_held_side_by_side
            }
            hand_over {
                a_hand_over_replaces_the_owner_once [HandOver]
                a_hand_over_from_a_stranger_is_refused [HandOver]
                a_hand_over_of_a_free_key_is_refused [HandOver]
                a_repeated_hand_over_answers_the_same_grant [HandOver]
                a_ticket_works_once [HandOver]
            }
            force {
                a_lock_that_was_taken_by_force_is_free_and_whose_it_was_is_told [ForceRelease]
                a_free_lock_is_nobodys_to_be_taken_from [ForceRelease]
                tokens_rise_across_force [Fencing ForceRelease]
                a_holder_hears_that_its_lock_was_taken_by_force [ForceRelease]
                force_wakes_all_who_wait [Wakeups ForceRelease]
                force_takes_one_lock_and_no_other [ForceRelease]
                what_is_no_lock_is_not_taken_by_force [Obstruct ForceRelease]
            }
            errors {
                what_is_no_lock_is_a_conflict [Obstruct]
                what_is_no_lock_is_told_as_a_conflict [Obstruct]
                a_store_that_is_down_is_a_failure_and_never_busy [Stop]
                no_owner_is_ever_printed
                no_guard_and_no_error_prints_an_owner
            }
            outages {
                a_held_lock_outlives_cut_connections [CutConnections]
                a_subscription_outlives_cut_connections [Wakeups CutConnections]
                a_waiter_outlives_cut_connections [CutConnections]
                what_is_said_not_to_be_done_is_not_done [CutConnections]
                what_was_cut_off_is_not_sent_again [SendsOnce CutConnections]
                a_stalled_store_is_waited_for_no_longer_than_said [Stall]
                a_holder_keeps_its_lock_through_a_restart_or_hears_of_it [Restart]
                a_lock_outlives_a_restart [SurvivesRestart Restart]
                tokens_rise_across_a_restart [Fencing Restart]
            }
            lifecycle {
                a_repeated_attempt_answers_the_same_grant_and_touches_nothing
                a_busy_answer_names_the_holder
                an_inspection_tells_and_changes_nothing
                what_is_declared_stays_and_is_there
                a_declared_gap_is_one
                a_dropped_call_leaves_the_store_usable
                a_status_tells_who_holds_the_lock
                a_shutdown_releases_what_is_held_and_refuses_what_is_new
                two_hundred_holds_leave_no_task_behind
                losses_leave_no_task_behind [Evict]
                a_runtime_that_is_shut_down_leaves_no_lock_behind
                one_thread_is_enough
            }
        }
    };
}

/// Makes one `#[test]` of every case, in one module a promise, for a [`Fixture`], and one named `report`
/// that prints the fixture's [`Report`](crate::Report).
///
/// `mod conformance { lock_testkit::conformance!(super::MyFixture); }`, and `cargo test conformance::renewal`
/// runs those of one promise, `cargo test conformance::report -- --nocapture` shows what is tested and what is skipped. Once in a
/// module. [`Fixture`] has a whole example.
#[macro_export]
macro_rules! conformance {
    ($fixture:ty) => {
        $crate::for_each_case! { [$crate::__tests] $fixture }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ([$fixture:ty] $($promise:ident { $($case:ident $([$($need:ident)+])?)* })*) => {
        // The fixture's name is resolved here, not in the modules.
        type FixtureUnderTest = $fixture;
        $(
            mod $promise {
                $(
                    #[test]
                    fn $case() {
                        $crate::__run_test(
                            concat!(module_path!(), "::", stringify!($case)),
                            $crate::case!($promise $case $([$($need)+])?),
                            $crate::cases::$promise::$case::<super::FixtureUnderTest>,
                        );
                    }
                )*
            }
        )*

        #[test]
        fn report() {
            let report = $crate::Report::of::<FixtureUnderTest>();
            println!("{report}");
            let is_here = <FixtureUnderTest as $crate::Fixture>::is_here();
            assert_eq!(report.tested().count() > 0, is_here, "no case is left");
        }
    };
}

/// One element of [`for_each_case!`] as a [`Case`](crate::Case).
#[doc(hidden)]
#[macro_export]
macro_rules! case {
    ($promise:ident $case:ident $([$($need:ident)+])?) => {
        $crate::Case::new(
            stringify!($promise),
            stringify!($case),
            &[$($($crate::Gap::$need),+)?],
        )
    };
}

macro_rules! list {
    ([] $($promise:ident { $($case:ident $([$($need:ident)+])?)* })*) => {
        /// All cases, and what they need.
        pub const CASES: &[$crate::Case] =
            &[$($($crate::case!($promise $case $([$($need)+])?)),*),*];
    };
}
for_each_case! { [list] }

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::CASES;

    /// The rows of the catalogue that are for any backend.
    const SCENARIOS: &str = "\
        C01 C02 C03 C04 C05 C06 C07 C08 C09 C10 C11 C12 C13 C14 C15 C17 C18 C20 C21 C22 C24 C25 \
        T01 T02 T03 T04 T06 T11 T14 \
        R01 R02 R03 R06 R09 R10 R14 R17 R18 \
        X04 X05 X07 X09 X10 X11 X12 X13 X14 \
        W01 W02 W05 W08 W09 W10 W12 W13 \
        N01 N02 N03 N04";

    /// By the module of cases that shows it, or by the table of those that are no case.
    #[test]
    fn every_scenario_for_any_backend_is_named() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let cases = std::fs::read_dir(format!("{source}/cases")).unwrap();
        let files = cases.map(|file| file.unwrap().path());
        let mut named = HashSet::new();
        for file in files.chain([format!("{source}/cases.rs").into()]) {
            let text = std::fs::read_to_string(file).unwrap();
            let docs = text.lines().filter_map(|line| line.strip_prefix("//!"));
            let docs = docs.collect::<Vec<_>>().join(" ");
            let words: Vec<_> = docs.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
            for (place, word) in words.iter().enumerate() {
                named.insert((*word).to_owned());
                let (Some(&"to"), Some(last)) = (words.get(place + 1), words.get(place + 2)) else {
                    continue;
                };
                let number = |word: &str| word.get(1..)?.parse::<u8>().ok();
                if let (Some(first), Some(last)) = (number(word), number(last)) {
                    let kind = &word[..1];
                    named.extend((first..=last).map(|number| format!("{kind}{number:02}")));
                }
            }
        }
        let scenarios = SCENARIOS.split_whitespace();
        let silent: Vec<_> = scenarios.filter(|row| !named.contains(*row)).collect();
        assert!(silent.is_empty(), "no module of cases shows {silent:?}");
    }

    #[test]
    fn no_case_is_forgotten() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases");
        let mut written = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let promise = path.file_stem().unwrap().to_str().unwrap().to_owned();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let name = line
                    .strip_prefix("pub async fn ")
                    .and_then(|rest| rest.split('<').next());
                written.extend(name.map(|name| (promise.clone(), name.to_owned())));
            }
        }
        let mut listed: Vec<_> = CASES
            .iter()
            .map(|case| (case.promise.to_owned(), case.name.to_owned()))
            .collect();
        written.sort();
        listed.sort();
        assert_eq!(listed, written);
    }
}
