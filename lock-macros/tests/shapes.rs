//! What `#[locked]` goes on: every shape of function that people write.
// A user's lints see what the macro writes.
#![deny(unreachable_code, unused_braces, unused_variables)]
#![warn(clippy::pedantic, unused_qualifications)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::ignored_unit_patterns,
    clippy::too_many_arguments,
    reason = "a test"
)]

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use fencelock::{LockError, LockGuard, Locks, MemoryBackend, locked};

fn locks() -> Locks {
    Locks::new(MemoryBackend::new())
}

fn key(guard: &LockGuard) -> String {
    guard.key().as_str().to_owned()
}

// Methods.

struct Shop {
    locks: Locks,
    shelf: Shelf,
    sold: u32,
}

#[derive(Clone)]
struct Shelf {
    id: u64,
    place: (char, u8),
}

impl Shop {
    fn new() -> Self {
        Self {
            locks: locks(),
            shelf: Shelf {
                id: 7,
                place: ('c', 3),
            },
            sold: 0,
        }
    }

    #[locked("new:{id}", locks = locks)]
    async fn open(id: u64, locks: &Locks) -> Result<Self, LockError> {
        let shelf = Shelf {
            id,
            place: ('a', 0),
        };
        Ok(Self {
            locks: locks.clone(),
            shelf,
            sold: 0,
        })
    }

    #[locked("shelf:{self.shelf.id}:{self.shelf.place.0}", locks = self.locks, guard)]
    async fn borrowed(&self) -> Result<String, LockError> {
        Ok(key(guard))
    }

    #[locked("sold:{self.sold}", locks = self.locks, guard)]
    async fn mutable(&mut self, by: u32) -> Result<String, LockError> {
        self.sold += by;
        Ok(key(guard))
    }

    #[locked("{self.shelf.id}", locks = self.locks)]
    async fn consumed(mut self) -> Result<u64, LockError> {
        self.shelf.id += 1;
        Ok(self.shelf.id)
    }

    #[locked("{self.shelf.id}", locks = &self.locks)]
    async fn shared(self: Arc<Self>) -> Result<u64, LockError> {
        Ok(self.shelf.id)
    }

    #[locked("place", locks = self.locks)]
    async fn place(&self) -> Result<&(char, u8), LockError> {
        Ok(&self.shelf.place)
    }
}

#[tokio::test]
async fn methods_are_locked_by_what_self_has() {
    let mut shop = Shop::new();
    assert_eq!(shop.borrowed().await.unwrap(), "shelf:7:c");
    assert_eq!(shop.mutable(5).await.unwrap(), "sold:0");
    assert_eq!(shop.mutable(1).await.unwrap(), "sold:5");
    assert_eq!(shop.place().await.unwrap(), &('c', 3));
    assert_eq!(shop.consumed().await.unwrap(), 8);
    assert_eq!(Arc::new(Shop::new()).shared().await.unwrap(), 7);
    assert_eq!(Shop::open(9, &locks()).await.unwrap().shelf.id, 9);
}

// Generics and lifetimes.

#[locked("{prefix}:{id}", locks = locks, guard)]
async fn generic<T, const N: usize>(
    locks: &Locks,
    prefix: &str,
    id: T,
    rest: [u8; N],
) -> Result<(String, T), LockError>
where
    T: Display + Clone + Send,
{
    assert_eq!(rest.len(), N);
    Ok((key(guard), id.clone()))
}

#[locked("first", locks = locks)]
async fn first<'a>(locks: &Locks, words: &'a [String]) -> Result<&'a str, LockError> {
    Ok(words.first().map_or("", |word| word))
}

#[locked("{name}", locks = locks)]
async fn implied(locks: &Locks, name: impl Display + Send) -> Result<impl Display, LockError> {
    let shown = format!("<{name}>");
    if shown.len() > 100 {
        return Err(fencelock::LockKey::new("").unwrap_err());
    }
    Ok(shown)
}

