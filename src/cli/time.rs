//! Ages, lengths of time and points in time of the command line.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::{DateTime, Time};
use jiff::fmt::friendly::SpanParser;
use jiff::{Span, SpanRelativeTo, Timestamp, ZonedDateTime};

/// Parses an age, such as 90s, 12h, 30d, 8w, 1.5h or `2 weeks`, as seconds. A part of a second counts as a second.
///
/// # Errors
/// The reason, which clap prints after the value and the name of the argument.
pub fn age(text: &str) -> Result<u64, &'static str> {
    let span = span(text).ok_or("not an age, such as 90s, 12h, 30d or '2 weeks'")?;
    if span.is_negative() || text.starts_with('-') {
        return Err("an age has no sign and no 'ago', such as 12h or 30d");
    }
    // The length of a month or a year depends on the date.
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let length = length.map_err(|_| "not an age in weeks, days, hours, minutes or seconds, such as 8w or 365d")?;
    Ok(length.as_secs().cast_unsigned() + u64::from(length.subsec_nanos() > 0))
}

/// Parses a length of time, such as 200ms, 2s or 1m.
///
/// # Errors
/// The reason, which clap prints after the value and the name of the argument.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    let length = span(text).and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    length.and_then(|length| Duration::try_from(length).ok()).ok_or("not a length of time, such as 200ms, 2s or 1m")
}

/// Parses a point in time, as milliseconds since the start of 1970. Earlier times are 0.
///
/// - RFC 3339: `2026-11-26T09:49:08.123Z`
/// - a date and a time in the time zone of `now`, or the start of a day in it: `2026-11-26 09:30`, `2026-11-26`
/// - the start of a day, in words: `today`, `yesterday`
/// - a time of today: `09:30`, `09:30:15`
/// - a time before now: `-1h`, `2 days ago`, `now`. Days, weeks, months and years are those of the calendar.
///
/// # Errors
/// The reason, which clap prints after the value and the name of the argument.
pub fn moment(text: &str, now: &ZonedDateTime) -> Result<u64, String> {
    let text = text.trim();
    let zoned = match text.to_ascii_lowercase().as_str() {
        "now" => Ok(now.clone()),
        "today" => now.start_of_day(),
        "yesterday" => now.yesterday().and_then(|day| day.start_of_day()),
        lower if text.starts_with('-') || lower.ends_with("ago") => now.checked_add(span(lower).ok_or_else(no_moment)?),
        // A time zone by its name: the other forms would leave it out.
        _ if text.contains('[') => text.parse(),
        _ => return absolute(text, now).ok_or_else(|| if span(text).is_some() { no_direction(text) } else { no_moment() }),
    };
    Ok(millis(zoned.map_err(|_| no_moment())?.timestamp()))
}

/// The current time, since the start of 1970.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The current time in UTC, in seconds, as RFC 3339.
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

fn absolute(text: &str, now: &ZonedDateTime) -> Option<u64> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(millis(timestamp));
    }
    let local = |time: DateTime| time.to_zoned_datetime(now.time_zone().clone()).ok();
    let zoned = match text.parse::<DateTime>() {
        Ok(time) => local(time),
        // Without a colon, it is a number that is meant as something else.
        Err(_) => text.parse::<Time>().ok().filter(|_| text.contains(':')).and_then(|time| local(now.date().to_datetime(time))),
    };
    zoned.map(|zoned| millis(zoned.timestamp()))
}

fn span(text: &str) -> Option<Span> {
    SpanParser::new().parse_span(text).ok()
}

fn millis(timestamp: Timestamp) -> u64 {
    u64::try_from(timestamp.as_millisecond()).unwrap_or(0)
}

fn no_moment() -> String {
    "not a time, such as 2026-11-26T09:30:00Z, 2026-11-26, 09:30, yesterday, -1h or '2 days ago'".into()
}

