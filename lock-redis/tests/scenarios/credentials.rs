//! Users whose password, rights or very existence change while a lock is held.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use futures_util::future::join_all;
use lock_core::{LossReason, Moment};
use lock_testkit::server::{RedisOptions, Reply};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::*;

const SECRETS: [&str; 2] = ["very-secret-old", "very-secret-new"];

fn assert_discreet(error: &LockError) {
    let mut said = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        said += &format!(" {error} {error:?}");
        source = error.source();
    }
    for secret in SECRETS {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_change_while_a_lock_is_held_cost_it_at_its_deadline() {
    let new = format!(">{}", SECRETS[1]);
    let changes: [&[&str]; 3] = [
        &["ACL", "SETUSER", "app", "resetpass", &new],
        &["ACL", "SETUSER", "app", "off"],
        &["ACL", "DELUSER", "app"],
    ];
    join_all(changes.map(async |change| {
        let server = RedisServer::start();
        let put_right = || server.add_user("app", SECRETS[0], "~* &* +@all");
        put_right();
        let url = server.url_for("app", SECRETS[0]);
        let shut_out = || {
            let accepted = server.cli(change);
            assert!(!matches!(accepted, Reply::Error(_)), "{accepted:?}");
            server.cli(&["CLIENT", "KILL", "USER", "app"]);
        };
        a_lock_is_lost_at_its_deadline(&server, &url, shut_out, put_right).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_password_that_changes_while_a_lock_is_held_costs_it_at_its_deadline() {
    let [old, new] = SECRETS;
    let server = RedisOptions::new().with_password(old).start();
    let change = |from: &str, to: &str| {
        let (log_in, set) = (
            format!("AUTH {from}"),
            format!("CONFIG SET requirepass {to}"),
        );
        tell(
            &server,
            [
                &log_in,
                &set,
                "CLIENT KILL TYPE normal",
                "CLIENT KILL TYPE pubsub",
            ],
        );
    };
    let (shut_out, put_right) = (|| change(old, new), || change(new, old));
    a_lock_is_lost_at_its_deadline(&server, &server.url(), shut_out, put_right).await;
}

/// Sends commands over one connection, which stays logged in when the password changes.
fn tell<'a>(server: &RedisServer, commands: impl IntoIterator<Item = &'a str>) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    for command in commands {
        write!(stream, "{command}\r\n").unwrap();
        let mut reply = String::new();
        replies.read_line(&mut reply).unwrap();
        assert!(!reply.starts_with('-'), "{reply}");
    }
}

/// Locks at `url` are shut out while one is held and another is waited for, and let in again.
async fn a_lock_is_lost_at_its_deadline(
    server: &RedisServer,
    url: &str,
    shut_out: impl FnOnce(),
    put_right: impl FnOnce(),
) {
    let client = Locks::new(connected(url).await);
    let lock = client.lock("k").with_ttl(4 * SECOND);
    let guard = lock.try_acquire().await.unwrap();
    // Somebody waits, for a lock that others hold.
    let others = locks(server).await.lock("other").with_ttl(LASTING);
    let _theirs = others.try_acquire().await.unwrap();
    let waiter = client.lock("other");
    let waiting = Handle::current().spawn(async move { waiter.acquire().await });
    sleep(300 * MS).await;
    shut_out();
    let (start, left) = (Moment::now(), guard.remaining());
    // Nobody waits for what no waiting mends.
    let failed = async {
        let waited = soon("the waiter is told", waiting).await.unwrap();
        let asked = soon("who asks is told", client.lock("free").acquire()).await;
        [waited.unwrap_err(), asked.unwrap_err()]
    };
    for error in failed.await {
        let LockError::Backend {
            transient: false, ..
        } = &error
        else {
            panic!("{error}")
        };
        assert!(error.to_string().contains("credentials"), "{error}");
        assert_discreet(&error);
    }
    assert!(guard.is_held() || start.elapsed() > left, "lost too early");
    let reason = soon("the loss", guard.lost()).await;
    assert_eq!(reason, LossReason::Unconfirmed);
    assert!(start.elapsed() < left + 2 * SECOND, "{:?}", start.elapsed());
    let error = guard.release().await.unwrap_err();
    assert_discreet(&error);
    // All is well when it is put right.
    put_right();
    let free = client.lock("free");
    eventually("it is let in", async || free.status().await.is_ok()).await;
    works(&free).await;
}

/// The entry of a lock whose holder may not even release it ends with its ttl.
#[tokio::test]
async fn a_right_that_is_taken_away_while_a_lock_is_held_is_named() {
    let server = RedisServer::start();
    let all = "~* &* +@all";
    server.add_user("app", "pw", all);
    let url = server.url_for("app", "pw");
    let client = Locks::new(connected(url).await);
    for (right, command) in [("-del", "DEL"), ("-getrange", "GETRANGE")] {
        server.add_user("app", "pw", all);
        let guard = client.lock(right).with_ttl(2 * SECOND).try_acquire().await;
        let guard = guard.unwrap();
        server.add_user("app", "pw", &format!("{all} {right}"));
        let error = guard.release().await.unwrap_err();
        assert!(
            matches!(
                error,
                LockError::Backend {
                    transient: false,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().to_uppercase().contains(command),
            "{error}"
        );
        assert!(exists(&server, right));
        eventually("its ttl ends", async || !exists(&server, right)).await;
    }
}

/// `SCRIPT LOAD` is none of the commands that are sent; without `EVAL` a server that knows the scripts is enough.
#[tokio::test]
async fn who_may_not_load_scripts_locks_and_who_may_not_send_them_locks_where_they_are_known() {
    let server = RedisServer::start();
    let all = "~* &* +@all";
    server.add_user(
        "loads nothing".replace(' ', "-").as_str(),
        "pw",
        &format!("{all} -script"),
    );
    let url = server.url_for("loads-nothing", "pw");
    let lock = Locks::new(connected(url).await).lock("k");
    round(&lock).await;
    server.add_user("sends-nothing", "pw", &format!("{all} -eval"));
    let url = server.url_for("sends-nothing", "pw");
    let lock = Locks::new(connected(url).await).lock("k");
    round(&lock).await;
    server.cli(&["SCRIPT", "FLUSH"]);
    let error = soon("a refusal", lock.acquire()).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert!(error.to_string().contains("'eval'"), "{error}");
}

/// Takes, looks at, prolongs and releases the lock.
async fn round(lock: &DistributedLock) {
    let guard = lock.try_acquire().await.unwrap();
    assert!(lock.status().await.unwrap().is_some());
    guard.extend(SECOND).await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}
