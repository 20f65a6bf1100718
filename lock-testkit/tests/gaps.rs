//! What a store lacks is declared or fails; what is declared is skipped, and stands in the report.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use lock_core::{Capabilities, LockKey};
use lock_testkit::{CASES, Case, Fixture, Gap, Report, Scripted, cases, run_case};

/// A store that only excludes, and a fixture without hooks. `DECLARED` says whether it declares that.
struct Least<const DECLARED: bool>(Scripted);

impl<const DECLARED: bool> Fixture for Least<DECLARED> {
    type Backend = Scripted;
    const PAUSED: bool = true;
    const GAPS: &[Gap] = if DECLARED { Gap::ALL } else { &[] };

    async fn start() -> Self {
        Self(least())
    }

    async fn client(&self) -> Scripted {
        self.0.clone()
    }
}

/// What only excludes, by a client that may send everything again.
fn least() -> Scripted {
    let capabilities = Capabilities::new().with_resends(true);
    Scripted::honest().with_capabilities(capabilities)
}

/// A store that can nearly everything, and a fixture that forgot to take back what it declared.
struct Forgetful(Scripted);

impl Fixture for Forgetful {
    type Backend = Scripted;
    const PAUSED: bool = true;
    const GAPS: &[Gap] = Gap::ALL;

    async fn start() -> Self {
        Self(least())
    }

    async fn client(&self) -> Scripted {
        self.0.clone()
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.evict(key.as_str());
        true
    }
}

/// A store that is not installed.
struct Away;

impl Fixture for Away {
    type Backend = Scripted;

    fn is_here() -> bool {
        false
    }

    async fn start() -> Self {
        panic!("it is not here")
    }

    async fn client(&self) -> Scripted {
        panic!("it is not here")
    }
}

mod away {
    lock_testkit::conformance!(super::Away);
}

/// A store that takes long to start: cases share one, but for those that have it to themselves.
struct Dear {
    own: bool,
}

impl Fixture for Dear {
    type Backend = Scripted;
    const PAUSED: bool = true;

    async fn start() -> Self {
        Self { own: false }
    }

    async fn start_for(case: &Case) -> Self {
        Self {
            own: case.disturbs(),
        }
    }

    async fn client(&self) -> Scripted {
        Scripted::honest()
    }
}

fn case(name: &str) -> Case {
    *CASES.iter().find(|case| case.name == name).unwrap()
}

/// What a panic of `run` says.
fn complaint(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it did not complain");
    panic.downcast_ref::<String>().unwrap().clone()
}

/// All cases that it does not lack anything for pass.
mod least {
    lock_testkit::conformance!(super::Least<true>);
}

#[test]
fn a_capability_that_is_lacking_and_not_declared_fails_with_advice() {
    let said = complaint(|| {
        let case = case("tokens_fit_into_53_bits");
        run_case::<Least<false>, _>(case, cases::fencing::tokens_fit_into_53_bits);
    });
    assert!(
        said.contains("`Capabilities::fencing`") && said.contains("`Gap::Fencing`"),
        "{said}"
    );
}

#[test]
fn a_hook_that_is_lacking_and_not_declared_fails_with_advice() {
    let said = complaint(|| {
        let case = case("what_is_no_lock_is_a_conflict");
        run_case::<Least<false>, _>(case, cases::errors::what_is_no_lock_is_a_conflict);
    });
    assert!(
        said.contains("`Fixture::obstruct`") && said.contains("`Gap::Obstruct`"),
        "{said}"
    );
}

#[test]
fn a_declared_gap_that_is_none_fails() {
    let case = case("a_declared_gap_is_one");
    run_case::<Least<true>, _>(case, cases::lifecycle::a_declared_gap_is_one);
    let said = complaint(|| {
        run_case::<Forgetful, _>(case, cases::lifecycle::a_declared_gap_is_one);
    });
    assert!(said.contains("Gap::Evict"), "{said}");
}

#[test]
fn a_case_is_skipped_for_every_gap_that_is_declared_and_never_else() {
    let (least, all) = (Report::of::<Least<true>>(), Report::of::<Least<false>>());
    assert_eq!(all.tested().count(), CASES.len());
    assert_eq!(all.skipped().count(), 0);
    for (case, lacks) in least.skipped() {
        assert_eq!(case.needs, lacks);
    }
    assert!(least.tested().all(|case| case.needs.is_empty()));
    assert_eq!(
        least.tested().count() + least.skipped().count(),
        CASES.len()
    );
}

