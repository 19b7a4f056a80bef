//! What an operator holds back: one VM by a freeze, all starts of the cluster by the lock.
//!
//! Source: RGManager reference, sections 3.3 and 4.1 (`-Z`, `-U`, `-l`, `-u`). Both are in the log: they outlive every
//! change of leader, and neither is lost under a migration.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// An operator works on a VM: it is followed where it goes, and nothing is done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Who froze it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself; `None` = never.
    pub until: Option<Timestamp>,
}

/// Nothing is started in the cluster; stops go on. For a shutdown of all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Who locked it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}
