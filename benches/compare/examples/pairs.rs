//! What one pair of taking a key and giving it back costs in instructions: run under callgrind, which no load of the machine
//! disturbs.
//!
//! ```sh
//! export RUSTFLAGS="--cfg rustix_use_libc" CARGO_PROFILE_RELEASE_DEBUG=line-tables-only # callgrind shows no vdso
//! cargo build --release --example pairs --target-dir target/callgrind
//! valgrind --tool=callgrind --callgrind-out-file=out target/callgrind/release/examples/pairs memory 3000
//! callgrind_annotate --inclusive=yes out             # what takes how many instructions
//! cargo run --release --example pairs -- memory 9999 # time and allocations of a pair
//! ```
//!
//! On one thread. The difference between two counts of pairs is free of what it takes to start.

#[path = "../src/client.rs"]
#[allow(dead_code, reason = "a part of it is enough here")]
mod client;
#[path = "../src/contestants"]
#[allow(dead_code, reason = "a part of it is enough here")]
mod contestants {
    #[macro_use]
    mod script;
    pub(crate) mod in_process;
    pub(crate) mod ours;
    pub(crate) mod raw;
}

use std::time::Duration;

use allocation_counter::measure;
use client::{Client, Target};
use contestants::{in_process, ours, raw};
use lock_testkit::server::RedisServer;
use rustix::time::{ClockId, Timespec, clock_gettime};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [who, count] = arguments.as_slice() else {
        panic!("pairs WHO COUNT");
    };
    let count = count.parse().expect("a number");
    match who.as_str() {
        "memory" => run::<ours::InMemory>(None, count),
        "lock-memory" => run::<ours::MemoryStore>(None, count),
        "lockable" => run::<in_process::Lockable>(None, count),
        "keyed-lock" => run::<in_process::KeyedLock>(None, count),
        "redis" => run::<ours::OnRedis>(Some(RedisServer::start()), count),
        "scripts" => run::<raw::OurScripts>(Some(RedisServer::start()), count),
        "raw" => run::<raw::Redis>(Some(RedisServer::start()), count),
        _ => panic!("memory, lock-memory, lockable, keyed-lock, redis, scripts or raw"),
    }
}

fn run<C: Client>(server: Option<RedisServer>, count: u32) {
    let target = Target {
        url: server.as_ref().map(RedisServer::url).unwrap_or_default(),
        ttl: Duration::from_secs(30),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let client = runtime.block_on(C::connect(&target));
    runtime.block_on(pairs(&client, 100));
    let start = cpu();
    let counted = measure(|| runtime.block_on(pairs(&client, count)));
    let spent = (cpu() - start).as_secs_f64();
    println!(
        "{}: {:.3} us of CPU, {:.2} allocations, {:.0} bytes a pair",
        C::name(),
        spent * 1e6 / f64::from(count),
        counted.count_total as f64 / f64::from(count),
        counted.bytes_total as f64 / f64::from(count),
    );
}

async fn pairs<C: Client>(client: &C, count: u32) {
    for _ in 0..count {
        let held = client.take("pairs:key").await;
        client.give_back(held).await;
    }
}

fn cpu() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(tv_sec).unwrap_or_default(),
        u32::try_from(tv_nsec).unwrap_or_default(),
    )
}
