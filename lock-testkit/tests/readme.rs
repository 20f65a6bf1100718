//! The example of the README, which is what stands between the lines here.

// -----
use lock_core::LockKey;
use lock_testkit::{Fixture, Gap, Scripted};

struct MyFixture(Scripted); // What must live as long as a test: a server, a directory.

impl Fixture for MyFixture {
    type Backend = Scripted; // Your implementation of `lock_core::LockBackend`.

    // In virtual time: only for what has neither sockets nor processes.
    const PAUSED: bool = true;

    // What the store cannot do, and which of the hooks are not there. Skipped aloud, and listed in a report.
    const GAPS: &[Gap] = &[
        Gap::Order,
        Gap::SurvivesRestart,
        Gap::Expire,
        Gap::Obstruct,
        Gap::Restart,
        Gap::Stop,
        Gap::Stall,
        Gap::CutConnections,
        Gap::ForceRelease,
        Gap::Processes,
    ];

    async fn start() -> Self {
        Self(Scripted::honest())
    }

    async fn client(&self) -> Scripted {
        self.0.clone()
    }

    // A hook does what no client can: this one deletes an entry behind the clients' backs.
    async fn evict(&self, key: &LockKey) -> bool {
        self.0.evict(key.as_str());
        true
    }
}

mod conformance {
    lock_testkit::conformance!(super::MyFixture);
}
// -----

#[test]
fn the_readme_has_this_example() {
    let example = include_str!("readme.rs").split("// -----\n").nth(1);
    let readme = include_str!("../README.md");
    assert!(example.is_some_and(|example| example.len() > 500 && readme.contains(example)));
}
