//! A hold as one line of JSON. Reads what it has written, and no other JSON.

use std::fmt::Write as _;

use super::{End, Hold};

pub(super) fn line(hold: &Hold) -> String {
    let number = |number: Option<u64>| number.map_or("null".to_owned(), |n| n.to_string());
    let end = match hold.end {
        End::Open => "open",
        End::Released => "released",
        End::Lost => "lost",
    };
    format!(
        "{{\"key\":{},\"who\":{},\"called\":{},\"granted\":{},\"valid_until\":{},\"ended\":{},\
         \"end\":\"{end}\",\"token\":{}}}\n",
        quote(&hold.key),
        quote(&hold.who),
        hold.called,
        hold.granted,
        hold.valid_until,
        number(hold.ended),
        number(hold.token)
    )
}

pub(super) fn parse(line: &str) -> Option<Hold> {
    let number = |name| value(line, name)?.parse().ok();
    let option = |name| match value(line, name)? {
        "null" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Hold {
        key: unquote(value(line, "key")?)?,
        who: unquote(value(line, "who")?)?,
        called: number("called")?,
        granted: number("granted")?,
        valid_until: number("valid_until")?,
        ended: option("ended")?,
        end: match value(line, "end")? {
            "\"open\"" => End::Open,
            "\"released\"" => End::Released,
            "\"lost\"" => End::Lost,
            _ => return None,
        },
        token: option("token")?,
    })
}

/// The text of the member `name`. Inside a string each `"` stands behind a backslash, so no string looks like a member.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    let mut escaped = false;
    let in_string = rest.starts_with('"');
    let is_end = |(at, c): &(usize, char)| {
        let was_escaped = escaped;
        escaped = c == &'\\' && !was_escaped;
        match c {
            '"' => in_string && *at > 0 && !was_escaped,
            ',' | '}' => !in_string,
            _ => false,
        }
    };
    let (end, _) = rest.char_indices().find(is_end)?;
    rest.get(..end + usize::from(in_string))
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                // Control characters all have four digits.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::new();
    let mut rest = quoted.strip_prefix('"')?.strip_suffix('"')?.chars();
    while let Some(c) = rest.next() {
        text.push(match c {
            '\\' => match rest.next()? {
                'u' => {
                    let digits: String = rest.by_ref().take(4).collect();
                    char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                }
                c => c,
            },
            c => c,
        });
    }
    Some(text)
}
