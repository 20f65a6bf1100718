//! Locks for threads on a real Redis, as a command-line tool has them.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

use std::thread;
use std::time::Duration;

use fencelock::{LockError, Locks, RedisBackend, blocking};
use lock_testkit::server::RedisServer;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// On a client of their own, connected on their own thread, as another process has them.
fn connect(url: String) -> blocking::Locks {
    blocking::Locks::connect(async move {
        let builder = RedisBackend::builder(url).with_connect_timeout(PATIENCE);
        let backend = builder.connect().await?;
        Ok(Locks::new(backend).with_prefix("tool:"))
    })
    .unwrap()
}

#[test]
fn threads_without_a_runtime_exclude_each_other_on_redis() {
    const THREADS: i64 = 4;
    const TURNS: i64 = 25;
    let server = RedisServer::start();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let locks = connect(server.url());
                let lock = locks.lock("counter").with_wait(PATIENCE);
                for _ in 0..TURNS {
                    let guard = lock.acquire().unwrap();
                    let count = server.cli(&["INCRBY", "count", "0"]).integer();
                    server.cli(&["SET", "count", &(count + 1).to_string()]);
                    guard.release().unwrap();
                }
            });
        }
    });
    assert_eq!(
        server.cli(&["GET", "count"]).text(),
        (THREADS * TURNS).to_string()
    );
}

#[test]
fn a_tool_holds_its_lock_while_it_computes_and_leaves_nothing_behind() {
    let server = RedisServer::start();
    let (tool, other) = (connect(server.url()), connect(server.url()));
    let guard = tool
        .lock(("nightly", 7))
        .with_ttl(3 * SECOND)
        .acquire()
        .unwrap();
    thread::sleep(7 * SECOND);
    guard.check().unwrap();
    assert!(other.lock("nightly:7").try_acquire().unwrap_err().is_busy());
    assert_eq!(server.cli(&["EXISTS", "tool:nightly:7"]).integer(), 1);

    // As at the end of `main`: the last of them waits for the release.
    drop(guard);
    drop(tool);
    assert_eq!(server.cli(&["EXISTS", "tool:nightly:7"]).integer(), 0);

    let woken = thread::scope(|scope| {
        let guard = other.lock("b").acquire().unwrap();
        let waiting = scope.spawn(|| connect(server.url()).lock("b").acquire().map(drop));
        thread::sleep(SECOND / 5);
        guard.release().unwrap();
        waiting.join().unwrap()
    });
    woken.unwrap();

    // With the server gone each call ends, in an error.
    drop(server);
    let refused = other.lock("a").with_wait(SECOND / 2).acquire().unwrap_err();
    assert!(
        matches!(
            refused,
            LockError::Backend { .. } | LockError::Unknown { .. }
        ),
        "{refused:?}"
    );
}
