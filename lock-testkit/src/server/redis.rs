//! One server.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::options::RedisOptions;
use super::oracle::{Door, Oracle, Reply};
use super::process::{Directory, Port, Process};

/// How often a start is tried again on another port, when the port was taken.
const STARTS: u32 = 10;

/// A server of its own, with its own directory, on a free port of 127.0.0.1. Killed and removed on drop.
pub struct RedisServer {
    process: Option<Process>,
    /// That of its clients, and that of the nodes of its cluster.
    ports: [Port; 2],
    options: RedisOptions,
    directory: Directory,
}

impl RedisServer {
    /// A Redis server without persistence: [`RedisOptions::start`] with nothing set.
    ///
    /// # Panics
    ///
    /// If there is no server program, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        RedisOptions::new().start()
    }

    pub(super) fn with(options: RedisOptions) -> Self {
        let mut server = Self {
            process: None,
            ports: [Port::free(), Port::free()],
            options,
            directory: Directory::new(),
        };
        for _ in 0..STARTS {
            if server.launch() {
                return server;
            }
            server.ports = [Port::free(), Port::free()];
        }
        let read = |file| std::fs::read_to_string(server.directory.path().join(file));
        let (output, log) = (
            read("output").unwrap_or_default(),
            read("log").unwrap_or_default(),
        );
        let program = server.options.program;
        panic!(
            "{program:?} did not start on any of {STARTS} ports:\n{output}\n{log}\nIf there is none: {}",
            program.advice()
        );
    }

    /// The URL to connect to, password included.
    #[must_use]
    pub fn url(&self) -> String {
        let password = match &self.options.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        };
        if self.options.is_tls() {
            // The name that is in the certificate.
            format!("rediss://{password}localhost:{}", self.port())
        } else {
            format!("redis://{password}127.0.0.1:{}", self.port())
        }
    }

    /// The URL for a user that was made with [`add_user`](Self::add_user).
    #[must_use]
    pub fn url_for(&self, user: &str, password: &str) -> String {
        let url = self.url();
        let (scheme, rest) = url.split_once("://").unwrap_or(("redis", &url));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{user}:{password}@{host}")
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.ports[0].number()
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
        self.process.as_ref().expect("the server was stopped").id()
    }

    /// Whether the server was started and not stopped since.
    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Kills the server and waits for its end. Its port stays its own for [`restart`](Self::restart).
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Kills the server and starts it again on the same port, with the data that it had written to its directory.
    ///
    /// # Panics
    ///
    /// If it does not start again.
    pub fn restart(&mut self) {
        self.stop();
        for _ in 0..STARTS {
            if self.launch() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not start again on port {}", self.port());
    }

    /// As [`restart`](Self::restart), without its data.
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
        self.restart();
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

    /// Makes a user with these rules and no others, for example `"~lock:* +set"`.
    ///
    /// # Panics
    ///
    /// If the server does not take the rules.
    pub fn add_user(&self, name: &str, password: &str, rules: &str) {
        let password = format!(">{password}");
        let mut command = vec!["ACL", "SETUSER", name, "reset", "on", &password];
        command.extend(rules.split_whitespace());
        assert_eq!(
            self.cli(&command),
            Reply::Status("OK".to_owned()),
            "{rules}"
        );
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
        self.ask(command)
            .unwrap_or_else(|error| panic!("the oracle got no answer: {error}"))
    }

    /// As [`cli`](Self::cli), for servers that may not answer: one that is told to follow another cuts its connections.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub fn try_cli(&self, command: &[&str]) -> io::Result<Reply> {
        let parts: Vec<&[u8]> = command.iter().map(|part| part.as_bytes()).collect();
        self.ask(&parts)
    }

    pub(super) fn ask(&self, command: &[&[u8]]) -> io::Result<Reply> {
        let mut oracle = Oracle::connect(&self.door())?;
        if let Some(password) = &self.options.password {
            oracle.ask(&[b"AUTH", password.as_bytes()])?;
        }
        oracle.ask(command)
    }

    /// One line of `INFO`, without its name.
    pub(super) fn info(&self, section: &str, name: &str) -> Option<String> {
        let Ok(Reply::Bulk(text)) = self.ask(&[b"INFO", section.as_bytes()]) else {
            return None;
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = |line: &str| {
            line.strip_prefix(name)?
                .strip_prefix(':')
                .map(str::to_owned)
        };
        text.lines().find_map(value)
    }

    fn door(&self) -> Door {
        if self.options.is_tls() {
            Door::Socket(self.unix_socket())
        } else {
            Door::Port(self.port())
        }
    }

    /// Starts the process. Whether it comes up: it ends if the port was taken, for example.
    fn launch(&mut self) -> bool {
        let ports = [self.ports[0].number(), self.ports[1].number()];
        let command = self.options.command(self.directory.path(), ports);
        let mut process = Process::start(&command, self.directory.path())
            .unwrap_or_else(|error| panic!("sh is needed: {error}"));
        let door = self.door();
        for _ in 0..2000 {
            if !process.is_running() {
                return false;
            }
            let pong = Oracle::connect(&door).and_then(|mut oracle| oracle.ask(&[b"PING"]));
            match pong {
                Ok(Reply::Error(text)) if text.starts_with("LOADING") => {}
                // Any other answer, also NOAUTH, comes from a server that is up. One that had the port before says so,
                // and ours will end. Where it may not say who it is, our child must be alive a moment later.
                Ok(_) => match self.info("server", "process_id") {
                    Some(id) if id != process.id().to_string() => {}
                    _ => {
                        std::thread::sleep(Duration::from_millis(5));
                        let came_up = process.is_running();
                        self.process = came_up.then_some(process);
                        return came_up;
                    }
                },
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer")
            .field("program", &self.options.program)
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}

/// The arguments that let replicas in as a user of their own, so that the oracle can lock them out.
pub(super) const REPLICATION: [&str; 11] = [
    "--user",
    "replication",
    "on",
    ">replication",
    "+psync",
    "+replconf",
    "+ping",
    "--masteruser",
    "replication",
    "--masterauth",
    "replication",
];

impl RedisServer {
    /// Cuts the replicas of this server off, until they are let in again: they keep what they have, and learn nothing
    /// more.
    pub(super) fn lock_replicas_out(&self) {
        self.cli(&["ACL", "SETUSER", "replication", "off"]);
        self.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        super::eventually("no replica is connected", || {
            self.info("replication", "connected_slaves").as_deref() == Some("0")
        });
    }

    pub(super) fn let_replicas_in(&self) {
        self.cli(&["ACL", "SETUSER", "replication", "on"]);
    }

    /// How many replicas this server counts as such: they have all it had, and have said so.
    pub(super) fn replicas(&self) -> usize {
        match self.ask(&[b"INFO", b"replication"]) {
            Ok(Reply::Bulk(text)) => String::from_utf8_lossy(&text)
                .matches("state=online")
                .count(),
            _ => 0,
        }
    }

    /// Whether this server is a replica that has all that its primary had.
    pub(super) fn is_linked(&self) -> bool {
        self.info("replication", "master_link_status").as_deref() == Some("up")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_port_already_is_not_taken_for_ours() {
        let other = RedisServer::start();
        let mut late = RedisServer {
            process: None,
            ports: [Port::of_another(other.port()), Port::free()],
            options: RedisOptions::new(),
            directory: Directory::new(),
        };
        assert!(!late.launch());
        assert_eq!(other.cli(&["PING"]).text(), "PONG");
    }

    /// Else a test that stops its server and starts it again meets that of another test there now and then, or has none.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_server_that_was_stopped_keeps_its_port() {
        use std::net::{Ipv4Addr, SocketAddr};
        use tokio::net::TcpSocket;
        let mut server = RedisServer::start();
        server.stop();
        // As the system does that chooses a port for somebody, it looks whether this one is free.
        let other = TcpSocket::new_v4().expect("a socket");
        let taken = other.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, server.port())));
        let error = taken.expect_err("it is free for anybody");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        server.restart();
        assert_eq!(server.cli(&["PING"]).text(), "PONG");
    }
}
