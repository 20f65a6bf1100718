//! Holders in processes of their own, which are stopped, killed, aborted or left.
//!
//! A test here runs twice: in the second process, which it starts by its own name, it is the holder.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use futures_util::future::join_all;
use lock_core::{LossReason, Moment};
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::*;

/// Names the server to the second process.
const URL: &str = "FENCELOCK_TEST_HOLDER_URL";

/// What the second process says begins with it, whatever the test program writes before.
const MARK: &str = "holder: ";

/// The server's URL in the second process; `None` in the first.
fn holders_url() -> Option<String> {
    std::env::var(URL).ok()
}

fn say(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

/// Waits for a word of the first process; none means that it has gone.
fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// The second process. Killed when it is dropped.
struct Holder {
    child: Child,
    said: BufReader<ChildStdout>,
    told: ChildStdin,
}

impl Holder {
    /// Runs this test once more.
    fn start(test: &str, server: &RedisServer) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(URL, server.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (said, told) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        Self {
            child,
            said: BufReader::new(said),
            told,
        }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.said.read_line(&mut line).unwrap();
            assert!(read > 0, "the holder has ended");
            if let Some((_, said)) = line.split_once(MARK) {
                return said.trim().to_owned();
            }
        }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.told, "{word}").unwrap();
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        let done = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_stopped_for_longer_than_the_ttl_knows_it_at_once() {
    let ttl = 2 * SECOND;
    if let Some(url) = holders_url() {
        let locks = Locks::new(connected(url).await);
        let lock = locks.lock("k").with_ttl(ttl).with_op_timeout(SECOND);
        let guard = lock.try_acquire().await.unwrap();
        say(token(&guard));
        block_in_place(|| assert_eq!(hear(), "check"));
        // Nothing was asked since it was stopped.
        say(guard.is_held());
        say(guard.remaining().is_zero());
        say(format!("{:?}", guard.lost().await));
        say(format!("{:?}", guard.release().await));
        return;
    }
    let test = "processes::a_process_that_was_stopped_for_longer_than_the_ttl_knows_it_at_once";
    let server = RedisServer::start();
    let mut holder = Holder::start(test, &server);
    let before: u64 = block_in_place(|| holder.hear()).parse().unwrap();
    let other = locks(&server).await.lock("k").with_ttl(LASTING);
    assert!(other.try_acquire().await.unwrap_err().is_busy());
    holder.signal("STOP");
    let next = soon("the other's turn", other.acquire()).await.unwrap();
    assert!(token(&next) > before);
    sleep(ttl).await;
    let value = server.cli(&["GET", "k"]);
    holder.tell("check");
    holder.signal("CONT");
    let said: Vec<String> = block_in_place(|| (0..4).map(|_| holder.hear()).collect());
    assert_eq!(said[..2], ["false", "true"]);
    let reason = format!("{:?}", LossReason::Unconfirmed);
    let taken = format!("{:?}", LossReason::Taken);
    assert!([reason, taken].contains(&said[2]), "{said:?}");
    assert_eq!(said[3], "Ok(TakenOver)");
    assert_eq!(server.cli(&["GET", "k"]), value);
    assert_eq!(next.release().await.unwrap(), Released::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_without_a_word_holds_its_lock_until_the_ttl_ends() {
    let ttl = 3 * SECOND;
    if let Some(url) = holders_url() {
        let locks = Locks::new(connected(url).await);
        let lock = locks.lock("k").with_ttl(ttl).with_op_timeout(SECOND);
        let _guard = lock.try_acquire().await.unwrap();
        say("held");
        match &*block_in_place(hear) {
            "abort" => std::process::abort(),
            "exit" => std::process::exit(0),
            // To be killed.
            _ => std::future::pending::<()>().await,
        }
        return;
    }
    let test = "processes::a_process_that_ends_without_a_word_holds_its_lock_until_the_ttl_ends";
    join_all(["kill", "abort", "exit"].map(async |end| {
        let server = RedisServer::start();
        let mut holder = Holder::start(test, &server);
        assert_eq!(block_in_place(|| holder.hear()), "held");
        let other = locks(&server).await.lock("k").with_ttl(LASTING);
        let waiting = Handle::current().spawn(async move { other.acquire().await });
        sleep(ttl / 2).await;
        block_in_place(|| {
            match end {
                "kill" => holder.signal("KILL"),
                end => holder.tell(end),
            }
            holder.child.wait().unwrap();
        });
        let (start, left) = (Moment::now(), pttl(&server, "k"));
        assert!(0 < left && left <= 3_000, "{end}: PTTL {left}");
        let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
        let took = i64::try_from(start.elapsed().as_millis()).unwrap();
        assert!(took + 5 >= left, "{end}: after {took} of {left} ms");
        assert_eq!(next.release().await.unwrap(), Released::Released);
    }))
    .await;
}
