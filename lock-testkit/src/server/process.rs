//! A child process that ends with its owner, however that ends; its directory, and free ports.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpSocket;

/// Waits until its standard input ends, which it does when the test process is gone, and then kills the process whose number
/// it was told and removes the directory. "over" calls it off. A signal to the terminal's whole group does not end it first.
const WATCH: &str = r#"
trap '' INT TERM HUP
while read -r line; do
    [ "$line" = over ] && exit
    pid=$line
done
[ "$pid" ] && kill -9 "$pid"
rm -rf "$1""#;

/// Tells the watch, whose input is our output, its number before it becomes the program: there is no moment at which the
/// test process can be killed and leave a program that nobody watches.
const LAUNCH: &str = r#"echo $$ && exec "$@" >output 2>&1"#;

/// A process that is killed on drop. Should this process be killed itself, a shell that watches it does that.
pub(super) struct Process {
    child: Child,
    watch: Watch,
}

struct Watch {
    shell: Child,
    input: ChildStdin,
}

impl Process {
    /// Starts `command` in `directory`, where its output goes too. If this process is killed, `directory` is removed. A
    /// program that there is none of ends at once, and the output says so.
    pub(super) fn start(command: &Command, directory: &Path) -> io::Result<Self> {
        let mut watch = Watch::start(directory)?;
        let child = Command::new("sh")
            .args(["-c", LAUNCH, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(watch.input.as_fd().try_clone_to_owned()?)
            .stderr(Stdio::null())
            .current_dir(directory)
            .spawn();
        match child {
            Ok(child) => Ok(Self { child, watch }),
            Err(error) => {
                watch.call_off();
                Err(error)
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already. Its number stays its own until `wait`, so that the watch, which is
        // called off before that, never kills anybody else.
        let _ = self.child.kill();
        self.watch.call_off();
        let _ = self.child.wait();
    }
}

impl Watch {
    fn start(directory: &Path) -> io::Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "sh"])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let input = shell.stdin.take().expect("its input is a pipe");
        Ok(Self { shell, input })
    }

    fn call_off(&mut self) {
        let _ = self.input.write_all(b"over\n");
        let _ = self.shell.wait();
    }
}

/// A directory of its own below the system's temporary directory, removed on drop.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> Self {
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

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port of 127.0.0.1 that the system gives to nobody else for as long as this is kept, whether a server listens there or not:
/// neither to a server of another test nor to a connection.
pub(super) struct Port {
    number: u16,
    /// Bound, and does not listen. A server that may have an address again, as Redis does, binds to the port all the same; on Linux.
    _kept: Option<TcpSocket>,
}

impl Port {
    pub(super) fn free() -> Self {
        let bound = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            Ok((socket.local_addr()?.port(), socket))
        };
        let bound: io::Result<_> = bound();
        let (number, socket) = bound.expect("a free port on 127.0.0.1");
        Self {
            number,
            _kept: cfg!(target_os = "linux").then_some(socket),
        }
    }

    /// One that somebody else has.
    #[cfg(test)]
    pub(super) const fn of_another(number: u16) -> Self {
        Self {
            number,
            _kept: None,
        }
    }

    pub(super) const fn number(&self) -> u16 {
        self.number
    }
}
