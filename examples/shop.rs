//! A web shop whose processes exclude each other: what to answer when a lock is busy, route by route.
//!
//! ```sh
//! cargo run --example shop                                         # one process, in memory
//! LOCK_URL=redis://127.0.0.1:6379 PORT=3001 cargo run --features redis --example shop   # as many as you like
//! LOCK_URL=fred+redis://127.0.0.1:6379 PORT=3002 cargo run --features fred --example shop   # on fred, beside those
//!
//! curl -i -X POST localhost:3000/process-payment/7
//! curl -i -X POST 'localhost:3000/inventory/decrease/mug?quantity=3'
//! curl -i localhost:3000/locks/stock:mug
//! ```
//!
//! | Route | While somebody else is at it |
//! |---|---|
//! | `POST /process-payment/{order_id}` | 409 at once, with Retry-After |
//! | `POST /inventory/decrease/{product_id}?quantity=` | tries again a few times, then 503; 400 if there is not enough |
//! | `POST /cache/refresh/{key}` | 503 at once |
//! | `POST /reports/daily/{date}` | waits for a second, then 503 |
//! | `POST /reports/user/{user_id}` | 503 at once; the holder extends its lock part by part |
//! | `POST /tasks/schedule/{task_id}` | `"skipped"` |
//! | `POST /api/rate-limit/{user_id}` | 429: the lock is left to expire, so that a user has one call in 5 s |
//! | `POST /batch/process` | `"already_processing"` |
//! | `GET /locks/{key}` | who holds this lock, and for how long yet |
//!
//! Payments, stock and sales are plain files, which nothing protects but the locks: start it with `--without-lock` to see
//! orders paid twice and more sold than there was. What cannot afford even a late write sends its fencing token along: that
//! is the example `fenced_file`.

#[path = "shop/files.rs"]
mod files;

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fencelock::{LockError, Locks, MemoryBackend, RenewalPolicy, RetryPolicy, locked};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use files::Files;

const HELP: &str = "\
A web shop whose processes exclude each other by locks.

Usage: shop [--without-lock]

  --without-lock   leave the locks out, to see what goes wrong then
  -h, --help       this text

Environment:
  PORT             where to listen on 127.0.0.1; 0 for any. Default: 3000
  LOCK_URL         redis://.. (or valkey://..) for locks on a server, fred+redis://.. for the same
                   through fred. Default: in memory, for one process
  LOCK_SHOP_DIR    where payments, stock and sales are kept. Default: a new
                   directory, removed at the end
  LOCK_SHOP_STOCK  what there is of each product at first. Default: 100
  LOCK_SHOP_WORK   how many milliseconds each piece of work takes. Default: 100";

type Result<T, E = Refusal> = std::result::Result<T, E>;
type Reply = Result<Json<Value>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    match arguments()? {
        Some(without_lock) => serve(without_lock).await,
        None => {
            println!("{HELP}");
            Ok(())
        }
    }
}

/// Until it is told to stop.
pub(crate) async fn serve(without_lock: bool) -> Result<(), Box<dyn Error + Send + Sync>> {
    let number = |name, default| std::env::var(name).map_or(Ok(default), |value| value.parse());
    let port = number("PORT", 3000)?.try_into()?;
    let shop = Arc::new(Shop {
        locks: connect()
            .await?
            .with_label(format!("shop-{}", std::process::id())),
        files: Files::open(number("LOCK_SHOP_STOCK", 100)?)?,
        work: Duration::from_millis(number("LOCK_SHOP_WORK", 100)?),
        without_lock,
        requests: AtomicU64::new(0),
    });
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, routes(Arc::clone(&shop)))
        .with_graceful_shutdown(told_to_stop())
        .await?;
    // Whatever was still held is free for the others at once, and not only after its ttl.
    shop.locks.shutdown().await;
    Ok(())
}

/// By ctrl-c, or by SIGTERM, as supervisors of services do it.
async fn told_to_stop() {
    #[cfg(unix)]
    let supervisor = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let supervisor = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = supervisor => {}
    }
}

/// Whether to leave the locks out; `None` if help was asked for.
fn arguments() -> Result<Option<bool>, lexopt::Error> {
    let mut without_lock = false;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("without-lock") => without_lock = true,
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(without_lock))
}

