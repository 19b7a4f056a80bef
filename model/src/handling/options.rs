//! virsh's words for a migration, read: RGManager's `migrate_options` and `migration_mapping`.

use super::MigrationOptions;
use crate::id::NodeName;

/// Why a migration option is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not one that Berth has a meaning for.
    #[error("the migration option {option} is not known; {known}")]
    Unknown {
        /// As it was written.
        option: String,
        /// What is known.
        known: String,
    },
    /// One that would be wrong here.
    #[error("the migration option {option} is not taken: {why}")]
    NotHere {
        /// As it was written.
        option: String,
        /// Why not.
        why: &'static str,
    },
    /// Its value is missing or no number.
    #[error("the migration option {option} needs a number, such as {option} 100")]
    NoNumber {
        /// As it was written.
        option: String,
    },
    /// A pair of a mapping that is none.
    #[error("{pair:?} is no MEMBER:TARGET of a migration mapping")]
    NoPair {
        /// As it was written.
        pair: String,
    },
}

const KNOWN: &str = "known are --unsafe, --tunnelled, --tls, --auto-converge, --postcopy, --compressed, \
                     --abort-on-error, --parallel, --parallel-connections N, --bandwidth N (MiB/s), --timeout N (s), \
                     and --live, --p2p, --persistent, --undefinesource and --verbose, which Berth decides itself";

impl MigrationOptions {
    /// Adds virsh's options to these, as RGManager's `migrate_options` has them. What is not known is refused by name.
    pub fn add_virsh(&mut self, text: &str) -> Result<(), OptionError> {
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let mut number = || {
                let text = value.or_else(|| words.next());
                text.and_then(|text| text.parse::<u64>().ok())
                    .ok_or_else(|| OptionError::NoNumber { option: name.to_owned() })
            };
            match name {
                "--unsafe" => self.allow_unsafe = true,
                "--tunnelled" => self.tunnelled = true,
                "--tls" => self.tls = true,
                "--auto-converge" => self.auto_converge = true,
                "--postcopy" | "--postcopy-after-precopy" => self.post_copy = true,
                "--compressed" => self.compressed = true,
                "--abort-on-error" => self.abort_on_error = true,
                "--parallel" => self.parallel = self.parallel.max(2),
                "--parallel-connections" => {
                    self.parallel = u32::try_from(number()?).unwrap_or(u32::MAX);
                }
                "--bandwidth" => self.bandwidth_mib_s = number()?,
                "--timeout" => self.timeout_ms = number()?.saturating_mul(1_000),
                // The mode is a setting of its own, migrations are always peer-to-peer, and a domain that is defined stays
                // defined where it runs and nowhere else.
                "--live" | "--p2p" | "--persistent" | "--undefinesource" | "--verbose" => {}
                "--copy-storage-all" | "--copy-storage-inc" => {
                    let why = "disks lie on shared storage, or the VM does not migrate";
                    return Err(OptionError::NotHere { option: name.to_owned(), why });
                }
                "--suspend" | "--timeout-suspend" => {
                    let why =
                        "a guest that arrives suspended would not be running; use the mode pause";
                    return Err(OptionError::NotHere { option: name.to_owned(), why });
                }
                "--direct" => {
                    let why = "Xen's own migration is not used";
                    return Err(OptionError::NotHere { option: name.to_owned(), why });
                }
                _ => {
                    let (option, known) = (name.to_owned(), KNOWN.to_owned());
                    return Err(OptionError::Unknown { option, known });
                }
            }
        }
        Ok(())
    }

    /// Adds the pairs of RGManager's `migration_mapping`, `member:target,member:target`.
    pub fn add_mapping(&mut self, text: &str) -> Result<(), OptionError> {
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let no_pair = || OptionError::NoPair { pair: pair.to_owned() };
            let (member, target) = pair.split_once(':').ok_or_else(no_pair)?;
            let member = NodeName::new(member.trim()).map_err(|_| no_pair())?;
            if target.trim().is_empty() {
                return Err(no_pair());
            }
            self.routes.insert(member, target.trim().to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MigrationOptions, OptionError> {
        let mut options = MigrationOptions::default();
        options.add_virsh(text)?;
        Ok(options)
    }

    #[test]
    fn virsh_options_are_typed_and_unknown_ones_are_refused_by_name() {
        let options = read("--unsafe --bandwidth 100 --timeout=60 --live --p2p").unwrap();
        let expected = MigrationOptions {
            allow_unsafe: true,
            bandwidth_mib_s: 100,
            timeout_ms: 60_000,
            ..MigrationOptions::default()
        };
        assert_eq!(options, expected);
        for (text, said) in [
            ("--unsafe --frobnicate", "the migration option --frobnicate is not known"),
            ("--copy-storage-all", "--copy-storage-all is not taken"),
            ("--bandwidth", "--bandwidth needs a number"),
            ("--bandwidth fast", "--bandwidth needs a number"),
            ("unsafe", "the migration option unsafe is not known"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_mapping_is_pairs_and_nothing_else() {
        let mut options = MigrationOptions::default();
        options.add_mapping("a:a-hb, b:tcp://10.0.0.2:49152").unwrap();
        let node = |name: &str| NodeName::new(name).unwrap();
        assert_eq!(options.routes[&node("a")], "a-hb");
        assert_eq!(options.routes[&node("b")], "tcp://10.0.0.2:49152");
        for text in ["a", "a:", ":x", "a b:c"] {
            assert!(options.add_mapping(text).is_err(), "{text}");
        }
    }
}
