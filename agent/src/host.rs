//! What the agent has to know of its host beside libvirt.

use std::path::{Path, PathBuf};

use anyhow::Context;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PROCESSOR: &str = "/proc/cpuinfo";
const QEMU_CONFIGURATION: &str = "/etc/libvirt/qemu.conf";

/// The kernel's boot id: another after every boot.
pub fn boot_id() -> anyhow::Result<String> {
    let text = std::fs::read_to_string(BOOT_ID).context("the boot id cannot be read")?;
    Ok(text.trim().to_owned())
}

/// The host is a virtual machine itself, as the processor's flag `hypervisor` says: its clock may be paused.
pub fn is_virtual() -> bool {
    // One that cannot be read proves nothing, and so neither does its lease.
    std::fs::read_to_string(PROCESSOR).map_or(true, |text| flags_say_virtual(&text))
}

fn flags_say_virtual(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .any(|(_, flags)| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// The lock manager of libvirt's QEMU driver (`lock_manager` in qemu.conf), where one is set.
pub fn lock_manager() -> Option<String> {
    std::fs::read_to_string(QEMU_CONFIGURATION).ok().and_then(|text| configured(&text))
}

/// Whether the service `libvirt-guests` is enabled, by systemd or the older scripts: it starts guests at boot and stops
/// them when the host goes down, without asking the cluster.
pub fn libvirt_guests() -> bool {
    let systemd = Path::new("/etc/systemd/system");
    let wanted = links(systemd, |folder| folder.ends_with(".wants"))
        .any(|folder| folder.join("libvirt-guests.service").symlink_metadata().is_ok());
    let started = ["/etc/rc2.d", "/etc/rc3.d"].into_iter().any(|level| {
        links(Path::new(level), |name| name.starts_with('S') && name.ends_with("libvirt-guests"))
            .next()
            .is_some()
    });
    wanted || started
}

fn links(folder: &Path, named: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(move |entry| named(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
}

fn configured(qemu_conf: &str) -> Option<String> {
    let mut values = qemu_conf.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "lock_manager").then(|| value.trim().trim_matches('"').to_owned())
    });
    values.next_back().filter(|value| !value.is_empty() && value != "nop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_host_is_known_by_its_processors_flag() {
        assert!(flags_say_virtual("model name\t: x\nflags\t\t: fpu hypervisor lahf_lm\n"));
        assert!(!flags_say_virtual("model name\t: hypervisor\nflags\t\t: fpu lahf_lm\n"));
    }

    #[test]
    fn a_lock_manager_is_read_from_qemus_configuration() {
        assert_eq!(
            configured("# lock_manager = \"sanlock\"\nlock_manager = \"lockd\"\n").as_deref(),
            Some("lockd")
        );
        assert_eq!(configured("# lock_manager = \"lockd\"\n"), None);
        assert_eq!(configured("lock_manager=\"nop\"\n"), None);
    }
}
