//! The one place where the server reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use model::time::Timestamp;

/// Now, for people and for windows of minutes.
pub(crate) fn now() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_millis() as u64),
    )
}
