//! Points in time as a filesystem keeps them, and how the command line writes them.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

const NANOSECONDS_IN_400_YEARS: i128 = 146_097 * 86_400 * 1_000_000_000;

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z, negative before it.
///
/// Wider than `SystemTime` can be printed: a file's mtime may lie before 1970 or after the year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i128);

impl Timestamp {
    /// The machine's clock. For the shell of the program only: the core is handed the time.
    pub fn now() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Self(since.as_nanos().cast_signed()),
            Err(before) => Self(-before.duration().as_nanos().cast_signed()),
        }
    }

    /// From the seconds and nanoseconds of a `stat` call.
    pub const fn from_unix(seconds: i64, nanoseconds: i64) -> Self {
        Self(seconds as i128 * 1_000_000_000 + nanoseconds as i128)
    }

    /// How long before `now` this was; zero where it lies in the future.
    pub fn age_at(self, now: Self) -> Duration {
        let nanoseconds = u128::try_from(now.0 - self.0).unwrap_or(0);
        let seconds = u64::try_from(nanoseconds / 1_000_000_000).unwrap_or(u64::MAX);
        // The remainder is below 10^9, so it always fits.
        Duration::new(seconds, (nanoseconds % 1_000_000_000) as u32)
    }

    /// RFC 3339 in UTC with nanoseconds, or `None` outside the years 0 to 9999, which RFC 3339 cannot write.
    pub fn rfc3339(self) -> Option<String> {
        // humantime writes no year before 1970, and a damaged filesystem holds such mtimes. The calendar repeats every 400
        // years, so these are written as 2,000 years later.
        let years_later = if self.0 < 0 { 2000 } else { 0 };
        let nanoseconds = u128::try_from(self.0 + years_later / 400 * NANOSECONDS_IN_400_YEARS).ok()?;
        let seconds = u64::try_from(nanoseconds / 1_000_000_000).ok()?;
        let since = Duration::new(seconds, (nanoseconds % 1_000_000_000) as u32);
        let mut text = String::new();
        // This fails after the year 9999.
        write!(text, "{}", humantime::format_rfc3339_nanos(UNIX_EPOCH.checked_add(since)?)).ok()?;
        let (year, rest) = text.split_once('-')?;
        let year = year.parse::<i128>().ok()? - years_later;
        (year >= 0).then(|| format!("{year:04}-{rest}"))
    }
}

/// A duration of the command line: what humantime reads (`24h`, `1h 30m`), or a bare number of seconds (`0.1`).
///
/// # Errors
/// Where it is neither.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    // Not what else a number may be written as: no sign, exponent or name.
    if text.bytes().all(|it| it.is_ascii_digit() || it == b'.')
        && let Ok(seconds) = text.parse()
        && let Ok(duration) = Duration::try_from_secs_f64(seconds)
    {
        return Ok(duration);
    }
    humantime::parse_duration(text)
        .with_context(|| format!("{text:?}: invalid duration: write 24h, \"1h 30m\" or a number of seconds"))
}

/// What `--as-of` says: a point in time, or a distance from the moment of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// An RFC 3339 time in UTC.
    At(Timestamp),
    /// `+7d`: from now on.
    In(Duration),
}

impl AsOf {
    /// The point in time that is meant when the clock says `now`.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::In(duration) => Timestamp(now.0 + duration.as_nanos().cast_signed()),
        }
    }
}

/// A thousand years: no report can write the years after 9999.
const MOST_AHEAD: Duration = Duration::from_secs(1000 * 31_557_600);

/// Reads `--as-of`.
///
/// # Errors
/// Where the text is neither an RFC 3339 time in UTC nor `+` and a duration.
pub fn parse_as_of(text: &str) -> Result<AsOf> {
    if let Some(distance) = text.strip_prefix('+') {
        let distance = parse_duration(distance)?;
        if distance > MOST_AHEAD {
            bail!("{text:?}: out of range: a thousand years ahead at most");
        }
        return Ok(AsOf::In(distance));
    }
    let time = humantime::parse_rfc3339(text).with_context(|| {
        format!("{text:?}: invalid time: write 2026-11-30T00:00:00Z, or +7d for seven days from now")
    })?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(AsOf::At(Timestamp(since.as_nanos().cast_signed())))
}

/// An age or a minimum age for people: at most two units, `2d 3h`.
pub struct ForPeople(pub Duration);

impl fmt::Display for ForPeople {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 5] = [(31_557_600, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
        let seconds = self.0.as_secs();
        let largest = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(UNITS.len() - 1);
        let (size, unit) = UNITS[largest];
        let mut text = format!("{}{unit}", seconds / size);
        if let Some((next, unit)) = UNITS.get(largest + 1) {
            let rest = seconds % size / next;
            if rest > 0 {
                text.push_str(&format!(" {rest}{unit}"));
            }
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_before_1970_and_after_9999_have_a_form_or_none() {
        for (seconds, nanoseconds, text) in [
            (0, 0, Some("1970-01-01T00:00:00.000000000Z")),
            (-1, 999_999_999, Some("1969-12-31T23:59:59.999999999Z")),
            (951_782_400, 1, Some("2000-02-29T00:00:00.000000001Z")),
            (-62_167_219_200, 0, Some("0000-01-01T00:00:00.000000000Z")),
            (-62_167_219_201, 0, None),
            (253_402_300_800, 0, None),
            (i64::MAX, 999_999_999, None),
        ] {
            assert_eq!(Timestamp::from_unix(seconds, nanoseconds).rfc3339().as_deref(), text);
        }
    }

    proptest! {
        #[test]
        fn times_are_written_as_humantime_writes_them(seconds in 0_i64..253_402_300_800, nanoseconds in 0_i64..1_000_000_000) {
            let system = UNIX_EPOCH + Duration::new(seconds.cast_unsigned(), nanoseconds as u32);
            prop_assert_eq!(
                Timestamp::from_unix(seconds, nanoseconds).rfc3339(),
                Some(humantime::format_rfc3339_nanos(system).to_string())
            );
        }
    }

    #[test]
    fn durations_are_humantimes_or_bare_seconds() {
        for (text, seconds) in [("86400", 86_400), ("24h", 86_400), ("1h 30m", 5400), ("0", 0)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(parse_duration("0.25").unwrap(), Duration::from_millis(250));
        for text in ["", "-1", "soon", "1e3", ".", "1.2.3", "inf"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_in_the_future_has_age_zero() {
        let now = Timestamp::from_unix(1000, 0);
        assert_eq!(Timestamp::from_unix(1001, 0).age_at(now), Duration::ZERO);
        assert_eq!(Timestamp::from_unix(-5, 500_000_000).age_at(now), Duration::new(1004, 500_000_000));
    }

    #[test]
    fn as_of_is_a_utc_time_or_a_distance() {
        let now = Timestamp::from_unix(100, 0);
        for (text, expected) in [
            ("1970-01-01T00:01:00Z", Some(Timestamp::from_unix(60, 0))),
            ("+1m", Some(Timestamp::from_unix(160, 0))),
            ("+60", Some(Timestamp::from_unix(160, 0))),
            ("1970-01-01T00:01:00+02:00", None),
            ("tomorrow", None),
            ("+1001y", None),
            ("-7d", None),
        ] {
            assert_eq!(parse_as_of(text).ok().map(|it| it.resolve(now)), expected, "{text}");
        }
    }

    #[test]
    fn ages_have_at_most_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3600, "1h"),
            (93_784, "1d 2h"),
            (31_557_600 + 86_400, "1y 1d"),
        ] {
            assert_eq!(ForPeople(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
