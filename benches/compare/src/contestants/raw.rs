//! The floors: what the clients cost without a lock library around them.

use fred::interfaces::{ClientLike, KeysInterface, LuaInterface};
use fred::types::{Expiration, RespVersion, SetOptions};
use redis::IntoConnectionInfo;
use redis::aio::MultiplexedConnection;

use super::script::Script;
use crate::client::{Client, Target};

/// Compare-and-delete, as everybody has it.
const DELETE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

script!(DELETE_IF_OURS, DELETE);
script!(
    ACQUIRE,
    concat!(
        include_str!("../../../../lock-redis/src/lua/acquire_free.lua"),
        "\n",
        include_str!("../../../../lock-redis/src/lua/prelude.lua"),
        "\n",
        include_str!("../../../../lock-redis/src/lua/acquire.lua")
    )
);
script!(
    RELEASE,
    concat!(
        include_str!("../../../../lock-redis/src/lua/release_held.lua"),
        "\n",
        include_str!("../../../../lock-redis/src/lua/prelude.lua"),
        "\n",
        include_str!("../../../../lock-redis/src/lua/release.lua")
    )
);

/// 32 hex digits, as an owner has.
pub(crate) fn token() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// A key that is held, and by which text.
pub(crate) struct Held {
    pub(crate) key: String,
    pub(crate) token: String,
}

impl Held {
    fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            token: token(),
        }
    }
}

/// `SET NX PX` and compare-and-delete through redis-rs.
#[derive(Clone)]
pub(crate) struct Redis {
    connection: MultiplexedConnection,
    ttl: i64,
}

/// How a connection is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// As the client does by itself: small packets wait until those before them are acknowledged.
    Clients,
    /// As lock-redis and lock-fred do: whatever there is to send is sent at once (`TCP_NODELAY`), in RESP3.
    Ours,
}

async fn redis(url: &str, manner: Manner) -> MultiplexedConnection {
    let mut info = url.into_connection_info().expect("a URL");
    if manner == Manner::Ours {
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(redis::ProtocolVersion::RESP3);
        info = info.set_tcp_settings(tcp).set_redis_settings(settings);
    }
    let client = redis::Client::open(info).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let mut connection = connection.expect("a connection");
    load(&mut connection, &[&DELETE_IF_OURS, &ACQUIRE, &RELEASE]).await;
    connection
}

pub(crate) async fn load(connection: &mut MultiplexedConnection, scripts: &[&Script]) {
    for script in scripts {
        let loaded: String = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(script.source)
            .query_async(connection)
            .await
            .expect("the script is loaded");
        assert_eq!(loaded, script.sha1);
    }
}

impl Redis {
    pub(crate) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    pub(crate) async fn try_take(&self, key: &str) -> Option<Held> {
        let held = Held::new(key);
        let set: bool = redis::cmd("SET")
            .arg(&held.key)
            .arg(&held.token)
            .arg("NX")
            .arg("PX")
            .arg(self.ttl)
            .query_async(&mut self.connection())
            .await
            .expect("an answer");
        set.then_some(held)
    }
}

impl Client for Redis {
    type Held = Held;

    const SENDS: &[&str] = &["set", "evalsha"];

    fn name() -> String {
        "raw redis-rs".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        Self {
            connection: redis(&target.url, Manner::Clients).await,
            ttl: target.ttl_millis(),
        }
    }

    async fn take(&self, key: &str) -> Held {
        self.try_take(key).await.expect("free")
    }

    async fn give_back(&self, held: Held) {
        let deleted: u8 = redis::cmd("EVALSHA")
            .arg(&DELETE_IF_OURS.sha1)
            .arg(1)
            .arg(&held.key)
            .arg(&held.token)
            .query_async(&mut self.connection.clone())
            .await
            .expect("an answer");
        assert_eq!(deleted, 1);
    }
}

/// The scripts of lock-redis through redis-rs, over a connection like that of lock-redis: what is left above this is what
/// lock-redis and lock-core cost.
#[derive(Clone)]
pub(crate) struct OurScripts {
    connection: MultiplexedConnection,
    ttl: i64,
}

fn fence(key: &str) -> String {
    format!("{{{key}}}:fencelock:fence")
}

fn wake(key: &str) -> String {
    format!("{{{key}}}:fencelock:wake")
}

impl Client for OurScripts {
    type Held = Held;

    const SENDS: &[&str] = &["evalsha"];

    fn name() -> String {
        "our scripts, raw redis-rs".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        Self {
            connection: redis(&target.url, Manner::Ours).await,
            ttl: target.ttl_millis(),
        }
    }

