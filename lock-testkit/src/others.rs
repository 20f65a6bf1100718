//! Cases of which a part runs in other processes: the test program once more, told to run the same test, which then finds that it
//! is the other part. Not what that does.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, process};

use lock_core::Moment;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::cases::scaled;
use crate::fixture::Fixture;
use crate::gap::Gap;

/// Tells a process where the files of its case are, and which of several it is.
const DIRECTORY: &str = "FENCELOCK_CASE_DIRECTORY";
const NUMBER: &str = "FENCELOCK_CASE_NUMBER";

/// Tells a process that it does all of its case.
const ALONE: &str = "FENCELOCK_CASE_ALONE";

/// How long the others may take to end.
fn patience() -> Duration {
    Duration::from_secs(scaled(100, 1700))
}

thread_local! {
    /// The test that this thread runs, as the test program names it.
    static TEST: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Says which test this thread runs: its path, which begins with the program's name.
pub(crate) fn this_is(test: &'static str) {
    TEST.set(test.split_once("::").map(|(_, test)| test));
}

/// Runs this thread's test once more, in a process of its own, whose memory is nobody else's. `false` if this is that process, or
/// if there is no test to be run: then it is to be done here.
pub(crate) async fn ran_alone() -> bool {
    let Some(test) = TEST.get() else {
        return false;
    };
    if env::var_os(ALONE).is_some() {
        return false;
    }
    let mut command = the_same(test);
    command.env(ALONE, "").stdout(Stdio::null());
    let done = Handle::current().spawn_blocking(move || command.output());
    let done = done.await.expect("it did not panic");
    let done = done.expect("a process can be started");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "alone: {}\n{said}", done.status);
    true
}

/// This program, to run one test.
fn the_same(test: &str) -> Command {
    let program = env::current_exe().expect("this program has a name");
    let mut command = Command::new(program);
    command
        .args(["--exact", test, "--nocapture"])
        .stdin(Stdio::null());
    command
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
        let start = |number: usize| {
            let said = File::create(said_in(&directory.0, number)).expect("a file can be written");
            let mut command = the_same(test);
            command
                .env(DIRECTORY, &directory.0)
                .env(NUMBER, number.to_string())
                .stdout(Stdio::null())
                .stderr(said);
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

    /// Kills the first of them, without a word, and waits until none is any more: the others end by themselves, in whatever way.
    pub(crate) async fn kill(&mut self) {
        self.children[0].kill().expect("it can be killed");
        let start = Moment::now();
        while let Some(child) = self.children.last_mut() {
            if child.try_wait().expect("it is ours").is_some() {
                self.children.pop();
            } else {
                assert!(start.elapsed() < patience(), "a process has not ended");
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Stops the first of them where it is, until it is [resumed](Self::resume). `false` if this system cannot.
    pub(crate) fn stop(&self) -> bool {
        signal(&self.children[0], true)
    }

    pub(crate) fn resume(&self) {
        signal(&self.children[0], false);
    }

    /// Waits until all have ended, as they should, or says what one that failed has said.
    pub(crate) async fn end(&mut self) {
        let start = Moment::now();
        while let Some(child) = self.children.last_mut() {
            match child.try_wait().expect("it is ours") {
                Some(status) => {
                    self.children.pop();
                    let said = said_in(&self.directory.0, self.children.len());
                    assert!(
                        status.success(),
                        "another process of the case failed: {status}\n{}",
                        fs::read_to_string(said).unwrap_or_default()
                    );
                }
                None => {
                    assert!(
                        start.elapsed() < patience(),
                        "another process has not ended"
                    );
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

/// What the process of this number writes to its standard error.
fn said_in(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("said-{number}"))
}

#[cfg(unix)]
fn signal(child: &Child, stop: bool) -> bool {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = if stop { Signal::STOP } else { Signal::CONT };
    kill_process(Pid::from_child(child), signal).expect("it is ours");
    true
}

#[cfg(not(unix))]
fn signal(_: &Child, _: bool) -> bool {
    false
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
