//! Locks of other libraries exclude ours, and ours theirs: real ones, which `scripts/interop` fetches, as child processes.
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::*;
use lock_core::{LockError, Locks, Released, RenewalPolicy};
use lock_fred::prefix;
use lock_testkit::server::{RedisServer, Reply};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// Where the peers' programs are, from whichever crate these tests are built.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lock-redis/tests/interop");

/// How long a peer may take beyond what it is asked to wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// A library of others in a process of its own. `tests/interop/peer.py` says what it can be asked.
struct Peer {
    _child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// `None`, and a loud word, where `scripts/interop` has not fetched the library. Not in CI.
    fn start(library: &str, server: &RedisServer) -> Option<Self> {
        let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let fetched = fetched.join("interop");
        let (program, script, variable, folder) = match library {
            "node-redlock" => ("node", "peer.js", "NODE_PATH", "node/node_modules"),
            _ => ("python3", "peer.py", "PYTHONPATH", "python"),
        };
        let folder = fetched.join(folder);
        if !folder.is_dir() {
            assert!(
                std::env::var_os("CI").is_none(),
                "{library} is not there: run scripts/interop"
            );
            // Not `println!`, whose output the test harness swallows.
            let mut stderr = std::io::stderr();
            let _ = writeln!(
                stderr,
                "SKIPPED: {library}, run scripts/interop to fetch it"
            );
            return None;
        }
        let mut child = Command::new(program)
            .arg(Path::new(PROGRAMS).join(script))
            .args([library, &server.port().to_string()])
            .env(variable, folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Some(Self {
            stdin: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
        })
    }

    async fn ask(&mut self, line: &str) -> String {
        self.stdin.write_all(line.as_bytes()).await.unwrap();
        self.stdin.write_all(b"\n").await.unwrap();
        let answer = timeout(PATIENCE, self.answers.next_line()).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {line:?}"));
        answer
            .unwrap()
            .unwrap_or_else(|| panic!("the peer ended at {line:?}"))
    }
}

/// What stands at `key`, whatever bytes it is, and for how long yet.
fn entry(server: &RedisServer, key: &str) -> (Reply, i64) {
    (server.cli(&["GET", key]), pttl(server, key))
}

/// Takes the lock, which must be free by then.
async fn acquire(locks: &Locks, name: &str) -> lock_core::LockGuard {
    let lock = locks.lock(name).with_wait(PATIENCE);
    lock.acquire().await.unwrap()
}

async fn what_they_hold_we_find_busy(library: &str, prefix: &str) {
    let server = RedisServer::start();
    let locks = locks(&server).await.with_prefix(prefix);
    let Some(mut peer) = Peer::start(library, &server) else {
        return;
    };
    assert_eq!(peer.ask("acquire n 30000 0").await, "held");
    let key = format!("{prefix}n");
    let (theirs, _) = entry(&server, &key);
    let error = locks.lock("n").try_acquire().await.unwrap_err();
    let LockError::Busy { holder, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(holder.label, None, "their value is their secret");
    let remaining = holder.remaining.unwrap();
    assert!(
        SECOND < remaining && remaining <= 30 * SECOND,
        "{remaining:?}"
    );
    assert!(!error.to_string().contains(&theirs.text()));
    assert!(locks.lock("n").status().await.unwrap().is_some());
    let (value, left) = entry(&server, &key);
    assert_eq!(value, theirs, "we wrote over it");
    assert!(left <= 30_000, "we prolonged it");

    let waiting = tokio::runtime::Handle::current().spawn({
        let locks = locks.clone();
        async move { acquire(&locks, "n").await }
    });
    assert_eq!(peer.ask("extend n 30000").await, "extended");
    assert!(!waiting.is_finished(), "two hold it");
    assert_eq!(peer.ask("release n").await, "released");
    let guard = soon("the release is found", waiting).await.unwrap();
    assert_eq!(peer.ask("acquire n 30000 0").await, "busy");
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

async fn what_we_hold_they_find_busy(library: &str, prefix: &str) {
    let server = RedisServer::start();
    let locks = locks(&server).await.with_prefix(prefix);
    let Some(mut peer) = Peer::start(library, &server) else {
        return;
    };
    let lock = locks.lock("n").with_ttl(3 * SECOND).with_label("wéb 1:2");
    let guard = lock.acquire().await.unwrap();
    let key = format!("{prefix}n");
    let (ours, _) = entry(&server, &key);
    assert_eq!(peer.ask("acquire n 30000 0").await, "busy");
    // For longer than the ttl: it is renewed under their eyes.
    assert_eq!(peer.ask("acquire n 30000 4000").await, "busy");
    assert!(guard.is_held());
    let (value, left) = entry(&server, &key);
    assert_eq!(value, ours, "they wrote over it");
    assert!(0 < left && left <= 3000, "{left}");
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert_eq!(peer.ask("acquire n 30000 5000").await, "held");
    assert!(lock.try_acquire().await.unwrap_err().is_busy());
    assert_eq!(peer.ask("release n").await, "released");
    acquire(&locks, "n").await.release().await.unwrap();
}

/// And whoever had it before can neither prolong nor release it.
async fn what_expires_goes_to_who_waits(library: &str, prefix: &str) {
    let server = RedisServer::start();
    let locks = locks(&server).await.with_prefix(prefix);
    let Some(mut peer) = Peer::start(library, &server) else {
        return;
    };
    for name in ["theirs", "extended", "released"] {
        let acquired = peer.ask(&format!("acquire {name} 1000 0")).await;
        assert_eq!(acquired, "held");
    }
    let guard = acquire(&locks, "theirs").await;
    assert_eq!(peer.ask("release theirs").await, "lost");
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    let guard = acquire(&locks, "extended").await;
    assert_eq!(peer.ask("extend extended 90000").await, "lost");
    assert!(pttl(&server, &format!("{prefix}extended")) <= 30_000);
    assert_eq!(guard.release().await.unwrap(), Released::Released);

    let never = locks.clone().with_renewal(RenewalPolicy::never());
    let lock = never.lock("ours").with_ttl(SECOND);
    let guard = lock.acquire().await.unwrap();
    // Some look again only when their own wait is over.
    assert_eq!(peer.ask("acquire ours 30000 3000").await, "held");
    assert!(!guard.is_held());
    let theirs = entry(&server, &format!("{prefix}ours")).0;
    assert_ne!(guard.release().await.ok(), Some(Released::Released));
    // A release in the background would have come by then.
    sleep(300 * MS).await;
    assert_eq!(entry(&server, &format!("{prefix}ours")).0, theirs);
    assert_eq!(peer.ask("release ours").await, "released");
}

/// As some take them unless told otherwise.
async fn what_has_no_end_is_busy_until_they_release_it(library: &str, prefix: &str) {
    let server = RedisServer::start();
    let locks = locks(&server).await.with_prefix(prefix);
    let Some(mut peer) = Peer::start(library, &server) else {
        return;
    };
    assert_eq!(peer.ask("acquire n 0 0").await, "held");
    assert_eq!(pttl(&server, &format!("{prefix}n")), -1);
    let error = locks.lock("n").with_wait(300 * MS).acquire().await;
    let error = error.unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    assert_eq!(error.holder().unwrap().remaining, None);
    assert_eq!(
        pttl(&server, &format!("{prefix}n")),
        -1,
        "it is not ours to end"
    );
    assert_eq!(peer.ask("release n").await, "released");
    acquire(&locks, "n").await.release().await.unwrap();
}

macro_rules! peer {
    ($module:ident, $library:literal, $prefix:expr, [$($case:ident),+]) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case($library, $prefix).await;
                }
            )+
        }
    };
}

