//! The example `shop` over HTTP: each route, busy and free, in one process in memory and in two on one Redis, through either
//! client; and what the locks are there for, with 200 requests at once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[allow(dead_code, reason = "what starts it is here")]
#[path = "../examples/shop.rs"]
mod shop;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lock_testkit::server::RedisServer;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough for another request to come meanwhile, on a busy machine too.
const LONG: u64 = 3000;

const WITH_LOCK: &str = "with lock";
const WITHOUT_LOCK: &str = "without lock";

/// Not a test: what the tests below start several times, as processes of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_server() {
    if let Ok(locks) = std::env::var("LOCK_SHOP_SERVER") {
        // Not longer than who started it.
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        shop::serve(locks == WITHOUT_LOCK).await.unwrap();
    }
}

// Every route.

#[tokio::test]
async fn every_route_is_served_free_and_busy_in_memory() {
    let shop = Shop::new();
    let server = shop.start(None, LONG, WITH_LOCK);
    every_route(&server, &server).await;
}

#[tokio::test]
async fn every_route_is_served_free_and_busy_on_redis_by_two_processes() {
    every_route_on_redis(RedisServer::url).await;
}

#[cfg(feature = "fred")]
#[tokio::test]
async fn every_route_is_served_free_and_busy_on_fred_by_two_processes() {
    every_route_on_redis(fred).await;
}

/// `url`: how the processes are told where the server is.
async fn every_route_on_redis(url: fn(&RedisServer) -> String) {
    let (shop, redis) = (Shop::new(), RedisServer::start());
    let one = shop.start(Some(url(&redis)), LONG, WITH_LOCK);
    let other = shop.start(Some(url(&redis)), LONG, WITH_LOCK);
    every_route(&one, &other).await;
    shop.assert_payments(&["7"]);
    assert_eq!((shop.stock("mug"), shop.sold("mug")), (97, 3));

    drop(redis);
    for route in [
        "process-payment/8",
        "reports/daily/tomorrow",
        "batch/process",
    ] {
        assert_eq!(
            one.post(route).await.status,
            503,
            "{route} without its store"
        );
    }
}

#[cfg(feature = "fred")]
fn fred(redis: &RedisServer) -> String {
    format!("fred+{}", redis.url().replace("redis://", "valkey://"))
}

async fn every_route(one: &Server, other: &Server) {
    tokio::join!(
        process_payment(one, other),
        decrease_stock(one, other),
        refresh_cache(one, other),
        daily_report(one, other),
        user_report(one, other),
        schedule_task(one, other),
        rate_limit(one, other),
        process_batch(one, other),
        nonsense(one),
    );
}

/// Both answers: of the request that is served, and of the one that comes meanwhile.
async fn both(one: &Server, other: &Server, route: &str, key: &str) -> (Reply, Reply) {
    let (free, busy) = tokio::join!(one.post(route), async {
        let holder = other.wait_until_held(key).await;
        assert_eq!(holder["holder"], format!("shop-{}", one.pid), "{holder}");
        other.post(route).await
    });
    assert_eq!(free.status, 200, "{route}: {free:?}");
    (free, busy)
}

async fn process_payment(one: &Server, other: &Server) {
    let (paid, busy) = both(one, other, "process-payment/7", "payment:7").await;
    assert_eq!(paid.body["status"], "paid");
    assert!(paid.body["fencing_token"].is_u64(), "{paid:?}");
    assert_eq!(busy.status, 409, "{busy:?}");
    assert!((1..=5).contains(&busy.retry_after()), "{busy:?}");
    let again = other.post("process-payment/7").await;
    assert_eq!(
        (again.status, &again.body["status"]),
        (200, &Value::from("already_paid"))
    );
}

async fn decrease_stock(one: &Server, other: &Server) {
    let (sold, busy) = both(one, other, "inventory/decrease/mug?quantity=3", "stock:mug").await;
    assert_eq!(
        (&sold.body["sold"], &sold.body["left"]),
        (&Value::from(3), &Value::from(97))
    );
    assert_eq!(busy.status, 503, "{busy:?}");
    assert!(busy.retry_after() >= 1, "{busy:?}");
    let too_much = other.post("inventory/decrease/mug?quantity=98").await;
    assert_eq!(too_much.status, 400, "{too_much:?}");
    for quantity in ["", "?quantity=0", "?quantity=-1", "?quantity=x"] {
        let route = format!("inventory/decrease/mug{quantity}");
        assert_eq!(one.post(&route).await.status, 400, "{route}");
    }
}

