//! The tool as a child process, on a server of its own, and what its command leaves in a directory of its own.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lock_testkit::server::RedisServer;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

pub const SECOND: Duration = Duration::from_secs(1);

/// A server, and a directory for what commands write.
pub struct Stage {
    pub server: RedisServer,
    directory: PathBuf,
}

impl Stage {
    pub fn new() -> Self {
        heed_interrupts();
        let server = RedisServer::start();
        let name = format!("fencelock-cli-{}-{}", std::process::id(), server.port());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Self { server, directory }
    }

    /// `fencelock` with these arguments, its URL in the environment, in the directory.
    pub fn tool<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencelock"));
        command
            .args(arguments)
            .env("LOCK_URL", self.server.url())
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `fencelock run --key k` with these options and a shell script as its command.
    pub fn run(&self, options: &str, script: &str) -> Command {
        let head = ["run", "--key", "k"].into_iter();
        self.tool(
            head.chain(options.split_whitespace())
                .chain(["--", "sh", "-c", script]),
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What a command wrote into the file `name`, once it did.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        eventually(&format!("{name} is written"), || {
            fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
        });
        fs::read_to_string(path).unwrap().trim_end().to_owned()
    }

    /// The process whose id a command wrote into the file `name`.
    pub fn pid(&self, name: &str) -> Pid {
        Pid::from_raw(self.read(name).parse().unwrap()).unwrap()
    }

    pub fn is_held(&self) -> bool {
        self.server.cli(&["EXISTS", "k"]).integer() == 1
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A tool that runs; killed when dropped, so that its enforcer ends the command.
pub struct Tool(Option<Child>);

impl Tool {
    pub fn start(mut command: Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    /// What else it has started beside its command: the enforcer.
    pub fn enforcer(&self, command: Pid) -> Option<Pid> {
        let children = format!("/proc/{0}/task/{0}/children", self.pid().as_raw_nonzero());
        let children = fs::read_to_string(children).unwrap_or_default();
        let mut others = children
            .split_whitespace()
            .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        others.find(|pid| *pid != command)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.0.as_ref().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// The exit code.
    pub fn code(self) -> i32 {
        let output = self.output();
        let code = output.status.code();
        code.unwrap_or_else(|| panic!("{output:?}"))
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The background of a script ignores SIGINT, and a tool that is started there leaves it so. Children of who handles it do not.
fn heed_interrupts() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    if ignored & 0b10 != 0 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let _entered = runtime.enter();
        drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).unwrap());
    }
}

/// The exit code of a tool that is run to its end.
pub fn code(command: Command) -> i32 {
    Tool::start(command).code()
}

/// Whether a process is there and no zombie.
pub fn is_alive(pid: Pid) -> bool {
    let stat = Path::new("/proc")
        .join(pid.as_raw_nonzero().to_string())
        .join("stat");
    match fs::read_to_string(stat) {
        Ok(stat) => !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => !Path::new("/proc/self").exists() && test_kill_process(pid).is_ok(),
    }
}

pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("not within 30 seconds: {what}");
}

/// Milliseconds since 1970, as `date +%s%3N` prints them.
pub fn now() -> u128 {
    #[allow(
        clippy::disallowed_methods,
        reason = "compared with what a shell script wrote"
    )]
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_millis()
}
