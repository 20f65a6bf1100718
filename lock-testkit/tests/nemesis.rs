//! The parts of a nemesis: processes end as they are told, and the register is one that a holder can be stopped at.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Command;
use std::time::Duration;

use lock_core::FencingToken;
use lock_testkit::nemesis::{Processes, Register, Writer};

const PATIENCE: Duration = Duration::from_secs(30);

/// Processes that run these commands of a shell, each with `$place` and `$generation`.
fn processes(count: usize, shell: &'static str) -> Processes {
    Processes::start(count, move |place, generation| {
        let mut command = Command::new("sh");
        command.args(["-c", shell]);
        command.env("place", place.to_string());
        command.env("generation", generation.to_string());
        command
    })
    .unwrap()
}

/// Ends when it is told to, and says who it was.
const GOOD: &str = "cat >/dev/null; echo $place.$generation";

#[tokio::test]
async fn processes_end_when_they_are_told_and_others_take_the_place_of_killed_ones() {
    let mut three = processes(3, GOOD);
    three.kill(1);
    three.restart(1).unwrap();
    three.kill(1);
    three.restart(1).unwrap();
    three.stop(2);
    three.resume(2);
    assert_eq!(three.count(), 5);
    let outputs = three.end(PATIENCE).await.unwrap();
    assert_eq!(outputs, ["0.0\n", "1.2\n", "2.0\n"]);
}

#[tokio::test]
async fn a_process_that_fails_is_named() {
    let flaws = processes(2, "cat >/dev/null; exit $place")
        .end(PATIENCE)
        .await;
    let flaws = flaws.unwrap_err();
    assert_eq!(flaws.len(), 1);
    assert!(
        flaws[0].starts_with("process 1.0 ended by itself"),
        "{flaws:?}"
    );
}

#[tokio::test]
async fn a_process_that_ends_too_early_is_named_even_if_all_was_well() {
    let waits_to_be_told = "[ $place = 1 ] || cat >/dev/null";
    let mut two = processes(2, waits_to_be_told);
    // One of them at least is there in time to have ended before it is killed.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        two.kill(1);
        two.restart(1).unwrap();
    }
    let flaws = two.end(PATIENCE).await.unwrap_err();
    assert!(flaws[0].starts_with("process 1."), "{flaws:?}");
    assert!(flaws[0].contains("exit status: 0"), "{flaws:?}");
}

#[tokio::test]
async fn a_process_that_is_stopped_is_not_done() {
    let mut one = processes(1, GOOD);
    one.stop(0);
    let flaws = one.end(Duration::from_millis(50)).await.unwrap_err();
    assert!(flaws[0].contains("not done"), "{flaws:?}");
}

#[tokio::test]
async fn a_register_refuses_old_tokens_of_each_key_and_keeps_all_writes() {
    let register = Register::start().await;
    let (mut one, mut other) = (
        Writer::new(register.address()),
        Writer::new(register.address()),
    );
    let token = FencingToken::new;
    assert!(one.write("k", "one", token(7)).await.unwrap());
    assert!(other.write("k", "other", token(9)).await.unwrap());
    assert!(!one.write("k", "one", token(8)).await.unwrap());
    assert!(one.write("another", "one", token(8)).await.unwrap());
    assert!(other.write("k", "other", token(9)).await.unwrap());
    let writes = register.writes();
    let decided: Vec<_> = writes
        .iter()
        .map(|write| (&*write.who, write.token, write.admitted))
        .collect();
    assert_eq!(
        decided,
        [
            ("one", 7, true),
            ("other", 9, true),
            ("one", 8, false),
            ("one", 8, true),
            ("other", 9, true)
        ]
    );
    assert!(writes.is_sorted_by_key(|write| write.at));
}

#[tokio::test]
async fn a_write_that_is_dropped_half_way_leaves_no_answer_for_the_next() {
    let register = Register::start().await;
    let mut writer = Writer::new(register.address());
    let token = FencingToken::new;
    assert!(writer.write("k", "me", token(1000)).await.unwrap());
    for round in 1..200 {
        // These are refused, and the next one is not.
        let dropped = writer.write("k", "me", token(1));
        let _ = tokio::time::timeout(Duration::from_micros(round), dropped).await;
        assert!(writer.write("k", "me", token(1000 + round)).await.unwrap());
    }
}
