//! A lock's life in five steps, in memory: `cargo run --example quickstart` needs no server and no flags.
//!
//! Every line that it prints is checked before it is printed: where something is not as said, it panics.

use std::error::Error;
use std::time::Duration;

use fencelock::{
    LockError, LockGuard, LockOptions, Locks, LossReason, MemoryBackend, Moment, Released,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = MemoryBackend::new(); // On Redis: `RedisBackend::connect("redis://127.0.0.1:6379").await?`
    let locks = Locks::new(backend.clone()).with_prefix("shop:");
    let alice = locks.lock("order:7").with_label("alice");
    // Waiters look for themselves every 30 s here, so that it can only be a wake-up that is seen in step 3.
    let patient = LockOptions::default().with_recheck(Duration::from_secs(30));
    let bob = locks
        .lock("order:7")
        .with_options(patient.with_label("bob"));

    println!("1. Alice takes the lock.");
    let guard = alice.acquire().await?;
    let first = guard.fencing_token();
    assert!(guard.is_held() && first.is_some());
    println!("   {}", describe(&guard));

    println!("2. Bob tries once and is refused: he learns by whom, and when to come back.");
    match bob.try_acquire().await {
        Err(LockError::Busy { key, holder, .. }) => {
            assert_eq!(holder.label.as_deref(), Some("alice"));
            assert!(holder.remaining.is_some());
            println!("   {key} is {holder}");
        }
        other => return Err(format!("expected busy, got {other:?}").into()),
    }

    println!("3. Bob waits. Alice releases after 200 ms, and the release wakes him.");
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let released = guard.release().await;
        (released, Moment::now())
    };
    let waiting = async { (bob.acquire().await, Moment::now()) };
    let ((released, released_at), (guard, got_it_at)) = tokio::join!(releasing, waiting);
    let guard = guard?;
    let woken_after = released_at.until(&got_it_at);
    assert_eq!(released?, Released::Released);
    assert!(woken_after < Duration::from_secs(10));
    assert!(guard.fencing_token() > first);
    println!("   Bob has it {woken_after:.1?} after the release, and a larger fencing token.");
    println!("   {}", describe(&guard));
    guard.release().await?;

    println!(
        "4. Alice's next lock has a ttl of 600 ms. She works for 1500 ms: it is renewed for her."
    );
    let guard = alice
        .clone()
        .with_ttl(Duration::from_millis(600))
        .acquire()
        .await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(guard.is_held());
    assert!(bob.try_acquire().await.is_err_and(|error| error.is_busy()));
    println!(
        "   Still held, for {:.0?} more unless renewed.",
        guard.remaining()
    );

    println!(
        "5. The lock is taken away from her while she works. Her work is stopped, not finished."
    );
    let thief = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        backend.steal("shop:order:7", "mallory", Duration::from_secs(30))
    };
    let work = guard.run(tokio::time::sleep(Duration::from_secs(60)));
    let (stolen, stopped) = tokio::join!(thief, work);
    stolen?;
    match stopped {
        Err(LockError::Lost { reason, .. }) => {
            assert_eq!(reason, LossReason::Taken);
            println!(
                "   Lost: {reason}. So says `guard.lost().await` too: {}.",
                guard.lost().await
            );
        }
        other => return Err(format!("expected the loss, got {other:?}").into()),
    }
    assert!(!guard.is_held());
    let holder = alice.status().await?.ok_or("nobody holds the lock")?;
    assert_eq!(holder.label.as_deref(), Some("mallory"));
    drop(guard); // Releases nothing: the lock is not hers any more.
    assert_eq!(backend.len(), 1);
    println!("   The lock is {holder}.");
    Ok(())
}

fn describe(guard: &LockGuard) -> String {
    let token = guard.fencing_token().map_or(0, u64::from);
    format!(
        "{} is held for {:.1?} unless renewed, under fencing token {token}.",
        guard.key(),
        guard.remaining()
    )
}
