//! The backend of the guide, `examples/file_backend.rs`, keeps every promise.
#![cfg(unix)]
#![allow(clippy::expect_used)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

use lock_core::LockKey;
use lock_testkit::{Fixture, Gap};

#[allow(dead_code, reason = "its main function")]
#[path = "../examples/file_backend.rs"]
mod file_backend;
use file_backend::FileBackend;

/// A directory of its own for each case.
struct Files(PathBuf);

impl Fixture for Files {
    type Backend = FileBackend;
    const GAPS: &[Gap] = &[
        Gap::Wakeups,
        Gap::Order,
        Gap::SurvivesRestart,
        Gap::Expire,
        Gap::Restart,
        Gap::Stop,
        Gap::Stall,
        Gap::CutConnections,
        Gap::ForceRelease,
    ];

    async fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("file-backend-{}-{number}", process::id())))
    }

    async fn client(&self) -> FileBackend {
        FileBackend::new(self.0.clone())
    }

    async fn evict(&self, key: &LockKey) -> bool {
        let _ = fs::remove_file(FileBackend::new(self.0.clone()).path(key));
        true
    }

    async fn obstruct(&self, key: &LockKey) -> bool {
        let path = FileBackend::new(self.0.clone()).path(key);
        let parent = path.parent().expect("it is in the directory");
        fs::create_dir_all(parent).expect("a directory can be made");
        fs::write(path, "no lock").expect("a file can be written");
        true
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

mod conformance {
    lock_testkit::conformance!(super::Files);
}
