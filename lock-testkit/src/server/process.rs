//! A child process that ends with its owner, however that ends; its directory, and free ports.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Waits until its standard input ends without a word, which it does when the test process is gone, and then kills the
/// process and removes the directory that it is told. A signal to the terminal's whole group does not end it first.
const WATCH: &str = r#"trap '' INT TERM HUP; read -r over && exit; kill -9 "$1"; rm -rf "$2""#;

/// A process that is killed on drop. Should this process be killed itself, a shell that watches it does that.
pub(super) struct Process {
    child: Child,
    watch: Child,
}

impl Process {
    /// Starts `command` in `directory`, where its output goes too. If this process is killed, `directory` is removed.
    pub(super) fn start(command: &mut Command, directory: &Path) -> io::Result<Self> {
        let output = File::create(directory.join("output"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .current_dir(directory)
            .spawn()?;
        let watch = Command::new("sh")
            .args(["-c", WATCH, "sh", &child.id().to_string()])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match watch {
            Ok(watch) => Ok(Self { child, watch }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
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
        if let Some(mut input) = self.watch.stdin.take() {
            let _ = input.write_all(b"over\n");
        }
        let _ = self.child.wait();
        let _ = self.watch.wait();
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

/// A port of 127.0.0.1 that nobody has right now.
pub(super) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port on 127.0.0.1")
        .port()
}