fn no_direction(text: &str) -> String {
    format!("not a time: for a time before now, write -{text} or '{text} ago'", text = text.trim_start_matches('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("2m", 120),
            ("12h", 43200),
            ("1.5h", 5400),
            ("30d", 2_592_000),
            ("1 d", 86400),
            ("1w", 604_800),
            ("2 weeks", 1_209_600),
            ("1d 12h", 129_600),
            ("250ms", 1),
            ("1.001s", 2),
        ] {
            assert_eq!(age(text), Ok(seconds), "{text}");
        }
        for text in ["", "d", "30", "1y", "2 months", "99999999999999999999d", "9999999999999999999w", "yesterday"] {
            assert!(age(text).is_err(), "{text}");
        }
        for text in ["-1d", "-0s", "1h ago"] {
            assert!(age(text).is_err_and(|reason| reason.contains("no sign")), "{text}");
        }
    }

    #[test]
    fn lengths_of_time() {
        for (text, millis) in [("0s", 0), ("200ms", 200), ("1.5s", 1500), ("2m", 120_000), ("1h 1s", 3_601_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "-1s", "1s ago", "1y", "x"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    /// 2026-11-26 14:00 in a zone five hours behind UTC.
    fn now() -> ZonedDateTime {
        "2026-11-26T14:00:00-05:00[-05:00]".parse().expect("a time")
    }

    #[test]
    fn points_in_time() {
        for (text, same) in [
            ("2026-11-26T09:49:08.123Z", "2026-11-26T09:49:08.123Z"),
            ("2026-11-26T09:49:08.1239Z", "2026-11-26T09:49:08.123Z"),
            ("2026-11-26T09:49:08+01:00", "2026-11-26T08:49:08Z"),
            ("2026-11-26t09:49:08z", "2026-11-26T09:49:08Z"),
            ("2026-11-26 09:30Z", "2026-11-26T09:30:00Z"),
            ("2026-11-26 09:30", "2026-11-26T14:30:00Z"),
            ("2026-11-26T09:30:15", "2026-11-26T14:30:15Z"),
            ("2026-11-26T09:30[+02:00]", "2026-11-26T07:30:00Z"),
            ("2026-11-26", "2026-11-26T05:00:00Z"),
            ("09:30", "2026-11-26T14:30:00Z"),
            ("23:59:59.5", "2026-11-27T04:59:59.5Z"),
            ("now", "2026-11-26T19:00:00Z"),
            ("today", "2026-11-26T05:00:00Z"),
            ("Yesterday", "2026-11-25T05:00:00Z"),
            ("-1h", "2026-11-26T18:00:00Z"),
            ("-1h30m", "2026-11-26T17:30:00Z"),
            ("2 days ago", "2026-11-24T19:00:00Z"),
            ("2 Days Ago", "2026-11-24T19:00:00Z"),
            (" 90m ago ", "2026-11-26T17:30:00Z"),
            ("1 month ago", "2026-10-26T19:00:00Z"),
            ("-1y", "2025-11-26T19:00:00Z"),
            ("1969-12-31", "1970-01-01T00:00:00Z"),
            ("-200y", "1970-01-01T00:00:00Z"),
        ] {
            let same: Timestamp = same.parse().expect("a time");
            assert_eq!(moment(text, &now()), Ok(millis(same)), "{text}");
        }
    }

    #[test]
    fn a_day_begins_and_ends_when_the_clocks_change() {
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let now = "2026-10-25T12:00:00Z".parse::<Timestamp>().expect("a time").to_zoned_datetime(zone);
        let at = |text: &str| millis(text.parse().expect("a time"));
        assert_eq!(moment("today", &now), Ok(at("2026-10-24T22:00:00Z")));
        assert_eq!(moment("1 day ago", &now), Ok(at("2026-10-24T11:00:00Z")), "13:00 of the day before");
        assert_eq!(moment("-24h", &now), Ok(at("2026-10-24T12:00:00Z")));
        // This time does not exist: the clocks go from 02:00 to 03:00.
        assert_eq!(moment("2026-03-29 02:30", &now), Ok(at("2026-03-29T01:30:00Z")));
    }

    #[test]
    fn what_is_no_point_in_time() {
        for text in [
            "",
            "-",
            "ago",
            "12",
            "930",
            "1700000000",
            "2026-13-01",
            "2026-02-30",
            "25:00",
            "2026-11-26T25:00Z",
            "tomorrow-ish",
            "-1h ago",
            "-1x",
            "2026-11-26+01:00",
            "2026-11-26T09:30[Nowhere/At_All]",
            "-99999y",
            "99999999999999999999d ago",
            "--tail",
        ] {
            assert!(moment(text, &now()).is_err_and(|reason| reason.starts_with("not a time, such as")), "{text}");
        }
        for text in ["1h", "+1h", "2 days"] {
            assert!(moment(text, &now()).is_err_and(|reason| reason.contains(" ago'")), "{text}");
        }
    }
}
