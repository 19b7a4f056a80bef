//! `berth.v1` to the model and back: everything from outside is checked here.

pub mod agent;
pub mod control;
pub mod fleet;
pub mod handling;
pub mod placing;
pub mod rejection;
pub mod service;
pub mod view;

use uuid::Uuid;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConvertError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl ConvertError {
    fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

/// Reads a UUID.
pub fn uuid(field: &'static str, text: &str) -> Result<Uuid, ConvertError> {
    Uuid::parse_str(text)
        .map_err(|error| ConvertError::new(field, format!("{text:?} is not a UUID: {error}")))
}

fn name<T>(field: &'static str, made: Result<T, model::id::NameError>) -> Result<T, ConvertError> {
    made.map_err(|error| ConvertError::new(field, error.to_string()))
}
