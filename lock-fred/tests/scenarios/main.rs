//! Scenarios on real servers, and where each of the catalogue's is shown: of its sections on renewal, cancellation, faults,
//! waiters and names all that concern servers, and of the one on time those that concern a server's.
//!
//! The tests are those of this crate; `core_*` and `cases` stand in lock-testkit, the latter run against this crate by
//! `conformance.rs`. The store's line is shown with the line.
//!
//! | Scenario | Tests |
//! |---|---|
//! | R01 | `locks_renewal::a_lock_outlives_five_ttls_while_somebody_tries_to_get_it`, `core_renewal::a_lock_is_renewed_three_times_per_ttl_for_as_long_as_it_is_held` |
//! | R02 | `locks_loss::a_lock_that_others_took_is_lost_and_theirs_is_left_alone` |
//! | R03 | `proxied::renewal::one_renewal_that_fails_loses_no_lock` |
//! | R04 | `proxied::renewal::renewals_that_are_never_answered_are_tried_again_until_the_deadline` |
//! | R05 | `proxied::renewal::renewals_that_are_never_answered_are_tried_again_until_the_deadline`, `proxied::renewal::a_connection_that_falls_silent_under_a_holder_loses_no_lock` |
//! | R06 | `proxied::renewal::one_renewal_that_fails_loses_no_lock`, `core_renewal::a_renewal_that_was_applied_unheard_moves_the_deadline_only_when_one_is_heard` |
//! | R09 | `locks_loss::who_lost_a_lock_can_take_it_again_while_the_old_guard_lives` |
//! | R10 | `locks_end::nothing_of_a_lock_stays_behind_in_the_process` |
//! | R11 | `core_renewal::a_lock_held_for_as_long_as_was_allowed_is_lost_and_its_entry_ends_with_the_ttl` |
//! | R12 | `core_renewal::whatever_renewals_take_the_deadline_is_safe_and_never_falls` |
//! | R13 | `locks_renewal::a_script_cache_that_is_lost_all_the_time_loses_no_lock` |
//! | R14 | `core_renewal::a_waker_that_panics_does_not_stop_the_renewal_of_other_locks` |
//! | R15 | `core_renewal::ten_thousand_locks_of_one_instant_are_renewed_spread_and_in_batches` |
//! | R16 | `locks_loss::a_deleted_lock_is_lost_and_not_made_again`, `locks_loss::a_flushed_lock_is_lost_and_not_made_again`, `locks_loss::an_evicted_lock_is_lost_and_not_made_again` |
//! | R17 | `proxied::renewal::an_extension_waits_for_the_renewal_before_it_and_both_count` |
//! | R18 | `locks_loss::who_lost_a_lock_can_take_it_again_while_the_old_guard_lives`, `core_renewal::a_key_taken_again_by_the_same_process_is_lost_for_the_older_guard` |
//! | X02 | `proxied::acquire::a_thousand_acquires_cut_short_on_a_slow_link_leave_nothing` |
//! | X04 | `proxied::renewal::an_extension_that_is_dropped_at_any_await_leaves_a_safe_deadline` |
//! | X05 | `locks_end::a_dropped_guard_frees_its_key_wherever_it_is_dropped` |
//! | X07 | `scenarios::ends::a_runtime_that_is_shut_down_without_patience_takes_locks_and_waiters_with_it`, `locks_end::a_runtime_that_ends_with_locks_held_and_waited_for_harms_nobody` |
//! | X09 | `scenarios::ends::a_guard_that_is_dropped_in_blocking_or_local_code_is_released`, `scenarios::ends::a_guard_that_was_taken_in_a_local_set_is_released_by_it` |
//! | X10 | `scenarios::ends::a_leaked_guard_holds_its_lock_no_longer_than_it_may` |
//! | X11 | `locks_renewal::a_lock_is_renewed_after_its_locks_and_backend_are_dropped` |
//! | X12 | `scenarios::processes::a_process_that_ends_without_a_word_holds_its_lock_until_the_ttl_ends` |
//! | X13 | `scenarios::ends::however_the_body_ends_the_lock_is_released_and_its_answer_is_kept` |
//! | X14 | `locks_loss::with_stops_its_body_when_the_lock_is_deleted` |
//! | T04 | `scenarios::clock::an_entry_lasts_as_long_as_its_holder_believes_and_no_longer_than_its_ttl` |
//! | T06 | `scenarios::clock::an_entry_lasts_as_long_as_its_holder_believes_and_no_longer_than_its_ttl`, `cases::expiry::every_entry_has_an_end` |
//! | T09 | `scenarios::clock::a_server_whose_clock_jumps_ahead_is_noticed_by_the_next_renewal` |
//! | T10 | `scenarios::clock::a_server_whose_clock_jumps_back_grants_nothing_and_waiters_keep_to_their_wait` |
//! | T11 | `scenarios::processes::a_process_that_was_stopped_for_longer_than_the_ttl_knows_it_at_once` |
//! | F03 | `proxied::release::a_release_whose_reply_is_lost_is_unknown_and_leaves_the_next_holder_alone`, `proxied::release::a_second_release_after_a_lost_reply_finds_nothing` |
//! | F04 | `proxied::release::a_release_that_comes_late_leaves_the_next_holder_alone`, `proxied::release::a_release_that_never_reached_the_server_is_done_in_the_background` |
//! | F05 | `proxied::acquire::an_acquire_that_arrives_after_it_was_given_up_is_gone_by_the_second_release`, `proxied::acquire::an_acquire_that_arrives_after_all_was_done_is_an_orphan_until_its_ttl_ends` |
//! | F06 | `proxied::network::refused_connections_change_nothing_and_are_tried_again`, `faults::an_unreachable_server_is_a_transient_error` |
//! | F07 | `locks_loss::a_server_that_comes_back_empty_gives_the_lock_to_the_next_with_a_greater_token` |
//! | F08 | `scenarios::restarts::a_server_that_comes_back_with_its_data_knows_who_holds_the_lock_and_for_how_long` |
//! | F09 | `locks_renewal::connections_that_are_killed_all_the_time_lose_no_lock` |
//! | F10 | `locks_waiting::waiters_are_woken_although_their_subscription_is_cut_again_and_again` |
//! | F11 | `locks_loss::a_pause_is_survived_by_a_long_ttl_and_not_by_a_short_one` |
//! | F12 | `proxied::acquire::on_a_link_that_is_slow_for_the_ttl_grants_are_late_and_few` |
//! | F14 | `scenarios::restarts::a_server_that_evicts_locks_costs_one_at_its_next_renewal`, `eviction::a_server_says_whether_it_may_evict_locks`, `warnings::who_connects_to_a_server_that_evicts_locks_is_warned`, `eviction::who_must_not_ask_does_not_and_is_told_nothing` |
//! | F15 | `faults::a_read_only_replica_is_a_transient_error`, `faults::a_server_that_became_a_replica_is_connected_to_anew` |
//! | F16 | `proxied::replies::what_a_server_says_instead_of_serving_is_classified_the_same_for_all_calls`, `scenarios::restarts::a_server_that_loads_its_data_is_waited_for`, `scenarios::restarts::a_replica_without_its_master_and_a_cluster_without_slots_are_transient_errors`, `faults::a_server_that_is_busy_with_a_script_is_a_transient_error` |
//! | F17 | `faults::a_server_that_takes_no_writes_is_a_transient_error_and_keeps_nothing` |
//! | F18 | `scenarios::credentials::credentials_that_change_while_a_lock_is_held_cost_it_at_its_deadline`, `scenarios::credentials::a_required_password_that_changes_while_a_lock_is_held_costs_it_at_its_deadline`, `security::wrong_credentials_are_permanent_and_never_printed` |
//! | F19 | `security::each_right_that_is_missing_is_named_at_the_first_use`, `security::without_wakeups_waiters_poll_and_releases_work_without_the_channel`, `scenarios::credentials::a_right_that_is_taken_away_while_a_lock_is_held_is_named` |
//! | F20 | `contract::a_lost_script_cache_is_not_noticed`, `proxied::network::a_script_cache_that_is_lost_between_two_commands_is_not_noticed` |
//! | F21 | `scenarios::credentials::who_may_not_load_scripts_locks_and_who_may_not_send_them_locks_where_they_are_known` |
//! | F23 | `locks_waiting::an_entry_without_an_end_is_waited_for_and_left_alone` |
//! | F24 | `deploy_failover::a_failover_by_sentinels_with_200_locks_held_and_waited_for`, `deploy_failover::a_failover_in_a_cluster_with_200_locks_held_and_waited_for` |
//! | F25 | `deploy_replicas::a_grant_that_replicas_do_not_get_is_refused_and_given_back`, `deploy_replicas::a_wait_whose_answer_is_lost_gives_the_grant_back` |
//! | F26 | `deploy_cluster::locks_are_renewed_and_released_while_their_slot_moves`, `deploy_cluster::what_was_applied_before_it_was_refused_is_not_told_as_not_applied`, `deploy_cluster::a_master_that_falls_silent_is_left_for_its_successor` |
//! | F28 | `proxied::replies::odd_replies_are_of_unknown_outcome_and_no_grants`, `proxied::replies::a_connection_on_which_something_senseless_came_is_replaced`, `proxied::replies::enormous_replies_are_no_answers_and_are_not_kept` |
//! | F29 | `given::a_hundred_who_wait_over_one_connection_do_not_hold_up_its_releases`, `scenarios::scale::a_hundred_waiters_on_a_hundred_locks_share_two_connections` |
//! | F30 | `deploy_tls::a_server_that_is_not_who_it_says_is_refused`, `deploy_tls::plain_text_to_a_tls_port_and_tls_to_a_plain_port_are_refused` |
//! | F31 | `proxied::network::everything_works_byte_by_byte`, `proxied::network::replies_that_come_all_at_once_find_their_callers` |
//! | W01 | `scenarios::scale::a_thousand_waiters_of_one_lock_are_all_served` |
//! | W02 | `scenarios::scale::thousands_of_locks_are_held_for_three_ttls_within_a_budget` |
//! | W05 | `locks_waiting::a_waiter_notices_the_end_of_a_holder_that_died` |
//! | W06 | `proxied::waiting::messages_of_other_names_and_garbage_wake_nobody_for_nothing` |
//! | W07 | `proxied::waiting::waiters_whose_wakeups_are_lost_find_the_lock_by_looking`, `locks_waiting::without_wakeups_waiters_poll_and_need_no_right_to_the_channel` |
//! | W09 | `locks_waiting::waiters_that_go_away_take_nobody_elses_turn` |
//! | W10 | `scenarios::scale::a_thousand_waiters_give_up_when_their_wait_is_over` |
//! | W11 | `proxied::waiting::a_hundred_waiters_outlast_a_server_that_is_down_without_hammering_it` |
//! | W12 | `proxied::soak::in_all_weathers_no_two_are_in_together_and_nothing_is_left_of_it` |
//! | W13 | `scenarios::scale::who_takes_the_lock_again_at_once_starves_nobody_for_long` |
//! | N01 | `scenarios::names::a_name_that_is_empty_or_too_long_is_refused_without_a_request` |
//! | N02 | `scenarios::names::a_name_that_is_empty_or_too_long_is_refused_without_a_request`, `cases::names::the_longest_key_works` |
//! | N03 | `scenarios::names::odd_names_are_held_side_by_side_byte_for_byte`, `cases::names::nearly_equal_names_are_different_locks` |
//! | N04 | `scenarios::names::odd_names_are_held_side_by_side_byte_for_byte`, `contract::odd_keys_are_independent_locks` |
//! | N05 | `scenarios::names::odd_names_are_held_side_by_side_byte_for_byte`, `proxied::waiting::messages_of_other_names_and_garbage_wake_nobody_for_nothing` |
//! | N09 | `scenarios::names::who_locks_by_set_nx_excludes_us_and_is_excluded`, `both_clients::each_excludes_the_other_and_names_it`, `both_clients::what_one_takes_the_other_knows_renews_and_gives_up` |
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../common/mod.rs"]
mod common;

