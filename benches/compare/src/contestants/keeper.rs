//! The floors of W4 and W5: what waking and renewing cost without a lock library around them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio_stream::StreamExt as _;

use super::raw::{self, Held, Redis};
use crate::client::{Client, Target};

/// So many renewals in one write, or in one script.
const AT_ONCE: usize = 200;

script!(
    RENEW_IF_OURS,
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end"
);
script!(
    RENEW_ALL,
    concat!(
        include_str!("../../../../lock-redis/src/lua/prelude.lua"),
        "\n",
        include_str!("../../../../lock-redis/src/lua/renew.lua")
    )
);

/// `SET NX PX`, and one task that renews all keys every third of the ttl.
#[derive(Clone)]
pub(crate) struct Kept<const BY_OUR_SCRIPT: bool> {
    redis: Redis,
    keys: Arc<Mutex<HashMap<String, String>>>,
}

impl<const BY_OUR_SCRIPT: bool> Client for Kept<BY_OUR_SCRIPT> {
    type Held = Held;

    const SENDS: &[&str] = Redis::SENDS;

    fn name() -> String {
        if BY_OUR_SCRIPT {
            "our script for 200 keys, raw redis-rs".to_owned()
        } else {
            "raw redis-rs, 200 renewals a write".to_owned()
        }
    }

    async fn connect(target: &Target) -> Self {
        let kept = Self {
            redis: Redis::connect(target).await,
            keys: Arc::default(),
        };
        raw::load(&mut kept.redis.connection(), &[&RENEW_IF_OURS, &RENEW_ALL]).await;
        let (keys, connection) = (Arc::clone(&kept.keys), kept.redis.connection());
        let ttl = target.ttl;
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(ttl / 3);
            loop {
                ticks.tick().await;
                let all: Vec<_> = locked(&keys).clone().into_iter().collect();
                renew::<BY_OUR_SCRIPT>(connection.clone(), &all, ttl).await;
            }
        });
        kept
    }

    async fn take(&self, key: &str) -> Held {
        let held = self.redis.take(key).await;
        locked(&self.keys).insert(held.key.clone(), held.token.clone());
        held
    }

    async fn give_back(&self, held: Held) {
        locked(&self.keys).remove(&held.key);
        self.redis.give_back(held).await;
    }
}

fn locked(keys: &Mutex<HashMap<String, String>>) -> MutexGuard<'_, HashMap<String, String>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn renew<const BY_OUR_SCRIPT: bool>(
    mut connection: MultiplexedConnection,
    all: &[(String, String)],
    ttl: Duration,
) {
    let ttl = ttl.as_millis() as u64;
    for chunk in all.chunks(AT_ONCE) {
        if BY_OUR_SCRIPT {
            let mut command = redis::cmd("EVALSHA");
            command.arg(&RENEW_ALL.sha1).arg(chunk.len());
            for (key, _) in chunk {
                command.arg(key);
            }
            for (_, token) in chunk {
                command.arg(token).arg(ttl).arg("");
            }
            let answer: redis::Value = command
                .query_async(&mut connection)
                .await
                .expect("an answer");
            drop(answer);
        } else {
            let mut pipeline = redis::pipe();
            for (key, token) in chunk {
                let command = pipeline.cmd("EVALSHA").arg(&RENEW_IF_OURS.sha1);
                command.arg(1).arg(key).arg(token).arg(ttl);
            }
            let answers: Vec<u8> = pipeline
                .query_async(&mut connection)
                .await
                .expect("answers");
            drop(answers);
        }
    }
}

/// `SET NX PX`, and a message when the key is free.
#[derive(Clone)]
pub(crate) struct Told {
    redis: Redis,
    freed: Arc<Notify>,
}

const FREED: &str = "compare:freed";

script!(
    DELETE_AND_TELL,
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PUBLISH', ARGV[2], '') return redis.call('DEL', KEYS[1]) else return 0 end"
);

impl Client for Told {
    type Held = Held;

    const SENDS: &[&str] = Redis::SENDS;

    fn name() -> String {
        "raw redis-rs, publish and SET".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        let redis = Redis::connect(target).await;
        raw::load(&mut redis.connection(), &[&DELETE_AND_TELL]).await;
        let freed = Arc::new(Notify::new());
        let client = redis::Client::open(target.url.as_str()).expect("a URL");
        let mut messages = client.get_async_pubsub().await.expect("a connection");
        messages.subscribe(FREED).await.expect("subscribed");
        let told = Arc::clone(&freed);
        tokio::spawn(async move {
            let mut messages = messages.into_on_message();
            while messages.next().await.is_some() {
                told.notify_waiters();
            }
        });
        Self { redis, freed }
    }

    async fn take(&self, key: &str) -> Held {
        loop {
            let freed = self.freed.notified();
            if let Some(held) = self.redis.try_take(key).await {
                return held;
            }
            freed.await;
        }
    }

    async fn give_back(&self, held: Held) {
        let deleted: u8 = redis::cmd("EVALSHA")
            .arg(&DELETE_AND_TELL.sha1)
            .arg(1)
            .arg(&held.key)
            .arg(&held.token)
            .arg(FREED)
            .query_async(&mut self.redis.connection())
            .await
            .expect("an answer");
        assert_eq!(deleted, 1);
    }
}
