//! A file that refuses late writes: what a fencing token is for. `cargo run --example fenced_file` needs no server.
//!
//! Alice takes the lock, reads the clock, and is paused for longer than her ttl, as a machine may pause any process. Bob
//! takes the lock and writes. Then Alice goes on where she was: she believes that she holds the lock, and writes. The file
//! refuses it, because her token is smaller than the one it has seen.
//!
//! The file has its token on the first line. Comparing and writing are one step under the system's lock on the file.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use fencelock::{FencingToken, Locks, MemoryBackend, RenewalPolicy};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Replaces what the file says, unless somebody with a greater token wrote before. Whether it did.
fn write_fenced(path: &Path, token: FencingToken, text: &str) -> Result<bool> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    // Until the file is closed.
    file.lock()?;
    let mut old = String::new();
    file.read_to_string(&mut old)?;
    let newest = old.lines().next().map_or(Ok(0), str::parse)?;
    if newest > token.get() {
        return Ok(false);
    }
    replace(&mut file, &format!("{token}\n{text}\n"))?;
    Ok(true)
}

fn replace(file: &mut File, text: &str) -> Result<()> {
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len().try_into()?)?;
    file.sync_data()?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let path = std::env::temp_dir().join(format!("fencelock-fenced-file-{}", std::process::id()));
    let result = run(&path).await;
    let _ = fs::remove_file(&path);
    result
}

async fn run(path: &Path) -> Result<()> {
    let locks = Locks::new(MemoryBackend::new());
    let ttl = Duration::from_millis(200);
    // Not renewed, as if the process that renews it were paused too.
    let alice = locks
        .lock("report")
        .with_ttl(ttl)
        .with_renewal(RenewalPolicy::never());
    let guard = alice.acquire().await?;
    let token = guard
        .fencing_token()
        .ok_or("this store has no fencing tokens")?;
    println!("Alice holds the lock with token {token}, and is paused.");
    tokio::time::sleep(ttl.saturating_mul(2)).await;

    let bobs = locks.lock("report").acquire().await?;
    let newer = bobs
        .fencing_token()
        .ok_or("this store has no fencing tokens")?;
    let written = write_fenced(path, newer, "Bob was here")?;
    println!(
        "Bob holds it with token {newer} and writes: {}",
        verdict(written)
    );
    assert!(written && newer > token);

    // She does not look at her guard again: that could be as late as the write.
    let written = write_fenced(path, token, "Alice was here")?;
    println!(
        "Alice goes on and writes with token {token}: {}",
        verdict(written)
    );
    assert!(!written && !guard.is_held());
    assert!(fs::read_to_string(path)?.ends_with("Bob was here\n"));

    let written = write_fenced(path, newer, "Bob was here twice")?;
    println!("Bob writes again: {}", verdict(written));
    assert!(written);
    bobs.release().await?;
    Ok(())
}

fn verdict(written: bool) -> &'static str {
    if written { "written" } else { "refused" }
}
