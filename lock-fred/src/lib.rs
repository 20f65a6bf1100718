//! Locks on Redis and Valkey, through [fred].
//!
//! ```no_run
//! use lock_fred::FredBackend;
//!
//! # async fn example() -> Result<(), lock_fred::lock_core::BackendError> {
//! let backend = FredBackend::connect("redis://127.0.0.1:6379").await?;
//! # Ok(())
//! # }
//! ```
//!
//! The same as `lock-redis` in behaviour, on the wire and in its files, for applications that use fred; both may lock one
//! key. fred itself has not been released since February 2025: prefer `lock-redis` where you are free to choose.
//!
//! # What stands at the server
//!
//! | Where | What |
//! |---|---|
//! | the caller's key, prefix + name | the owner: 32 lower-case hex digits, then `:label` if it has one; expires with the lock |
//! | `<prefix>{<key>}:fencelock:fence` | the last fencing token given; expires after long disuse (24 h, or ten times the ttl if that is longer) |
//! | `<prefix>{<key>}:fencelock:wake` | the channel on which a release is told |
//!
//! A key that has a hash tag of its own is followed by `:fencelock:tag:fence` and `:fencelock:tag:wake` instead.
//! So all of them start with the prefix, and lie in one cluster slot.
//!
//! The entry is taken like `SET key value NX PX ttl`, given up by compare-and-delete and renewed by
//! compare-and-`PEXPIRE`. That excludes, and is excluded by, everybody who locks the same key with `SET NX`: see
//! [below](#other-libraries).
//!
//! Fencing tokens are the greater of the last one + 1 and the server's time in microseconds. So they grow also
//! when the server was flushed or came back empty, as long as its clock is not set back. A grant to a process in which others
//! wait reserves up to 64 of them, which may be ahead of the clock: by 64 µs, as long as a key is not granted like that more
//! than 15,000 times a second. Only what is lost within that time of a grant may be granted with a lower one.
//!
//! # Other libraries
//!
//! A service can move to Rust route by route: on one server, our lock and theirs of the same key exclude each other.
//!
//! | Library | Prefix | Shown by, in `tests/interop.rs` |
//! |---|---|---|
//! | redis-py 8.1, asyncio (Python) | none | `redis_py::*`: it runs against ours |
//! | node-redlock 5.0 beta (Node.js) with one client | none | `node_redlock::*`: it runs against ours |
//! | pottery 3.0 (Python) with one master | [`prefix::POTTERY`] | `pottery::*`: it runs against ours |
//! | python-redis-lock 4.0 (Python) | [`prefix::PYTHON_REDIS_LOCK`] | `python_redis_lock::*`: it runs against ours, waiting with a timeout. Without one it may wait for ever after a release of ours: do not mix |
//! | rslock, redlock-rs, redsync (Rust); redsync, redislock (Go); aioredlock (Python), redlock-rb (Ruby), oxcache (Rust), the mutex of DistributedLock (.NET) | none | `layouts::what_they_are_documented_to_write_is_busy_for_us_and_ours_is_for_them` |
//! | RedLock.net (.NET) with one server, distkit and distributed-lock (Rust), rueidislock (Go) with a majority of 1, ShedLock (Java) | in [`prefix`] | `layouts::what_they_are_documented_to_write_is_busy_for_us_and_ours_is_for_them` |
//! | Redisson (Java) | – | `layouts::a_redisson_lock_is_a_conflict_and_ours_is_one_to_redisson`: an error on both sides, never two holders |
//!
//! The tests that run a library show each direction: theirs held, ours busy, and granted after their release or expiry; ours
//! held and renewed, theirs refused, and granted after our release or expiry; who had a lock before can no more release or
//! prolong it. The rest shows the layout only, by what the library is documented to write.
//!
//! The value of others is their secret and is never shown; one of any bytes is busy
//! (`layouts::a_value_of_any_bytes_is_busy_and_left_alone`), and so is a key without an expiry, until its holder deletes it
//! (`layouts::what_has_no_end_is_busy_until_it_is_deleted`). Fencing tokens rise from grant to grant of
//! ours; others have none. Others do not wake our waiters, which look by themselves, every second unless said otherwise.
//! Locks over several servers (Redlock) and read/write locks do not mix with ours.
//!
//! # Features of fred
//!
//! Cargo builds a crate once for a whole program: what any crate of it turns on in fred is on for our connections too.
//!
//! - `custom-reconnect-errors`: fred ends a connection on which a server says that it loads its data, is a replica, or is in a
//!   cluster that is down. What else was under way there is then of unknown outcome. Leave it off.
//! - `network-logs`: fred logs whatever goes over its connections, passwords and owners too, at the level `trace`. Not where logs are
//!   kept.
//! - `sentinel-auth`: fred no longer sends the primary's credentials to sentinels, but those that it was told for them. If your
//!   client is made so, turn on the feature `sentinel-auth` of this crate, which turns on that of fred; otherwise its sentinels are
//!   shown the primary's.
//!
//! # Servers and deployments
//!
//! Redis from 6.2 and Valkey from 7.2; messages between servers of a cluster need Redis 7. RESP3 is used where the server has
//! it, RESP2 else (choose with `?protocol=resp2`).
//!
//! | Deployment | Constructor | Feature |
//! |---|---|---|
//! | one server, or the primary behind an address that follows a failover | [`FredBackend::connect`] | |
//! | the primary that sentinels know | [`FredBackend::sentinel`] | |
//! | a cluster | `FredBackend::cluster` | `cluster` |
//! | any of them over TLS: `rediss://`, own authorities by `with_certificates` | | `tls` |
//!
//! URLs may begin with `valkey://` or `valkeys://` too. A server at a unix socket is
//! `redis+unix:///path?db=1&user=name&pass=word` (or `unix://`, `valkey+unix://`), where all behind the path may be left out.
//!
//! Replication is asynchronous: [what a failover can do](#what-a-failover-can-do) is below.
//!
//! **Sentinel.** Whoever makes a connection asks the sentinels first, and again while there is no primary. A connection to a
//! server that became a replica is left with its first refusal. Sentinels have credentials of their own, in their URLs; a user of
//! theirs needs `+sentinel|get-master-addr-by-name`.
//!
//! **Cluster.** Connect to all of it: one node alone refuses keys that are elsewhere, for good. A lock, its counter and its channel lie in one slot. A key with a `}` but no whole hash tag has no such
//! place and is [invalid], before anything is written. While a slot moves, locks of it are renewed and released; one that
//! is free may answer a transient error until the move ends. Renewals go out by slot. Where a request is led elsewhere we follow;
//! nothing else is sent again. Over RESP2 waiters are not woken. A node that is silent keeps nobody from the others. (All of this
//! is ours: of fred there is one connection to each node, see `client/cluster.rs` for the reasons.)
//!
//! **TLS** is rustls with the system's authorities, and with the provider of cryptography that your program has installed, or else
//! ring.
//!
//! **Passwords.** None is ever in an error, in `Debug` or in a log of ours. With the feature `tracing`, one that goes over a network
//! in the clear (no TLS, no socket, no loopback address) is a warning, of a cluster by the nodes that you name.
//!
//! [invalid]: lock_core::BackendErrorKind::Invalid
//!
//! **Memory.** The server must not evict locks: `maxmemory-policy noeviction`. Every other policy may, the `volatile-` ones too,
//! for locks have a ttl; a lock that was evicted is lost at its next renewal, and somebody else may have it until then. With
//! the feature `tracing`, [`connect`](FredBackendBuilder::connect) warns of such a server where its user may send `INFO`;
//! [`may_evict`](FredBackend::may_evict) tells the application.
//!
//! # What a failover can do
//!
//! A replica that is promoted may not know of a lock. Then somebody else can take it while the holder before still believes to
//! have it: until its next renewal meets the new primary and is told, and until its deadline at the latest. A fencing token
//! of the new primary is greater all the same, if its clock is not behind the old one's by more than the failover took; so
//! a resource that checks tokens accepts no late write.
//!
//! Measured with 200 locks of a ttl of 30 s, all held, renewed every 3.3 s and waited for, half of which had not reached the
//! replica when the primary was killed (`cargo test -p lock-fred --all-features --test deploy_failover` prints it; three
//! runs on a heavily loaded machine of two cores; in CI it is asserted that of the first half none is lost):
//!
//! | | Sentinel (down after 1.5 s) | Cluster (node timeout 2 s) |
//! |---|---|---|
//! | the new primary serves, after the kill | 2.7 to 2.8 s | 3.2 to 4.0 s |
//! | of 100 locks that the replica had, lost | 0 | 0 |
//! | of 100 that it had not, lost | 100 | 100 |
//! | last loss told, after the kill | 2.8 to 3.7 s, none after its deadline | 4.0 to 4.8 s, none after its deadline |
//! | held by two at once: how many, and how long at most | 100, 0.05 to 0.87 s | 61 to 71, 0.76 to 0.89 s |
//!
//! [`with_replicas`] narrows this: a grant counts only when so many replicas have it. It does not rule it out (the replica that
//! is promoted may be another one, and renewals are not waited for), and costs a round trip.
//!
//! A primary that is cut off from its replicas and sentinels, but not from its clients, goes on granting and renewing beside
//! its successor, for as long as that lasts. The server setting `min-replicas-to-write 1` with a short
//! `min-replicas-max-lag` ends that: renewals are then refused, and holders lose their locks at their deadlines.
//!
//! If that is too much, let the resource check fencing tokens: nothing else helps.
//!
//! # What the user may do
//!
//! Redis runs scripts with the rights of who sends them. The least for locks with the prefix `lock:`:
//!
//! ```text
//! ACL SETUSER locks on >password resetkeys resetchannels -@all ~lock:* &lock:*
//!     +evalsha +eval +set +get +getrange +type +del +pexpire +pttl +time
//!     +publish +subscribe +unsubscribe +ping
//! ```
//!
//! Give the prefix as the prefix of the keys: the counter and the channel of a key that only looks as if it had one
//! do not start with it. A right that is missing is named by the first attempt, before a lock is handed out, also one that only a
//! release or a waiter needs. (Before Redis 7 a missing right to subscribe is found by the first who waits, which then looks at the
//! lock from time to time.) `+eval` is missed where the server does not know the script.
//!
//! Without the last line and the channels, use [`without_wakeups`](FredBackend::without_wakeups): waiters then look from time
//! to time. A database other than 0 needs `+select`. With `+info` the server may be asked whether it
//! [evicts locks](FredBackend::may_evict).
//!
//! Behind Sentinel add `+role`, so that a replica is known by more than its refusals. On a cluster it is, in place of the
//! last line:
//!
//! ```text
//!     +spublish +ssubscribe +sunsubscribe +ping +cluster|slots +asking
//! ```
//!
//! fred asks each connection for `CLIENT ID` and `INFO server` and goes on when refused; `+client|id +info` keeps that
//! out of the server's ACL log.
//!
//! With [`with_replicas`] add `+wait`. With [`with_native_commands`] the second line is
//! `+set +delifeq +type +getrange +pttl` (on Redis `+delex` in place of `+delifeq`).
//!
//! [`with_replicas`]: FredBackendBuilder::with_replicas
//! [`with_native_commands`]: FredBackendBuilder::with_native_commands
//!
//! # Failures
//!
//! Each call sends its request once: fred's own replay of requests, when a connection breaks, is off for ours, also on
//! clients that [you made](FredBackend::from_client). A request that was refused, or could not be sent because there
//! was no connection, is known not to be applied; one without an answer is [unknown]. A broken connection is made anew by
//! the next call. One that is open but silent is given up after two calls in a row without an answer, and one on which
//! something comes that no script of ours answers, at once.
//!
//! [unknown]: lock_core::BackendErrorKind::Unknown
//!
//! # Map
//!
//! `backend.rs` translates calls to scripts, `answer.rs` their answers back, `scripts.rs` and `lua/` are the steps at
//! the server, `keys.rs` the names, `error.rs` decides what a failure means, `client/` speaks to fred, `builder.rs` says
//! where to connect, `connection.rs` keeps the connection, `wakeups.rs` and `subscription.rs` wake waiters, `replicas.rs` waits for
//! replicas, `native.rs` does without scripts, `eviction.rs` asks whether the server may throw locks away, `force.rs` is for operators.

mod answer;
mod backend;
mod builder;
mod client;
mod connection;
mod error;
mod eviction;
mod exposure;
mod force;
mod keys;
mod native;
pub mod prefix;
mod replicas;
mod scripts;
mod subscription;
mod wakeups;

pub use backend::FredBackend;
pub use builder::{
    DEFAULT_CONNECT_TIMEOUT, DEFAULT_RESPONSE_TIMEOUT, DEFAULT_SUBSCRIPTIONS_AT_MOST,
    FredBackendBuilder,
};
pub use fred;
pub use lock_core;
