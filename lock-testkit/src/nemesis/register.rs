//! A resource beside the store that refuses old fencing tokens. Not a store, and nothing that a lock needs.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Fence, FencingToken};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use crate::history;

/// What several processes write to under their locks: it admits a write unless one with a greater token was admitted
/// before, for each key. Served on a port of its own of 127.0.0.1 until it is dropped; [`Writer`] is its client.
///
/// To look at the token and to write are one step here, under one mutex. That is all that a resource needs to be
/// safe from holders that come too late.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use lock_core::FencingToken;
/// use lock_testkit::nemesis::{Register, Writer};
///
/// let register = Register::start().await;
/// let mut writer = Writer::new(register.address());
/// assert!(writer.write("k", "slow", FencingToken::new(7)).await?);
/// assert!(writer.write("k", "next", FencingToken::new(8)).await?);
/// assert!(!writer.write("k", "slow", FencingToken::new(7)).await?);
/// assert_eq!(register.writes().len(), 3);
/// # Ok(())
/// # }
/// ```
pub struct Register {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    fences: HashMap<String, Fence>,
    writes: Vec<Write>,
}

/// A write that reached the register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// What was written to.
    pub key: String,
    /// Who wrote.
    pub who: String,
    /// The fencing token that came along.
    pub token: u64,
    /// When it was decided about: nanoseconds on the clock of [`History::new`](crate::History::new).
    pub at: u64,
    /// Whether it was admitted; else it was refused.
    pub admitted: bool,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, who, token, at) = (&self.key, &self.who, self.token, self.at);
        write!(f, "{who} wrote to {key:?} with token {token} at {at} ns")
    }
}

impl Register {
    /// A register that nobody has written to.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port on 127.0.0.1");
        let state = Arc::<Mutex<State>>::default();
        Self {
            address: listener.local_addr().expect("a bound socket"),
            accepting: Handle::current().spawn(accept(listener, Arc::clone(&state))),
            state,
        }
    }

    /// Where writers connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All writes, in the order in which they were decided about.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        lock(&self.state).writes.clone()
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register")
            .field("address", &self.address)
            .field("writes", &lock(&self.state).writes.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn write(&mut self, key: &str, who: &str, token: u64) -> bool {
        let fence = self.fences.entry(key.to_owned()).or_default();
        let admitted = fence.admit(FencingToken::new(token)).is_ok();
        self.writes.push(Write {
            key: key.to_owned(),
            who: who.to_owned(),
            token,
            at: history::now(),
            admitted,
        });
        admitted
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts until it is aborted, which ends all connections too.
async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = links.join_next() => {}
            accepted = listener.accept() => if let Ok((writer, _)) = accepted {
                let state = Arc::clone(&state);
                links.spawn(async move { serve(writer, &state).await });
            }
        }
    }
}

/// A line in, a line out. Ends with the connection, and with the first line that no [`Writer`] wrote.
async fn serve(writer: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    writer.set_nodelay(true)?;
    let mut writer = BufReader::new(writer);
    let mut line = String::new();
    while writer.read_line(&mut line).await? > 0 && line.ends_with('\n') {
        let parts: Vec<_> = line.trim_end_matches('\n').split('\t').collect();
        let [token, who, key] = parts[..] else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let token = token.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        let admitted = lock(state).write(key, who, token);
        let answer: &[u8] = if admitted {
            b"admitted\n"
        } else {
            b"refused\n"
        };
        writer.write_all(answer).await?;
        line.clear();
    }
    Ok(())
}

/// Writes to a [`Register`], over a connection of its own that is made when it is needed.
#[derive(Debug)]
pub struct Writer {
    register: SocketAddr,
    link: Option<BufReader<TcpStream>>,
}

impl Writer {
    /// A writer to the register at this address.
    #[must_use]
    pub const fn new(register: SocketAddr) -> Self {
        Self {
            register,
            link: None,
        }
    }

    /// Writes to `key` as `who`, with `token`. Whether it was admitted.
    ///
    /// # Errors
    ///
    /// Those of the connection: it may have been written or not.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, it may have been written or not; the writer may be used again.
    ///
    /// # Panics
    ///
    /// If `key` or `who` has tabs or line breaks.
    pub async fn write(&mut self, key: &str, who: &str, token: FencingToken) -> io::Result<bool> {
        assert!(
            !key.contains(['\t', '\n']) && !who.contains(['\t', '\n']),
            "tabs and line breaks separate"
        );
        // Dropped half way, the connection goes with the call, so that no answer is taken for that of the next one.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                let link = TcpStream::connect(self.register).await?;
                link.set_nodelay(true)?;
                BufReader::new(link)
            }
        };
        link.write_all(format!("{token}\t{who}\t{key}\n").as_bytes())
            .await?;
        let mut answer = String::new();
        link.read_line(&mut answer).await?;
        let admitted = match answer.as_str() {
            "admitted\n" => true,
            "refused\n" => false,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        self.link = Some(link);
        Ok(admitted)
    }
}