async fn refresh_cache(one: &Server, other: &Server) {
    let (refreshed, busy) = both(one, other, "cache/refresh/a%3Ab", "cache:a%253Ab").await;
    assert_eq!(
        (&refreshed.body["key"], &refreshed.body["status"]),
        (&"a:b".into(), &"refreshed".into())
    );
    assert_eq!(busy.status, 503, "{busy:?}");
}

async fn daily_report(one: &Server, other: &Server) {
    let (written, busy) = both(one, other, "reports/daily/today", "report:daily:today").await;
    assert_eq!(written.body["status"], "written");
    assert_eq!(busy.status, 503, "{busy:?}");
}

async fn user_report(one: &Server, other: &Server) {
    let (written, busy) = both(one, other, "reports/user/5", "report:user:5").await;
    let [before, after] = [0, 1].map(|at| written.body["remaining_ms"][at].as_u64().unwrap());
    // 10 s at first; three times 5 s were added, and something was done.
    assert!(
        before <= 10_000 && after <= before + 15_000 - 3 * LONG,
        "{written:?}"
    );
    assert!(after > 0, "{written:?}");
    assert_eq!(busy.status, 503, "{busy:?}");
}

async fn schedule_task(one: &Server, other: &Server) {
    let (scheduled, busy) = both(one, other, "tasks/schedule/5", "task:5").await;
    assert_eq!(scheduled.body["status"], "scheduled");
    assert_eq!(
        (busy.status, &busy.body["status"]),
        (200, &Value::from("skipped"))
    );
}

async fn rate_limit(one: &Server, other: &Server) {
    let start = Instant::now();
    assert_eq!(one.post("api/rate-limit/5").await.body["status"], "allowed");
    let limited = other.post("api/rate-limit/5").await;
    assert_eq!(limited.status, 429, "{limited:?}");
    assert!((1..=5).contains(&limited.retry_after()), "{limited:?}");
    assert_eq!(other.post("api/rate-limit/6").await.status, 200);
    while other.post("api/rate-limit/5").await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "never allowed again");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(
        start.elapsed() >= Duration::from_secs(5),
        "allowed again after {:?}",
        start.elapsed()
    );
}

async fn process_batch(one: &Server, other: &Server) {
    let (processed, busy) = both(one, other, "batch/process", "batch").await;
    assert_eq!(processed.body["status"], "processed");
    assert_eq!(
        (busy.status, &busy.body["status"]),
        (200, &Value::from("already_processing"))
    );
}

async fn nonsense(server: &Server) {
    let free = server.get("locks/nobody").await;
    assert_eq!(
        (free.status, &free.body["held"], &free.body["holder"]),
        (200, &false.into(), &Value::Null)
    );
    let long = "x".repeat(600);
    assert_eq!(server.get(&format!("locks/{long}")).await.status, 400);
    assert_eq!(
        server.post(&format!("cache/refresh/{long}")).await.status,
        400
    );
    assert_eq!(server.post("process-payment/..%2Fpasswd").await.status, 400);
    assert_eq!(server.get("process-payment/7").await.status, 405);
}

// What the locks are there for.

