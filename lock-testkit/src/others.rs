//! Cases of which a part runs in other processes: the test program once more, told to run the same test, which then finds that it
//! is the other part. Not what that does.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, process};

use lock_core::Moment;
use tokio::time::sleep;

use crate::fixture::Fixture;
use crate::gap::Gap;

/// Tells a process where the files of its case are, and which of several it is.
const DIRECTORY: &str = "FENCELOCK_CASE_DIRECTORY";
const NUMBER: &str = "FENCELOCK_CASE_NUMBER";

/// How long the others may take to end.
const PATIENCE: Duration = Duration::from_secs(100);

thread_local! {
    /// The test that this thread runs, as the test program names it.
    static TEST: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Says which test this thread runs: its path, which begins with the program's name.
pub(crate) fn this_is(test: &'static str) {
    TEST.set(test.split_once("::").map(|(_, test)| test));
}

/// What an other process was told.
pub(crate) struct Told {
    pub(crate) directory: PathBuf,
    pub(crate) number: usize,
}

impl Told {
    /// `None` in the process that began the case.
    pub(crate) fn here() -> Option<Self> {
        let number = env::var(NUMBER).ok()?;
        Some(Self {
            directory: env::var_os(DIRECTORY)?.into(),
            number: number.parse().expect("a number"),
        })
    }

    /// Where the store is.
    pub(crate) fn address(&self) -> String {
        let address = fs::read_to_string(address_in(&self.directory));
        address.expect("the address was written down")
    }
}

/// Other processes that run a part of this case, and a directory for what they have to say. Those that are left are killed on drop.
pub(crate) struct Others {
    children: Vec<Child>,
    directory: Directory,
}

impl Others {
    /// Starts `count` of them, with the fixture's store. To be called before the case waits for the first time.
    pub(crate) fn start<F: Fixture>(fixture: &F, count: usize) -> Self {
        let address = fixture.address();
        let address = address.unwrap_or_else(|| panic!("{}", Gap::Processes.advice()));
        let test = TEST
            .get()
            .expect("run this by `conformance!`: other processes are told to run a test");
        let directory = Directory::new();
        fs::write(address_in(&directory.0), address).expect("a file can be written");
        let program = env::current_exe().expect("this program has a name");
        let start = |number: usize| {
            let mut command = Command::new(&program);
            command
                .args(["--exact", test, "--nocapture"])
                .env(DIRECTORY, &directory.0)
                .env(NUMBER, number.to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            command.spawn().expect("a process can be started")
        };
        Self {
            children: (0..count).map(start).collect(),
            directory,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Kills the first of them, without a word, and waits until it is no more.
    pub(crate) fn kill(&mut self) {
        let mut child = self.children.remove(0);
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Waits until all have ended, as they should: a part that fails has said why.
    pub(crate) async fn end(&mut self) {
        let start = Moment::now();
        while let Some(child) = self.children.last_mut() {
            match child.try_wait().expect("it is ours") {
                Some(status) => {
                    assert!(
                        status.success(),
                        "another process of the case failed: {status}"
                    );
                    self.children.pop();
                }
                None => {
                    assert!(start.elapsed() < PATIENCE, "another process has not ended");
                    sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn address_in(directory: &Path) -> PathBuf {
    directory.join("address")
}

/// Removed with what is in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fencelock-case-{}-{number}", process::id());
        let path = env::temp_dir().join(OsString::from(name));
        fs::create_dir_all(&path).expect("a directory can be made");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
