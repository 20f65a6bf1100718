//! The smallest client that can ask a server a question.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long the oracle waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Where a server listens to the oracle.
#[derive(Debug, Clone)]
pub(super) enum Door {
    Port(u16),
    Socket(PathBuf),
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// One connection.
pub(super) struct Oracle {
    reader: BufReader<Box<dyn Stream>>,
}

impl Oracle {
    pub(super) fn connect(door: &Door) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match door {
            Door::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Door::Socket(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        };
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    pub(super) fn ask(&mut self, command: &[&[u8]]) -> io::Result<Reply> {
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
