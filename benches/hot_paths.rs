//! What a lock costs where nobody is in the way: `cargo bench --features fred,redis`. Against others: `benches/compare`.

#![allow(clippy::expect_used, reason = "a benchmark: what fails must stop it")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use fencelock::{FredBackend, LockBackend, LockError, Locks, MemoryBackend, RedisBackend};
use lock_testkit::server::RedisServer;
use tokio::runtime::{Builder, Runtime};

fn hot_paths(criterion: &mut Criterion) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    on_backend(criterion, "memory", &runtime, MemoryBackend::new());
    let Some(server) = server() else {
        eprintln!("SKIPPED: redis and fred, for there is no redis-server here");
        return;
    };
    let backend = runtime.block_on(RedisBackend::connect(server.url()));
    on_backend(criterion, "redis", &runtime, backend.expect("a connection"));
    let backend = runtime.block_on(FredBackend::connect(server.url()));
    on_backend(criterion, "fred", &runtime, backend.expect("a connection"));
}

/// None where there is no server program.
fn server() -> Option<RedisServer> {
    let found = std::process::Command::new("redis-server")
        .arg("--version")
        .output();
    found.is_ok().then(RedisServer::start)
}

fn on_backend(criterion: &mut Criterion, name: &str, runtime: &Runtime, backend: impl LockBackend) {
    let locks = Locks::new(backend);
    let mut group = criterion.benchmark_group(name);
    pair(&mut group, runtime, &locks);
    busy(&mut group, runtime, &locks);
    held(&mut group, runtime, &locks);
    group.finish();
}

fn pair(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, locks: &Locks) {
    let lock = locks.lock("bench:pair");
    group.bench_function("acquire and release", |bencher| {
        bencher.to_async(runtime).iter(|| async {
            let guard = lock.acquire().await.expect("granted");
            guard.release().await.expect("released")
        });
    });
    group.bench_function("acquire and release, named each time", |bencher| {
        bencher.to_async(runtime).iter(|| async {
            let guard = locks.lock("bench:pair").acquire().await.expect("granted");
            guard.release().await.expect("released")
        });
    });
}

/// The answer that somebody has it: of this process, without a round trip; of another, from the store.
fn busy(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, locks: &Locks) {
    let lock = locks.lock("bench:busy");
    let guard = runtime.block_on(lock.acquire()).expect("granted");
    group.bench_function("try_acquire, held in this process", |bencher| {
        bencher.to_async(runtime).iter(|| async {
            let refused = lock.try_acquire().await;
            assert!(matches!(refused, Err(LockError::Busy { .. })));
        });
    });
    drop(guard);
}

fn held(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, locks: &Locks) {
    let lock = locks.lock("bench:held");
    let guard = runtime.block_on(lock.acquire()).expect("granted");
    group.bench_function("is_held", |bencher| {
        bencher.iter(|| black_box(&guard).is_held());
    });
    group.bench_function("fencing_token", |bencher| {
        bencher.iter(|| black_box(&guard).fencing_token());
    });
    group.bench_function("renew_for", |bencher| {
        bencher.to_async(runtime).iter(|| async {
            let renewed = guard.renew_for(Duration::from_secs(30)).await;
            renewed.expect("renewed");
        });
    });
    group.bench_function("status", |bencher| {
        bencher.to_async(runtime).iter(|| async {
            assert!(lock.status().await.expect("an answer").is_some());
        });
    });
}

criterion_group!(benches, hot_paths);
criterion_main!(benches);
