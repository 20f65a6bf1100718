//! The backend of the guide, `examples/file_backend.rs`, keeps every promise.
#![cfg(unix)]
#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, process};

use lock_core::LockKey;
use lock_testkit::{Fixture, Gap};

#[allow(dead_code, reason = "its main function")]
#[path = "../examples/file_backend.rs"]
mod file_backend;
use file_backend::FileBackend;

/// A directory of its own for each case. Among the build's files, because a call of a case that has ended may make it again.
struct Files {
    directory: PathBuf,
    /// Whether it is this process's to remove.
    is_ours: bool,
}

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
        let name = format!("file-backend-{}-{number}", process::id());
        Self {
            directory: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name),
            is_ours: true,
        }
    }

    async fn client(&self) -> FileBackend {
        FileBackend::new(self.directory.clone())
    }

    async fn evict(&self, key: &LockKey) -> bool {
        let _ = fs::remove_file(FileBackend::new(self.directory.clone()).path(key));
        true
    }

    async fn obstruct(&self, key: &LockKey) -> bool {
        let path = FileBackend::new(self.directory.clone()).path(key);
        let parent = path.parent().expect("it is in the directory");
        fs::create_dir_all(parent).expect("a directory can be made");
        fs::write(path, "no lock").expect("a file can be written");
        true
    }

    fn address(&self) -> Option<String> {
        self.directory.to_str().map(str::to_owned)
    }

    async fn join(directory: String) -> Option<Self> {
        Some(Self {
            directory: directory.into(),
            is_ours: false,
        })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

mod conformance {
    lock_testkit::conformance!(super::Files);
}