#[cfg_attr(
    not(any(feature = "fred", feature = "redis")),
    allow(clippy::unused_async, reason = "memory needs no connection")
)]
async fn connect() -> Result<Locks, Box<dyn Error + Send + Sync>> {
    let Ok(url) = std::env::var("LOCK_URL") else {
        return Ok(Locks::new(MemoryBackend::new()));
    };
    #[cfg(feature = "fred")]
    if let Some(url) = url.strip_prefix("fred+") {
        return Ok(Locks::new(fencelock::FredBackend::connect(url).await?));
    }
    #[cfg(feature = "redis")]
    if ["redis", "valkey", "unix"]
        .iter()
        .any(|store| url.starts_with(store))
    {
        return Ok(Locks::new(fencelock::RedisBackend::connect(&url).await?));
    }
    // Without the rest of it, which may hold a password.
    let scheme = url.split("://").next().unwrap_or_default();
    Err(format!("LOCK_URL: no store for {scheme:?} here; was this built with its feature?").into())
}

fn routes(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/process-payment/{order_id}", post(process_payment))
        .route("/inventory/decrease/{product_id}", post(decrease_stock))
        .route("/cache/refresh/{key}", post(refresh_cache))
        .route("/reports/daily/{date}", post(daily_report))
        .route("/reports/user/{user_id}", post(user_report))
        .route("/tasks/schedule/{task_id}", post(schedule_task))
        .route("/api/rate-limit/{user_id}", post(rate_limit))
        .route("/batch/process", post(process_batch))
        .route("/locks/{key}", get(lock_status))
        .with_state(shop)
}

// The routes.

/// Pays once. Whoever comes while it is being paid need not wait: it is being paid.
async fn process_payment(State(shop): State<Arc<Shop>>, Path(order_id): Path<String>) -> Reply {
    let order = plain(&order_id)?;
    let lock = shop
        .locks()
        .lock(("payment", order))
        .with_ttl(Duration::from_secs(5));
    let guard = lock
        .try_acquire()
        .await
        .map_err(busy_is(StatusCode::CONFLICT))?;
    let pay = async {
        if shop
            .files
            .lines("payments")?
            .iter()
            .any(|paid| paid == order)
        {
            return Ok("already_paid");
        }
        shop.work().await;
        shop.files.append("payments", order)?;
        Ok::<_, Refusal>("paid")
    };
    // Stopped where it stands if the lock is lost.
    let status = guard.run(pay).await??;
    let token = guard.fencing_token().map(u64::from);
    // Paid is paid: a release that fails is tried again in the background.
    let _ = guard.release().await;
    Ok(Json(
        json!({ "order_id": order, "status": status, "fencing_token": token }),
    ))
}

/// Reads how much is left, thinks, writes how much is left then.
async fn decrease_stock(
    State(shop): State<Arc<Shop>>,
    Path(product_id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Reply {
    let product = plain(&product_id)?;
    let quantity = query
        .get("quantity")
        .and_then(|quantity| quantity.parse().ok());
    let quantity: u64 = quantity.filter(|quantity| *quantity > 0).ok_or_else(|| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "quantity is a whole number above 0",
        )
    })?;
    let lock = shop.locks().lock(("stock", product));
    let lock = lock.with_retry(RetryPolicy::every(Duration::from_millis(100)).at_most(5));
    lock.with(async |_guard| {
        let stock = shop.files.stock(product)?;
        shop.work().await;
        let left = stock.checked_sub(quantity).ok_or_else(|| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("there are only {stock} left"),
            )
        })?;
        shop.files.set_stock(product, left)?;
        shop.files
            .append("sales", &format!("{product} {quantity}"))?;
        Ok(Json(
            json!({ "product_id": product, "sold": quantity, "left": left }),
        ))
    })
    .await
}

/// One refresh at a time is enough.
async fn refresh_cache(State(shop): State<Arc<Shop>>, Path(key): Path<String>) -> Reply {
    let lock = shop
        .locks()
        .lock(("cache", &key))
        .with_retry(RetryPolicy::never());
    lock.with(async |_guard| {
        shop.work().await;
        Ok(Json(json!({ "key": key, "status": "refreshed" })))
    })
    .await
}

/// All of the above as an attribute.
#[locked("report:daily:{date}", ttl = "300s", wait = "1s", locks = shop.locks())]
async fn daily_report(State(shop): State<Arc<Shop>>, Path(date): Path<String>) -> Reply {
    shop.work().await;
    Ok(Json(json!({ "date": date, "status": "written" })))
}

