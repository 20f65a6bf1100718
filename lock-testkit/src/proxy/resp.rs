//! As much of the Redis protocol as it takes to find where requests and replies end. Not a client.

/// How long the first request in `bytes` is; `None` if more of it is to come.
pub(super) fn request_length(bytes: &[u8]) -> Option<usize> {
    frame(bytes, 0)
}

/// The arguments of a whole request, the command's name first.
pub(super) fn arguments(request: &[u8]) -> Vec<Vec<u8>> {
    if request.first() != Some(&b'*') {
        // Typed by a person.
        let words = request.split(u8::is_ascii_whitespace);
        return words
            .filter(|word| !word.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
    }
    let mut arguments = Vec::new();
    let Some((_, mut at)) = line(request, 1) else {
        return arguments;
    };
    while let (Some((_, start)), Some(end)) = (line(request, at), frame(request, at)) {
        arguments.push(request[start..end.saturating_sub(2).max(start)].to_vec());
        at = end;
    }
    arguments
}

/// How long the first reply in `bytes` is; `None` if more of it is to come.
pub(super) fn reply_length(bytes: &[u8]) -> Option<usize> {
    frame(bytes, 0)
}

pub(super) fn is_error(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'-' | b'!'))
}

/// The first element of a list or a push, if that is text.
pub(super) fn first_word(reply: &[u8]) -> &[u8] {
    let word = line(reply, 1).and_then(|(_, at)| match reply.get(at)? {
        b'+' => Some(line(reply, at + 1)?.0),
        b'$' => reply.get(line(reply, at)?.1..frame(reply, at)?.checked_sub(2)?),
        _ => None,
    });
    word.unwrap_or_default()
}

/// What stands between `at` and the end of the line, and where the next one begins.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..length], at + length + 2))
}

/// Where the frame that begins at `at` ends.
fn frame(bytes: &[u8], at: usize) -> Option<usize> {
    let kind = *bytes.get(at)?;
    let (text, mut next) = line(bytes, at + 1)?;
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    let number: usize = number.unwrap_or(0);
    let parts = match kind {
        b'$' | b'=' | b'!' if text.starts_with(b"-") => 0,
        b'$' | b'=' | b'!' => {
            next = next.checked_add(number)?.checked_add(2)?;
            0
        }
        b'*' | b'~' | b'>' => number,
        b'%' => number.saturating_mul(2),
        // Attributes stand before what they belong to.
        b'|' => number.saturating_mul(2).saturating_add(1),
        _ => 0,
    };
    for _ in 0..parts {
        next = frame(bytes, next)?;
    }
    (next <= bytes.len()).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_where_it_ends_and_not_before() {
        for whole in [
            &b"+OK\r\n"[..],
            b"-ERR no\r\n",
            b":-1\r\n",
            b"_\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"$0\r\n\r\n",
            b"$4\r\na\r\nb\r\n",
            b"!3\r\nERR\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
            b"%1\r\n+k\r\n~1\r\n#t\r\n",
            b"|1\r\n+k\r\n+v\r\n:1\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$0\r\n\r\n",
        ] {
            for cut in 0..whole.len() {
                assert_eq!(reply_length(&whole[..cut]), None, "{whole:?} up to {cut}");
            }
            assert_eq!(reply_length(whole), Some(whole.len()), "{whole:?}");
            let two = [whole, whole].concat();
            assert_eq!(reply_length(&two), Some(whole.len()), "{whole:?} twice");
        }
    }

    #[test]
    fn a_request_is_its_arguments_whatever_bytes_they_have() {
        let request = b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$0\r\n\r\n";
        assert_eq!(request_length(request), Some(request.len()));
        assert_eq!(arguments(request), [&b"SET"[..], b"\r\n", b""]);
        assert_eq!(arguments(b"PING  you\r\n"), [&b"PING"[..], b"you"]);
    }

    #[test]
    fn lengths_that_no_frame_has_never_end() {
        let most = usize::MAX;
        for strange in ["$", "*", "%", "|", ">"] {
            let text = format!("{strange}{most}\r\nabc\r\n");
            assert_eq!(reply_length(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_first_word_of_a_list_is_its_text() {
        assert_eq!(first_word(b">2\r\n$7\r\nmessage\r\n:1\r\n"), b"message");
        assert_eq!(first_word(b"*1\r\n+pong\r\n"), b"pong");
        for none in [
            &b"*0\r\n"[..],
            b"*1\r\n:1\r\n",
            b"*1\r\n$-1\r\n",
            b"*-1\r\n",
            b">1\r\n*0\r\n",
        ] {
            assert_eq!(first_word(none), b"", "{none:?}");
        }
    }
}