/// Where whoever runs the tests sees it, although tests that pass have their output swallowed.
#[test]
fn a_skipped_case_says_so_on_stderr() {
    for (module, why) in [
        ("least", "because of the declared gaps [Fencing]"),
        ("away", "because the store is not here"),
    ] {
        let case = "fencing::tokens_fit_into_53_bits";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::{case}")])
            .env_remove("RUST_TEST_NOCAPTURE")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{printed}");
        assert!(printed.contains("1 passed"), "{printed}");
        let said = String::from_utf8(output.stderr).unwrap();
        let line = format!("SKIPPED: {case}, {why}");
        assert!(said.lines().any(|said| said == line), "{said}");
    }
}

#[test]
fn a_report_is_a_table_of_all_cases() {
    let printed = Report::of::<Least<true>>().to_string();
    assert!(
        printed.contains("| `exclusion::two_holds_never_overlap` |  | tested |"),
        "{printed}"
    );
    assert!(
        printed.contains(
            "| `fencing::tokens_rise_across_eviction` | Fencing, Evict | **skipped**: no fencing tokens, no way to delete an entry |"
        ),
        "{printed}"
    );
    assert_eq!(printed.matches("\n| `").count(), CASES.len());
}

#[test]
fn nothing_is_tested_where_the_store_is_not() {
    let report = Report::of::<Away>();
    assert_eq!(report.tested().count(), 0);
    assert_eq!(report.skipped().count(), CASES.len());
    let printed = report.to_string();
    assert_eq!(
        printed.matches("the store is not here |").count(),
        CASES.len()
    );
}

#[tokio::test(start_paused = true)]
async fn a_case_is_a_function_that_can_be_awaited() {
    cases::exclusion::a_lock_is_not_reentrant(Least::<true>::start().await).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "a store that declares fencing gives tokens")]
async fn a_case_that_is_awaited_where_it_lacks_something_says_so() {
    cases::fencing::tokens_fit_into_53_bits(Least::<true>::start().await).await;
}

/// What a case is written to do to its store, by the steps that ask the fixture for it.
fn hooks(case: &Case) -> Vec<Gap> {
    let file = format!(
        "{}/src/cases/{}.rs",
        env!("CARGO_MANIFEST_DIR"),
        case.promise
    );
    let source = std::fs::read_to_string(file).unwrap();
    let start = format!("pub async fn {}<", case.name);
    let (_, body) = source.split_once(&start).unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_called = |step: &str| {
        let mut calls = body.match_indices(step);
        calls.any(|(at, _)| !body[..at].ends_with(is_name))
    };
    let used = STEPS.iter().filter(|(_, step)| {
        is_called(&format!("{step}(fixture")) || is_called(&format!("{step}(&fixture"))
    });
    used.map(|(gap, _)| *gap).collect()
}

/// But for `expire`: where that is lacking, some cases wait for the ttl.
const STEPS: [(Gap, &str); 7] = [
    (Gap::Evict, "evict"),
    (Gap::Obstruct, "obstruct"),
    (Gap::Restart, "restart"),
    (Gap::Stop, "stop"),
    (Gap::Stall, "stall"),
    (Gap::CutConnections, "cut_connections"),
    (Gap::ForceRelease, "operator"),
];

/// As it is written, and not as somebody remembered to write down in the list.
#[test]
fn a_case_needs_what_it_does_to_its_store() {
    let mut found = 0;
    for case in CASES {
        let hooks = hooks(case);
        for (gap, step) in STEPS {
            let (needs, does) = (case.needs.contains(&gap), hooks.contains(&gap));
            assert_eq!(needs, does, "{case}: {gap:?} and `{step}`");
        }
        found += hooks.len();
    }
    assert!(found > 20, "only {found} were found");
}

#[test]
fn a_case_that_disturbs_others_can_have_a_store_to_itself() {
    for case in CASES {
        let is_told = |fixture: Dear| async move { assert_eq!(fixture.own, case.disturbs()) };
        if case.needs.is_empty() {
            run_case(*case, is_told);
        }
        let others_notice = [Gap::Restart, Gap::Stop, Gap::Stall, Gap::CutConnections];
        let does = hooks(case).iter().any(|hook| others_notice.contains(hook));
        assert_eq!(case.disturbs(), does, "{case}");
    }
    run_case(
        case("a_waiter_outlives_cut_connections"),
        |fixture: Dear| async move {
            assert!(fixture.own);
        },
    );
}
