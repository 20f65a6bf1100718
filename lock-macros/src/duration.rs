//! Durations as text. Not what a duration may be for: that is in `arguments.rs`.

use std::time::Duration;

/// Unit, and its length in milliseconds; the larger first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

const ADVICE: &str =
    "write whole numbers with the units h, m, s or ms, the largest first: \"300s\", \"1m30s\"";

/// `"300s"`, `"1m30s"`, `"250ms"`; or what to write instead.
pub(crate) fn parse(text: &str) -> Result<Duration, &'static str> {
    const TOO_LONG: &str = "this is too long";
    let mut units = UNITS.iter();
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit());
        let (unit, after) = split(after, |c| c.is_alphabetic());
        let Some((_, millis)) = units.find(|(name, _)| *name == unit) else {
            return Err(ADVICE);
        };
        if number.is_empty() {
            return Err(ADVICE);
        }
        let number: u64 = number.parse().map_err(|_| TOO_LONG)?;
        let part = number.checked_mul(*millis).ok_or(TOO_LONG)?;
        total = total.checked_add(part).ok_or(TOO_LONG)?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// What `text` begins with, and the rest.
fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_numbers_with_units() {
        for (text, millis) in [
            ("0s", 0),
            ("300s", 300_000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("24h", 86_400_000),
            ("1h2m3s4ms", 3_723_004),
            ("90m", 5_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_no_duration() {
        for text in [
            "", "s", "300", "300 s", " 300s", "1.5s", "-1s", "+1s", "5min", "5S", "1s1s", "1s1m",
            "1ms1s", "1us", "\u{661}s", "forever", "5m s",
        ] {
            assert_eq!(parse(text), Err(ADVICE), "{text}");
        }
        for text in ["18446744073709551616s", "18446744073709551615h"] {
            assert!(
                parse(text).is_err_and(|error| error.contains("long")),
                "{text}"
            );
        }
    }
}
