//! What a test wants of its server, and the command line that gives it.

use std::path::Path;
use std::process::Command;

use super::program::Program;
use super::redis::RedisServer;
#[cfg(feature = "tls")]
use super::tls::Identity;

/// What a test wants of its server.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    pub(super) program: Program,
    pub(super) password: Option<String>,
    pub(super) unix_socket: bool,
    pub(super) role: Role,
    #[cfg(feature = "tls")]
    pub(super) identity: Option<Identity>,
    args: Vec<String>,
}

/// What a server does with its data.
#[derive(Debug, Clone, Default)]
pub(super) enum Role {
    #[default]
    Keep,
    /// Shares slots with others.
    Cluster,
    /// Has none, and watches others. Its configuration.
    Watch(String),
}

impl RedisOptions {
    /// A Redis server without persistence and without a password.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs this program.
    #[must_use]
    pub const fn with_program(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Asks for this password (`requirepass`).
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Listens on a unix socket too: [`RedisServer::unix_socket`].
    #[must_use]
    pub const fn with_unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Speaks TLS and nothing else at its port. (The oracle goes through a unix socket.)
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self.with_unix_socket()
    }

    /// Adds arguments, for example `["--maxmemory", "2mb"]`.
    #[must_use]
    pub fn with_args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    pub(super) fn with_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    ///
    /// If there is no server program, or it does not start.
    #[must_use]
    pub fn start(self) -> RedisServer {
        RedisServer::with(self)
    }

    /// Whether TLS is all that the port speaks.
    pub(super) const fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.identity.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// What starts such a server in `directory`, on these ports: that of its clients, and that of the nodes of its cluster.
    pub(super) fn command(&self, directory: &Path, [port, bus]: [u16; 2]) -> Command {
        let program = self.program.find();
        let mut command =
            Command::new(program.unwrap_or_else(|| panic!("{}", self.program.advice())));
        let port = port.to_string();
        if let Role::Watch(configuration) = &self.role {
            // A watcher writes down what it learns; after a restart it goes on from there.
            let file = directory.join("sentinel.conf");
            if !file.exists() {
                let doors = self.doors(directory, &port);
                let text = format!("bind 127.0.0.1\n{doors}logfile log\n{configuration}");
                std::fs::write(&file, text).expect("a configuration can be written");
            }
            command.arg(file).arg("--sentinel");
            return command;
        }
        command.args(["--bind", "127.0.0.1", "--logfile", "log", "--save", ""]);
        command.args(["--appendonly", "no", "--dir"]).arg(directory);
        if self.is_tls() {
            self.add_tls(&mut command, directory, &port);
        } else {
            command.args(["--port", &port]);
        }
        if let Some(password) = &self.password {
            command.args(["--requirepass", password, "--masterauth", password]);
        }
        if self.unix_socket {
            command.arg("--unixsocket").arg(directory.join("socket"));
        }
        if matches!(self.role, Role::Cluster) {
            command.args(["--cluster-enabled", "yes"]);
            command.args(["--cluster-port", &bus.to_string()]);
        }
        command.args(&self.args);
        command
    }

    /// Where a watcher listens, as lines of its configuration.
    fn doors(&self, directory: &Path, port: &str) -> String {
        #[cfg(feature = "tls")]
        if let Some(identity) = &self.identity {
            let [authority, certificate, key] = identity.write_to(directory);
            let socket = directory.join("socket");
            let file = |name: &str, path: &Path| format!("{name} {}\n", path.display());
            return [
                format!("port 0\ntls-port {port}\ntls-auth-clients no\n"),
                // Those that it watches too.
                "tls-replication yes\n".to_owned(),
                file("tls-ca-cert-file", &authority),
                file("tls-cert-file", &certificate),
                file("tls-key-file", &key),
                file("unixsocket", &socket),
            ]
            .concat();
        }
        let _ = directory;
        format!("port {port}\n")
    }

    #[cfg(feature = "tls")]
    fn add_tls(&self, command: &mut Command, directory: &Path, port: &str) {
        let Some(identity) = &self.identity else {
            return;
        };
        let [authority, certificate, key] = identity.write_to(directory);
        command.args(["--port", "0", "--tls-port", port]);
        command.args(["--tls-auth-clients", "no", "--tls-cert-file"]);
        command.arg(certificate).arg("--tls-key-file").arg(key);
        command.arg("--tls-ca-cert-file").arg(authority);
        // Among each other too.
        command.args(["--tls-replication", "yes"]);
        if matches!(self.role, Role::Cluster) {
            command.args(["--tls-cluster", "yes"]);
        }
    }

    #[cfg(not(feature = "tls"))]
    fn add_tls(&self, _: &mut Command, _: &Path, _: &str) {}
}
