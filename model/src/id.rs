//! Names and numbers that identify things, each its own type.
//!
//! Names come from outside and are checked where they are made; numbers are log indexes and so never come twice.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or too much, was given.
    #[error("a {what} has 1 to {limit} characters, not {length}")]
    Length {
        /// What the name names.
        what: &'static str,
        /// The most characters it may have.
        limit: usize,
        /// How many were given.
        length: usize,
    },
    /// A character that would break tables, paths or libvirt.
    #[error("a {what} may not contain {character:?}")]
    Character {
        /// What the name names.
        what: &'static str,
        /// The character at fault.
        character: char,
    },
}

fn check(
    what: &'static str,
    text: &str,
    limit: usize,
    allowed: fn(char) -> bool,
) -> Result<(), NameError> {
    let length = text.chars().count();
    if length == 0 || length > limit {
        return Err(NameError::Length { what, limit, length });
    }
    match text.chars().find(|character| !allowed(*character)) {
        Some(character) => Err(NameError::Character { what, character }),
        None => Ok(()),
    }
}

/// A host name as DNS has it, less the rule on where a hyphen may stand.
fn plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.')
}

/// libvirt refuses `/` and control characters in a domain's name; leading and inner spaces are lawful there.
fn domain_name(character: char) -> bool {
    !character.is_control() && character != '/'
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $limit:literal, $allowed:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name from outside.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                check($what, text, $limit, $allowed)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }
    };
}

name!(
    /// A virtual machine's name: the name of its libvirt domain, unique in the cluster.
    VmName, "VM name", 200, domain_name
);
name!(
    /// A hypervisor host's name as the operator knows it.
    NodeName, "node name", 253, plain
);
name!(
    /// A service's name, unique among services.
    ServiceName, "service name", 100, plain
);
name!(
    /// A member's name, unique in its service; of a VM usually the VM's own.
    MemberName, "member name", 200, domain_name
);
name!(
    /// A failover domain's name.
    FailoverDomainName, "failover domain name", 100, plain
);
name!(
    /// A placement rule's name.
    PlacementRuleName, "placement rule name", 100, plain
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

number!(
    /// A node for ever: the log index of the command that first registered it. Never used again.
    NodeId
);
number!(
    /// The fencing token of one ownership of one VM: the log index of the command that starts it or moves it.
    Generation
);
number!(
    /// One registration of one agent: the log index of that command.
    SessionId
);
number!(
    /// One order to one agent: the log index of the command that holds it.
    OrderId
);
number!(
    /// Rises when the control plane is restored or its membership is forced; all is unknown again then.
    Epoch
);

/// The cluster's identity, made once when it is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(pub Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Names one request of one client, so that a repeated one is done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub Uuid);

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_name_may_hold_spaces_but_no_slash_and_no_newline() {
        assert!(VmName::new("web server 1").is_ok());
        assert!(matches!(VmName::new("a/b"), Err(NameError::Character { character: '/', .. })));
        assert!(matches!(VmName::new("a\nb"), Err(NameError::Character { character: '\n', .. })));
        assert!(matches!(VmName::new(""), Err(NameError::Length { length: 0, .. })));
    }

    #[test]
    fn a_node_name_is_a_plain_word() {
        assert!(NodeName::new("node-1.example").is_ok());
        assert!(NodeName::new("node 1").is_err());
    }
}
