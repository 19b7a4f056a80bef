//! What RGManager did for VMs, behaviour by behaviour, and none of its bugs. Sections are those of the reference.
#![expect(clippy::unwrap_used, reason = "a story that cannot be told is a test that failed")]

#[path = "../story/mod.rs"]
mod story;

mod bugs;
mod depend;
mod exclusive;
mod failover_domains;
mod hold;
mod recovery;
mod state_commands;
