//! Values of the command line that more than one noun takes: spans of time, KEY=VALUE, replicas.

use std::time::Duration;

/// A span such as 90s, 5m, 1h30m, or a number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let span: jiff::SignedDuration =
        text.parse().map_err(|error| format!("{error}; write it like 90s, 5m or 1h30m"))?;
    Duration::try_from(span).map_err(|_| "it is negative".to_owned())
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn replica(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("write it as ID=HOST:PORT")?;
    let id = id.parse().map_err(|_| format!("{id} is not a number"))?;
    Ok((id, address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert!(duration("soon").is_err());
    }
}
