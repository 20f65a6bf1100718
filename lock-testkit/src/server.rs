//! Real Redis servers for tests, as child processes. Not a client: [`RedisServer::cli`] is an oracle that shares
//! no code with what is tested.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test without its server cannot go on"
)]

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Names beside a lock on Redis, one row each: prefix, name, fence key, wake channel; or prefix, name, `error`.
/// Separated by tabs; rows that start with `#` are comments.
pub const REDIS_KEY_VECTORS: &str = include_str!("../vectors/redis-keys.tsv");

/// How often a start is tried again on another port, when the port was taken.
const STARTS: u32 = 10;

/// How long the oracle waits for an answer.
const ORACLE_PATIENCE: Duration = Duration::from_secs(10);

/// What a test wants of its server.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    password: Option<String>,
    unix_socket: bool,
    args: Vec<String>,
}

impl RedisOptions {
    /// A server without persistence and without a password.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for this password (`requirepass`).
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Listens on a unix socket too: [`RedisServer::unix_socket`].
    #[must_use]
    pub fn with_unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Adds arguments, for example `["--maxmemory", "2mb"]`.
    #[must_use]
    pub fn with_args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    ///
    /// If there is no server program, or it does not start.
    #[must_use]
    pub fn start(self) -> RedisServer {
        let directory = Directory::new();
        for _ in 0..STARTS {
            let port = free_port();
            let mut child = spawn(&self, directory.path(), port);
            if answers(port, &mut child) {
                return RedisServer {
                    child: Some(child),
                    port,
                    options: self,
                    directory,
                };
            }
        }
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        panic!("redis-server did not start on any of {STARTS} ports; its log ends:\n{log}");
    }
}

/// A redis-server of its own, with its own directory, on a free port of 127.0.0.1. Killed and removed on drop.
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    options: RedisOptions,
    directory: Directory,
}

impl RedisServer {
    /// A server without persistence: [`RedisOptions::start`] with nothing set.
    ///
    /// # Panics
    ///
    /// If there is no server program, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        RedisOptions::new().start()
    }

    /// The URL to connect to, password included.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.options.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where the unix socket is, if one was asked for.
    #[must_use]
    pub fn unix_socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// If the server was stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server was stopped").id()
    }

    /// Kills the server and waits for its end. Its port stays its own for [`restart_empty`](Self::restart_empty).
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills the server, removes its data and starts it again on the same port.
    ///
    /// # Panics
    ///
    /// If it does not start again.
    pub fn restart_empty(&mut self) {
        self.stop();
        for file in ["dump.rdb", "appendonlydir", "appendonly.aof"] {
            let path = self.directory.path().join(file);
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_dir_all(&path);
        }
        for _ in 0..STARTS {
            let mut child = spawn(&self.options, self.directory.path(), self.port);
            if answers(self.port, &mut child) {
                self.child = Some(child);
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("redis-server did not start again on port {}", self.port);
    }

    /// Stops the server's execution (SIGSTOP): connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused server go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("the server is our child");
    }

    /// Sends one command over a connection of its own and waits for the reply.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn cli(&self, command: &[&str]) -> Reply {
        let parts: Vec<&[u8]> = command.iter().map(|part| part.as_bytes()).collect();
        self.cli_bytes(&parts)
    }

    /// As [`cli`](Self::cli), with bytes that need not be text.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn cli_bytes(&self, command: &[&[u8]]) -> Reply {
        let ask = || -> io::Result<Reply> {
            let mut oracle = Oracle::connect(self.port)?;
            if let Some(password) = &self.options.password {
                oracle.ask(&[b"AUTH", password.as_bytes()])?;
            }
            oracle.ask(command)
        };
        ask().unwrap_or_else(|error| panic!("the oracle got no answer: {error}"))
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the server said to the oracle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing there.
    Nil,
    /// `+OK` and the like.
    Status(String),
    /// An error, code and text.
    Error(String),
    /// A number.
    Integer(i64),
    /// A string.
    Bulk(Vec<u8>),
    /// A list.
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a string or status, with anything that is no UTF-8 replaced.
    ///
    /// # Panics
    ///
    /// If it is something else.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Status(text) => text.clone(),
            other => panic!("{other:?} is no text"),
        }
    }

    /// The number.
    ///
    /// # Panics
    ///
    /// If it is something else.
    #[must_use]
    pub fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => panic!("{other:?} is no number"),
        }
    }

    /// The elements of a list.
    ///
    /// # Panics
    ///
    /// If it is something else.
    #[must_use]
    pub fn array(&self) -> &[Self] {
        match self {
            Self::Array(elements) => elements,
            other => panic!("{other:?} is no list"),
        }
    }
}

/// The smallest client that can ask a question.
struct Oracle {
    reader: BufReader<TcpStream>,
}

impl Oracle {
    fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ORACLE_PATIENCE))?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    fn ask(&mut self, command: &[&[u8]]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            request.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            request.extend_from_slice(part);
            request.extend_from_slice(b"\r\n");
        }
        self.reader.get_mut().write_all(&request)?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
        let number = || rest.parse::<i64>().map_err(|_| io::ErrorKind::InvalidData);
        match kind {
            "+" => Ok(Reply::Status(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Integer(number()?)),
            "$" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(length) => {
                    let mut bytes = vec![0; length];
                    self.reader.read_exact(&mut bytes)?;
                    self.reader.read_exact(&mut [0; 2])?;
                    Ok(Reply::Bulk(bytes))
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(length) => (0..length)
                    .map(|_| self.reply())
                    .collect::<io::Result<_>>()
                    .map(Reply::Array),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn spawn(options: &RedisOptions, directory: &Path, port: u16) -> Child {
    let program =
        std::env::var_os("FENCELOCK_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let mut command = Command::new(&program);
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--logfile", "log"])
        .arg("--dir")
        .arg(directory);
    if let Some(password) = &options.password {
        command.args(["--requirepass", password]);
    }
    if options.unix_socket {
        command.arg("--unixsocket").arg(directory.join("socket"));
    }
    command.args(&options.args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.current_dir(directory).spawn().unwrap_or_else(|error| {
        panic!(
            "cannot start {program:?}: {error}; install it (apt-get install redis-server) or name the program \
             in FENCELOCK_REDIS_SERVER"
        )
    })
}

/// Whether the server comes up: false if it ended, for example because the port was taken.
fn answers(port: u16, child: &mut Child) -> bool {
    for _ in 0..2000 {
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        let pong = Oracle::connect(port).and_then(|mut oracle| oracle.ask(&[b"PING"]));
        match pong {
            Ok(Reply::Error(text)) if text.starts_with("LOADING") => {}
            // Any other answer, also NOAUTH, comes from a server that is up. That it is our child, and not one
            // that had the port before, shows in our child being alive a moment later.
            Ok(_) => {
                std::thread::sleep(Duration::from_millis(5));
                return matches!(child.try_wait(), Ok(None));
            }
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port on 127.0.0.1")
        .port()
}

/// A directory of its own below the system's temporary directory, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("fencelock-redis-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Left behind by a killed process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot create {}: {error}", path.display()),
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