    async fn take(&self, key: &str) -> Held {
        let held = Held::new(key);
        let (word, _, _): (String, u64, u64) = redis::cmd("EVALSHA")
            .arg(&ACQUIRE.sha1)
            .arg(2)
            .arg(&held.key)
            .arg(fence(key))
            .arg(&held.token)
            .arg(self.ttl)
            .arg(1)
            .arg("")
            .arg(24 * 60 * 60 * 1000)
            .arg("")
            .query_async(&mut self.connection.clone())
            .await
            .expect("an answer");
        assert_eq!(word, "granted");
        held
    }

    async fn give_back(&self, held: Held) {
        let (word,): (String,) = redis::cmd("EVALSHA")
            .arg(&RELEASE.sha1)
            .arg(1)
            .arg(&held.key)
            .arg(&held.token)
            .arg(wake(&held.key))
            .arg("PUBLISH")
            .query_async(&mut self.connection.clone())
            .await
            .expect("an answer");
        assert_eq!(word, "held");
    }
}

/// `SET NX PX` and compare-and-delete through fred.
#[derive(Clone)]
pub(crate) struct Fred {
    connection: fred::clients::Client,
    ttl: i64,
}

async fn fred(url: &str, manner: Manner) -> fred::clients::Client {
    let config = fred::types::config::Config::from_url(url).expect("a URL");
    let mut builder = fred::types::Builder::from_config(config);
    if manner == Manner::Ours {
        builder
            .with_config(|config| config.version = RespVersion::RESP3)
            .with_connection_config(|connection| connection.tcp.nodelay = Some(true));
    }
    let client = builder.build().expect("a client");
    client.init().await.expect("a connection");
    for script in [&DELETE_IF_OURS, &ACQUIRE, &RELEASE] {
        let loaded: String = client
            .script_load(script.source)
            .await
            .expect("the script is loaded");
        assert_eq!(loaded, script.sha1);
    }
    client
}

impl Client for Fred {
    type Held = Held;

    const SENDS: &[&str] = &["set", "evalsha"];

    fn name() -> String {
        "raw fred".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        Self {
            connection: fred(&target.url, Manner::Clients).await,
            ttl: target.ttl_millis(),
        }
    }

    async fn take(&self, key: &str) -> Held {
        let held = Held::new(key);
        let expiry = Some(Expiration::PX(self.ttl));
        let set: Option<String> = self
            .connection
            .set(
                held.key.as_str(),
                held.token.as_str(),
                expiry,
                Some(SetOptions::NX),
                false,
            )
            .await
            .expect("an answer");
        assert!(set.is_some(), "{key} is busy");
        held
    }

    async fn give_back(&self, held: Held) {
        let deleted: u8 = self
            .connection
            .evalsha(
                DELETE_IF_OURS.sha1.as_str(),
                held.key.as_str(),
                held.token.as_str(),
            )
            .await
            .expect("an answer");
        assert_eq!(deleted, 1);
    }
}

/// The scripts of lock-redis through fred, over a connection like that of lock-fred.
#[derive(Clone)]
pub(crate) struct OurScriptsByFred {
    connection: fred::clients::Client,
    ttl: i64,
}

impl Client for OurScriptsByFred {
    type Held = Held;

    const SENDS: &[&str] = &["evalsha"];

    fn name() -> String {
        "our scripts, raw fred".to_owned()
    }

    async fn connect(target: &Target) -> Self {
        Self {
            connection: fred(&target.url, Manner::Ours).await,
            ttl: target.ttl_millis(),
        }
    }

    async fn take(&self, key: &str) -> Held {
        let held = Held::new(key);
        let keys = vec![held.key.clone(), fence(key)];
        let (ttl, keep) = (self.ttl.to_string(), "86400000".to_owned());
        let args = vec![
            held.token.clone(),
            ttl,
            "1".to_owned(),
            String::new(),
            keep,
            String::new(),
        ];
        let (word, _, _): (String, u64, u64) = self
            .connection
            .evalsha(ACQUIRE.sha1.as_str(), keys, args)
            .await
            .expect("an answer");
        assert_eq!(word, "granted");
        held
    }

    async fn give_back(&self, held: Held) {
        let args = vec![held.token, wake(&held.key), "PUBLISH".to_owned()];
        let word: Vec<String> = self
            .connection
            .evalsha(RELEASE.sha1.as_str(), held.key.as_str(), args)
            .await
            .expect("an answer");
        assert_eq!(word, ["held"]);
    }
}
