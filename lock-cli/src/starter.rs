//! The process that becomes the command, once the enforcer knows of it. Not who starts it: that is in `command.rs`.
//!
//! Which group to end is known only when there is a process in it. If that were the command from its first moment,
//! `fencelock` killed in that moment would leave a command behind that nobody ends. So it waits at a socket first, its
//! standard input. The word to go says until when the command may begin, and brings its standard input; the end of the socket
//! means that `fencelock` is gone. Then, or later, nothing is run.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::{cmsg_space, stdio};

use crate::args::Start;
use crate::enforcer;
use crate::exit;
use crate::failure::Failure;

/// Says to the starter at the other end of `socket` to become the command, with this standard input, if it is not `end` by then
/// on the enforcer's clock.
pub(crate) fn go(socket: &UnixStream, end: u64, input: impl AsFd) -> io::Result<()> {
    let inputs = [input.as_fd()];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    with.push(SendAncillaryMessage::ScmRights(&inputs));
    let word = end.to_ne_bytes();
    sendmsg(
        socket,
        &[IoSlice::new(&word)],
        &mut with,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// Waits for the word and becomes the command. Returns only why it did not.
pub(crate) fn run(start: &Start) -> Failure {
    let Some((program, arguments)) = start.command.split_first() else {
        return Failure::usage("there is no command to run");
    };
    // For the case that `fencelock` and the enforcer are killed at one blow. It stays set in the command itself.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    let (end, input) = match word() {
        Ok(Some(word)) => word,
        Ok(None) => return Failure::new(exit::SYSTEM, "nothing was run: fencelock is gone"),
        Err(error) => return Failure::system("wait for the word to run the command", &error),
    };
    if let Err(error) = stdio::dup2_stdin(&input) {
        return Failure::system("pass on the standard input", &error.into());
    }
    drop(input);
    if enforcer::now() >= end {
        return Failure::new(exit::LOST, "nothing was run: the lock was over before");
    }
    let error = Command::new(program).args(arguments).exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => exit::NOT_FOUND,
        _ => exit::NOT_EXECUTABLE,
    };
    Failure::new(code, format!("cannot run {program:?}: {error}"))
}

/// The word to go, and what came with it; nothing if the socket has ended.
fn word() -> io::Result<Option<(u64, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let mut word = 0_u64.to_ne_bytes();
    rustix::io::retry_on_intr(|| {
        let mut words = [IoSliceMut::new(&mut word)];
        recvmsg(io::stdin(), &mut words, &mut with, RecvFlags::empty())
    })?;
    let input = with.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut inputs) => inputs.next(),
        _ => None,
    });
    Ok(input.map(|input| (u64::from_ne_bytes(word), input)))
}