/// Sends `requests` at once, to each server in turn, and again while the answer is that somebody else is at it.
async fn rush(servers: [&Server; 2], requests: Vec<String>) -> Vec<(String, Reply)> {
    let mut rush = JoinSet::new();
    for (request, server) in requests.into_iter().zip(servers.into_iter().cycle()) {
        let address = server.address.clone();
        rush.spawn(async move {
            loop {
                let reply = send(&address, "POST", &request).await;
                if !matches!(reply.status, 409 | 503) {
                    return (request, reply);
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let all = timeout(2 * PATIENCE, rush.join_all());
    all.await.unwrap()
}

#[tokio::test]
async fn no_order_is_paid_twice_by_200_requests_to_two_processes() {
    no_order_is_paid_twice([RedisServer::url; 2]).await;
}

#[cfg(feature = "fred")]
#[tokio::test]
async fn no_order_is_paid_twice_by_200_requests_to_a_process_on_each_client() {
    no_order_is_paid_twice([RedisServer::url, fred]).await;
}

async fn no_order_is_paid_twice(urls: [fn(&RedisServer) -> String; 2]) {
    let (shop, redis) = (Shop::new(), RedisServer::start());
    let servers = urls.map(|url| shop.start(Some(url(&redis)), 20, WITH_LOCK));
    let orders: Vec<_> = (0..20).map(|order| order.to_string()).collect();
    // Ten times each, one after the other, so that both servers are asked for each.
    let requests = (0..10).flat_map(|_| {
        orders
            .iter()
            .map(|order| format!("process-payment/{order}"))
    });
    let mut requests: Vec<_> = requests.collect();
    requests[100..].rotate_left(1);

    let mut paid = BTreeMap::new();
    for (request, reply) in rush([&servers[0], &servers[1]], requests).await {
        assert_eq!(reply.status, 200, "{request}: {reply:?}");
        let paid: &mut u32 = paid.entry(request).or_default();
        *paid += u32::from(reply.body["status"] == "paid");
    }
    assert_eq!(paid.len(), orders.len());
    assert!(paid.values().all(|times| *times == 1), "{paid:?}");
    shop.assert_payments(&orders.iter().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_more_is_sold_than_there_was_by_200_requests_to_two_processes() {
    let (shop, redis) = (Shop::new(), RedisServer::start());
    let servers = [0, 1].map(|_| shop.start(Some(redis.url()), 5, WITH_LOCK));
    let requests = vec!["inventory/decrease/mug?quantity=1".to_owned(); 200];
    let replies = rush([&servers[0], &servers[1]], requests).await;
    let sold = replies
        .iter()
        .filter(|(_, reply)| reply.status == 200)
        .count();
    let refused = replies
        .iter()
        .filter(|(_, reply)| reply.status == 400)
        .count();
    assert_eq!((sold, refused), (100, 100));
    assert_eq!((shop.stock("mug"), shop.sold("mug")), (0, 100));
}

/// So the two tests above would have seen it.
#[tokio::test]
async fn without_the_locks_orders_are_paid_twice_and_more_is_sold_than_there_was() {
    let (shop, redis) = (Shop::new(), RedisServer::start());
    let servers = [0, 1].map(|_| shop.start(Some(redis.url()), 500, WITHOUT_LOCK));
    let mut requests = vec!["inventory/decrease/mug?quantity=20".to_owned(); 20];
    requests.extend(vec!["process-payment/7".to_owned(); 20]);
    rush([&servers[0], &servers[1]], requests).await;
    assert!(shop.sold("mug") > 100, "{}", shop.sold("mug"));
    assert!(shop.sold("mug") + shop.stock("mug") != 100);
    assert!(shop.lines("payments").len() > 1);
}

#[tokio::test]
async fn what_a_killed_process_was_at_is_done_by_another_after_the_ttl() {
    let (shop, redis) = (Shop::new(), RedisServer::start());
    let mut killed = shop.start(Some(redis.url()), 60_000, WITH_LOCK);
    let other = shop.start(Some(redis.url()), 20, WITH_LOCK);
    let address = killed.address.clone();
    let asking = tokio::spawn(async move { try_send(&address, "POST", "process-payment/7").await });
    other.wait_until_held("payment:7").await;
    killed.child.kill().unwrap();
    assert!(asking.await.unwrap().is_err());

    assert_eq!(other.post("process-payment/7").await.status, 409);
    let replies = rush([&other, &other], vec!["process-payment/7".to_owned()]).await;
    assert_eq!(replies[0].1.body["status"], "paid");
    shop.assert_payments(&["7"]);
}

#[tokio::test]
async fn a_payment_whose_lock_is_lost_is_stopped() {
    let (shop, redis) = (Shop::new(), RedisServer::start());
    let server = shop.start(Some(redis.url()), 60_000, WITH_LOCK);
    let (reply, _) = tokio::join!(server.post("process-payment/7"), async {
        server.wait_until_held("payment:7").await;
        redis.cli(&["DEL", "payment:7"])
    });
    assert_eq!(reply.status, 500, "{reply:?}");
    assert!(
        reply.body["error"].as_str().unwrap().contains("lost"),
        "{reply:?}"
    );
    shop.assert_payments(&[]);
}

#[tokio::test]
#[cfg(unix)]
async fn a_process_that_is_told_to_stop_finishes_its_requests_and_holds_nothing() {
    tokio::join!(told_to_stop_by("-INT"), told_to_stop_by("-TERM"));
}

#[cfg(unix)]
async fn told_to_stop_by(signal: &str) {
    let (shop, redis) = (Shop::new(), RedisServer::start());
    let mut server = shop.start(Some(redis.url()), LONG, WITH_LOCK);
    let (reply, ()) = tokio::join!(server.post("process-payment/7"), async {
        server.wait_until_held("payment:7").await;
        let pid = server.pid.to_string();
        let told = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(told.success());
    });
    assert_eq!(
        (reply.status, &reply.body["status"]),
        (200, &Value::from("paid"))
    );
    let start = Instant::now();
    let ended = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "it never ends");
        sleep(Duration::from_millis(10)).await;
    };
    assert!(ended.success(), "{ended}");
    assert_eq!(redis.cli(&["EXISTS", "payment:7"]).integer(), 0);
}

// Shops, servers, requests.

/// What the processes of one shop share.
struct Shop {
    directory: PathBuf,
}

impl Shop {
    fn new() -> Self {
        static SHOPS: AtomicU32 = AtomicU32::new(0);
        let number = SHOPS.fetch_add(1, Ordering::Relaxed);
        let name = format!("fencelock-test-shop-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    /// A process of it, whose pieces of work take `work` milliseconds.
    fn start(&self, url: Option<String>, work: u64, locks: &str) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_server", "--nocapture"])
            .env("LOCK_SHOP_SERVER", locks)
            .env("LOCK_SHOP_DIR", &self.directory)
            .env("LOCK_SHOP_WORK", work.to_string())
            .env("PORT", "0")
            .env_remove("LOCK_URL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(url) = url {
            command.env("LOCK_URL", url);
        }
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, address) = line.split_once("listening on ")?;
            Some(address.to_owned())
        });
        // The rest is read, so that the server is never held up by what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Server {
            pid: child.id(),
            address: address.unwrap(),
            child,
        }
    }

    fn lines(&self, log: &str) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join(log)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn stock(&self, product: &str) -> u64 {
        let text = fs::read_to_string(self.directory.join(format!("stock-{product}")));
        text.unwrap().trim().parse().unwrap()
    }

    fn sold(&self, product: &str) -> u64 {
        let sales = self.lines("sales");
        let of_product = sales.iter().filter_map(|sale| sale.strip_prefix(product));
        of_product
            .map(|quantity| quantity.trim().parse::<u64>().unwrap())
            .sum()
    }

    #[track_caller]
    fn assert_payments(&self, orders: &[&str]) {
        let (mut paid, mut orders) = (self.lines("payments"), orders.to_vec());
        paid.sort();
        orders.sort_unstable();
        assert_eq!(paid, orders);
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

struct Server {
    child: Child,
    pid: u32,
    address: String,
}

impl Server {
    async fn post(&self, route: &str) -> Reply {
        send(&self.address, "POST", route).await
    }

    async fn get(&self, route: &str) -> Reply {
        send(&self.address, "GET", route).await
    }

    async fn wait_until_held(&self, key: &str) -> Value {
        let start = Instant::now();
        loop {
            let status = self.get(&format!("locks/{key}")).await;
            if status.body["held"] == true {
                return status.body;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{key} is never held: {status:?}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Value,
}

impl Reply {
    fn retry_after(&self) -> u64 {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut header = lines.filter(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
        header
            .next()
            .map_or(0, |(_, seconds)| seconds.parse().unwrap())
    }
}

async fn send(address: &str, method: &str, route: &str) -> Reply {
    let reply = timeout(PATIENCE, try_send(address, method, route)).await;
    reply.unwrap().unwrap()
}

/// HTTP/1.1 in ten lines: one request a connection.
async fn try_send(address: &str, method: &str, route: &str) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("{method} /{route} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let no_reply = || std::io::Error::other(format!("no reply: {reply:?}"));
    let (head, body) = reply.split_once("\r\n\r\n").ok_or_else(no_reply)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Reply {
        status: status.ok_or_else(no_reply)?,
        head: head.to_owned(),
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}
