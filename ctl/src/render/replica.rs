//! A replica as it is printed.

use proto::v1;
use serde::Serialize;

/// A replica.
#[derive(Debug, Serialize)]
pub struct Replica {
    id: u64,
    address: String,
    role: String,
    voter: bool,
    matched_index: Option<u64>,
    instance: String,
}

impl From<&v1::Replica> for Replica {
    fn from(replica: &v1::Replica) -> Self {
        Self {
            id: replica.id,
            address: replica.address.clone(),
            role: replica.role.clone(),
            voter: replica.voter,
            matched_index: replica.matched_index,
            instance: replica.instance.clone(),
        }
    }
}