peer!(
    redis_py,
    "redis-py",
    "",
    [
        what_they_hold_we_find_busy,
        what_we_hold_they_find_busy,
        what_expires_goes_to_who_waits,
        what_has_no_end_is_busy_until_they_release_it
    ]
);

peer!(
    node_redlock,
    "node-redlock",
    "",
    [
        what_they_hold_we_find_busy,
        what_we_hold_they_find_busy,
        what_expires_goes_to_who_waits
    ]
);

peer!(
    pottery,
    "pottery",
    lock_fred::prefix::POTTERY,
    [
        what_they_hold_we_find_busy,
        what_we_hold_they_find_busy,
        what_expires_goes_to_who_waits
    ]
);

peer!(
    python_redis_lock,
    "python-redis-lock",
    lock_fred::prefix::PYTHON_REDIS_LOCK,
    [
        what_they_hold_we_find_busy,
        what_we_hold_they_find_busy,
        what_expires_goes_to_who_waits,
        what_has_no_end_is_busy_until_they_release_it
    ]
);

mod layouts {
    use super::*;

    /// rslock, redlock-rs and the crate redsync write 20 random bytes.
    #[tokio::test]
    async fn a_value_of_any_bytes_is_busy_and_left_alone() {
        let server = RedisServer::start();
        let locks = locks(&server).await;
        let raw: Vec<u8> = (0..20).map(|n| 255 - 13 * n).collect();
        for value in [&raw[..], b"", b"\0", &[b'x'; 100_000], b"ADDED:1@h:u"] {
            let set: [&[u8]; 5] = [b"SET", b"n", value, b"PX", b"30000"];
            assert_eq!(server.cli_bytes(&set).text(), "OK");
            let error = locks.lock("n").try_acquire().await.unwrap_err();
            let holder = error.holder().unwrap_or_else(|| panic!("{error}"));
            assert_eq!(holder.label, None);
            assert!(holder.remaining.is_some());
            assert_eq!(locks.lock("n").status().await.unwrap().unwrap().label, None);
            assert_eq!(server.cli(&["GET", "n"]), Reply::Bulk(value.to_vec()));
        }
        server.cli(&["DEL", "n"]);
        acquire(&locks, "n").await.release().await.unwrap();
    }