/// Not renewed in the background: who writes the report says before each part for how much longer he needs the lock.
async fn user_report(State(shop): State<Arc<Shop>>, Path(user_id): Path<String>) -> Reply {
    let lock = shop
        .locks()
        .lock(("report", "user", &user_id))
        .with_ttl(Duration::from_secs(10));
    let guard = lock
        .with_renewal(RenewalPolicy::never())
        .try_acquire()
        .await?;
    let before = guard.remaining();
    for _part in 0..3 {
        guard.extend(Duration::from_secs(5)).await?;
        guard.run(shop.work()).await?;
    }
    let (before, after) = (before.as_millis(), guard.remaining().as_millis());
    let _ = guard.release().await;
    Ok(Json(
        json!({ "user_id": user_id, "status": "written", "remaining_ms": [before, after] }),
    ))
}

/// Whoever comes second has nothing to do.
async fn schedule_task(State(shop): State<Arc<Shop>>, Path(task_id): Path<String>) -> Reply {
    #[locked("task:{task_id}", wait = "0s", on_busy = "skip", locks = shop.locks())]
    async fn schedule(shop: &Shop, task_id: &str) -> Result<Option<&'static str>> {
        shop.work().await;
        Ok(Some("scheduled"))
    }

    let status = schedule(&shop, &task_id).await?.unwrap_or("skipped");
    Ok(Json(json!({ "task_id": task_id, "status": status })))
}

/// One call in five seconds: the lock is taken and nobody gives it back.
async fn rate_limit(State(shop): State<Arc<Shop>>, Path(user_id): Path<String>) -> Reply {
    let lock = shop
        .locks()
        .lock(("rate", &user_id))
        .with_ttl(Duration::from_secs(5));
    let guard = lock
        .try_acquire()
        .await
        .map_err(busy_is(StatusCode::TOO_MANY_REQUESTS))?;
    guard.leave_to_expire();
    Ok(Json(json!({ "user_id": user_id, "status": "allowed" })))
}

async fn process_batch(State(shop): State<Arc<Shop>>) -> Reply {
    let guard = match shop.locks().lock("batch").try_acquire().await {
        Err(error) if error.is_busy() => {
            return Ok(Json(json!({ "status": "already_processing" })));
        }
        taken => taken?,
    };
    guard.run(shop.work()).await?;
    let _ = guard.release().await;
    Ok(Json(json!({ "status": "processed" })))
}

async fn lock_status(State(shop): State<Arc<Shop>>, Path(key): Path<String>) -> Reply {
    let holder = shop.locks.lock(&key).status().await?;
    Ok(Json(json!({
        "key": key,
        "held": holder.is_some(),
        "holder": holder.as_ref().and_then(|holder| holder.label.clone()),
        "remaining_ms": holder.as_ref().and_then(|holder| holder.remaining).map(|left| left.as_millis()),
        "fencing_token": holder.and_then(|holder| holder.fencing).map(u64::from),
    })))
}

// What they stand on.

struct Shop {
    locks: Locks,
    files: Files,
    work: Duration,
    without_lock: bool,
    requests: AtomicU64,
}

impl Shop {
    fn locks(&self) -> Locks {
        let locks = self.locks.clone();
        if self.without_lock {
            // A lock that nobody else uses excludes nobody.
            let request = self.requests.fetch_add(1, Ordering::Relaxed);
            return locks.with_prefix(format!("{}-{request}:", std::process::id()));
        }
        locks
    }

    /// What takes its time, between reading and writing.
    async fn work(&self) {
        tokio::time::sleep(self.work).await;
    }
}

/// A name that may be part of a file's.
fn plain(name: &str) -> Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.len() > 64 || !name.chars().all(is_plain) {
        let advice = "use up to 64 letters, digits, - and _ as a name";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, advice));
    }
    Ok(name)
}

/// Why a request was not served.
struct Refusal {
    status: StatusCode,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: None,
        }
    }
}

/// The status of a busy lock, where it is not 503.
fn busy_is(status: StatusCode) -> impl FnOnce(LockError) -> Refusal {
    move |error| {
        let is_busy = error.is_busy();
        let mut refusal = Refusal::from(error);
        if is_busy {
            refusal.status = status;
        }
        refusal
    }
}

impl From<LockError> for Refusal {
    fn from(error: LockError) -> Self {
        let status = match &error {
            LockError::Invalid { .. } => StatusCode::BAD_REQUEST,
            // Stopped half way: nobody may call that done.
            LockError::Lost { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            // Busy, or the store failed: later is better.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self {
            retry_after: error.holder().and_then(|holder| holder.remaining),
            ..Self::new(status, error.to_string())
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if let Some(retry_after) = self.retry_after {
            // Rounded up, so that who comes then does not come too early.
            let seconds = retry_after.as_millis().div_ceil(1000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