struct Generic<'a, T>(&'a Locks, PhantomData<T>);

impl<'a, T: Send + Sync> Generic<'a, T> {
    #[locked("generic:{other}", locks = self.0)]
    async fn method<U: Display + Sync>(&self, other: &U) -> Result<&'a Locks, LockError> {
        let _ = other;
        Ok(self.0)
    }
}

#[tokio::test]
async fn generics_and_lifetimes_are_as_without_the_macro() {
    let locks = locks();
    let (key, id) = is_send(generic(&locks, "a:b", 7_u64, [0; 3]))
        .await
        .unwrap();
    assert_eq!((&*key, id), ("a%3Ab:7", 7));
    let words = vec!["one".to_owned()];
    assert_eq!(first(&locks, &words).await.unwrap(), "one");
    assert_eq!(implied(&locks, 5).await.unwrap().to_string(), "<5>");
    let generic = Generic(&locks, PhantomData::<u8>);
    let _: &Locks = is_send(generic.method(&"x")).await.unwrap();
}

fn is_send<F: Future + Send>(future: F) -> F {
    future
}

// Traits.

trait Native: Sync {
    #[locked("default:{more}", locks = locks)]
    async fn with_default(&self, locks: &Locks, more: u8) -> Result<String, LockError> {
        Ok(self.name().await? + &more.to_string())
    }

    fn name(&self) -> impl Future<Output = Result<String, LockError>> + Send;
}

impl Native for Shop {
    #[locked("native:{self.sold}", locks = self.locks, guard)]
    async fn name(&self) -> Result<String, LockError> {
        Ok(key(guard))
    }
}

#[async_trait]
trait Reports: Sync {
    fn locks(&self) -> &Locks;

    #[locked("daily:{date}", locks = self.locks(), guard)]
    async fn daily(&self, date: &str) -> Result<String, LockError> {
        Ok(key(guard) + &self.suffix(1).await?)
    }

    async fn suffix(&self, n: usize) -> Result<String, LockError>;

    async fn pick(&mut self, (one, _): (u8, u8), id: Id) -> Result<Option<&Shelf>, LockError>;

    async fn of<T: Display + Send + Sync>(what: T, locks: Locks) -> Result<T, io::Error>
    where
        Self: Sized;
}

struct Id(u64);

#[async_trait]
impl Reports for Shop {
    fn locks(&self) -> &Locks {
        &self.locks
    }

    #[locked("suffix:{self.sold}:{n}", locks = self.locks, guard = held)]
    async fn suffix(&self, mut n: usize) -> Result<String, LockError> {
        if n > 100 {
            return Err(held.check().unwrap_err());
        }
        n += 1;
        Ok(format!("!{}", n + self.sold as usize))
    }

    #[locked("pick:{self.sold}", locks = self.locks, wait = "0s", on_busy = "skip")]
    async fn pick(&mut self, (one, _): (u8, u8), Id(id): Id) -> Result<Option<&Shelf>, LockError> {
        self.sold += u32::from(one);
        Ok((id == self.shelf.id).then_some(&self.shelf))
    }

    #[locked("of:{what}", locks = locks)]
    async fn of<T: Display + Send + Sync>(what: T, locks: Locks) -> Result<T, io::Error> {
        drop(locks);
        Ok(what)
    }
}

#[tokio::test]
async fn methods_of_traits_are_locked() {
    let mut shop = Shop::new();
    assert_eq!(shop.name().await.unwrap(), "native:0");
    assert_eq!(shop.with_default(&locks(), 5).await.unwrap(), "native:05");
    assert_eq!(Shop::of(5, locks()).await.unwrap(), 5);
    assert_eq!(
        shop.pick((2, 0), Id(7))
            .await
            .unwrap()
            .map(|shelf| shelf.id),
        Some(7)
    );
    let reports: &dyn ReportsObject = &shop;
    assert_eq!(
        is_send(reports.daily("today")).await.unwrap(),
        "daily:today!4"
    );

    let _held = shop.locks.lock("pick:2").acquire().await.unwrap();
    assert!(shop.pick((2, 0), Id(7)).await.unwrap().is_none());
    assert_eq!(shop.sold, 2);
}