    /// Some libraries set no expiry unless told otherwise; and what others wrote is not ours to end.
    #[tokio::test]
    async fn what_has_no_end_is_busy_until_it_is_deleted() {
        let server = RedisServer::start();
        let locks = locks(&server).await;
        server.cli(&["SET", "n", "theirs"]);
        let error = locks.lock("n").with_wait(300 * MS).acquire().await;
        let error = error.unwrap_err();
        assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
        assert_eq!(error.holder().unwrap().remaining, None);
        let held = locks.lock("n").status().await.unwrap().unwrap();
        assert_eq!((held.remaining, held.label), (None, None));
        assert_eq!(pttl(&server, "n"), -1);
        server.cli(&["DEL", "n"]);
        acquire(&locks, "n").await.release().await.unwrap();
    }

    /// Redisson's locks are hashes: neither takes what the other holds, and neither waits for it.
    #[tokio::test]
    async fn a_redisson_lock_is_a_conflict_and_ours_is_one_to_redisson() {
        let server = RedisServer::start();
        let locks = locks(&server).await;
        let field = "8743c9c0-0795-4907-87fd-6c719a6b4586:1";
        server.cli(&["HINCRBY", "n", field, "1"]);
        server.cli(&["PEXPIRE", "n", "30000"]);
        for error in [
            locks.lock("n").try_acquire().await.unwrap_err(),
            locks.lock("n").acquire().await.unwrap_err(),
            locks.lock("n").status().await.unwrap_err(),
        ] {
            let LockError::Conflict { found, .. } = &error else {
                panic!("{error}")
            };
            assert!(found.contains("hash"), "{found}");
        }
        assert_eq!(server.cli(&["HGET", "n", field]).text(), "1");
        server.cli(&["DEL", "n"]);

        let guard = acquire(&locks, "n").await;
        let refused = server.cli(&["HINCRBY", "n", field, "1"]);
        assert!(
            matches!(&refused, Reply::Error(text) if text.starts_with("WRONGTYPE")),
            "{refused:?}"
        );
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }

    /// Where libraries that are not run here keep their lock of `n`, and what they are documented to write there.
    fn documented() -> Vec<(&'static str, String, &'static str, Vec<u8>)> {
        let uuid = "6f1e8c52-5b8d-4a59-9d7e-3c1a2b4d5e6f";
        let raw: Vec<u8> = (0..20).map(|n| 255 - 13 * n).collect();
        let in_place: [(&str, &[u8]); 9] = [
            ("rslock", &raw),
            ("redlock-rs", &raw),
            ("redsync (Rust)", &raw),
            ("redsync (Go)", b"3Yk0mXy7TzK1a2b3c4d5eg=="),
            ("redislock", b"0tJq6UVwS8mYw1xkq3ZbVgmetadata"),
            ("aioredlock", uuid.as_bytes()),
            ("redlock-rb", uuid.as_bytes()),
            ("oxcache", uuid.as_bytes()),
            (
                "DistributedLock (.NET)",
                b"host_8a6e0804-2bd0-4672-b79d-d97027f9071a",
            ),
        ];
        let in_place = in_place.map(|(name, value)| (name, String::new(), "n", value.to_vec()));
        let prefixed = [
            (
                "RedLock.net",
                prefix::RED_LOCK_NET.to_owned(),
                "redlock:n",
                uuid,
            ),
            (
                "distkit",
                prefix::DISTKIT.to_owned(),
                "distkit-locks:n",
                uuid,
            ),
            (
                "distributed-lock (Rust)",
                prefix::DISTRIBUTED_LOCK.to_owned(),
                "distributed-lock:n",
                "4711_0_1f",
            ),
            (
                "rueidislock",
                prefix::RUEIDISLOCK.to_owned(),
                "rueidislock:0:n",
                "0123456789abcdef",
            ),
            (
                "ShedLock",
                prefix::shed_lock("prod"),
                "job-lock:prod:n",
                "ADDED:2026-01-02T03:04:05.006Z@host:6f1e8c52",
            ),
        ];
        let prefixed = prefixed
            .map(|(name, prefix, key, value)| (name, prefix, key, value.as_bytes().to_vec()));
        in_place.into_iter().chain(prefixed).collect()
    }

    /// They take it by `SET NX PX` and give it up and prolong it by comparing it, as all of these do.
    #[tokio::test]
    async fn what_they_are_documented_to_write_is_busy_for_us_and_ours_is_for_them() {
        let server = RedisServer::start();
        for (library, prefix, key, value) in documented() {
            let locks = locks(&server).await.with_prefix(prefix);
            let lock = locks.lock("n");
            assert_eq!(lock.key().as_str(), key, "{library}");
            let take: [&[u8]; 6] = [b"SET", key.as_bytes(), &value, b"NX", b"PX", b"30000"];
            assert_eq!(server.cli_bytes(&take).text(), "OK", "{library}");
            let error = lock.try_acquire().await.unwrap_err();
            let holder = error
                .holder()
                .unwrap_or_else(|| panic!("{library}: {error}"));
            assert!(
                holder.label.is_none() && holder.remaining.is_some(),
                "{library}"
            );
            assert_eq!(server.cli(&["GET", key]), Reply::Bulk(value.clone()));
            server.cli(&["DEL", key]);

            let guard = acquire(&locks, "n").await;
            let entry = server.cli(&["GET", key]);
            assert_eq!(server.cli_bytes(&take), Reply::Nil, "{library}");
            for then in ["'DEL', KEYS[1]", "'PEXPIRE', KEYS[1], 1"] {
                let script = format!(
                    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call({then}) end return 0"
                );
                let compare: [&[u8]; 5] =
                    [b"EVAL", script.as_bytes(), b"1", key.as_bytes(), &value];
                assert_eq!(server.cli_bytes(&compare).integer(), 0, "{library}");
            }
            assert_eq!(server.cli(&["GET", key]), entry, "{library}");
            assert_eq!(guard.release().await.unwrap(), Released::Released);
        }
    }

    /// The table in the docs of the crate names libraries, and tests of them, that are here.
    #[test]
    fn the_table_in_the_docs_names_what_is_tested() {
        let here = include_str!("interop.rs");
        let (_, table) = include_str!("../src/lib.rs")
            .split_once("//! | Library | Prefix |")
            .unwrap();
        let (table, _) = table.split_once("\n//!\n").unwrap();
        let tests: Vec<_> = table.split('`').skip(1).step_by(2).collect();
        let tests: Vec<_> = tests
            .iter()
            .filter_map(|name| name.split_once("::"))
            .collect();
        let tests: Vec<_> = tests
            .iter()
            .filter(|(module, _)| *module != "prefix")
            .collect();
        assert!(tests.len() >= 6, "{tests:?}");
        for (module, test) in tests {
            let is_module = |line: &str| {
                line.contains(&format!("mod {module} {{")) || line == format!("    {module},")
            };
            assert!(here.lines().any(is_module), "{module}");
            let is_test = |line: &str| line.contains(&format!("fn {test}()"));
            assert!(*test == "*" || here.lines().any(is_test), "{test}");
        }
        for (library, ..) in documented() {
            let name = library.split(' ').next().unwrap();
            assert!(table.contains(name), "{library} has no row");
        }
    }
}