mod clock;
mod credentials;
mod ends;
mod names;
mod processes;
mod restarts;
mod scale;

use std::path::Path;
use std::time::Duration;

use common::*;
use lock_core::{DistributedLock, LockError, LockGuard, Locks, Released};
use lock_testkit::server::RedisServer;

/// The scenarios that must have a row.
const SCENARIOS: &str = "\
    R01 R02 R03 R04 R05 R06 R09 R10 R11 R12 R13 R14 R15 R16 R17 R18 \
    X02 X04 X05 X07 X09 X10 X11 X12 X13 X14 \
    T04 T06 T09 T10 T11 \
    F03 F04 F05 F06 F07 F08 F09 F10 F11 F12 F14 F15 F16 F17 F18 F19 F20 F21 F23 F24 F25 F26 F28 F29 F30 F31 \
    W01 W02 W05 W06 W07 W09 W10 W11 W12 W13 \
    N01 N02 N03 N04 N05 N09";

/// The scenario and the tests of each row of this file's table.
fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let table = include_str!("main.rs").lines().filter_map(|line| {
        let (scenario, tests) = line.strip_prefix("//! | ")?.split_once(" | ")?;
        let tests: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        (!tests.is_empty()).then_some((scenario, tests))
    });
    table.collect()
}

/// Whether there is a test, or a case of the conformance suite, of this name.
fn is_there(test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else {
        return false;
    };
    let file = module.replace("::", "/") + ".rs";
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let testkit = package.with_file_name("lock-testkit");
    // What is about both clients stands in one of them.
    let both = (module == "both_clients").then(|| package.with_file_name("lock-fred"));
    let here = both.unwrap_or_else(|| package.to_owned());
    let places = [
        here.join("tests"),
        testkit.join("tests"),
        testkit.join("src"),
    ];
    let sources =
        places.map(|place| std::fs::read_to_string(place.join(&file)).unwrap_or_default());
    sources.iter().any(|source| {
        let Some(at) = source
            .find(&format!("fn {name}("))
            .or_else(|| source.find(&format!("fn {name}<")))
        else {
            return false;
        };
        let before = source[..at].trim_end_matches(|c| c != '\n').trim_end();
        let attribute = before.lines().next_back().unwrap_or_default();
        attribute.contains("test") || module.starts_with("cases::")
    })
}

#[test]
fn every_scenario_has_a_row_of_tests_that_exist() {
    let rows = rows();
    let scenarios: Vec<_> = rows.iter().map(|(scenario, _)| *scenario).collect();
    assert_eq!(scenarios, SCENARIOS.split_whitespace().collect::<Vec<_>>());
    for (scenario, tests) in rows {
        for test in tests {
            assert!(is_there(test), "{scenario}: there is no test {test}");
        }
    }
    assert!(!is_there("faults::no_such_test") && !is_there("faults::quick"));
}