/// A trait of async-trait without the methods that a `dyn` cannot have.
#[async_trait]
trait ReportsObject: Sync {
    async fn daily(&self, date: &str) -> Result<String, LockError>;
}

#[async_trait]
impl ReportsObject for Shop {
    async fn daily(&self, date: &str) -> Result<String, LockError> {
        Reports::daily(self, date).await
    }
}

#[locked("boxed:{n}", locks = locks)]
fn boxed<'a>(
    locks: &'a Locks,
    n: u32,
) -> Pin<Box<dyn Future<Output = Result<u32, LockError>> + Send + 'a>> {
    Box::pin(async move {
        if n == 0 {
            Ok(0)
        } else {
            Ok(n + boxed(locks, n - 1).await?)
        }
    })
}

#[locked("recursive:{n}", locks = locks)]
async fn recursive(locks: &Locks, n: u32) -> Result<u32, LockError> {
    if n == 0 {
        return Ok(0);
    }
    Ok(n + Box::pin(recursive(locks, n - 1)).await?)
}

#[tokio::test]
async fn a_locked_function_may_call_itself_under_other_keys() {
    assert_eq!(boxed(&locks(), 4).await.unwrap(), 10);
    assert_eq!(recursive(&locks(), 4).await.unwrap(), 10);
}

// Arguments.

struct Path<T>(T);
struct Order {
    id: u64,
    lines: (u8, (u8, u8)),
}

#[locked("{id}:{a}:{whole}:{order.lines.1.0}:{kept}:{r#type}", locks = locks, guard)]
async fn patterns(
    locks: &Locks,
    Path(id): Path<u64>,
    (a, [_, .., b]): (&str, [u8; 3]),
    whole @ 0..: u8,
    order: &Order,
    Order { id: kept, .. }: Order,
    _: (),
    r#type: &str,
    mut changed: u32,
) -> Result<String, LockError> {
    changed += u32::from(b) + u32::from(whole);
    Ok(format!(
        "{}={changed}={}={id}={a}={kept}={}",
        key(guard),
        order.id,
        r#type.len()
    ))
}

#[locked("cfg:{there}", locks = locks, guard)]
async fn conditional(
    locks: &Locks,
    #[cfg(not(any()))] there: u8,
    #[cfg(any())] there: (),
    #[cfg(any())] gone: u8,
) -> Result<String, LockError> {
    Ok(key(guard))
}

#[rustfmt::skip]
#[locked("short:{n}", locks = locks)]
async fn on_one_line(locks: &Locks, n: u8) -> Result<u8, LockError> { Ok(n) }

macro_rules! report {
    ($vis:vis fn $name:ident($argument:ident: $ty:ty) -> $output:ty $body:block, $template:literal) => {
        /// Made by a macro.
        #[locked($template, locks = locks())]
        $vis async fn $name($argument: $ty, hygienic: u8) -> $output $body
    };
}
report!(
    pub(crate) fn made(n: u8) -> Result<Option<u8>, LockError> {
        Ok(Some(n))
    },
    "made:{n}:{hygienic}"
);

#[tokio::test]
async fn keys_name_what_patterns_and_macros_make() {
    let order = |id| Order {
        id,
        lines: (1, (2, 3)),
    };
    let locks = locks();
    let one = order(1);
    let made_of = patterns(
        &locks,
        Path(5),
        ("x:y", [1, 2, 3]),
        9,
        &one,
        order(2),
        (),
        "t{}",
        10,
    );
    assert_eq!(
        made_of.await.unwrap(),
        "5:x%3Ay:9:2:2:t%7B%7D=22=1=5=x:y=2=3"
    );
    assert_eq!(conditional(&locks, 3).await.unwrap(), "cfg:3");
    assert_eq!(on_one_line(&locks, 3).await.unwrap(), 3);
    assert_eq!(made(4, 5).await.unwrap(), Some(4));
}

