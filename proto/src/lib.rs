//! Berth's wire: the `berth.v1` messages, their conversions to the model, and how connections are made.
//!
//! No decisions here. Everything that comes in is checked in `convert`, the only place where both vocabularies meet.
#![warn(missing_docs)]

#[allow(
    missing_docs,
    clippy::all,
    reason = "generated from the protobuf files, which carry the words"
)]
pub mod v1 {
    tonic::include_proto!("berth.v1");
}

pub mod channel;
pub mod convert;
pub mod file;
pub mod rebuilt;