// Results.

#[derive(Debug)]
enum Failure {
    Lock(LockError),
    Number,
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

impl From<std::num::ParseIntError> for Failure {
    fn from(_: std::num::ParseIntError) -> Self {
        Self::Number
    }
}

type Answer<T, E = Failure> = Result<T, E>;

#[locked("own", locks = locks)]
async fn own_error(locks: &Locks, number: &str) -> Answer<i32> {
    let number = number.parse()?;
    if number < 0 {
        return Err(Failure::Number);
    }
    Ok(number)
}

#[locked("boxed", locks = locks)]
async fn coerced(
    locks: &Locks,
    number: u8,
) -> Result<Box<dyn Display + Send>, Box<dyn Error + Send + Sync>> {
    match number {
        0 => return Ok(Box::new("none")),
        1 => Err("one")?,
        _ => {}
    }
    Ok(Box::new(number))
}

#[locked("io", locks = locks, wait = "0s")]
async fn as_io(locks: &Locks) -> io::Result<()> {
    Ok(())
}

#[locked("diverges", locks = locks)]
async fn diverges(locks: &Locks) -> Result<std::convert::Infallible, LockError> {
    loop {
        tokio::task::yield_now().await;
    }
}

#[locked("unfinished", locks = locks)]
async fn panics(locks: &Locks) -> Result<u8, LockError> {
    panic!("as asked")
}

#[locked("local", locks = locks)]
async fn not_send(locks: &Locks) -> Result<Rc<u8>, LockError> {
    let kept = Rc::new(5);
    tokio::task::yield_now().await;
    Ok(kept)
}

#[tokio::test]
async fn errors_convert_and_results_coerce_as_in_any_async_fn() {
    let locks = locks();
    assert_eq!(own_error(&locks, "5").await.unwrap(), 5);
    assert!(matches!(own_error(&locks, "x").await, Err(Failure::Number)));
    assert!(matches!(
        own_error(&locks, "-1").await,
        Err(Failure::Number)
    ));
    assert_eq!(coerced(&locks, 0).await.unwrap().to_string(), "none");
    assert_eq!(coerced(&locks, 1).await.err().unwrap().to_string(), "one");
    assert_eq!(coerced(&locks, 7).await.unwrap().to_string(), "7");
    assert_eq!(*not_send(&locks).await.unwrap(), 5);
    assert!(
        tokio::spawn(async { panics(&self::locks()).await })
            .await
            .is_err()
    );
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(5), diverges(&locks))
            .await
            .is_err()
    );

    let _held = locks.lock("io").acquire().await.unwrap();
    assert_eq!(
        as_io(&locks).await.unwrap_err().kind(),
        io::ErrorKind::TimedOut
    );
    let _held = locks.lock("own").acquire().await.unwrap();
    let busy = own_error(&locks.clone().with_wait(std::time::Duration::ZERO), "5").await;
    assert!(
        matches!(busy, Err(Failure::Lock(LockError::TimedOut { .. }))),
        "{busy:?}"
    );
}

// Elsewhere.

mod renamed {
    pub(super) mod inner {
        pub(crate) use fencelock as lib;
    }

    #[fencelock::locked("renamed", crate = inner::lib, locks = locks, renew = true, on_busy = "error")]
    pub(super) async fn function(locks: &inner::lib::Locks) -> Result<(), inner::lib::LockError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_function_may_be_spawned() {
    async fn name(locks: Locks) -> Result<String, LockError> {
        renamed::function(&locks).await?;
        own_error(&locks, "5").await.unwrap();
        Shop::new().name().await
    }
    assert_eq!(
        tokio::spawn(name(locks())).await.unwrap().unwrap(),
        "native:0"
    );
}
